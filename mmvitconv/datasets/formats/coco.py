"""COCO json, also as CVAT, Label Studio, Roboflow and labelme's converters write it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mmvitconv.datasets.formats.fields import id_of, name_of
from mmvitconv.datasets.formats.panoptic import is_panoptic
from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of, size_of
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.run_lengths import size_in, total_of
from mmvitconv.errors import UserError, shorten

__all__ = ["NAME", "is_coco", "read"]

NAME = "COCO json"
TWICE = "images are in two annotation files: the one with more objects counts"
LISTED = "annotations have an image_id that is none of the images"
NO_BOX = "annotations have no box of any area, x, y, width, height"
WHAT = ("image_id", "category_id", "bbox", "segmentation")


def is_coco(content: Any) -> bool:
    """Tell whether a json's content has COCO's three lists."""
    lists = ("images", "annotations", "categories")
    has_lists = isinstance(content, dict) and all(type(content.get(key)) is list for key in lists)
    return has_lists and not is_panoptic(content)


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder.

    Args:
        tree: The folder.
        tally: Counts what is left out.

    Returns:
        Records, and the classes in the order of their categories, those without objects left out.
    """
    files = {name: content for name, content in tree.jsons.items() if is_coco(content)}
    annotated = {name: content for name, content in files.items() if content["annotations"]}
    for name in files.keys() - annotated.keys():
        number = len(files[name]["images"])
        tally.count("json files have no annotations: left out", f"{name}, {number} images")
    # COCO itself has the same images in captions_, person_keypoints_ and instances_
    usual = {n: c for n, c in annotated.items() if PurePosixPath(n).name.startswith("instances")}
    records: dict[str, Record] = {}
    names: dict[str, None] = {}
    for file, content in (usual or annotated or files).items():
        for record in _read_file(tree, file, content, tally):
            known = records.get(record.image)
            if known is not None:
                tally.count(TWICE, f"{record.image} is in {known.source} and {file}")
            if known is None or len(record.objects) > len(known.objects):
                records[record.image] = record
        names.update(dict.fromkeys(_categories(content).values()))
    found = list(records.values())
    used = {item.name for record in found for item in record.objects}
    return found, [name for name in names if name in used]


def _categories(content: Mapping[str, Any]) -> dict[Any, str]:
    entries = [entry for entry in content["categories"] if isinstance(entry, dict)]
    return {
        id_of(entry.get("id"), "the id of a category"): name_of(
            entry.get("name", entry.get("id")), f"the name of category {entry.get('id')!r}"
        )
        for entry in entries
    }


def _read_file(tree: Tree, file: str, content: Mapping[str, Any], tally: Tally) -> list[Record]:
    tally.at = file
    categories = _categories(content)
    annotations, seen, used = defaultdict(list), set(), set()
    records = []
    _check_ids(tree, file, content)
    for name, number in Counter(categories.values()).items():
        if number > 1:
            tally.count("categories have the name of another: read as one class", name)
    split = split_of(file, is_annotation=True)
    left_out = tally.total()
    for entry in content["annotations"]:
        if not isinstance(entry, dict):
            continue
        what = repr([entry.get(key) for key in WHAT])
        if what in seen:
            tally["annotations are written twice: the second is left out"] += 1
            continue
        seen.add(what)
        where = f"of annotation {entry.get('id')!r}"
        used.add(id_of(entry.get("category_id"), f"category_id {where}"))
        annotations[id_of(entry.get("image_id"), f"image_id {where}")].append(entry)
    _check_categories(tree, file, used, set(categories))
    for number in used & categories.keys():
        if not categories[number].strip():
            raise UserError(
                f"{tree.path(file)!r}: the category with the id {number!r} has no name: write one"
            )
    images = [image for image in content["images"] if isinstance(image, dict)]
    known = {id_of(image.get("id"), f"id of {image.get('file_name')!r}") for image in images}
    if strange := [number for number in annotations if number not in known]:
        lost = sum(len(annotations[number]) for number in strange)
        some = next(iter(known), None)
        tally.count(LISTED, f"{strange[0]!r}; an image has the id {some!r}")
        tally[LISTED] += lost - 1
    for image in content["images"]:
        if not isinstance(image, dict) or not image.get("file_name"):
            tally.count("images of the json have no file_name", image)
            continue
        path = tree.find_image(name_of(image["file_name"], "the file_name of an image"), file)
        if path is None:
            tally["annotated images are not in the folder"] += 1
            continue
        record = Record(path, split=split or split_of(path), source=file)
        sides = [image.get(key) for key in ("width", "height")]
        record.stated = size_of(*sides)
        for entry in annotations.get(image.get("id"), ()):
            number = entry.get("category_id")
            if number not in categories:
                listed = shorten([repr(known) for known in categories], 3)
                what = f"annotations have a category_id that is none of the categories, {listed}"
                tally.count(what, repr(number))
            elif (made := _object(categories[number], entry, sides, tally)) is None:
                tally.count(NO_BOX, entry.get("bbox"))
            else:
                record.objects.append(made)
        record.reference = str(image["file_name"])
        records.append(record)
    if tally.total() > left_out:
        for record in records:
            record.reference = ""
    return records


