"""Areas of an image and the tiles that are cut from them."""

from __future__ import annotations

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
        """Return the number of columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Return the number of rows."""
        return self.bottom - self.top

    @property
    def label(self) -> str:
        """Return the position for file names, e.g. ``'x0320_y0000'``."""
        return f"x{self.left:04d}_y{self.top:04d}"


def grid_tiles(area: Area, size: int) -> list[Area]:
    """Cut square tiles that do not overlap; what is left over at the right and bottom is not used.

    Args:
        area: where to cut.
        size: edge of a tile in pixels, >= 1.

    Returns:
        Tiles inside ``area``, row by row.
    """
    return [
        Area(x, y, x + size, y + size)
        for y in range(area.top, area.bottom - size + 1, size)
        for x in range(area.left, area.right - size + 1, size)
    ]


def covering_tiles(area: Area, size: int, stride: tuple[int, int]) -> list[Area]:
    """Cut square tiles that cover the area; they overlap.

    Args:
        area: where to cut, at least ``size`` in both directions.
        size: edge of a tile in pixels, >= 1.
        stride: horizontal and vertical distance of neighbours in pixels, >= 1; the last tile of a
            row or column is moved back to end with the area.

    Returns:
        Tiles inside ``area``, row by row.
    """

    def starts(first: int, end: int, step: int) -> list[int]:
        return sorted({*range(first, end - size, step), end - size})

    return [
        Area(x, y, x + size, y + size)
        for y in starts(area.top, area.bottom, stride[1])
        for x in starts(area.left, area.right, stride[0])
    ]
