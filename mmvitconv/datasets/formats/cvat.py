"""CVAT's own xml, "CVAT for images" and "CVAT for video"."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from mmvitconv.datasets.formats.fields import FieldError, number_of, points_of, whole_of
from mmvitconv.datasets.formats.records import (
    Object,
    Record,
    Tally,
    box_of,
    empty_mask,
    encode_mask,
    points_of_ellipse,
    size_of,
    turn_points,
)
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.formats.voc import read_xml
from mmvitconv.datasets.image_files import MAX_PIXELS
from mmvitconv.errors import UserError

__all__ = ["NAME", "read"]

NAME = "CVAT xml"
SIDES = ("width", "height")


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
            _name_frames(tree, file, root)
            tally[
                "videos: neighbouring frames are alike, so that val flatters; put whole videos "
                "into folders called train and val"
            ] += 1
        names.update(dict.fromkeys(n.text or "" for n in root.findall("./meta//label/name")))
        for node in root.iter("image"):
            path = tree.find_image(node.get("name", ""), file)
            if path is None:
                tally["annotated images are not in the folder"] += 1
                continue
            named = split_of(f"{(node.get('subset') or '').lower()}/x")
            split = named or split_of(file, is_annotation=True) or split_of(path)
            record = records[path] = Record(path, split=split, source=file)
            record.stated = size_of(node.get("width"), node.get("height"))
            sides = record.stated[::-1]
            for child in node:
                name = child.get("label", "")
                if child.tag == "tag":
                    record.label = name
                    continue
                made = _object(child, name, sides, f" in {path!r}")
                if not name and made is not None:
                    tally["shapes have no label"] += 1
                elif made is None:
                    tally["shapes are points, lines or empty"] += 1
                else:
                    record.objects.append(made)
                    names.setdefault(name)
    used = {item.name for record in records.values() for item in record.objects}
    used |= {record.label for record in records.values() if record.label}
    return list(records.values()), [name for name in names if name in used]


def _name_frames(tree: Tree, file: str, root: ElementTree.Element) -> None:
    """Turn the tracks of a video into images with their shapes, as "CVAT for images" has them.

    Raises:
        UserError: The frames are not there.
    """
    size = root.find("./meta//original_size")
    sides = {key: (size.findtext(key) if size is not None else None) or "0" for key in SIDES}
    shapes = defaultdict(list)
    for track in root.iter("track"):
        for shape in track:
            if shape.get("outside") != "1" and shape.get("frame"):
                shape.set("label", track.get("label", ""))
                shapes[whole_of(shape.get("frame"), "frame of a track")].append(shape)
    frames = {number: tree.find_image(f"frame_{number:06d}", file) for number in shapes}
    if not any(frames.values()):
        raise UserError(
            f"{tree.path(file)!r} is CVAT's format for videos, whose frames have no names, and "
            "there is no image called frame_000000: export the task with 'save images', or as "
            "'CVAT for images' or COCO"
        )
    folders = {os.path.dirname(path) for path in frames.values() if path}
    for path in tree.images:  # the others have no objects
        number = re.fullmatch(r"frame_(\d{6,})", PurePosixPath(path).stem)
        if number and os.path.dirname(path) in folders:
            frames[int(number[1])] = path
    for number, path in frames.items():
        image = ElementTree.SubElement(root, "image", {"name": path or f"frame {number}", **sides})
        image.extend(shapes[number])


def _object(
    node: ElementTree.Element, name: str, sides: tuple[int, int], where: str
) -> Object | None:
    def number(key: str, default: str | None = None) -> float:
        return number_of(node.get(key, default), f"{key} of the {node.tag} {name!r}{where}")

    shape = None
    if node.tag == "box":
        points = [(number("xtl"), number("ytl")), (number("xbr"), number("ybr"))]
        if turn := number("rotation", "0"):
            (left, top), (right, bottom) = points
            centre = (left + right) / 2, (top + bottom) / 2
            corners = [(a - centre[0], b - centre[1]) for a in (left, right) for b in (top, bottom)]
            points = turn_points(corners, centre, math.radians(turn))
    elif node.tag == "polygon":
        points = [point.split(",") for point in node.get("points", "").split(";") if point]
        points = points_of(points, f"points of the polygon {name!r}{where}")
        shape = [[value for point in points for value in point]] if len(points) >= 3 else None
        points = points if shape else []
    elif node.tag == "ellipse":
        turn = math.radians(number("rotation", "0"))
        radii = number("rx"), number("ry")
        points = points_of_ellipse((number("cx"), number("cy")), radii, turn)
        shape = [[value for point in points for value in point]]
    elif node.tag == "mask":
        place = f"rle of the mask {name!r}{where}"
        counts = [whole_of(word, place) for word in node.get("rle", "").split(",")]
        keys = ("width", "height", "left", "top")
        width, height, left, top = (
            whole_of(node.get(key), f"{key} of the mask {name!r}{where}") for key in keys
        )
        inside = 0 <= left <= sides[1] - width and 0 <= top <= sides[0] - height
        if not inside or min(counts) < 0 or sum(counts) < width * height:
            legal = f"run lengths of {width} x {height} pixels inside the image"
            raise FieldError(place, legal, node.get("rle"))
        if sum(counts) > MAX_PIXELS:
            raise FieldError(place, f"at most {MAX_PIXELS:,} pixels", sum(counts))
        values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)[: width * height]
        whole = empty_mask(*sides[::-1])
        whole[top : top + height, left : left + width] = values.reshape(height, width)
        points = [(left, top), (left + width, top + height)]
        shape = encode_mask(whole)
    else:
        points = []
    box = box_of(points) if points else (0, 0, 0, 0)
    return Object(name, box, shape) if min(box[2:]) > 0 else None
