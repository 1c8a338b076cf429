"""What a COCO json says, checked without opening an image."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmvitconv.datasets.jsons import read_json
from mmvitconv.datasets.layout import is_remote, leaf_datasets
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError, printable

__all__ = ["Report", "check_coco_file", "explain_annotations", "mask_problem"]

LISTS = ("images", "annotations", "categories")
MAX_PIXELS = 100_000_000  # of an image
MAX_PERIMETER = 2_000_000  # of a mask's polygons in pixels; drawing takes 40 bytes for each
ADD_UP = "run lengths of a mask do not add up to its size"
ANOTHER_SIZE = "mask has another size than its image"
FAR = "polygon reaches far outside its image, or is too long to be drawn"
NO_POLYGON = "mask without a polygon of 3 points, mmdet ignores the object"
NO_CROWD = "annotation whose iscrowd is neither 0 nor 1"
WRONG_TYPE = "id or name of a wrong type"
NO_IMAGE = "image without an id, name or size"
# what the readers of mmdet and pycocotools do not survive when they evaluate
FATAL = (
    *(ADD_UP, ANOTHER_SIZE, FAR, NO_CROWD, WRONG_TYPE, NO_IMAGE),
    *("annotation without an id", "annotation without a box of 4 numbers"),
    *("annotation without an area", "box with NaN or infinity"),
    "annotation file lacks one of the lists images, annotations, categories",
    "mask that is neither polygons nor run lengths",
    "category id is missing or occurs twice",
)


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


def check_coco_file(
    report: Report, path: Path, classes: Sequence[str], evaluated: bool = False
) -> dict[str, Any] | None:
    """Check what a COCO json says.

    Args:
        report: Gets the problems.
        path: The json.
        classes: The names that the config trains.
        evaluated: Whether the file is for an evaluation, which needs more.

    Returns:
        The content; None if it is not a COCO json with annotations, or has ids of wrong types.
    """
    if not os.path.lexists(path):
        report.error("annotation file is missing", path)
        return None
    try:
        content = read_json(path, "annotation file")
    except UserError as error:
        report.error("annotation file is not valid json", f"{path}: {error}")
        return None
    lists = [content.get(name) for name in LISTS] if isinstance(content, dict) else [None]
    if not all(isinstance(a, list) and all(isinstance(b, dict) for b in a) for a in lists):
        report.error(f"annotation file lacks one of the lists {', '.join(LISTS)}", path)
        return None
    for name in ("images", "annotations"):
        if not content[name]:
            report.error(f"the list {name} is empty", path)
    if not _check_types(report, path.name, content):
        return None
    _check_categories(report, path.name, content["categories"], classes)
    _check_images(report, path.name, content["images"])
    _check_annotations(report, path.name, content, evaluated)
    return content


def mask_problem(mask: Any, height: int, width: int) -> str:
    """Say why the C code that draws masks must not see one.

    Args:
        mask: Polygons or run lengths, as in a COCO json.
        height: Of the image in pixels.
        width: As ``height``.

    Returns:
        The kind of problem; empty for a mask that can be drawn.
    """
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        if not isinstance(size, list) or not isinstance(counts, (list, str, bytes)):
            return "mask without size or counts, mmdet ignores the object"
        if size != [height, width]:
            return ANOTHER_SIZE
        whole = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
        if (whole and sum(counts) != height * width) or (isinstance(counts, list) and not whole):
            return ADD_UP
        if isinstance(counts, str) and not counts.isascii():
            return ADD_UP
        return ""
    if not isinstance(mask, list) or not all(isinstance(part, list) for part in mask):
        return "mask that is neither polygons nor run lengths"
    side, length = max(height, width), 0.0
    for part in mask:
        if not part:
            continue
        if not set(map(type, part)) <= {int, float}:
            return "mask that is neither polygons nor run lengths"
        # a comparison with NaN is false
        if not (min(part) >= -side and max(part) <= 2 * side and sum(part) < math.inf):
            return FAR
        points = len(part) // 2
        if length + points * 3 * side > MAX_PERIMETER:  # it may be; otherwise it cannot be
            steps = (
                max(abs(part[i] - part[i - 2]), abs(part[i + 1] - part[i - 1]))
                for i in range(0, 2 * points, 2)
            )
            length += sum(steps)
        if length > MAX_PERIMETER:
            return FAR
    return ""


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
            check_coco_file(report, Path(path), classes, split != "train")
            # without metainfo, the dataset's type knows the classes
            kinds = [k for k in report.errors if classes or not k.startswith("category is unknown")]
            for kind in sorted(kinds, key=lambda kind: kind not in FATAL):
                examples = report.errors[kind]
                named = "" if path in examples[0] else f"{path}: "
                return f"{option}: {named}{kind} ({len(examples)}x), the first is {examples[0]}"
    return ""


def _check_types(report: Report, where: str, content: dict) -> bool:
    """Check that ids are numbers or texts, and names texts; nothing else may be compared."""
    keys = {
        "images": {"id": (int, str), "file_name": (str,), "coco_url": (str,)},
        "annotations": dict.fromkeys(("id", "image_id", "category_id"), (int, str)),
        "categories": {"id": (int, str), "name": (str,)},
    }
    wrong = [
        f"{where}: {key} in {name}[{number}]: {printable(repr(item[key])[:80])}"
        for name, types in keys.items()
        for number, item in enumerate(content[name])
        for key, legal in types.items()
        if item.get(key) is not None and type(item[key]) not in legal
    ]
    if wrong:
        report.error(WRONG_TYPE, *wrong)
    return not wrong


def _check_categories(
    report: Report, where: str, categories: list[dict], classes: Sequence[str]
) -> None:
    """Compare the categories of a json with the classes that will be trained."""
    names = Counter(category.get("name") or "" for category in categories)
    for name in sorted(set(classes) - set(names)):
        report.error("class is missing from the categories", f"{where}: {printable(name)}")
    for name in sorted(set(names) - set(classes)):
        text = f"{where}: {printable(name)}"
        report.error("category is unknown, mmdet would ignore it", text)
    for name, count in names.items():
        if count > 1:
            report.error("category name occurs twice", f"{where}: {printable(name)}")
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
        width, height = image.get("width"), image.get("height")
        lacking = [] if image.get("id") is not None else ["id"]
        lacking += [
            key for key, side in (("width", width), ("height", height)) if not _is_side(side)
        ]
        if not lacking and width * height > MAX_PIXELS:
            lacking.append(f"size of at most {MAX_PIXELS:,} pixels")
        if not image.get("file_name") and not image.get("coco_url"):  # LVIS has the second
            lacking.append("file_name")
        if lacking:
            shown = printable(str({key: image[key] for key in list(image)[:9]}))
            report.error(NO_IMAGE, f"{where}: {shown} {lacking}")


def _check_annotations(report: Report, where: str, content: dict, evaluated: bool) -> None:
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
        file = "" if image is None else f" of {printable(image.get('file_name'))}"
        name = f"{where}: annotation {printable(annotation.get('id'))}{file}"
        if annotation.get("id") is None:
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
        if annotation.get("iscrowd", None if evaluated else 0) not in (0, 1):
            report.error(NO_CROWD, name)
    for number, image in images.items():
        if number not in annotated:
            name = printable(image.get("file_name"))
            report.warn("image without annotations", f"{where}: {name}")
    for category in content["categories"]:
        if category.get("id") not in used:
            name = printable(category.get("name"))
            report.warn("category without annotations", f"{where}: {name}")


def _check_box(report: Report, name: str, annotation: dict, image: dict | None) -> None:
    """Check the box and the area of an annotation; mmdet leaves some out without a word."""
    box, area = annotation.get("bbox"), annotation.get("area")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        report.error("annotation without a box of 4 numbers", name)
        return
    left, top, width, height = box
    right, bottom = (math.inf, math.inf) if image is None else _extent(image)
    name = f"{name} {printable(box, 80)}"
    if not all(map(math.isfinite, box)):
        report.error("box with NaN or infinity", name)
    elif width <= 0 or height <= 0:
        report.error("box of zero or negative area", name)
    elif image and (left >= right or top >= bottom or left + width <= 0 or top + height <= 0):
        report.error("box outside its image", name)
    elif not _is_number(area) or not math.isfinite(area):
        report.error("annotation without an area", f"{name} {printable(area, 80)}")
    elif width < 1 or height < 1 or area <= 0:
        report.warn("box or area below one pixel, mmdet leaves it out", name)
    elif image and not _is_inside((left, top, left + width, top + height), image):
        report.warn("box reaches outside its image", name)


def _check_mask(report: Report, name: str, mask: Any, image: dict | None) -> None:
    """Check the polygons or run lengths of an annotation, if it has any."""
    height, width = (None, None) if image is None else (image.get("height"), image.get("width"))
    if mask in (None, [], {}) or not (_is_side(height) and _is_side(width)):
        return
    if problem := mask_problem(mask, height, width):
        report.error(problem, name)
    elif isinstance(mask, list):
        good = [part for part in mask if _is_polygon(part)]
        if not good:
            report.error(NO_POLYGON, name)
        elif len(good) < len(mask):
            report.warn("polygon with fewer than 3 points, mmdet leaves it out", name)
        elif image is not None and not all(_is_inside(part, image) for part in good):
            report.warn("polygon reaches outside its image", name)


def _is_number(value: Any) -> bool:
    """Tell whether a value of a json is a number."""
    return type(value) in (int, float)


def _is_side(value: Any) -> bool:
    """Tell whether a value can be the width or height of an image."""
    return _is_number(value) and 1 <= value <= MAX_PIXELS and value == int(value)


def _is_polygon(part: list[float]) -> bool:
    """Tell whether numbers are at least three points, x and y in turn."""
    return len(part) >= 6 and len(part) % 2 == 0


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
