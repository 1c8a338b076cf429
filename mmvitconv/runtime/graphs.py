"""A graph on disk and what runs it."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Graph", "compare", "forget_compiled"]

# Of the largest value of an output: graphs reorder float32 sums, wrong layers show at once. Of int8
# both are root mean squares, since of noise the largest value says little: 0.3 is 10 dB below the
# signal, and an output that has nothing to do with the right one is at 1 or above.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.3}
MOST_FIXED = 4  # compilations for one shape of inputs that a graph keeps, each with all weights
OFTEN = 3  # calls in a row with the same shapes, after which they get one


class Graph:
    """An ONNX file and what runs it, for each number of threads.

    Where an engine follows changing shapes at a cost, shapes that come again and again get a
    compilation of their own.
    """

    def __init__(self, path: Path, runtime: str, precision: str, name: str) -> None:
        self.path, self.precision, self.name = path, precision, name
        self.engine = import_module(f"mmvitconv.runtime.{runtime}")
        facts = json.loads(path.with_suffix(".json").read_text())
        self.outputs = pytree.treespec_loads(facts["outputs"])
        self.loaded: dict[int, Callable] = {}
        self.fixed: dict[tuple, Callable] = {}
        self.last: tuple = (None, 0)  # threads and shapes of the last call, how often in a row
        self.lock = threading.Lock()

    def run(self, inputs: list[Tensor]) -> Any:
        """Run it on as many threads as torch takes."""
        key = (torch.get_num_threads(), *(tuple(x.shape) for x in inputs))
        if (fixed := self.fixed.get(key)) is not None:
            return pytree.tree_unflatten(fixed(inputs), self.outputs)
        run = self.load(key[0])
        outs = run(inputs)
        if self.engine.FOLLOWS_SHAPES_AT_A_COST:
            self._fix(key, run, inputs, outs)
        return pytree.tree_unflatten(outs, self.outputs)

    def load(self, threads: int) -> Callable:
        """Return what takes all shapes."""
        if (run := self.loaded.get(threads)) is not None:
            return run
        with self.lock:
            if threads not in self.loaded:
                run = self.engine.load(self.path, self.precision, threads, self._kept("any"))
                while len(self.loaded) >= 2:
                    del self.loaded[next(iter(self.loaded))]
                self.loaded[threads] = run
            return self.loaded[threads]

    def _fix(self, key: tuple, run: Callable, inputs: list[Tensor], expected: list[Tensor]) -> None:
        """Compile for these shapes alone when they came often enough, or in an earlier run."""
        before, times = self.last
        times = times + 1 if key == before else 1
        self.last = (key, times)
        threads, *shapes = key
        kept = self._kept("_".join("x".join(map(str, shape)) for shape in shapes))
        if len(self.fixed) >= MOST_FIXED or (times < OFTEN and not kept.exists()):
            return
        with self.lock:
            if key in self.fixed:
                return
            self.fixed[key] = run  # for others meanwhile, and if it is of no use
            try:
                fixed = self.engine.load(self.path, self.precision, threads, kept, shapes)
                compare(fixed(inputs), expected, self.precision)
                self.fixed[key] = fixed
            except Exception as error:  # engines raise whatever they like
                kept.unlink(missing_ok=True)
                warnings.warn(
                    f"accelerate: a graph of {self.name} for {shapes} alone is of no use, so these "
                    f"take the one of all shapes ({type(error).__name__}: {error})",
                    stacklevel=2,
                )

    def _kept(self, sizes: str) -> Path:
        """Return the file of what an engine compiled."""
        return self.path.with_name(f"{self.name}-{sizes}.blob")


def forget_compiled(path: Path) -> None:
    """Remove what engines compiled of a graph."""
    for compiled in path.parent.glob(f"{path.stem}-*.blob"):
        compiled.unlink(missing_ok=True)


def compare(outs: Sequence[Tensor], expected: Sequence[Tensor], precision: str) -> None:
    """Raise a ValueError unless a graph gives what it should."""
    for out, right in zip(outs, expected, strict=True):
        scale = max(_size(right, precision), 1e-12)
        difference = torch.inf
        if out.shape == right.shape:
            difference = _size(out - right, precision)
        if not difference <= TOLERANCE[precision] * scale:
            raise ValueError(f"it differs by {difference / scale:.1e} of the scale")


def _size(x: Tensor, precision: str) -> float:
    """Return how large values are, as TOLERANCE counts."""
    return float(x.square().mean().sqrt() if precision == "int8" else x.abs().max())
