"""What a COCO json says, checked without opening an image."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmvitconv.datasets.layout import is_remote, leaf_datasets
from mmvitconv.datasets.progress import progress

__all__ = ["Report", "check_coco_file", "explain_annotations"]

LISTS = ("images", "annotations", "categories")


@dataclass
class Report:
    """What a check found.

    Attributes:
        rows: Per dataset: its name, number of images, number of labels.
        errors: Kind of problem -> examples; training would fail or silently lose data.
        warnings: Kind of problem -> examples; unusual, but it works.

    Examples:
        >>> report = Report()
        >>> report.error("file is empty", "a.jpg")
        >>> report.errors
        {'file is empty': ['a.jpg']}
    """

    rows: list[tuple[str, int, int]] = field(default_factory=list)
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def error(self, kind: str, *examples: object) -> None:
        """Add errors: what is wrong, and where."""
        self.errors.setdefault(kind, []).extend(map(str, examples))

    def warn(self, kind: str, *examples: object) -> None:
        """Add warnings: what is unusual, and where."""
        self.warnings.setdefault(kind, []).extend(map(str, examples))


def check_coco_file(report: Report, path: Path, classes: Sequence[str]) -> dict[str, Any] | None:
    """Check what a COCO json says.

    Args:
        report: Gets the problems.
        path: The json.
        classes: The names that the config trains.

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
    lists = [content.get(name) for name in LISTS] if isinstance(content, dict) else [None]
    if not all(isinstance(a, list) and all(isinstance(b, dict) for b in a) for a in lists):
        report.error(f"annotation file lacks one of the lists {', '.join(LISTS)}", path)
        return None
    for name in ("images", "annotations"):
        if not content[name]:
            report.error(f"the list {name} is empty", path)
    _check_categories(report, path.name, content["categories"], classes)
    _check_images(report, path.name, content["images"])
    _check_annotations(report, path.name, content)
    return content


def explain_annotations(cfg: Mapping[str, Any], splits: Sequence[str]) -> str:
    """Say why the datasets of a config cannot be built.

    Args:
        cfg: The config.
        splits: Those that are used, of 'train', 'val' and 'test'.

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


def _check_categories(
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


def _check_images(report: Report, where: str, listed: list[dict]) -> None:
    """Check what a json says about its images."""
    if len({image.get("id") for image in listed}) != len(listed):
        report.error("image ids occur twice", where)
    for image in listed:
        lacking = {"id", "width", "height"} - image.keys()
        if not image.keys() & {"file_name", "coco_url"}:  # LVIS has the second
            lacking.add("file_name")
        if lacking:
            report.error("image without an id, name or size", f"{where}: {image} {sorted(lacking)}")


def _check_annotations(report: Report, where: str, content: dict) -> None:
    """Check ids, references, boxes and masks of the annotations of a json."""
    images = {image.get("id"): image for image in content["images"]}
    categories = {category.get("id") for category in content["categories"]}
    annotated, used = (
        {annotation.get(key) for annotation in content["annotations"]}
        for key in ("image_id", "category_id")
    )
    seen: set[Any] = set()
    for annotation in progress(content["annotations"], f"{where}: annotations"):
        image = images.get(annotation.get("image_id"))
        file = "" if image is None else f" of {image.get('file_name')}"
        name = f"{where}: annotation {annotation.get('id')}{file}"
        if "id" not in annotation:
            report.error("annotation without an id", name)
        elif annotation["id"] in seen:
            report.error("annotation id occurs twice", name)
        seen.add(annotation.get("id"))
        if image is None:
            report.error("annotation of an image that is not listed", name)
        if annotation.get("category_id") not in categories:
            report.error("annotation of a category that is not listed", name)
        _check_box(report, name, annotation, image)
        _check_mask(report, name, annotation.get("segmentation"), image)
    for number, image in images.items():
        if number not in annotated:
            report.warn("image without annotations", f"{where}: {image.get('file_name')}")
    for category in content["categories"]:
        if category.get("id") not in used:
            report.warn("category without annotations", f"{where}: {category.get('name')}")


def _check_box(report: Report, name: str, annotation: dict, image: dict | None) -> None:
    """Check the box and the area of an annotation; mmdet leaves some out without a word."""
    box, area = annotation.get("bbox"), annotation.get("area")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        report.error("annotation without a box of 4 numbers", name)
        return
    left, top, width, height = box
    right, bottom = (math.inf, math.inf) if image is None else _extent(image)
    name = f"{name} {box}"
    if not all(map(math.isfinite, box)):
        report.error("box with NaN or infinity", name)
    elif width <= 0 or height <= 0:
        report.error("box of zero or negative area", name)
    elif image and (left >= right or top >= bottom or left + width <= 0 or top + height <= 0):
        report.error("box outside its image", name)
    elif not _is_number(area) or not math.isfinite(area):
        report.error("annotation without an area", f"{name} {area}")
    elif width < 1 or height < 1 or area <= 0:
        report.warn("box or area below one pixel, mmdet leaves it out", name)
    elif image and not _is_inside((left, top, left + width, top + height), image):
        report.warn("box reaches outside its image", name)


def _check_mask(report: Report, name: str, mask: Any, image: dict | None) -> None:
    """Check the polygons or run lengths of an annotation, if it has any."""
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        own = size if image is None else [image.get("height"), image.get("width")]
        if not isinstance(size, list) or not isinstance(counts, (list, str)):
            report.error("mask without size or counts, mmdet ignores the object", name)
        elif size != own:
            report.error("mask has another size than its image", f"{name}: {size}, image {own}")
        elif isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            report.error("run lengths of a mask do not add up to its size", name)
    elif isinstance(mask, list) and mask:
        good = [part for part in mask if _is_polygon(part)]
        if not good:
            report.error("mask without a polygon of 3 points, mmdet ignores the object", name)
        elif len(good) < len(mask):
            report.warn("polygon with fewer than 3 points, mmdet leaves it out", name)
        elif image is not None and not all(_is_inside(part, image) for part in good):
            report.warn("polygon reaches outside its image", name)


def _is_number(value: Any) -> bool:
    """Tell whether a value of a json is a number."""
    return isinstance(value, (int, float))


def _is_polygon(part: Any) -> bool:
    """Tell whether a value is a list of at least three points, x and y in turn."""
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(_is_number(value) and math.isfinite(value) for value in part)
    )


def _extent(image: dict) -> tuple[float, float]:
    """Return width and height that a json states; infinite where it states no number."""
    width, height = image.get("width"), image.get("height")
    return (width if _is_number(width) else math.inf, height if _is_number(height) else math.inf)


def _is_inside(points: Sequence[float], image: dict) -> bool:
    """Tell whether points, x and y in turn, are inside an image, to a pixel."""
    return all(
        -1 <= position <= edge + 1
        for start, edge in enumerate(_extent(image))
        for position in points[start::2]
    )
