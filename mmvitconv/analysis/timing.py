"""Time and memory of functions, measured so that two numbers of one run can be compared."""

from __future__ import annotations

import math
import shlex
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["command_line", "measure", "peak_memory", "threads"]


def measure(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: str, least: float = 0.0
) -> dict[str, float]:
    """Median milliseconds of each function.

    They take turns, one round of which warms up, and the order rotates: a slow moment of the
    machine meets all of them, and none is always the first after a pause.

    Args:
        functions: What to measure, by name.
        rounds: Turns of each, at least 1.
        device: Device type.
        least: A turn repeats its function until it takes about this many seconds.

    Returns:
        The medians, by name.
    """
    sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in functions}
    repeats = dict.fromkeys(functions, 1)
    order = list(functions)
    for turn in range(-1, rounds):
        order = order[1:] + order[:1]
        for name in order:
            function = functions[name]
            sync()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                function()
            sync()
            taken = (time.perf_counter() - start) / repeats[name]
            if turn < 0:
                repeats[name] = max(1, math.ceil(least / taken))
            else:
                times[name].append(1e3 * taken)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(function: Callable[[], object], device: str = "cpu") -> int:
    """Bytes that a function needs at most, beyond what exists before it runs.

    On a GPU it is what the allocator says. Elsewhere the storages are counted that operators return
    and that are still alive, those kept for the backward pass and gradients included, and scratch
    space inside one operator excluded: the same number at every run, on any machine.

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
    storages = _LiveStorages()
    with storages:
        function()
    return storages.peak


class _LiveStorages(TorchDispatchMode):
    """Follows the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and note what is new."""
        for value in tree_iter((args, kwargs)):  # existed before: views of it cost nothing
            self._note(value, counts=False)
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


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with so many threads, and with as many as before afterwards.

    Args:
        count: At least 1; None changes nothing.

    Yields:
        The number of threads.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command that gives the same numbers elsewhere: without the folder that it wrote to.

    Args:
        script: Path of the script in the repository.
        arguments: What it was given.
    """
    kept: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not (argument.startswith("--out") or before == "--out"):
            kept.append(argument)
    return shlex.join(["python", script, *kept])
