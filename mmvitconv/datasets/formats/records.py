"""What all formats are read into."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmvitconv.datasets.image_files import MAX_PIXELS
from mmvitconv.errors import printable

__all__ = [
    "DataSet",
    "Object",
    "Record",
    "Tally",
    "box_of",
    "empty_mask",
    "encode_mask",
    "object_of_mask",
    "points_of_ellipse",
    "polygon_of_box",
    "size_of",
    "turn_points",
]


@dataclass(slots=True)
class Object:
    """Something in an image.

    Attributes:
        name: Its class.
        box: Left, top, width and height in pixels.
        segmentation: As in COCO's json: a list of polygons, or run lengths; None for a box alone.
        is_crowd: Ignored in training and evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    segmentation: list[list[float]] | dict[str, Any] | None = None
    is_crowd: bool = False


@dataclass(slots=True)
class Record:
    """An image and what is known about it.

    Attributes:
        image: Its path below the folder of the data, with slashes.
        objects: What is in it.
        split: ``'train'``, ``'val'``, ``'test'`` or '' where nothing says.
        source: The annotation file, below the folder of the data.
        label: The class of the whole image.
        mask: Path of its mask, below the folder of the data.
        size: Width and height in pixels; (0, 0) until the file was looked at.
        stated: Those that the annotations say; (0, 0) where they say nothing.
        kinds: The classes in its mask.
        reference: What the annotation file calls the image, where training can read that file as
            it is.
    """

    image: str
    objects: list[Object] = field(default_factory=list)
    split: str = ""
    source: str = ""
    label: str | None = None
    mask: str | None = None
    size: tuple[int, int] = (0, 0)
    stated: tuple[int, int] = (0, 0)
    kinds: frozenset[str] = frozenset()
    reference: str = ""


@dataclass
class DataSet:
    """What was found in a folder.

    Attributes:
        root: The folder, absolute.
        task: ``'classification'``, ``'detection'``, ``'instance'`` or ``'semantic'``.
        format: Of the annotations, in words.
        classes: Names, in the order of their numbers.
        splits: The records of ``'train'``, ``'val'`` and perhaps ``'test'``.
        divided: How train and val were made from one, in words; '' where they came so.
        notes: What the user should know, one sentence each.
        colours: Of the classes, RGB, where the masks have them.
        values: Class number by pixel value or colour of the masks; None: they are class numbers.
        is_stored: The annotations are of the images as they are stored, not as their cameras' EXIF
            turns them.
    """

    root: str
    task: str
    format: str
    classes: tuple[str, ...]
    splits: dict[str, list[Record]]
    divided: str = ""
    notes: list[str] = field(default_factory=list)
    colours: list[tuple[int, int, int]] = field(default_factory=list)
    values: dict[Any, int] | None = None
    is_stored: bool = False


def size_of(width: Any, height: Any) -> tuple[int, int]:
    """Return a size that an annotation says; (0, 0) where it is none."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return 0, 0
    return size if min(size) > 0 and size[0] * size[1] <= MAX_PIXELS else (0, 0)


def empty_mask(width: int, height: int) -> np.ndarray:
    """Return a mask (H, W) without a pixel.

    Raises:
        ValueError: An annotation asks for a size that no image may have.
    """
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"a mask of {width}x{height} pixels")
    return np.zeros((height, width), bool)


class Tally(Counter):
    """Counts what a reader leaves out, to say it in one sentence each.

    Attributes:
        at: The file that is being read, for messages.
        first: What the first of each kind is, where it is known.
    """

    at = ""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}

    def count(self, what: str, example: object) -> None:
        """Count one, of which the first is named."""
        self[what] += 1
        if what not in self.first:
            self.first[what] = printable(example, 80)

    def take(self, other: Tally) -> None:
        """Add what another has counted."""
        self.update(other)
        self.first = other.first | self.first

    def notes(self) -> list[str]:
        """Return the sentences."""
        return [
            f"{number} {what}" + (f" (the first: {self.first[what]})" if what in self.first else "")
            for what, number in self.items()
            if number
        ]


def box_of(points: Iterable[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the box around points (x, y)."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def turn_points(
    points: Iterable[Sequence[float]], centre: Sequence[float], turn: float
) -> list[tuple[float, float]]:
    """Return points, given from a centre, turned clockwise about it by an angle in radians."""
    cos, sin, (x, y) = math.cos(turn), math.sin(turn), centre
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in points]


def points_of_ellipse(
    centre: Sequence[float], radii: Sequence[float], turn: float = 0.0
) -> list[tuple[float, float]]:
    """Return 32 points of an ellipse; see :func:`turn_points`."""
    angles = [2 * math.pi * i / 32 for i in range(32)]
    around = [(radii[0] * math.cos(angle), radii[1] * math.sin(angle)) for angle in angles]
    return turn_points(around, centre, turn)


def object_of_mask(name: str, mask: np.ndarray, is_crowd: bool = False) -> Object | None:
    """Return a mask (H, W) as an object; None for an empty one."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = float(columns[0]), float(rows[0])
    box = left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top
    return Object(name, box, encode_mask(mask), is_crowd)


def polygon_of_box(box: Sequence[float]) -> list[float]:
    """Return the corners of a box as a polygon of COCO."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as COCO's run lengths."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}
