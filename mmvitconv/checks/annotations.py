"""What a COCO json says, checked without opening an image."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from mmvitconv.datasets.image_files import MAX_PIXELS
from mmvitconv.datasets.jsons import read_json
from mmvitconv.datasets.layout import is_remote, leaf_datasets
from mmvitconv.datasets.progress import progress
from mmvitconv.datasets.run_lengths import total_of
from mmvitconv.errors import UserError, printable, shorten

__all__ = [
    "FLAT_MASKS",
    "IS_CROWD",
    "LARGE_SHARE",
    "OTHER_CATEGORIES",
    "Report",
    "Written",
    "check_coco_file",
    "explain_annotations",
    "mask_problem",
]

LISTS = ("images", "annotations", "categories")
MAX_PERIMETER = 2_000_000  # of a mask's polygons in pixels; drawing takes 40 bytes for each
ADD_UP = "run lengths of a mask do not add up to its size"
ANOTHER_SIZE = "mask has another size than its image"
FAR = "polygon reaches far outside its image, or is too long to be drawn"
NO_MASK_READ = "mask that is neither polygons nor run lengths"
NOT_FINITE = "box with NaN or infinity"
NO_POLYGON = "mask without a polygon of 3 points, mmdet ignores the object"
NO_CROWD = "annotation whose iscrowd is neither 0 nor 1"
WRONG_TYPE = "id or name of a wrong type"
NO_IMAGE = "image without an id, name or size"
# in training the guard of bad samples leaves these out; an evaluation cannot
OF_SAMPLES = (ADD_UP, ANOTHER_SIZE, FAR, NO_MASK_READ, NOT_FINITE)
FLAT_MASKS = "no polygon of the mask has 3 points"
IS_CROWD = "iscrowd is 1, which training and evaluation ignore: write 0 for an object"
OTHER_CATEGORIES = "their categories are not in metainfo.classes"
LARGE_SHARE = 0.2  # of the images or objects of a split; losing more deserves a warning
FEWEST_SIZES = 10  # boxes of which the sizes say something
FEWEST_OUTSIDE = 5  # boxes
SAMPLED_MASKS = 500  # of a file, whose boxes are compared with their masks


@dataclass
class Report:
    """What a check found.

    Attributes:
        rows: Per dataset: its name, number of images, number of labels.
        errors: Kind of problem -> examples; training or its evaluation would fail or mean nothing.
        warnings: Kind of problem -> examples; unusual, but it works.
        notes: What was looked at, one line each.
        advice: Kind of problem -> what follows from it, and what to do.

    Examples:
        >>> report = Report()
        >>> report.error("file is empty", "a.jpg")
        >>> report.errors
        {'file is empty': ['a.jpg']}
    """

    rows: list[tuple[str, int, int]] = field(default_factory=list)
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    notes: list[str] = field(default_factory=list)
    advice: dict[str, str] = field(default_factory=dict)

    def error(self, kind: str, *examples: object, advice: str = "") -> None:
        """Add errors: what is wrong, where, and what to do."""
        self.errors.setdefault(kind, []).extend(map(str, examples))
        if advice:
            self.advice[kind] = advice

    def warn(self, kind: str, *examples: object, advice: str = "") -> None:
        """Add warnings: what is unusual, where, and what follows from it."""
        self.warnings.setdefault(kind, []).extend(map(str, examples))
        if advice:
            self.advice[kind] = advice

    def take(self, other: Report, errors_as: str = "errors") -> None:
        """Add what another report has.

        Args:
            other: The report.
            errors_as: 'errors', or 'warnings' for what a run does not need.
        """
        for word, found in ((errors_as, other.errors), ("warnings", other.warnings)):
            for kind, examples in found.items():
                getattr(self, word).setdefault(kind, []).extend(examples)
        self.advice |= other.advice
        self.rows += other.rows
        self.notes += other.notes

    def sentences(self, word: str = "errors", limit: int = 3) -> list[str]:
        """Return what was found, one sentence for each kind.

        Args:
            word: 'errors' or 'warnings'.
            limit: Most examples in a sentence, >= 1.

        Returns:
            The sentences, each with the places where it was found.
        """
        found: dict[str, list[str]] = getattr(self, word)
        return [
            f"{shorten(examples, limit)}: {'; '.join(filter(None, (kind, self.advice.get(kind))))}"
            for kind, examples in found.items()
        ]


@dataclass
class Written:
    """What a COCO json has written, by class, and why mmdet's reader leaves some of it out.

    Attributes:
        images: How many images it lists.
        objects: Objects by category name.
        masks: How many objects have a mask.
        lost: Objects that training does not learn from, by reason and category name.
        content: The json, for who goes on with it.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    lost: dict[str, Counter[str]] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict, repr=False)


