"""Checks of a user's COCO, ADE20K or ImageNet folder: what would fail, or be ignored, in training.

Every check returns a :class:`Report`; only the images of the sample are opened.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmvitconv.datasets.layout import is_remote, leaf_datasets
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError

__all__ = [
    "Report",
    "check_ade20k",
    "check_coco",
    "check_coco_file",
    "check_imagenet",
    "explain_annotations",
    "take_sample",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")
IGNORED_LABEL = 255


@dataclass
class Report:
    """What a check found.

    Attributes:
        rows: per split: name, number of images, number of annotations.
        errors: kind of problem -> examples; training would fail or silently lose data.
        warnings: kind of problem -> examples; unusual, but it works.
    """

    rows: list[tuple[str, int, int]] = field(default_factory=list)
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def error(self, kind: str, example: object) -> None:
        """Add an error: what is wrong, and where."""
        self.errors.setdefault(kind, []).append(str(example))

    def warn(self, kind: str, example: object) -> None:
        """Add a warning: what is unusual, and where."""
        self.warnings.setdefault(kind, []).append(str(example))


def take_sample(items: Sequence[Any], size: int | None) -> list[Any]:
    """Choose items evenly over the whole sequence, always the same ones.

    Args:
        items: what to choose from.
        size: how many, >= 0; None for all.

    Returns:
        ``min(size, len(items))`` items in their order.
    """
    if size is None or size >= len(items):
        return list(items)
    return [items[i * len(items) // size] for i in range(size)]


def check_coco(
    root: Path, splits: Sequence[str], classes: Sequence[str], sample: int | None = 200
) -> Report:
    """Check ``annotations/instances_<split>.json`` and the images in ``<split>/``.

    Args:
        root: e.g. ``data/coco``.
        splits: e.g. ``('train2017', 'val2017')``.
        classes: the names that the config trains, in any order.
        sample: images per split that are opened; None for all.

    Returns:
        The report.

    Raises:
        UserError: if ``root`` is not a folder.
    """
    require_folder(root)
    report = Report()
    for split in splits:
        path = root / "annotations" / f"instances_{split}.json"
        content = check_coco_file(report, path, classes)
        if content is None:
            continue
        report.rows.append((split, len(content["images"]), len(content["annotations"])))
        check_coco_images(report, root, root / split, content["images"], sample)
    return report


def check_coco_file(report: Report, path: Path, classes: Sequence[str]) -> dict[str, Any] | None:
    """Check what a COCO json says, without opening an image.

    Args:
        report: Gets the problems.
        path: The json.
        classes: the names that the config trains.

    Returns:
        The content; None if it is not a COCO json with annotations.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        report.error("annotation file is missing", path)
        return None
    except (OSError, ValueError) as error:
        report.error("annotation file is not valid json", f"{path}: {error}")
        return None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), list)
        or not all(isinstance(item, dict) for item in content[name])
        for name in lists
    ):
        report.error(f"annotation file lacks one of the lists {', '.join(lists)}", path)
        return None
    for name in ("images", "annotations"):
        if not content[name]:
            report.error(f"the list {name} is empty", path)
    check_coco_categories(report, path.name, content["categories"], classes)
    check_coco_annotations(report, path.name, content)
    return content


def explain_annotations(cfg: Mapping[str, Any], splits: Sequence[str]) -> str:
    """Say why the datasets of a config cannot be built.

    Args:
        cfg: the config.
        splits: those that are used, of 'train', 'val' and 'test'.

    Returns:
        A sentence about the first COCO json in which something is wrong; empty if none is.
    """
    for split in splits:
        for option, dataset in leaf_datasets(cfg.get(f"{split}_dataloader"), f"{split}_dataloader"):
            path = os.path.join(dataset.get("data_root") or "", dataset.get("ann_file") or "")
            if not path.endswith(".json") or is_remote(path, dataset) or not os.path.isfile(path):
                continue
            report = Report()
            classes = (dataset.get("metainfo") or {}).get("classes") or ()
            check_coco_file(report, Path(path), classes)
            for kind, examples in report.errors.items():
                # without metainfo, the dataset's type knows the classes
                if classes or not kind.startswith("category is unknown"):
                    return f"{option}: {kind} ({len(examples)}x), the first is {examples[0]}"
    return ""


