"""Time and memory of functions, measured so that two numbers of one run can be compared."""

from __future__ import annotations

import gc
import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["Timer", "measure", "peak_memory", "stopwatch", "take_turns"]

Timer = Callable[[Callable[[], object]], float]  # runs a function, returns the seconds it took
LEAST_ROUNDS = 5  # a time budget cuts no measurement shorter than that


def stopwatch(device: str) -> Timer:
    """Return what takes the time of one call.

    On a GPU two events of its own clock are used: from the first launch on an idle GPU to the end
    of the last kernel. Where the host launches more slowly than the kernels run, as at small
    batches, its launches are most of the time. The call returns when the work is done.

    Args:
        device: Device type.

    Returns:
        A function that runs a function and returns its seconds.
    """

    def on_gpu(function: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def on_host(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return on_gpu if device == "cuda" else on_host


def take_turns(
    functions: Mapping[Any, Callable[[], object]],
    rounds: int,
    timer: Timer,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[Any, list[float]]:
    """Time functions that take turns; the order rotates from round to round.

    A slow moment of the machine meets all of them, and none is always the first after a pause.
    Python's garbage collector is off while they run and works between the rounds.

    Args:
        functions: What to measure, by any key.
        rounds: Calls of each, at least 1.
        timer: As of :func:`stopwatch`.
        warm_up: Rounds before the first that counts.
        seconds: Stop after the round in which the counted calls have taken so long together, but
            not before the fifth; None stops after ``rounds``.

    Returns:
        The seconds of each call by key, all equally many and in the order of the rounds.
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
                taken = timer(functions[key])
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


def measure(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: str, least: float = 0.0
) -> dict[str, float]:
    """Return the median milliseconds of functions that take turns.

    Args:
        functions: What to measure, by name.
        rounds: Turns of each, at least 1.
        device: Device type.
        least: A turn repeats its function until it takes about this many seconds.

    Returns:
        The medians, by name.
    """
    timer = stopwatch(device)
    repeats = {name: math.ceil(least / timer(run)) or 1 for name, run in functions.items()}

    def repeat(name: str) -> None:
        for _ in range(repeats[name]):
            functions[name]()

    turns = {name: partial(repeat, name) for name in functions}
    times = take_turns(turns, rounds, timer, warm_up=0)  # the calls above warm up
    return {name: 1e3 * statistics.median(times[name]) / repeats[name] for name in functions}


def peak_memory(function: Callable[[], object], device: str = "cpu") -> int:
    """Return the bytes that a function needs at most, beyond what exists before it runs.

    On a GPU it is what the allocator says. Elsewhere the storages are counted that operators return
    and that are still alive: those kept for the backward pass and gradients included, scratch space
    inside one operator excluded. That is the same number at every run, on any machine.

    Args:
        function: What to run, once; it may call ``backward()``.
        device: Device type.

    Returns:
        The peak in bytes.
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
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and note what is new."""
        for value in tree_iter((args, kwargs)):  # existed before: views of it cost nothing
            self._note(value, counts=False)
        # Under inference mode composite operators (linear, attention) arrive whole.
        with self:
            out = func.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            self._note(value, counts=True)
        self.peak = max(self.peak, self._live)
        return out

    def _note(self, value: Any, counts: bool) -> None:
        # Others, such as sparse and packed ones, have no storage of their own.
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes() if counts else 0
            self._known.add(key)
            self._live += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size
