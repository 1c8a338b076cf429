"""Schedules that follow the length of the run, which MMEngine's runner gives them as ``end``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.optim import CosineAnnealingLR as EngineCosineAnnealingLR
from mmengine.optim import LinearLR as EngineLinearLR
from mmengine.optim import MultiStepLR as EngineMultiStepLR
from mmengine.optim import PolyLR as EnginePolyLR
from mmengine.optim.scheduler.param_scheduler import INF

from mmvitconv.registry import PARAM_SCHEDULERS

__all__ = ["CosineAnnealingLR", "LinearLR", "MultiStepLR", "PolyLR", "WarmupLR"]


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
class WarmupLR(EngineLinearLR):
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


def span_of_run(span: Sequence[float], begin: int, end: int) -> tuple[int, int]:
    """Return where a part of a run begins and ends.

    Args:
        span: Shares of the run, 0 <= first < second <= 1.
        begin: As given to the schedule: 0, since the span says it.
        end: Of the run, in epochs or iterations.

    Returns:
        First step and the one after the last, at least one step; the whole of a run without end.
    """
    first, second = span
    if not 0 <= first < second <= 1 or begin:
        raise ValueError(
            f"span={tuple(span)}, begin={begin}: a span is two shares of the run, the second "
            "larger, (0, 0.5) for its first half, and stands in the place of begin"
        )
    if end >= INF:
        return 0, INF
    begin = round(first * end)
    return begin, max(begin + 1, round(second * end))


@PARAM_SCHEDULERS.register_module()
class LinearLR(EngineLinearLR):
    """Change the learning rate in a straight line in a part of the run.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``LinearLR``.
        span: Where it begins and ends, in shares of the run.
        begin: Not to be given.
        end: Last epoch or iteration of the run; given by the runner.
        start_factor: What the rate is multiplied with at the beginning, above 0 and at most 1.
        end_factor: As ``start_factor``, at the end; 0 to 1.
        **kwargs: As of MMEngine's ``LinearLR``: ``by_epoch``, ``last_step``, ...

    Examples:
        >>> param_scheduler = [dict(type="mmvitconv.LinearLR", span=(0, 0.4), start_factor=0.1)]
    """

    def __init__(
        self,
        optimizer: Any,
        *args: Any,
        span: Sequence[float],
        begin: int = 0,
        end: int = INF,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        begin, end = span_of_run(span, begin, end)
        if end - begin < 2:  # no line: MMEngine's formula would stay at its beginning
            start_factor = end_factor or start_factor
        factors = {"start_factor": start_factor, "end_factor": end_factor}
        super().__init__(optimizer, *args, begin=begin, end=end, **factors, **kwargs)


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingLR(EngineCosineAnnealingLR):
    """Decay the learning rate by half a cosine in a part of the run.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``CosineAnnealingLR``.
        span: Where it begins and ends, in shares of the run.
        begin: Not to be given.
        end: Last epoch or iteration of the run; given by the runner.
        **kwargs: As of MMEngine's ``CosineAnnealingLR``: ``eta_min``, ``by_epoch``, ...

    Examples:
        >>> step = dict(type="mmvitconv.CosineAnnealingLR", span=(0.1, 1), eta_min=1e-6)
    """

    def __init__(
        self,
        optimizer: Any,
        *args: Any,
        span: Sequence[float],
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        begin, end = span_of_run(span, begin, end)
        super().__init__(optimizer, *args, begin=begin, end=end, **kwargs)


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