def check_coco_categories(
    report: Report, where: str, categories: list[dict], classes: Sequence[str]
) -> None:
    """Compare the categories of a json with the classes that will be trained."""
    names = Counter(category.get("name") for category in categories)
    for name in sorted(set(classes) - set(names)):
        report.error("class is missing from the categories", f"{where}: {name}")
    for name in sorted(str(name) for name in set(names) - set(classes)):
        report.error("category is unknown, mmdet would ignore it", f"{where}: {name}")
    for name, count in names.items():
        if count > 1:
            report.error("category name occurs twice", f"{where}: {name}")
    used = [category.get("name") for category in categories if category.get("name") in classes]
    if sorted(used) == sorted(classes) and used != list(classes):
        # mmdet numbers the classes in the order of the json
        report.error("classes are in another order than the categories", f"{where}: {used}")
    for number, count in Counter(category.get("id") for category in categories).items():
        if count > 1 or not isinstance(number, int):
            report.error("category id is missing or occurs twice", f"{where}: {number}")


def check_coco_annotations(report: Report, where: str, content: dict) -> None:
    """Check ids, references and boxes of the annotations of a json."""
    images = {image.get("id"): image for image in content["images"]}
    if len(images) != len(content["images"]):
        report.error("image ids occur twice", where)
    for image in content["images"]:
        lacking = {"id", "width", "height"} - image.keys()
        if not image.keys() & {"file_name", "coco_url"}:  # LVIS has the second
            lacking.add("file_name")
        if lacking:
            report.error("image without an id, name or size", f"{where}: {image} {sorted(lacking)}")
    categories = {category.get("id") for category in content["categories"]}
    seen: set[Any] = set()
    annotated: set[Any] = set()
    numbers: Counter[Any] = Counter()
    for annotation in progress(content["annotations"], f"{where}: annotations"):
        image = images.get(annotation.get("image_id"))
        file = "" if image is None else f" of {image.get('file_name')}"
        name = f"{where}: annotation {annotation.get('id')}{file}"
        if "id" not in annotation:
            report.error("annotation without an id", name)
        elif annotation["id"] in seen:
            report.error("annotation id occurs twice", name)
        seen.add(annotation.get("id"))
        annotated.add(annotation.get("image_id"))
        numbers[annotation.get("category_id")] += 1
        if image is None:
            report.error("annotation of an image that is not listed", name)
        if annotation.get("category_id") not in categories:
            report.error("annotation of a category that is not listed", name)
        check_coco_box(report, name, annotation, image)
        check_coco_mask(report, name, annotation.get("segmentation"), image)
    for number, image in images.items():
        if number not in annotated:
            report.warn("image without annotations", f"{where}: {image.get('file_name')}")
    for category in content["categories"]:
        if not numbers[category.get("id")]:
            report.warn("category without annotations", f"{where}: {category.get('name')}")


def check_coco_box(report: Report, name: str, annotation: dict, image: dict | None) -> None:
    """Check the box and the area of an annotation; mmdet leaves some out without a word."""
    box, area = annotation.get("bbox"), annotation.get("area")
    if not is_box(box):
        report.error("annotation without a box of 4 numbers", name)
    elif not all(math.isfinite(value) for value in box):
        report.error("box with NaN or infinity", f"{name} {box}")
    elif box[2] <= 0 or box[3] <= 0:
        report.error("box of zero or negative area", f"{name} {box}")
    elif image is not None and is_outside(box, image, wholly=True):
        report.error("box outside its image", f"{name} {box}")
    elif not isinstance(area, (int, float)) or not math.isfinite(area):
        report.error("annotation without an area", f"{name} {area}")
    elif box[2] < 1 or box[3] < 1 or area <= 0:
        report.warn("box or area below one pixel, mmdet leaves it out", f"{name} {box}")
    elif image is not None and is_outside(box, image):
        report.warn("box reaches outside its image", f"{name} {box}")