def _check_ids(tree: Tree, file: str, content: Mapping[str, Any]) -> None:
    """Refuse two images of one id: nothing says whose annotations are whose."""
    named: dict[Any, Any] = {}
    twice = []
    for image in content["images"]:
        if isinstance(image, dict) and image.get("id") is not None:
            name = image.get("file_name")
            id_of(image["id"], f"id of {name!r}")
            if named.setdefault(image["id"], name) != name:
                twice.append((image["id"], named[image["id"]], name))
    if twice:
        number, first, second = twice[0]
        raise UserError(
            f"{tree.path(file)!r}: {len(twice)} image ids occur twice, the first is {number!r} of "
            f"{first!r} and {second!r}, so that nothing says whose annotations are whose; where "
            "files were put together, number their images and annotations anew"
        )


def _check_categories(tree: Tree, file: str, used: set[Any], known: set[Any]) -> None:
    """Refuse category ids that are those of the file's categories but for one."""
    if used <= known or not all(type(number) is int for number in used):
        return
    for step in (1, -1):
        if {number + step for number in used} <= known:
            raise UserError(
                f"{tree.path(file)!r}: the category_id of the annotations, {min(used)} to "
                f"{max(used)}, are off by one from its categories, {min(known)} to {max(known)}: "
                "write the ids of the categories"
            )


def _object(name: str, entry: Mapping[str, Any], sides: list[Any], tally: Tally) -> Object | None:
    """Return an annotation as an object; None where it has neither a box nor a mask."""
    given = shape = entry.get("segmentation")
    if isinstance(shape, list):
        shape = [ring for ring in shape if isinstance(ring, list) and len(ring) >= 6]
    elif isinstance(shape, dict) and total_of(shape.get("counts")) != math.prod(size_in(shape)):
        shape = None
    shape = shape if isinstance(shape, (list, dict)) and shape else None
    if given and not shape:
        tally.count("masks are neither lists of polygons nor whole run lengths", given)
    box = entry.get("bbox")
    if not _is_box(box) and isinstance(shape, list):
        box = box_of([ring[i : i + 2] for ring in shape for i in range(0, len(ring) - 1, 2)])
    elif not _is_box(box) and isinstance(shape, dict):
        from pycocotools import mask

        code = shape
        if isinstance(code.get("counts"), list):
            code = mask.frPyObjects(code, *code["size"])
        box = mask.toBbox(code).tolist()
    if not _is_box(box):
        return None
    if max(box) <= 1 and all(isinstance(side, (int, float)) and side > 8 for side in sides):
        tally["boxes are shares of the image, 0 to 1: read as such"] += 1
        box = [value * sides[index % 2] for index, value in enumerate(box)]
    return Object(name, tuple(map(float, box)), shape, bool(entry.get("iscrowd", 0)))


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, (list, tuple))
        and len(box) == 4
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in box)
        and box[2] > 0
        and box[3] > 0
    )
