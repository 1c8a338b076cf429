"""What images and objects of a data set look like, in the numbers that settings depend on."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmvitconv.datasets.formats.records import DataSet
from mmvitconv.datasets.image_files import Look, look_at, read_bands
from mmvitconv.errors import UserError

__all__ = ["Statistics", "colour_statistics", "measure"]

SAMPLED = 200  # images that are opened
LEAST_STD = 5.0  # of 255: else noise of one-coloured images would be blown up


@dataclass(frozen=True)
class Statistics:
    """Numbers of the training images.

    Attributes:
        width: Median in pixels.
        height: As ``width``.
        smallest: Width and height of the smallest image.
        largest: Of the largest.
        objects: Sizes of objects, the root of width x height in pixels: the tenth percentile, the
            median, the ninetieth; zeros without objects.
        shapes: Height by width of objects: the fifth and the 95th percentile.
        most_objects: In one image.
        bands: Of the images; the least.
        bits: The most.
        mixed_bits: Whether images differ in it.
        low: Number below which one in a thousand of the sampled pixels is.
        high: The same from above.
        is_opaque: The fourth band is the same everywhere, so that it says nothing.
    """

    width: int
    height: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    objects: tuple[float, float, float]
    shapes: tuple[float, float]
    most_objects: int
    bands: int
    bits: int
    mixed_bits: bool
    low: float
    high: float
    is_opaque: bool


def sample_paths(data: DataSet, count: int = SAMPLED) -> list[str]:
    """Return the paths of some training images, the same each time."""
    paths = [os.path.join(data.root, record.image) for record in data.splits["train"]]
    return paths if len(paths) <= count else random.Random(0).sample(paths, count)


def measure(data: DataSet) -> Statistics:
    """Measure the training images of a data set.

    Args:
        data: From :func:`mmvitconv.datasets.formats.reading.read_folder`.

    Returns:
        The numbers; those of pixels are of a sample of 200 images.

    Raises:
        UserError: No image can be opened.
    """
    records = data.splits["train"]
    others = [record for split in data.splits.values() for record in split[:SAMPLED]]
    sizes = np.array([record.size for record in records if record.size[0]])
    looks: list[Look] = []
    values: list[np.ndarray] = []
    for path in {*sample_paths(data), *(os.path.join(data.root, r.image) for r in others)}:
        try:
            looks.append(look_at(path))
        except (UserError, OSError):
            continue
    bits = Counter(look.bits for look in looks)
    bands = min((look.bands for look in looks), default=0)
    if not looks or not len(sizes):
        raise UserError(f"no training image below {data.root!r} can be opened; are they damaged?")
    is_opaque = True
    if max(bits) > 8 or bands > 3:
        for path in sample_paths(data, 40):
            try:
                pixels = read_bands(Path(path).read_bytes(), path)
            except (UserError, OSError):
                continue
            values.append(pixels[::4, ::4].reshape(-1).astype(np.float64))
            is_opaque &= pixels.shape[2] != 4 or pixels[..., 3].min() == pixels[..., 3].max()
    everything = np.concatenate(values) if values else np.zeros(1)
    low, high = np.nanpercentile(everything, (0.1, 99.9))
    boxes = np.array([item.box for record in records for item in record.objects], float)
    boxes = boxes.reshape(-1, 4)
    sides = np.sqrt(boxes[:, 2] * boxes[:, 3]) if len(boxes) else np.zeros(1)
    ratios = boxes[:, 3] / boxes[:, 2] if len(boxes) else np.ones(1)
    width, height = np.median(sizes, axis=0)
    order = sizes.prod(axis=1).argsort()
    return Statistics(
        int(width),
        int(height),
        tuple(map(int, sizes[order[0]])),
        tuple(map(int, sizes[order[-1]])),
        tuple(round(float(side), 1) for side in np.percentile(sides, (10, 50, 90))),
        tuple(round(float(ratio), 2) for ratio in np.percentile(ratios, (5, 95))),
        max((len(record.objects) for record in records), default=0),
        bands,
        max(bits),
        len(bits) > 1,
        float(low),
        float(high),
        is_opaque,
    )


def colour_statistics(
    data: DataSet, load: Callable[[str], np.ndarray]
) -> tuple[list[float], list[float], int]:
    """Return the mean and the standard deviation of each band, and how many images were opened.

    Args:
        data: The data set.
        load: Returns an image (H, W, bands) as training loads it, 0 to 255.

    Returns:
        Means, standard deviations of at least 5, and the number of images.
    """
    total, squares, count, opened = 0.0, 0.0, 0, 0
    for path in sample_paths(data):
        try:
            pixels = load(path).astype(np.float64)
        except (UserError, OSError, ValueError):
            continue
        total = total + pixels.sum(axis=(0, 1))
        squares = squares + (pixels**2).sum(axis=(0, 1))
        count += pixels.shape[0] * pixels.shape[1]
        opened += 1
    if not count:
        raise UserError(f"no training image below {data.root!r} can be opened; are they damaged?")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return (
        [round(float(value), 2) for value in mean],
        [round(max(float(value), LEAST_STD), 2) for value in std],
        opened,
    )
