"""labelme's json, one file an image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mmvitconv.datasets.formats.fields import (
    FieldError,
    name_of,
    points_of,
    take,
    whole_of,
)
from mmvitconv.datasets.formats.records import (
    Object,
    Record,
    Tally,
    box_of,
    empty_mask,
    object_of_mask,
    points_of_ellipse,
    size_of,
)
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.image_files import open_image

__all__ = ["NAME", "read"]

NAME = "labelme json"
SIDES = ("imageHeight", "imageWidth")
NOT_OBJECTS = {"__ignore__", "_background_"}


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records, names = {}, set()
    for file, content in tree.jsons.items():
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        tally.at = file
        stem = PurePosixPath(file).stem
        path = tree.find_image(stem, file) or tree.find_image(content.get("imagePath") or "", file)
        if path is None:
            tally["annotated images are not in the folder"] += 1
            continue
        record = records[path] = Record(path, split=split_of(file) or split_of(path), source=file)
        size = content.get(SIDES[0]), content.get(SIDES[1])
        record.stated = size_of(*size[::-1])
        groups: dict[tuple[str, Any], Object] = {}
        for number, shape in enumerate(content["shapes"]):
            where = f"shapes[{number}]"
            name = name_of(take(shape, "label", where), f"{where}.label")
            made = None if not name or name in NOT_OBJECTS else _object(name, shape, size, where)
            if made is None:
                tally["shapes are points, lines, empty or have no label"] += 1
                continue
            names.add(name)
            # shapes of one group and name are parts of one object
            group = shape.get("group_id")
            key = name, f"shape {number}" if group is None else repr(group)
            if key in groups and _is_polygon(made) and _is_polygon(groups[key]):
                _join(groups[key], made)
                tally["polygons have the group_id of another: parts of one object"] += 1
            else:
                groups[key] = made
                record.objects.append(made)
    return list(records.values()), sorted(names)


def _decode(code: Any, where: str) -> np.ndarray:
    """Return a mask that is written as the text of a png."""
    try:
        with open_image(io.BytesIO(base64.b64decode(code))) as image:
            return np.asarray(image.convert("L")) > 0
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise FieldError(where, "a png in base64", code) from error


def _is_polygon(item: Object) -> bool:
    return isinstance(item.segmentation, list)


def _join(first: Object, second: Object) -> None:
    """Make two polygons one object."""
    first.segmentation += second.segmentation
    corners = [
        (x + i * width, y + i * height)
        for x, y, width, height in (first.box, second.box)
        for i in (0, 1)
    ]
    first.box = box_of(corners)


def _object(
    name: str, shape: Mapping[str, Any], size: tuple[Any, Any], where: str
) -> Object | None:
    kind = shape.get("shape_type") or "polygon"
    points = points_of(shape.get("points") or [], f"{where}.points")
    if kind == "mask" and shape.get("mask") and len(points) == 2:
        part = _decode(shape["mask"], f"{where}.mask")
        size = tuple(whole_of(n, k) for n, k in zip(size, SIDES, strict=True))
        left, top = (round(value) for value in points[0])
        whole = empty_mask(*size[::-1])
        target = whole[top : top + part.shape[0], left : left + part.shape[1]]
        target[:] = part[: target.shape[0], : target.shape[1]]
        return object_of_mask(name, whole)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        points = points_of_ellipse((x, y), (radius, radius))
    is_box = kind == "rectangle" and len(points) in (2, 4)
    if not is_box and (kind not in ("polygon", "circle", "rotation") or len(points) < 3):
        return None
    box = box_of(points)
    if min(box[2:]) <= 0:
        return None
    return Object(name, box, None if is_box else [[v for point in points for v in point]])
