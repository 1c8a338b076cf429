"""VGG Image Annotator's json and csv, of its versions 1 and 2."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmvitconv.datasets.formats.fields import (
    FieldError,
    get_list,
    get_object,
    name_of,
    number_of,
    take,
)
from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of, points_of_ellipse
from mmvitconv.datasets.formats.tree import Tree, split_of

__all__ = ["NAME", "read"]

NAME = "VIA json or csv"
CLASS_KEYS = ("class", "label", "category", "name", "type", "object")
SHAPE = "shape_attributes"
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
            where = f"{SHAPE} of {name!r}"
            made = _object(get_object(shape, where), _class_of(attributes), where)
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
        for entry in get_object(entries, f"_via_img_metadata of {file!r}").values():
            if not (isinstance(entry, Mapping) and {"filename", "regions"} <= entry.keys()):
                break
            tally.at = file
            place = f"regions of {entry['filename']!r}"
            regions = entry["regions"]  # version 1 numbers them
            regions = list(regions.values()) if isinstance(regions, Mapping) else regions
            yield (
                file,
                str(entry["filename"]),
                [
                    (take(region, SHAPE, place), region.get("region_attributes"))
                    for region in get_list(regions, place)
                ],
            )
    for file in tree.with_suffix(".csv"):
        lines = [line.lstrip("#") for line in tree.read_lines(file)]
        if not lines or SHAPES not in lines[0]:
            continue
        tally.at = file
        for row in csv.DictReader(lines):
            shape, attributes = (_parsed(row, key) for key in (SHAPES, "region_attributes"))
            yield file, row.get("filename") or "", [(shape, attributes)] if shape else []


def _parsed(row: Mapping[str, Any], key: str) -> Any:
    """Return the object in a column."""
    try:
        return json.loads(row.get(key) or "{}")
    except ValueError as error:
        raise FieldError(f"{key} of {row.get('filename')!r}", "json {...}", row[key]) from error


def _class_of(attributes: Any) -> str:
    """Return the class among a region's attributes: a text, or what is ticked."""
    found = {}
    for key, value in get_object(attributes or {}, "region_attributes").items():
        if isinstance(value, Mapping):
            value = next((name for name, is_ticked in value.items() if is_ticked), "")
        if name := name_of(value, f"region_attributes.{key}"):
            found[key.strip().lower()] = name
    best = next((found[key] for key in CLASS_KEYS if key in found), None)
    return best or next(iter(found.values()), "object")


def _object(shape: Mapping[str, Any], name: str, where: str) -> Object | None:
    kind = shape.get("name")

    def number(key: str) -> float:
        return number_of(shape.get(key), f"{key} in {where}")

    def numbers(key: str) -> list[float]:
        place = f"{key} in {where}"
        return [number_of(value, place) for value in get_list(shape.get(key), place)]

    if kind == "rect":
        box = tuple(map(number, ("x", "y", "width", "height")))
        return Object(name, box) if min(box[2:]) > 0 else None
    if kind in ("circle", "ellipse"):
        radii = [*map(number, ("r", "r") if kind == "circle" else ("rx", "ry"))]
        turn = number_of(shape.get("theta") or 0.0, f"theta in {where}")
        points = points_of_ellipse((number("cx"), number("cy")), radii, turn)
    elif kind == "polygon":
        xs, ys = numbers("all_points_x"), numbers("all_points_y")
        if len(xs) != len(ys):
            legal = f"a list of {len(xs)} numbers, as all_points_x"
            raise FieldError(f"all_points_y in {where}", legal, shape["all_points_y"])
        points = list(zip(xs, ys, strict=True))
    else:
        return None
    if len(points) < 3 or min(box_of(points)[2:]) <= 0:
        return None
    return Object(name, box_of(points), [[v for point in points for v in point]])
