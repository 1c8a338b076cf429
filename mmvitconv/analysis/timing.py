"""The time of functions, measured so that two numbers of one run can be compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.benchmark import timer

__all__ = ["REST", "clock", "take_turns"]

REST = 0.02  # seconds, between calls of different engines
LEAST_ROUNDS = 5  # a time budget cuts no measurement shorter than that


def clock(function: Callable[[], object]) -> float:
    """Run a function; return its seconds.

    On a GPU it is the time from the first launch on an idle GPU to the end of the last kernel. At
    small batches most of that is launching.
    """
    start = timer()
    function()
    return timer() - start


def take_turns(
    functions: Mapping[Any, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    seconds: float | None = None,
    rest: float = 0.0,
) -> dict[Any, list[float]]:
    """Time functions that take turns; the order rotates from round to round.

    A slow moment of the machine meets all of them, and none is always the first after a pause.
    Python's garbage collector is off while they run and works between the rounds.

    Args:
        functions: What to measure, by any key.
        rounds: Calls of each, at least 1.
        warm_up: Rounds before the first that counts.
        seconds: Stop after the round in which the counted calls have taken so long together, but
            not before the fifth; None stops after ``rounds``.
        rest: Seconds to wait before each call. The threads of torch and of ONNX Runtime keep their
            cores busy for some milliseconds after their last work, which another engine would pay
            for.

    Returns:
        The seconds of each counted call by key, in the order of the rounds.
    """
    times: dict[Any, list[float]] = {key: [] for key in functions}
    order = list(functions)
    collects = gc.isenabled()
    gc.freeze()  # between the rounds only what they left is looked at
    try:
        for turn in range(-warm_up, rounds):
            gc.collect()
            gc.disable()
            order = order[1:] + order[:1]
            for key in order:
                time.sleep(rest)
                taken = clock(functions[key])
                if turn >= 0:
                    times[key].append(taken)
            spent = sum(map(sum, times.values()))
            if seconds is not None and spent > seconds and turn + 1 >= LEAST_ROUNDS:
                break
    finally:
        gc.unfreeze()
        if collects:
            gc.enable()
    return times
