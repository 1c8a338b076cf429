"""Label Studio's json and its short form JSON-MIN, and CreateML's json."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmvitconv.datasets.formats.fields import (
    FieldError,
    get_list,
    get_object,
    name_of,
    number_of,
    points_of,
    take,
    whole_of,
)
from mmvitconv.datasets.formats.records import (
    Object,
    Record,
    Tally,
    box_of,
    object_of_mask,
    points_of_ellipse,
    turn_points,
)
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.image_files import MAX_PIXELS

__all__ = ["NAME", "decode_brush", "read"]

NAME = "Label Studio json"
# a shape's values, width and height of its image, and its place in the file
Shape = tuple[Mapping[str, Any], tuple[int, int], str]
KINDS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels")


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records: dict[str, Record] = {}
    for file, content in tree.jsons.items():
        if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
            continue
        tally.at = file
        for number, task in enumerate(content):
            reference, results = _task(task, f"[{number}]")
            if reference is None:
                continue
            if results is None:
                tally["images were not annotated"] += 1
                continue
            path = tree.find_image(reference, file)
            if path is None:
                tally["annotated images are not in the folder"] += 1
                continue
            split = split_of(file, is_annotation=True) or split_of(path)
            record = records[path] = Record(path, split=split, source=file)
            for value, sides, where in results:
                if "choices" in value:
                    record.label = _first(value, "choices", where)
                    continue
                made = _object(value, sides, where)
                if made is None:
                    tally["shapes are points, lines, empty or have no label"] += 1
                else:
                    record.objects.append(made)
    names = {item.name for record in records.values() for item in record.objects}
    names |= {record.label for record in records.values() if record.label}
    return list(records.values()), sorted(names)


def _task(task: dict[str, Any], where: str) -> tuple[str | None, list[Shape] | None]:
    """Return the image of a task, and its shapes; None: not annotated."""
    data = task.get("data")
    if isinstance(data, dict) and "annotations" in task:
        texts = [value for value in data.values() if isinstance(value, str)]
        reference = data.get("image") or data.get("img") or next(iter(texts), None)
        place = f"{where}.annotations"
        every = get_list(task["annotations"], place)
        done = [n for n, one in enumerate(every) if not take(one, "was_cancelled", f"{place}[{n}]")]
        if not done:
            return reference, None
        place = f"{place}[{done[-1]}].result"
        results = get_list(every[done[-1]].get("result"), place)
        return reference, [
            _sized(take(item, "value", f"{place}[{n}]") or {}, item, f"{place}[{n}]")
            for n, item in enumerate(results)
        ]
    reference = task.get("image")
    if not isinstance(reference, str):
        return None, None
    if isinstance(task.get("annotations"), list):  # CreateML: centres, in pixels
        return reference, [*_createml(task["annotations"], f"{where}.annotations")]
    found = []
    for key, value in task.items():
        if isinstance(value, list):
            found += [
                _sized(item, item, f"{where}.{key}[{number}]")
                for number, item in enumerate(value)
                if isinstance(item, dict)
            ]
    if isinstance(task.get("choice"), str):
        found.append(({"choices": [task["choice"]]}, (0, 0), where))
    return reference, found or ([] if "annotator" in task else None)


def _sized(value: Any, item: dict[str, Any], where: str) -> Shape:
    value = get_object(value, f"{where}.value")
    keys = ("original_width", "original_height")
    width, height = (whole_of(item.get(key) or 0, f"{where}.{key}") for key in keys)
    return value, (width, height), where


def _first(value: Mapping[str, Any], key: str, where: str) -> str:
    """Return the first of a list of classes."""
    place = f"{where}.{key}"
    return name_of(next(iter(get_list(value[key], place)), None), place)


def _createml(annotations: list[Any], where: str) -> Iterator[Shape]:
    for number, entry in enumerate(annotations):
        one = f"{where}[{number}]"
        place = take(entry, "coordinates", one) or {}
        x, y, width, height = (
            number_of(take(place, key, f"{one}.coordinates"), f"{one}.coordinates.{key}")
            for key in ("x", "y", "width", "height")
        )
        value = {"x": x - width / 2, "y": y - height / 2, "width": width, "height": height}
        yield {**value, "rectanglelabels": [entry.get("label")]}, (100, 100), one


def _object(value: Mapping[str, Any], sides: tuple[int, int], where: str) -> Object | None:
    kind = next((kind for kind in KINDS if value.get(kind)), None)
    if kind is None or not all(sides):
        return None

    def number(key: str) -> float:
        return number_of(value.get(key), f"{where}.{key}")

    name = _first(value, kind, where)
    if not name:
        return None
    width, height = sides
    scale = (width / 100, height / 100)
    shape = None
    if kind == "brushlabels":
        code, place = get_list(value.get("rle"), f"{where}.rle"), f"{where}.rle"
        if not all(type(byte) is int and 0 <= byte <= 255 for byte in code):
            raise FieldError(place, "a list of whole numbers, 0 to 255", code)
        values = decode_brush(code)
        if values.size != height * width * 4:
            legal = f"run lengths of {width} x {height} pixels with 4 numbers each"
            raise FieldError(place, legal, f"{values.size} numbers")
        return object_of_mask(name, values.reshape(height, width, 4)[..., 3] > 127)
    if kind == "polygonlabels":
        points = points_of(value.get("points"), f"{where}.points")
        points = [(x * scale[0], y * scale[1]) for x, y in points]
        if len(points) < 3:
            return None
        shape = [[number for point in points for number in point]]
    else:
        turn = math.radians(number_of(value.get("rotation") or 0, f"{where}.rotation"))
        corner = number("x") * scale[0], number("y") * scale[1]
        if kind == "ellipselabels":
            radii = number("radiusX") * scale[0], number("radiusY") * scale[1]
            points = points_of_ellipse(corner, radii, turn)
            shape = [[number for point in points for number in point]]
        else:
            sides = number("width") * scale[0], number("height") * scale[1]
            around = [(a * sides[0], b * sides[1]) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
            points = turn_points(around, corner, turn)
    box = box_of(points)
    return Object(name, box, shape) if min(box[2:]) > 0 else None


def decode_brush(code: list[int]) -> np.ndarray:
    """Return the numbers of a brush's run lengths.

    The bytes are a stream of bits: 32 for the count of numbers, 5 for the bits of a number less
    one, four times 4 for the bits of a run's length less one; then runs: a bit says whether one
    number is repeated or each is given, two bits choose the length's size, then the length less
    one, then the number or the numbers.

    Args:
        code: Bytes, 0 to 255.

    Returns:
        One dimension, uint8: four numbers a pixel, the last of which is the mask.
    """
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place] or "0", 2)

    total, word = take(32), take(5) + 1
    if total > 4 * MAX_PIXELS:
        raise ValueError(f"a brush of {total} numbers")
    lengths = [take(4) + 1 for _ in range(4)]
    numbers = np.zeros(total, np.uint8)
    done = 0
    while done < total and place < len(bits):
        repeated = take(1)
        end = min(done + 1 + take(lengths[take(2)]), total)
        if repeated:
            numbers[done:end] = take(word)
        else:
            numbers[done:end] = [take(word) for _ in range(end - done)]
        done = end
    return numbers
