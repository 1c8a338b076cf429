"""Time and memory of functions, measured so that two numbers of one run can be compared."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.benchmark import timer

__all__ = ["clock", "peak_memory", "take_turns"]

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


def peak_memory(function: Callable[[], object], device: str = "cpu") -> int:
    """Return the bytes that a function needs at most, beyond what exists before it runs.

    On a GPU it is what the allocator says. Elsewhere the living storages are counted that operators
    returned, without scratch space inside an operator: the same number on any machine.

    Args:
        function: What to run, once; it may call ``backward()``.
        device: Device type.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _LiveStorages() as storages:
        function()
    return storages.peak


class _LiveStorages(TorchDispatchMode):
    """Follows the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}  # of all that are alive; those from before cost nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what is new."""
        self._note((args, kwargs), counts=False)
        # Under inference mode composite operators (linear, attention) arrive whole.
        with self:
            out = func.decompose(*args, **(kwargs or {}))
        if out is NotImplemented:
            out = func(*args, **(kwargs or {}))
            self._note(out, counts=True)
            self.peak = max(self.peak, sum(self._sizes.values()))
        return out

    def _note(self, values: Any, counts: bool) -> None:
        for value in tree_iter(values):
            # Others, such as sparse and packed ones, have no storage of their own.
            if isinstance(value, Tensor) and value.layout is torch.strided:
                storage = value.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes() if counts else 0
                    weakref.finalize(storage, self._sizes.pop, storage._cdata)