def check_coco_file(
    report: Report, path: Path, classes: Sequence[str], evaluated: bool = False
) -> Written | None:
    """Check what a COCO json says.

    Args:
        report: Gets the problems.
        path: The json.
        classes: The names that the config trains.
        evaluated: Whether the file is for an evaluation, which needs more.

    Returns:
        What was found in it; None if it is not a COCO json, or has ids of wrong types.
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
    written = _check_annotations(report, path.name, content, classes, evaluated)
    if not report.errors:
        _compare_boxes(report, path.name, content)
    written.content = content
    return written


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
        return "" if total_of(counts) == height * width else ADD_UP
    if not isinstance(mask, list) or not all(isinstance(part, list) for part in mask):
        return NO_MASK_READ
    side, length = max(height, width), 0.0
    for part in mask:
        if not part:
            continue
        if not set(map(type, part)) <= {int, float}:
            return NO_MASK_READ
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
            for kind, examples in report.errors.items():
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
        near = _similar(name, names)
        hint = f"(did you mean {near!r}?)" if near else f"(it has {shorten(sorted(names), 8)})"
        hint = " " + printable(hint, 400)
        report.error(
            "class is missing from the categories",
            f"{where}: {printable(name)}{hint if names else ''}",
            advice="mmdet would number the other classes wrongly: name the file's own categories "
            "in metainfo=dict(classes=...)",
        )
    for name, count in names.items():
        if count > 1:
            report.error("category name occurs twice", f"{where}: {printable(name)}")
    used = [category.get("name") for category in categories if category.get("name") in classes]
    if classes and sorted(used) == sorted(classes) and used != list(classes):
        # mmdet numbers the classes in the order of the json
        report.error(
            "classes are in another order than the categories",
            f"{where}: {used}",
            advice="mmdet numbers them in the order of the file: write "
            f"metainfo=dict(classes={tuple(used)!r})",
        )
    for number, count in Counter(category.get("id") for category in categories).items():
        if count > 1 or not isinstance(number, int):
            report.error("category id is missing or occurs twice", f"{where}: {number}")


def _check_images(report: Report, where: str, listed: list[dict]) -> None:
    """Check what a json says about its images."""
    if len({image.get("id") for image in listed}) != len(listed):
        report.error("image ids occur twice", where)
    if len(types := {type(image.get("id")).__name__ for image in listed}) > 1:
        report.error(f"image ids of several types ({', '.join(sorted(types))})", where)
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


def _similar(name: str, others: Iterable[str]) -> str | None:
    """Return the one of several names that may be meant, None for none."""
    folded = {other.strip().lower(): other for other in others}
    near = get_close_matches(name.strip().lower(), folded, n=1)
    return folded[near[0]] if near else None


def _check_annotations(
    report: Report, where: str, content: dict, classes: Sequence[str], evaluated: bool
) -> Written:
    """Check ids, references, boxes and masks of the annotations of a json, and count them."""
    images = {image.get("id"): image for image in content["images"]}
    categories = {c.get("id"): str(c.get("name") or "") for c in content["categories"]}
    trained = set(classes) if classes else set(categories.values())
    written = Written(len(content["images"]))
    seen: set[Any] = set()
    known: set[int] = set()  # hashes of objects; those themselves would take much memory
    for annotation in progress(content["annotations"], f"{where}: annotations"):
        image = images.get(annotation.get("image_id"))
        number = annotation.get("id")
        category = categories.get(annotation.get("category_id"))

        def name(annotation: dict = annotation, image: dict | None = image) -> str:
            file = "" if image is None else f" of {printable(image.get('file_name'))}"
            return f"{where}: annotation {printable(annotation.get('id'))}{file}"

        for key in ("image_id", "category_id"):
            if key not in annotation:  # pycocotools looks it up
                report.error(f"annotation without {key}", name())
        if number is None:
            report.error("annotation without an id", name())
        elif evaluated and not isinstance(number, int):
            report.error("annotation id that is no number, as COCO's evaluation needs", name())
        elif number in seen:
            report.error("annotation id occurs twice", name())
        seen.add(number)
        reason = _check_box(report, name, annotation, image, evaluated)
        what = hash(repr([annotation.get(key) for key in ("image_id", "category_id", "bbox")]))
        if what in known and annotation.get("bbox"):
            report.warn(
                "annotation is written twice: same image, class and box",
                name(),
                advice="training counts it twice, and an evaluation misses one of them",
            )
        known.add(what)
        if image is None:
            reason = "image_id names no image of the file"
            report.warn("annotation of an image that is not listed", name())
        if category is None:
            reason = "category_id names no category of the file"
            report.warn("annotation of a category that is not listed", name())
        if annotation.get("segmentation"):
            written.masks += 1
            reason = _check_mask(report, name, annotation["segmentation"], image, evaluated) or (
                reason
            )
        crowd = annotation.get("iscrowd", None if evaluated else 0)
        if crowd not in (0, 1):
            report.error(
                NO_CROWD, name(), advice="COCO's evaluation needs it: write 0 for an object"
            )
        if annotation.get("ignore"):
            reason = "ignore is set, which mmdet leaves out: write 0"
        elif crowd == 1 and not reason:
            reason = IS_CROWD
        written.objects[str(category)] += 1
        if category is not None and category not in trained:
            reason = OTHER_CATEGORIES
        if reason:
            written.lost.setdefault(reason, Counter())[str(category)] += 1
    return written


def _check_box(
    report: Report,
    name: Callable[[], str],
    annotation: dict,
    image: dict | None,
    evaluated: bool,
) -> str:
    """Check the box and the area of an annotation; return why mmdet leaves it out, else ''."""
    box, area = annotation.get("bbox"), annotation.get("area")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        report.error("annotation without a box of 4 numbers", name())
        return ""
    left, top, width, height = box
    right, bottom = (math.inf, math.inf) if image is None else _extent(image)
    kind, reason, is_error = "", "", False
    if not all(map(math.isfinite, box)):
        kind, is_error = NOT_FINITE, evaluated
        reason = "the box has NaN or infinity"
    elif width <= 0 or height <= 0:
        kind = "box of zero or negative area"
        reason = "the box has no area (write x, y, width, height in pixels)"
    elif image and (left >= right or top >= bottom or left + width <= 0 or top + height <= 0):
        kind = "box outside its image"
        reason = "the box is outside its image"
    elif not _is_number(area) or not math.isfinite(area):
        kind, is_error = "annotation without an area", True
    elif width < 1 or height < 1 or area <= 0:
        kind = "box or area below one pixel, mmdet leaves it out"
        reason = (
            "area is 0: write the area in pixels"
            if width >= 1 and height >= 1
            else "the box is below one pixel: boxes in shares of the image must be multiplied by "
            "its width and height"
            if max(left + width, top + height) <= 1.001
            else "the box is below one pixel"
        )
    elif image and not _is_inside((left, top, left + width, top + height), image):
        kind = "box reaches outside its image"
    if kind:
        text = f"{name()} {printable(box, 80)}"
        (report.error if is_error else report.warn)(kind, text)
    return reason


def _check_mask(
    report: Report, name: Callable[[], str], mask: Any, image: dict | None, evaluated: bool
) -> str:
    """Check the polygons or run lengths of an object; return why it is not learnt from, else ''."""
    height, width = (None, None) if image is None else (image.get("height"), image.get("width"))
    if not (_is_side(height) and _is_side(width)):
        return ""
    if problem := mask_problem(mask, height, width):
        is_error = evaluated and problem in OF_SAMPLES
        (report.error if is_error else report.warn)(problem, name())
        return problem
    if isinstance(mask, list):
        good = [part for part in mask if _is_polygon(part)]
        if not good:
            report.warn(NO_POLYGON, name())
            return FLAT_MASKS
        if len(good) < len(mask):
            report.warn("polygon with fewer than 3 points, mmdet leaves it out", name())
        elif image is not None and not all(_is_inside(part, image) for part in good):
            report.warn("polygon reaches outside its image", name())
    return ""


def _compare_boxes(report: Report, where: str, content: dict) -> None:
    """Tell boxes that are written in another way than x, y, width, height."""
    images = {image["id"]: image for image in content["images"]}
    listed = [a for a in content["annotations"] if a.get("image_id") in images]
    step = max(1, len(listed) // SAMPLED_MASKS)
    boxes, others, areas, sizes = [], [], [], []
    for annotation in listed[::step]:
        image = images[annotation["image_id"]]
        boxes.append(annotation["bbox"])
        areas.append(annotation["area"])
        sizes.append((image["width"], image["height"]))
        others.append(_mask_box(annotation.get("segmentation"), image))
    if len(boxes) < 3:
        return
    given, sides = np.array(boxes, float), np.array(sizes, float)
    a, b, c, d = given.T
    readings = {
        "x, y, width, height": np.stack([a, b, a + c, b + d], 1),
        "x1, y1, x2, y2": given,
        "the centre, width, height": np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], 1),
        "shares of the image": np.stack([a, b, a + c, b + d], 1) * np.tile(sides, 2),
        "percents of the image": np.stack([a, b, a + c, b + d], 1) * np.tile(sides, 2) / 100,
        "y, x, height, width": np.stack([b, a, b + d, a + c], 1),
    }
    own, *foreign = readings
    _look_at_sizes(report, where, readings[own], sides)
    known = np.array([other is not None for other in others])
    advice = "write x, y, width, height in pixels, with x, y the corner at the left and top"
    if known.sum() >= 3:
        masks = np.array([other for other in others if other is not None])
        overlaps = {name: _overlap(boxes[known], masks) for name, boxes in readings.items()}
        share = (overlaps[own] < 0.5).mean()
        if share > 0.5:
            if np.abs(masks).max() <= 1.001:
                kind = "masks are shares of the image, 0 to 1: write pixels"
                report.error(kind, f"{where}: segmentation")
                return
            best = max(foreign, key=lambda name: np.median(overlaps[name]))
            fits = np.median(overlaps[best]) > 0.8
            look = f"; they look like {best}" if fits else ""
            kind = f"boxes and masks disagree in {share:.0%} of the objects{look}: {advice}"
            report.error(kind, f"{where}: bbox")
        return
    area = np.array(areas, float)
    with np.errstate(all="ignore"):
        as_own = np.isclose(c * d, area, rtol=0.02)
        as_corners = np.isclose((c - a) * (d - b), area, rtol=0.02)
    foreign = [name for name in foreign if not name.endswith("of the image")]
    look = "x1, y1, x2, y2"
    if ((c > a) & (d > b) & as_corners & ~as_own).mean() > 0.5:
        by = "area"
    elif look := _find_reading({name: readings[name] for name in (own, *foreign)}, sides):
        by = "the images' sizes"
    else:
        ends = np.maximum(readings[own][:, 2:] - sides, -readings[own][:, :2]).max(1)
        if len(ends) >= FEWEST_SIZES and (ends > 1).mean() > 0.5:
            kind = f"{(ends > 1).mean():.0%} of the boxes leave their images: do they belong to "
            kind += f"larger copies of them? {advice}"
            report.error(kind, f"{where}: bbox {given[ends.argmax()].tolist()}")
        return
    report.error(f"boxes look like {look} by {by}: {advice}", f"{where}: bbox {given[0].tolist()}")


def _look_at_sizes(report: Report, where: str, boxes: np.ndarray, sides: np.ndarray) -> None:
    """Tell boxes (left, top, right, bottom) of sizes that objects do not have."""
    if len(boxes) < FEWEST_SIZES:
        return
    extents = boxes[:, 2:] - boxes[:, :2]
    for is_odd, kind, advice in (
        (
            (extents >= 0.99 * sides).all(1).mean() > 0.9,
            "nearly all boxes are as large as their images",
            "where nothing is to be found, classify the images (mmvitconv init classification)",
        ),
        (
            (extents <= 2).all(1).mean() > 0.5,
            "most boxes have at most 2 pixels a side",
            "are they points? Write the boxes of the objects",
        ),
        (
            sides.min() >= 150 and 50 < boxes.max() <= 100.5,
            "all boxes end at 100 or before, whatever the size of their images",
            "are they percents of the image? Write x, y, width, height in pixels",
        ),
    ):
        if is_odd:
            report.warn(kind, f"{where}: {len(boxes)} boxes", advice=advice)


def _find_reading(readings: Mapping[str, np.ndarray], sides: np.ndarray) -> str:
    """Return the way in which all boxes fit their images, where they do not in the first way."""
    fits = {}
    for name, boxes in readings.items():
        ends = np.maximum(boxes[:, 2:] - sides, -boxes[:, :2])
        fits[name] = (ends <= 1).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    own, *others = fits
    outside = (~fits[own]).sum()
    if outside < max(FEWEST_OUTSIDE, 0.05 * len(sides)):  # of a few, boxes were drawn too large
        return ""
    return next((name for name in others if fits[name].all()), "")


def _mask_box(mask: Any, image: dict) -> list[float] | None:
    """Return the box around a mask, None if there is no good one."""
    if not mask or mask_problem(mask, image["height"], image["width"]):
        return None
    if isinstance(mask, list):
        parts = [part for part in mask if _is_polygon(part)]
        xs = [x for part in parts for x in part[0::2]]
        ys = [y for part in parts for y in part[1::2]]
        return [min(xs), min(ys), max(xs), max(ys)] if parts else None
    from pycocotools import mask as coco  # comes with mmdet

    if isinstance(mask["counts"], list):
        mask = coco.frPyObjects(mask, *mask["size"])
    left, top, width, height = coco.toBbox(mask).tolist()
    return [left, top, left + width, top + height] if width and height else None


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes, pair by pair."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    inside = np.clip(high - low, 0, None).prod(1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (first, second)]
    return inside / np.maximum(areas[0] + areas[1] - inside, 1e-9)


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
    width, height = _extent(image)
    return min(points) >= -1 and max(points[0::2]) <= width + 1 and max(points[1::2]) <= height + 1