def check_coco_mask(report: Report, name: str, mask: Any, image: dict | None) -> None:
    """Check the polygons or run lengths of an annotation, if it has any."""
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        if not isinstance(size, list) or not isinstance(counts, (list, str)):
            report.error("mask without size or counts, mmdet ignores the object", name)
        elif image is not None and size != [image.get("height"), image.get("width")]:
            found = f"{name}: {size}, image {[image.get('height'), image.get('width')]}"
            report.error("mask has another size than its image", found)
        elif isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            report.error("run lengths of a mask do not add up to its size", name)
    elif isinstance(mask, list) and mask:
        good = [part for part in mask if is_polygon(part)]
        if not good:
            report.error("mask without a polygon of 3 points, mmdet ignores the object", name)
        elif len(good) < len(mask):
            report.warn("polygon with fewer than 3 points, mmdet leaves it out", name)
        elif image is not None and any(
            not -1 <= value <= edge + 1
            for part in good
            for start, edge in enumerate(extent(image))
            for value in part[start::2]
        ):
            report.warn("polygon reaches outside its image", name)


def is_polygon(part: Any) -> bool:
    """Tell whether a value is a list of at least three points, x and y in turn."""
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in part)
    )


def is_box(box: Any) -> bool:
    """Tell whether a value is a list of four numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, (int, float)) for value in box)
    )


def extent(image: dict) -> tuple[float, float]:
    """Width and height that a json states; infinite where it states no number."""
    stated = (image.get("width"), image.get("height"))
    width, height = (x if isinstance(x, (int, float)) else math.inf for x in stated)
    return width, height


def is_outside(box: Sequence[float], image: dict, wholly: bool = False) -> bool:
    """Tell whether a box (left, top, width, height) leaves its image by more than a pixel."""
    left, top, width, height = box
    right, bottom = extent(image)
    if wholly:
        return left >= right or top >= bottom or left + width <= 0 or top + height <= 0
    return left < -1 or top < -1 or left + width > right + 1 or top + height > bottom + 1


def check_coco_images(
    report: Report, root: Path, folder: Path, images: Sequence[dict], sample: int | None
) -> None:
    """Check that all images exist and that those of the sample have the size that is stated."""
    if not folder.is_dir():
        report.error("image folder is missing", folder)
        return
    # One listing instead of a question per image: network drives are slow.
    present = set(os.listdir(folder))
    existing = []
    for image in progress(images, f"{folder.name}: files"):
        name = str(image.get("file_name", ""))
        if not is_inside(root, folder / name):
            report.error("image of the json is outside the data root", folder / name)
            continue
        if name and (name in present or ("/" in name and (folder / name).is_file())):
            existing.append(image)
        else:
            report.error("image of the json does not exist", folder / name)
    if not images:
        report.error("no images", folder)
    for image in progress(take_sample(existing, sample), f"{folder.name}: sizes"):
        path = folder / image["file_name"]
        size = image_size(report, path)
        stated = (image.get("width"), image.get("height"))
        if size is not None and size != stated:
            report.error(
                "image has another size than the json says", f"{path}: {size}, json {stated}"
            )


def check_ade20k(root: Path, max_label: int = 150, sample: int | None = 200) -> Report:
    """Check ``images/{training,validation}`` against ``annotations/{training,validation}``.

    Args:
        root: e.g. ``data/ade/ADEChallengeData2016``.
        max_label: largest legal value in the label png, 0..254; 255 (ignored) is always legal.
        sample: label images per split that are opened; None for all.

    Returns:
        The report.

    Raises:
        UserError: if ``root`` is not a folder.
    """
    require_folder(root)
    report = Report()
    for split in ("training", "validation"):
        folders = root / "images" / split, root / "annotations" / split
        absent = [folder for folder in folders if not folder.is_dir()]
        for folder in absent:
            report.error("folder is missing", folder)
        if absent:
            continue
        images, labels = (
            {path.stem: path for path in sorted(folder.iterdir()) if is_image(path.name)}
            for folder in folders
        )
        report.rows.append((split, len(images), len(labels)))
        if not images:
            report.error("no images", folders[0])
        for name in sorted(images.keys() - labels.keys()):
            report.error("image without a label png", images[name])
        for name in sorted(labels.keys() - images.keys()):
            report.warn("label png without an image", labels[name])
        pairs = take_sample(sorted(images.keys() & labels.keys()), sample)
        for name in progress(pairs, f"{split}: labels"):
            check_label(report, images[name], labels[name], max_label)
    return report


def check_label(report: Report, image: Path, label: Path, max_label: int) -> None:
    """Check values, format and size of one label image."""
    size = image_size(report, image)
    try:
        with Image.open(label) as opened:
            values = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        report.error("file cannot be read as an image", f"{label}: {error}")
        return
    if values.ndim != 2:
        report.error("label png has colours, one channel of label numbers is needed", label)
        return
    if size is not None and size != values.shape[::-1]:
        report.error("label png has another size than its image", f"{label}: {values.shape[::-1]}")
    illegal = np.setdiff1d(values, [*range(max_label + 1), IGNORED_LABEL])
    if illegal.size:
        report.error(
            f"label outside 0..{max_label} (and {IGNORED_LABEL})",
            f"{label}: {illegal[:5].tolist()}",
        )


def check_imagenet(root: Path, num_classes: int = 1000, sample: int | None = 200) -> Report:
    """Check ``train/<class>/*`` and ``val/<class>/*`` (or a list ``meta/<split>.txt``).

    Args:
        root: e.g. ``data/imagenet``.
        num_classes: class folders expected, >= 1; another number is a warning.
        sample: images per split that are opened; None for all.

    Returns:
        The report; the annotations of a split are its class folders.

    Raises:
        UserError: if ``root`` is not a folder.
    """
    require_folder(root)
    report = Report()
    classes: dict[str, set[str]] = {}
    for split in ("train", "val"):
        folder, listing = root / split, root / "meta" / f"{split}.txt"
        if not folder.is_dir():
            report.error("folder is missing", folder)
            continue
        if listing.is_file():
            # mmpretrain prefers the list to the folders.
            images = check_listing(report, folder, listing, num_classes)
            report.rows.append((split, len(images), len(images)))
        else:
            images, classes[split] = list_class_folders(report, folder)
            report.rows.append((split, len(images), len(classes[split])))
            if classes[split] and len(classes[split]) != num_classes:
                report.warn(f"not {num_classes} classes", f"{folder}: {len(classes[split])}")
        for path in progress(take_sample(images, sample), f"{split}: images"):
            image_size(report, path)
    # A flat folder has been reported above; comparing its classes would only repeat it.
    if len(classes) == 2 and all(classes.values()):
        for name in sorted(classes["train"] ^ classes["val"]):
            report.error("class folder is in only one of train and val", name)
    return report


def list_class_folders(report: Report, folder: Path) -> tuple[list[Path], set[str]]:
    """Return all images below the class folders of a split, and the names of the classes."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        report.error(
            "no class folders: sort the images into one folder per class, or give meta/<split>.txt",
            folder,
        )
    images: list[Path] = []
    for name in progress(names, f"{folder.name}: classes"):
        found = sorted(path for path in (folder / name).rglob("*") if is_image(path.name))
        if not found:
            report.error("class folder without images", folder / name)
        images += found
    return images, set(names)


def check_listing(report: Report, folder: Path, listing: Path, num_classes: int) -> list[Path]:
    """Return the existing images of a list with lines '<file> <class number>'."""
    images = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        where = f"{listing}:{number}"
        if not name or not label.isdecimal() or int(label) >= num_classes:
            report.error(
                f"line is not '<file> <class number below {num_classes}>'", f"{where}: {line!r}"
            )
        elif not is_inside(folder.parent, folder / name):
            report.error("image of the list is outside the data root", f"{where}: {name}")
        elif not (folder / name).is_file():
            report.error("image of the list does not exist", f"{where}: {folder / name}")
        else:
            images.append(folder / name)
    return images


def is_inside(root: Path, path: Path) -> bool:
    """Tell whether a path, as it is written, leads to somewhere below ``root``."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def require_folder(root: Path) -> None:
    """Raise a UserError when ``root`` is not a folder."""
    if not root.is_dir():
        raise UserError(f"ROOT {root} is not a folder; give the folder of the data set")


def is_image(name: str) -> bool:
    """Tell by its name whether a file is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_size(report: Report, path: Path) -> tuple[int, int] | None:
    """Return width and height of an image, None (and an error) when it cannot be decoded."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        report.error("file cannot be read as an image", f"{path}: {error}")
        return None
