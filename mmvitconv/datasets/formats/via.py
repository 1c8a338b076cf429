"""VGG Image Annotator's json and csv, of its versions 1 and 2."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of, points_of_ellipse
from mmvitconv.datasets.formats.tree import Tree, split_of

__all__ = ["NAME", "read"]

NAME = "VIA json or csv"
CLASS_KEYS = ("class", "label", "category", "name", "type", "object")
SHAPES = "region_shape_attributes"  # a column that no other table has


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records: dict[str, Record] = {}
    for file, name, regions in _images(tree, tally):
        path = tree.find_image(name, file)
        if path is None:
            tally["annotated images are not in the folder"] += 1
            continue
        split = split_of(file, is_annotation=True) or split_of(path)
        record = records.setdefault(path, Record(path, split=split, source=file))
        for shape, attributes in regions:
            made = _object(shape, _class_of(attributes))
            if made is None:
                tally["shapes are points, lines, empty or have no label"] += 1
            else:
                record.objects.append(made)
    names = {item.name for record in records.values() for item in record.objects}
    return list(records.values()), sorted(names)


def _images(tree: Tree, tally: Tally) -> Iterator[tuple[str, str, list[tuple[Any, Any]]]]:
    """Yield file, name of the image, and the shapes of its regions with their attributes."""
    for file, content in tree.jsons.items():
        entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
        for entry in entries.values():
            if not (isinstance(entry, Mapping) and {"filename", "regions"} <= entry.keys()):
                break
            tally.at = file
            regions = entry["regions"]  # version 1 numbers them
            regions = regions.values() if isinstance(regions, Mapping) else regions
            yield (
                file,
                entry["filename"],
                [
                    (region["shape_attributes"], region.get("region_attributes"))
                    for region in regions
                ],
            )
    for file in tree.with_suffix(".csv"):
        lines = [line.lstrip("#") for line in tree.read_lines(file)]
        if not lines or SHAPES not in lines[0]:
            continue
        tally.at = file
        for row in csv.DictReader(lines):
            shape, attributes = json.loads(row[SHAPES]), json.loads(row["region_attributes"])
            yield file, row["filename"], [(shape, attributes)] if shape else []


def _class_of(attributes: Any) -> str:
    """Return the class among a region's attributes: a text, or what is ticked."""
    found = {}
    for key, value in (attributes or {}).items():
        if isinstance(value, Mapping):
            value = next((name for name, is_ticked in value.items() if is_ticked), "")
        if str(value).strip():
            found[key.strip().lower()] = str(value).strip()
    best = next((found[key] for key in CLASS_KEYS if key in found), None)
    return best or next(iter(found.values()), "object")


def _object(shape: Mapping[str, Any], name: str) -> Object | None:
    kind = shape.get("name")
    if kind == "rect":
        box = tuple(float(shape[key]) for key in ("x", "y", "width", "height"))
        return Object(name, box) if min(box[2:]) > 0 else None
    if kind in ("circle", "ellipse"):
        radii = [shape[key] for key in (("r", "r") if kind == "circle" else ("rx", "ry"))]
        points = points_of_ellipse((shape["cx"], shape["cy"]), radii, shape.get("theta") or 0.0)
    elif kind == "polygon":
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    else:
        return None
    if len(points) < 3 or min(box_of(points)[2:]) <= 0:
        return None
    return Object(name, box_of(points), [[float(v) for point in points for v in point]])
