"""Does a file give what the model gives? On batches and sizes that it was not traced with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmvitconv.export.graphs import Runner

Make = Callable[[int, int, int], tuple[Tensor, ...]]

__all__ = ["TOLERANCE", "Check", "compare", "find_least_side", "inputs_of"]

# Of the largest value: graphs reorder float32 sums, wrong layers show in the first digits.
TOLERANCE = 1e-4
# Share of objects that rounding may lose: at a threshold, or where two overlap just so much.
MOST_MISSED = 0.03
_SIDES = (1, 2, 4, 8, 16, 32, 33, 48, 64, 65, 96)


@dataclass(frozen=True)
class Check:
    """One comparison of a file with the model."""

    batch: int  # images
    shape: tuple[int, int]  # their height and width in pixels
    absolute: float = math.nan  # largest difference of any output
    relative: float = math.nan  # the same over the largest value of that output
    error: str = ""  # why the file did not run, empty if it did

    @property
    def passed(self) -> bool:
        """Whether the file ran and differs by rounding only."""
        return not self.error and self.relative <= TOLERANCE

    def __str__(self) -> str:
        """Return one line."""
        place = f"{self.batch} x {self.shape[0]} x {self.shape[1]}"
        if self.error:
            return f"{place}: {self.error}"
        return f"{place}: differs by {self.absolute:.1e} ({self.relative:.1e} of the largest value)"


def inputs_of(batch: int, shape: tuple[int, int], dynamic: str) -> list[tuple[int, int, int]]:
    """Return batches, heights and widths to check a file with.

    Args:
        batch: What the user asked for.
        shape: The same.
        dynamic: What else the file must take.
    """
    height, width = shape
    shapes = [shape]
    if dynamic in ("size", "both"):
        shapes += [(97, 131), (width + 96, height), (height * 3 // 4 | 1, width * 5 // 4 | 1)]
    batches = [batch]
    if dynamic in ("batch", "both"):
        batches += [count for count in (1, 2, 3) if count != batch]
    count = max(len(shapes), len(batches))
    pairs = [(batches[i % len(batches)], *shapes[i % len(shapes)]) for i in range(count)]
    return list(dict.fromkeys(pairs))


def find_least_side(runner: Runner, module: nn.Module, make: Make) -> int:
    """Return the smallest side that a file takes, for squares and for stripes.

    Args:
        runner: The file, from :func:`mmvitconv.export.graphs.load_runner`.
        module: The model.
        make: Makes inputs of a batch, a height and a width.

    Returns:
        The side in pixels, of a few that were tried.
    """
    for side in _SIDES:
        shapes = ((side, side), (side, _SIDES[-1] + 3), (_SIDES[-1] + 3, side))
        try:
            with torch.no_grad():
                for shape in shapes:
                    module(*make(1, *shape))
        except (ValueError, RuntimeError):  # the model itself refuses
            continue
        if all(compare(runner, module, make, 1, *shape).passed for shape in shapes):
            return side
    return _SIDES[-1] + 1  # the sizes of check_graph passed


def compare(
    runner: Runner, module: nn.Module, make: Make, batch: int, height: int, width: int
) -> Check:
    """Compare a file with the model on random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(batch + height + width)
        inputs = make(batch, height, width)
    with torch.no_grad():
        expected = module(*inputs)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    shape = (height, width)
    try:
        outs = runner(*inputs)
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())[:200]
        return Check(batch, shape, error=f"does not run ({reason})")
    if getattr(module, "gives_objects", False):
        return _compare_objects(outs, expected, batch, shape)
    if [out.shape for out in outs] != [out.shape for out in expected]:
        shapes = [tuple(out.shape) for out in outs]
        return Check(batch, shape, error=f"gives outputs of shapes {shapes}")
    absolute = [float((a - b).abs().max()) for a, b in zip(outs, expected, strict=True)]
    relative = [
        difference / max(float(b.abs().max()), 1e-12)
        for difference, b in zip(absolute, expected, strict=True)
    ]
    if any(map(math.isnan, absolute)):
        return Check(batch, shape, error="gives NaN")
    return Check(batch, shape, max(absolute), max(relative))


def _compare_objects(
    outs: Sequence[Tensor], expected: Sequence[Tensor], batch: int, shape: tuple[int, int]
) -> Check:
    """Compare objects, which may change places where scores are equal."""
    boxes, labels, scores = outs[:3]
    right_boxes, right_labels, right_scores = expected[:3]
    if not len(scores) or not len(right_scores):
        error = "" if len(scores) == len(right_scores) else f"finds {len(scores)} objects"
        return Check(batch, shape, 0.0, 0.0, error=error)
    far = (right_boxes[:, None] - boxes[None]).abs().amax(2)
    far = far + (right_scores[:, None] - scores[None]).abs()
    far = far.masked_fill(right_labels[:, None] != labels[None], math.inf)
    nearest = far.amin(1)
    missed = nearest > 1  # pixel
    if missed.double().mean() > MOST_MISSED or abs(len(scores) - len(right_scores)) > (
        1 + MOST_MISSED * len(scores)
    ):
        return Check(batch, shape, error=f"misses {int(missed.sum())} of {len(nearest)} objects")
    if len(outs) > 3:
        ours, theirs = outs[3][far.argmin(1)[~missed]].bool(), expected[3][~missed].bool()
        together = (ours | theirs).sum((1, 2)).clamp(min=1)
        share = float(((ours & theirs).sum((1, 2)) / together).mean()) if len(ours) else 1.0
        if share < 1 - MOST_MISSED and bool(theirs.any()):
            return Check(batch, shape, error=f"its masks have an IoU of {share:.3f}")
    absolute = float(nearest[~missed].max())
    return Check(batch, shape, absolute, absolute / max(shape))
