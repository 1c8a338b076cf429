"""The nuclei image of stardist as a tiny data set for instance and semantic segmentation.

One fluorescence microscopy image (512x512, 16 bit) with a label image of 125 nuclei. The columns
0..319 train, the columns 320..511 are held out, so no pixel is in both. Training tiles overlap
each other, held-out tiles do not. A nucleus on the border between the two areas is cut there.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mmvitconv.datasets.first_runs.coco import CocoWriter
from mmvitconv.datasets.first_runs.fetch import WheelSource, read_members
from mmvitconv.datasets.first_runs.output import Converter
from mmvitconv.datasets.first_runs.tiles import Area, covering_tiles, grid_tiles
from mmvitconv.datasets.progress import progress

__all__ = ["CATEGORIES", "TILES", "VERSION", "convert", "read_source"]

VERSION = 1
SOURCE = WheelSource(
    name="stardist",
    version="0.9.2",
    licence="BSD-3-Clause",
    members={
        "stardist/data/images/img2d.tif": (
            "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750"
        ),
        "stardist/data/images/mask2d.tif": (
            "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f"
        ),
    },
)
CATEGORIES = ("nucleus",)
TILE = 192
TRAIN_AREA = Area(0, 0, 320, 512)
VAL_AREA = Area(320, 0, 512, 512)
# 3 x 11 overlapping tiles to train on, 2 held-out tiles. All have one size, so that a batch needs
# no padding; the last 128 rows of the held-out area stay unused for that.
TILES = {
    "train": covering_tiles(TRAIN_AREA, TILE, stride=(64, 32)),
    "val": grid_tiles(VAL_AREA, TILE),
}
SEGMENTATION_FOLDERS = {"train": "training", "val": "validation"}
# What a tile's border leaves of a nucleus is kept from this area on (pixels; the median nucleus
# has 440). Smaller slivers cannot be told from the background, not even by eye.
MIN_FRAGMENT_AREA = 30
# Percentiles of the training area that become black and white. A few mitotic nuclei are ten times
# as bright as the others: they saturate, and the others keep their contrast.
BLACK_PERCENTILE, WHITE_PERCENTILE = 1.0, 99.0


def read_source(
    wheel: Path | None = None, cache_dir: Path = Path("data/.cache")
) -> tuple[np.ndarray, np.ndarray]:
    """Read the image and the label image, see :func:`.fetch.read_members`.

    Returns:
        The image (512, 512), uint8, 0 at the 1st and 255 at the 99th percentile of the training
        area, linear in between; and the labels (512, 512), 0 background, otherwise the number of
        the nucleus.
    """
    image, labels = (
        np.asarray(Image.open(io.BytesIO(content))).astype(np.int32)
        for content in read_members(SOURCE, wheel, cache_dir).values()
    )
    train = image[TRAIN_AREA.top : TRAIN_AREA.bottom, TRAIN_AREA.left : TRAIN_AREA.right]
    black, white = np.percentile(train, [BLACK_PERCENTILE, WHITE_PERCENTILE])
    scaled = np.clip((image - black) / (white - black), 0, 1)
    return np.rint(255 * scaled).astype(np.uint8), labels


def write(folder: Path, description: str, wheel: Path | None, cache_dir: Path) -> None:
    """Write the data set.

    ``annotations/instances_{train,val}.json`` with the images in ``train/`` and ``val/`` (COCO,
    category 'nucleus', id 1), and ``images/{training,validation}`` with
    ``annotations/{training,validation}`` (ADE20K-like; labels 0 background, 1 nucleus, to be used
    without ``reduce_zero_label``).
    """
    image, labels = read_source(wheel, cache_dir)
    whole_areas = np.bincount(labels.ravel())
    for split, tiles in TILES.items():
        writer = CocoWriter(CATEGORIES)
        for tile in progress(tiles, f"nuclei {split}"):
            window = np.s_[tile.top : tile.bottom, tile.left : tile.right]
            colour = Image.fromarray(np.repeat(image[window][..., None], 3, axis=2))
            semantic = Image.fromarray((labels[window] != 0).astype(np.uint8))
            segmentation = SEGMENTATION_FOLDERS[split]
            for place, picture in (
                (split, colour),
                (f"images/{segmentation}", colour),
                (f"annotations/{segmentation}", semantic),
            ):
                path = folder / place / f"{tile.label}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            image_id = writer.add_image(path.name, width=tile.width, height=tile.height)
            for number in np.unique(labels[window][labels[window] != 0]):
                mask = labels[window] == number
                if mask.sum() >= min(MIN_FRAGMENT_AREA, whole_areas[number]):
                    writer.add_mask(image_id, mask)
        writer.write(folder / "annotations" / f"instances_{split}.json", description)


convert = Converter("nuclei", VERSION, SOURCE, "nuclei", write)
