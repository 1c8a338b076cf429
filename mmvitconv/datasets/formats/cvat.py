"""CVAT's own xml, "CVAT for images"."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np

from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of, encode_mask
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.formats.voc import read_xml
from mmvitconv.errors import UserError

__all__ = ["NAME", "read"]

NAME = "CVAT xml"


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records: dict[str, Record] = {}
    names: dict[str, None] = {}
    for file in tree.with_suffix(".xml"):
        tally.at = file
        root = read_xml(tree, file)
        if root.tag != "annotations":
            continue
        if root.find("track") is not None and root.find("image") is None:
            raise UserError(
                f"{tree.path(file)!r} is CVAT's format for videos, whose frames have no names; "
                "export the task as 'CVAT for images' or COCO, with its images"
            )
        names.update(dict.fromkeys(n.text or "" for n in root.findall("./meta//label/name")))
        for node in root.iter("image"):
            path = tree.find_image(node.get("name", ""), file)
            if path is None:
                tally["annotated images are not in the folder"] += 1
                continue
            named = split_of(f"{(node.get('subset') or '').lower()}/x")
            split = named or split_of(file, is_annotation=True) or split_of(path)
            record = records[path] = Record(path, split=split, source=file)
            sides = int(float(node.get("height", 0))), int(float(node.get("width", 0)))
            for child in node:
                name = child.get("label", "")
                if child.tag == "tag":
                    record.label = name
                    continue
                made = _object(child, name, sides)
                if made is None:
                    tally["shapes are points, lines or empty"] += 1
                else:
                    record.objects.append(made)
                    names.setdefault(name)
    used = {item.name for record in records.values() for item in record.objects}
    used |= {record.label for record in records.values() if record.label}
    return list(records.values()), [name for name in names if name in used]


def _object(node: ElementTree.Element, name: str, sides: tuple[int, int]) -> Object | None:
    number = {key: float(value) for key, value in node.items() if _is_number(value)}
    shape = None
    if node.tag == "box":
        points = [(number["xtl"], number["ytl"]), (number["xbr"], number["ybr"])]
        if turn := number.get("rotation", 0.0):
            points = _turned(points, math.radians(turn))
    elif node.tag == "polygon":
        points = [tuple(map(float, p.split(","))) for p in node.get("points", "").split(";") if p]
        shape = [[value for point in points for value in point]] if len(points) >= 3 else None
        points = points if shape else []
    elif node.tag == "ellipse":
        turn = math.radians(number.get("rotation", 0.0))
        angles = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        x, y = number["rx"] * np.cos(angles), number["ry"] * np.sin(angles)
        points = np.stack(
            (
                number["cx"] + x * math.cos(turn) - y * math.sin(turn),
                number["cy"] + x * math.sin(turn) + y * math.cos(turn),
            ),
            axis=1,
        ).tolist()
        shape = [[value for point in points for value in point]]
    elif node.tag == "mask":
        counts = [int(word) for word in node.get("rle", "").split(",")]
        width, height = int(number["width"]), int(number["height"])
        left, top = int(number["left"]), int(number["top"])
        values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)[: width * height]
        whole = np.zeros(sides, bool)
        whole[top : top + height, left : left + width] = values.reshape(height, width)
        points = [(left, top), (left + width, top + height)]
        shape = encode_mask(whole)
    else:
        points = []
    box = box_of(points) if points else (0, 0, 0, 0)
    return Object(name, box, shape) if min(box[2:]) > 0 else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _turned(corners: list[tuple[float, float]], turn: float) -> list[tuple[float, float]]:
    """Return the four corners of a box turned about its centre."""
    (left, top), (right, bottom) = corners
    x, y = (left + right) / 2, (top + bottom) / 2
    return [
        (
            x + (a - x) * math.cos(turn) - (b - y) * math.sin(turn),
            y + (a - x) * math.sin(turn) + (b - y) * math.cos(turn),
        )
        for a in (left, right)
        for b in (top, bottom)
    ]
