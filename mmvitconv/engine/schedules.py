"""Schedules that follow the length of the run."""

from __future__ import annotations

from typing import Any

from mmengine.optim import LinearLR
from mmengine.optim.scheduler.param_scheduler import INF

from mmvitconv.registry import PARAM_SCHEDULERS

__all__ = ["WarmupLR"]


@PARAM_SCHEDULERS.register_module()
class WarmupLR(LinearLR):
    """Raise the learning rate in a straight line, during a share of the run at most.

    In a short run the warm-up of a long one would last to the end. MMEngine itself says where the
    run ends, if ``end`` is not given.

    Args:
        optimizer: The optimizer or its wrapper.
        *args: As of MMEngine's ``LinearLR``.
        iterations: Iterations of the warm-up, at least 1.
        share: Of the run, 0 to 1, which it does not exceed.
        begin: First iteration.
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
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> None:
        if by_epoch:
            raise ValueError("mmvitconv.WarmupLR counts iterations: write by_epoch=False")
        length = iterations if end == INF else min(iterations, round(share * (end - begin)))
        end = begin + max(2, length)  # of one iteration MMEngine's formula has no slope
        super().__init__(optimizer, *args, begin=begin, end=end, by_epoch=False, **kwargs)
