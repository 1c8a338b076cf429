"""Label maps that public data sets do not come with, in the layout that the shipped configs read.

Cityscapes' own numbers become those of its 19 classes, SBD's Matlab files become masks beside
VOC's, and COCO's instances become masks of VOC's 20 classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmvitconv.datasets.image_files import decoding
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError

__all__ = ["LABEL_MAPS", "LabelMaps", "write_cityscapes", "write_coco_voc", "write_voc_aug"]

IGNORED = 255
# Cityscapes' numbers of the 19 classes that are evaluated, in the order of the classes.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# VOC's 20 classes in its order, as COCO calls them.
_VOC = (
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorcycle", "person", "potted plant", "sheep", "couch"),
    *("train", "tv"),
)
_LEAST_PIXELS = 1000  # of VOC's classes in an image of COCO


def write_cityscapes(root: Path, source: Path | None = None) -> int:
    """Write ``*_gtFine_labelTrainIds.png`` beside each ``*_gtFine_labelIds.png``.

    Args:
        root: Cityscapes' folder, with ``gtFine``.
        source: Not used: the maps are made of those in ``root``.

    Returns:
        How many maps there are now.

    Raises:
        UserError: There is none to convert.
    """
    table = np.full(256, IGNORED, np.uint8)
    table[list(_CITYSCAPES)] = np.arange(len(_CITYSCAPES))
    files = sorted((root / "gtFine").glob("*/*/*_gtFine_labelIds.png"))
    if not files:
        raise UserError(
            f"{root / 'gtFine'} has no */*/*_gtFine_labelIds.png; give the folder of Cityscapes "
            "with gtFine_trainvaltest.zip unpacked in it"
        )
    for path in progress(files, "converting label maps"):
        target = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        with decoding(path, "label map") as image:
            _save(table[np.asarray(image)], target)
    return len(files)


def write_voc_aug(root: Path, source: Path | None = None) -> int:
    """Write SBD's masks and their list beside those of VOC 2012, as mmseg's converter does.

    Args:
        root: ``VOCdevkit/VOC2012``, with ``ImageSets/Segmentation``.
        source: SBD's ``benchmark_RELEASE/dataset``, with ``cls``, ``train.txt`` and ``val.txt``.

    Returns:
        How many images ``ImageSets/Segmentation/aug.txt`` lists: those of SBD that are neither in
        VOC's ``train.txt`` nor in its ``val.txt``.

    Raises:
        UserError: A folder or list is missing.
    """
    from scipy.io import loadmat

    if source is None:
        raise UserError("voc_aug needs --source, SBD's folder benchmark_RELEASE/dataset")
    lists = root / "ImageSets/Segmentation"
    known = _names(lists / "train.txt") | _names(lists / "val.txt")
    names = sorted((_names(source / "train.txt") | _names(source / "val.txt")) - known)
    for name in progress(names, "converting masks"):
        path = source / "cls" / f"{name}.mat"
        try:
            mask = loadmat(path)["GTcls"][0]["Segmentation"][0]
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{path} is not a mask of SBD: {error}") from error
        _save(mask.astype(np.uint8), root / "SegmentationClassAug" / f"{name}.png")
    _write(lists / "aug.txt", names)
    return len(names)


def write_coco_voc(root: Path, source: Path | None = None) -> int:
    """Write masks of VOC's classes for the images of COCO that show enough of them.

    Pixels of several instances and of crowds count for nothing (255). The masks are in
    ``voc_masks/train2017``, their list is ``voc_masks/train2017.txt``; images stay where they are.

    Args:
        root: COCO's folder, with ``annotations/instances_train2017.json``.
        source: Not used: the masks are made of the annotations in ``root``.

    Returns:
        How many images have a mask: those with more than 1000 pixels of VOC's classes.

    Raises:
        UserError: The annotations are missing or lack one of the classes.
    """
    from pycocotools.coco import COCO

    path = root / "annotations/instances_train2017.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the folder of COCO 2017")
    coco = COCO(str(path))
    numbers = {entry["name"]: entry["id"] for entry in coco.cats.values()}
    if missing := [name for name in _VOC if name not in numbers]:
        raise UserError(f"{path} has no class {missing[0]!r}; give the instances of COCO 2017")
    classes = {numbers[name]: index for index, name in enumerate(_VOC, start=1)}
    images = {image for number in classes for image in coco.catToImgs[number]}
    kept = []
    for image in progress(sorted(images), "drawing masks"):
        entry = coco.imgs[image]
        mask = np.zeros((entry["height"], entry["width"]), np.uint8)
        covered = np.zeros_like(mask)
        for annotation in coco.imgToAnns[image]:
            if annotation["category_id"] in classes:
                shape = coco.annToMask(annotation).astype(bool)
                crowd = annotation.get("iscrowd")
                mask[shape] = IGNORED if crowd else classes[annotation["category_id"]]
                covered += shape
        mask[covered > 1] = IGNORED
        if np.count_nonzero(mask) > _LEAST_PIXELS:
            name = Path(entry["file_name"]).stem
            _save(mask, root / "voc_masks/train2017" / f"{name}.png")
            kept.append(name)
    _write(root / "voc_masks/train2017.txt", kept)
    return len(kept)


class LabelMaps(NamedTuple):
    """A conversion: where its data set is expected, and who does it."""

    root: str
    write: Callable[[Path, Path | None], int]


LABEL_MAPS = {
    "cityscapes": LabelMaps("data/cityscapes", write_cityscapes),
    "voc_aug": LabelMaps("data/VOCdevkit/VOC2012", write_voc_aug),
    "coco_voc": LabelMaps("data/coco", write_coco_voc),
}
"""Conversions by the name that ``mmvitconv data`` takes."""


def _names(path: Path) -> set[str]:
    """Return the names in a list of images."""
    try:
        return set(path.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list {path} cannot be read: {error}") from error


def _write(path: Path, names: list[str]) -> None:
    """Write a list of images: the last thing, so that one that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    scratch.write_text("".join(f"{name}\n" for name in names), "utf-8")
    os.replace(scratch, path)


def _save(mask: np.ndarray, path: Path) -> None:
    """Write a label map, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    Image.fromarray(mask).save(scratch, "PNG")
    os.replace(scratch, path)
