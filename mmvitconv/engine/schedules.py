"""Schedules that follow the length of the run, which MMEngine's runner gives them as ``end``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.optim import LinearLR
from mmengine.optim import MultiStepLR as EngineMultiStepLR
from mmengine.optim import PolyLR as EnginePolyLR
from mmengine.optim.scheduler.param_scheduler import INF

from mmvitconv.registry import PARAM_SCHEDULERS

__all__ = ["MultiStepLR", "PolyLR", "WarmupLR"]


def warmup_length(iterations: int, share: float, length: int) -> int:
    """Return the iterations of a warm-up in a run.

    Args:
        iterations: Those wanted.
        share: Of the run, 0 to 1, which the warm-up does not exceed.
        length: Of the run, in iterations.

    Returns:
        At least 2: of one iteration MMEngine's formula has no slope.
    """
    return max(2, iterations if length >= INF else min(iterations, round(share * length)))


@PARAM_SCHEDULERS.register_module()
class WarmupLR(LinearLR):
    """Raise the learning rate in a straight line, during a share of the run at most.

    In a short run the warm-up of a long one would last to its end.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``LinearLR``.
        iterations: Iterations of the warm-up, at least 2.
        share: Of the run, 0 to 1, which it does not exceed.
        end: Last iteration of the run; given by the runner.
        by_epoch: Must be given as False, else the runner counts epochs.
        **kwargs: As of MMEngine's ``LinearLR``: ``start_factor``, ``last_step``, ...

    Examples:
        >>> param_scheduler = [dict(type="mmvitconv.WarmupLR", iterations=500, by_epoch=False)]
    """

    def __init__(
        self,
        optimizer: Any,
        *args: Any,
        iterations: int,
        share: float = 0.1,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> None:
        check_iterations(self, by_epoch)
        end = warmup_length(iterations, share, end)
        super().__init__(optimizer, *args, end=end, by_epoch=False, **kwargs)


@PARAM_SCHEDULERS.register_module()
class PolyLR(EnginePolyLR):
    """Decay the learning rate by a power, from the end of :class:`WarmupLR` to that of the run.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``PolyLR``.
        warmup: Iterations of the warm-up, as of :class:`WarmupLR`.
        share: As of :class:`WarmupLR`.
        end: Last iteration of the run; given by the runner.
        by_epoch: Must be given as False, else the runner counts epochs.
        **kwargs: As of MMEngine's ``PolyLR``: ``power``, ``eta_min``, ...

    Examples:
        >>> step = dict(type="mmvitconv.PolyLR", power=0.9, warmup=1500, by_epoch=False)
    """

    def __init__(
        self,
        optimizer: Any,
        *args: Any,
        warmup: int,
        share: float = 0.1,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> None:
        check_iterations(self, by_epoch)
        begin = warmup_length(warmup, share, end)
        end = max(end, begin + 1)
        super().__init__(optimizer, *args, begin=begin, end=end, by_epoch=False, **kwargs)


@PARAM_SCHEDULERS.register_module()
class MultiStepLR(EngineMultiStepLR):
    """Multiply the learning rate by ``gamma`` after shares of the run.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``MultiStepLR``.
        shares: Of the run, 0 to 1, ascending.
        end: Last epoch or iteration of the run; given by the runner.
        **kwargs: As of MMEngine's ``MultiStepLR``: ``gamma``, ``by_epoch``, ...

    Examples:
        >>> step = dict(type="mmvitconv.MultiStepLR", shares=[2 / 3, 11 / 12], by_epoch=True)
    """

    def __init__(
        self, optimizer: Any, *args: Any, shares: Sequence[float], end: int = INF, **kwargs: Any
    ) -> None:
        milestones = [round(share * end) for share in shares]
        super().__init__(optimizer, *args, milestones=milestones, end=end, **kwargs)


def check_iterations(scheduler: Any, by_epoch: bool) -> None:
    """Raise unless a scheduler counts iterations."""
    if by_epoch:
        name = type(scheduler).__name__
        raise ValueError(f"mmvitconv.{name} counts iterations: write by_epoch=False")
