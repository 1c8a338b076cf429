"""Areas of an image and the tiles that are cut from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Area", "covering_tiles", "grid_tiles"]


class Area(NamedTuple):
    """A rectangle of pixels: columns ``left <= x < right``, rows ``top <= y < bottom``."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """The number of rows."""
        return self.bottom - self.top

    @property
    def label(self) -> str:
        """Return the position for file names, e.g. ``'x0320_y0000'``."""
        return f"x{self.left:04d}_y{self.top:04d}"


def grid_tiles(area: Area, size: int) -> list[Area]:
    """Cut square tiles that do not overlap; what is left over at the right and bottom is not used.

    Args:
        area: Where to cut.
        size: Edge of a tile in pixels, at least 1.

    Returns:
        Tiles inside ``area``, row by row.
    """
    end = Area(area.left, area.top, area.right - size + 1, area.bottom - size + 1)
    return _squares(range(end.left, end.right, size), range(end.top, end.bottom, size), size)


def covering_tiles(area: Area, size: int, stride: tuple[int, int]) -> list[Area]:
    """Cut square tiles that cover the area and may overlap; see :func:`grid_tiles`.

    Args:
        area: At least ``size`` in both directions.
        size: Edge of a tile in pixels, at least 1.
        stride: Horizontal and vertical distance of neighbours in pixels, at least 1; the last tile
            of a row or column is moved back to end with the area.
    """

    def starts(first: int, end: int, step: int) -> list[int]:
        return sorted({*range(first, end - size, step), end - size})

    columns = starts(area.left, area.right, stride[0])
    return _squares(columns, starts(area.top, area.bottom, stride[1]), size)


def _squares(columns: Iterable[int], rows: Iterable[int], size: int) -> list[Area]:
    return [Area(x, y, x + size, y + size) for y in rows for x in columns]
