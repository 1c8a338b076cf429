"""Label Studio's json and its short form JSON-MIN, and CreateML's json."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

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

__all__ = ["NAME", "decode_brush", "read"]

NAME = "Label Studio json"
KINDS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels")


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records: dict[str, Record] = {}
    for file, content in tree.jsons.items():
        if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
            continue
        tally.at = file
        for task in content:
            reference, results = _task(task)
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
            for value, sides in results:
                if "choices" in value:
                    record.label = str(value["choices"][0])
                    continue
                made = _object(value, sides)
                if made is None:
                    tally["shapes are points, lines, empty or have no label"] += 1
                else:
                    record.objects.append(made)
    names = {item.name for record in records.values() for item in record.objects}
    names |= {record.label for record in records.values() if record.label}
    return list(records.values()), sorted(names)


def _task(task: dict[str, Any]) -> tuple[str | None, list[tuple[dict, tuple[int, int]]] | None]:
    """Return the image of a task, and values with width and height; None: not annotated."""
    data = task.get("data")
    if isinstance(data, dict) and "annotations" in task:
        texts = [value for value in data.values() if isinstance(value, str)]
        reference = data.get("image") or data.get("img") or next(iter(texts), None)
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        if not done:
            return reference, None
        return reference, [_sized(item.get("value") or {}, item) for item in done[-1]["result"]]
    reference = task.get("image")
    if not isinstance(reference, str):
        return None, None
    if isinstance(task.get("annotations"), list):  # CreateML: centres, in pixels
        return reference, [*_createml(task["annotations"])]
    found = []
    for value in task.values():
        if isinstance(value, list):
            found += [_sized(item, item) for item in value if isinstance(item, dict)]
    if isinstance(task.get("choice"), str):
        found.append(({"choices": [task["choice"]]}, (0, 0)))
    return reference, found or ([] if "annotator" in task else None)


def _sized(value: dict[str, Any], item: dict[str, Any]) -> tuple[dict, tuple[int, int]]:
    return value, (item.get("original_width") or 0, item.get("original_height") or 0)


def _createml(annotations: list[Any]) -> Iterator[tuple[dict, tuple[int, int]]]:
    for entry in annotations:
        place = entry.get("coordinates") or {}
        x, y, width, height = (float(place.get(key, 0)) for key in ("x", "y", "width", "height"))
        value = {"x": x - width / 2, "y": y - height / 2, "width": width, "height": height}
        yield {**value, "rectanglelabels": [entry.get("label", "")]}, (100, 100)


def _object(value: dict[str, Any], sides: tuple[int, int]) -> Object | None:
    kind = next((kind for kind in KINDS if value.get(kind)), None)
    if kind is None or not all(sides):
        return None
    name = str(value[kind][0])
    width, height = sides
    scale = (width / 100, height / 100)
    shape = None
    if kind == "brushlabels":
        values = decode_brush(value["rle"]).reshape(height, width, 4)[..., 3] > 127
        return object_of_mask(name, values)
    if kind == "polygonlabels":
        points = [(x * scale[0], y * scale[1]) for x, y in value["points"]]
        if len(points) < 3:
            return None
        shape = [[number for point in points for number in point]]
    else:
        turn = math.radians(value.get("rotation") or 0)
        corner = value["x"] * scale[0], value["y"] * scale[1]
        if kind == "ellipselabels":
            radii = value["radiusX"] * scale[0], value["radiusY"] * scale[1]
            points = points_of_ellipse(corner, radii, turn)
            shape = [[number for point in points for number in point]]
        else:
            sides = value["width"] * scale[0], value["height"] * scale[1]
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
