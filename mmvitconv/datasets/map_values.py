"""What the numbers in label maps look like: classes, smoothed borders, or single objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median

import numpy as np

from mmvitconv.errors import shorten

__all__ = ["IGNORED", "MapValues", "count_values"]

IGNORED = 255
SOLID = 0.3  # least share of a value's pixels that begin a square of 2 x 2; 0.44 of 3 x 3 pixels
FEWEST_BORDERS = 4  # values; a class may be of thin lines
FEWEST_OBJECTS = 10  # values
FEWEST_UNKNOWN = 3  # values, where some are no classes


def count_values(values: np.ndarray) -> dict[int, tuple[int, int]]:
    """Count the values of a map.

    Args:
        values: Whole numbers (H, W).

    Returns:
        By value, its pixels, and those that have their own value to the right, below and between.
    """
    inner = values[:-1, :-1]
    square = (inner == values[1:, :-1]) & (inner == values[:-1, 1:]) & (inner == values[1:, 1:])
    if values.dtype == np.uint8:
        pixels = np.bincount(values.ravel(), minlength=256)
        squares = np.bincount(inner[square], minlength=256)
        found = np.flatnonzero(pixels)
        pixels, squares = pixels[found], squares[found]
    else:
        found, pixels = np.unique(values, return_counts=True)
        squares = np.bincount(np.searchsorted(found, inner[square]), minlength=len(found))
    counts = zip(pixels.tolist(), squares.tolist(), strict=True)
    return dict(zip(found.tolist(), counts, strict=True))


class MapValues:
    """The values of many maps.

    Attributes:
        seen: The values of each map.
        pixels: By value.
    """

    def __init__(self) -> None:
        self.seen: list[frozenset[int]] = []
        self.pixels: Counter[int] = Counter()
        self._squares: Counter[int] = Counter()

    def add(self, counts: Mapping[int, tuple[int, int]]) -> frozenset[int]:
        """Add a map, as :func:`count_values` returns it; return its values."""
        for value, (pixels, squares) in counts.items():
            self.pixels[value] += pixels
            self._squares[value] += squares
        self.seen.append(frozenset(counts))
        return self.seen[-1]

    def areas(self) -> list[int]:
        """Return the values that cover areas, in their order."""
        return sorted(v for v, n in self.pixels.items() if self._squares[v] >= SOLID * n)

    def find_borders(self, are_colours: bool = False) -> str:
        """Say that most values are smoothed borders between others; '' where they are not.

        Args:
            are_colours: The values are codes of colours, which have no order.
        """
        areas = self.areas()
        borders = [value for value in self.pixels if value not in set(areas)]
        if not are_colours and areas:
            borders = [value for value in borders if areas[0] < value < areas[-1]]
        least = FEWEST_BORDERS * (1 + are_colours)
        if len(areas) < 2 or len(borders) < max(least, (len(self.pixels) - len(borders)) / 2):
            return ""
        word = "colours" if are_colours else "values"
        shown = [f"{value:06x}" if are_colours else str(value) for value in areas]
        return (
            f"of {len(self.pixels)} {word} {len(borders)} only stand at the borders of others, as "
            f"smoothing (anti-aliasing, resizing) or a lossy format leaves them; areas have "
            f"{shorten(shown)}: write the masks again without smoothing, as png"
        )

    def find_objects(self, are_named: bool = False, are_unknown: bool = False) -> str:
        """Say that the values number single objects instead of classes; '' where they do not.

        Args:
            are_named: There is a list of classes: a class may be in few maps.
            are_unknown: Some values are known to be no classes: fewer are enough to tell.
        """
        maps = [sorted(seen - {0, IGNORED}) for seen in self.seen]
        counts = Counter(value for values in maps for value in values)
        if len(counts) < (FEWEST_UNKNOWN if are_unknown else FEWEST_OBJECTS):
            return ""
        what = ""
        several = [values for values in maps if len(values) > 1]
        runs = Counter(
            (values[0], values[-1]) for values in several if values[-1] - values[0] < len(values)
        )
        if (
            len(several) >= 5
            and runs.total() >= 0.8 * len(several)
            and max(runs.values()) <= 0.5 * len(several)
        ):
            what = f"{runs.total()} of {len(maps)} masks count their values up one by one"
        elif not are_named and len(maps) > 5 and median(counts.values()) <= 2:
            few = sum(number <= 2 for number in counts.values())
            what = f"of {len(counts)} values {few} are in one or two of {len(maps)} masks only"
        return what and (
            f"{what}: numbers of single objects, or of a lossy format, instead of classes? Write a "
            "number for each class, or train on objects (mmvitconv init instance)"
        )

    def find_white(self) -> str:
        """Say that some maps are of 0 and 255 and the others of class numbers; '' otherwise."""
        white = [seen for seen in self.seen if IGNORED in seen]
        others = {value for seen in self.seen if IGNORED not in seen for value in seen} - {0}
        if len(white) < 2 or not others or any(seen - {0, IGNORED} for seen in white):
            return ""
        words = shorten([str(value) for value in sorted({0} | others)])
        return (
            f"{len(white)} of {len(self.seen)} masks hold only 0 and 255, the others {words}: 255 "
            f"is ignored, so that those {len(white)} have no object; write class numbers into all "
            "of them"
        )
