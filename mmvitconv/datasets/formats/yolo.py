"""YOLO's txt: a line an object, a class number and a box or polygon in shares of the image."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from mmvitconv.datasets.formats.fields import FieldError, name_of
from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.formats.voc import listed_splits
from mmvitconv.datasets.image_files import look_at
from mmvitconv.errors import UserError, printable, shorten

__all__ = ["NAME", "read"]

NAME = "YOLO txt"
ABOVE_ONE = 1.01  # rounding of tools
LEAST_OUTSIDE = 5  # boxes, where all fit that are read from their corner
LEAST = 8  # boxes; a few may be at the borders all
LINE = re.compile(r"\d+(\.0*)?(\s+[-+.\deE]+){4,}")


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`.

    An image without a file, or with an empty one, has no objects: so the format says.
    """
    labels: dict[str, str] = {}
    folders = set()
    for name in tree.with_suffix(".txt"):
        lines = tree.read_lines(name)
        if lines and not LINE.fullmatch(lines[0]):
            continue
        image = _image_of(tree, name)
        if image is not None:
            labels[image] = name
            if lines:
                folders.add(os.path.dirname(image))
    if not folders:
        return [], []
    settings = _settings(tree)
    names = _names(tree, settings, tally)
    listed, placed = listed_splits(tree), _placed(tree, settings)
    keypoints = "kpt_shape" in settings or _has_keypoints(tree, labels, tally)
    records, unnamed, outside, as_corner = [], set(), [], []
    for image in tree.images:
        if os.path.dirname(image) not in folders:
            continue
        split = next((placed[folder] for folder in placed if image.startswith(folder)), "")
        split = listed.get(PurePosixPath(image).stem) or split or split_of(image)
        source = labels.get(image)
        tally.at = source or tally.at
        record = Record(image, split=split, source=source or "")
        if source is None:
            tally["images have no txt file: images without objects"] += 1
        for line in tree.read_lines(source) if source else ():
            try:
                number, *values = [float(word) for word in line.split()]
            except ValueError:
                number, values = -1.0, []
            if len(values) < 4 or number != int(number) or number < 0:
                raise UserError(
                    f"{tree.path(source)!r}: a line of YOLO is a class number and at least four "
                    f"numbers, got {line[:60]!r}"
                )
            number = int(number)
            if not keypoints and len(values) < 6:
                outside.append(_leaves(values) and source)
                x, y, width, height = values[:4]
                as_corner.append(max(x + width, y + height) <= ABOVE_ONE and min(x, y) >= 0)
            if names and number >= len(names):
                raise UserError(
                    f"{tree.path(source)!r}: class number {number}, but the names are "
                    f"{len(names)}: {', '.join(names[:10])}"
                )
            if not record.size[0]:
                record.size = look_at(tree.path(image)).size
            made = _object(names[number] if names else str(number), values, record.size, keypoints)
            if made is None:
                raise UserError(
                    f"{tree.path(source)!r}: YOLO's numbers are shares of the image, 0 to 1, got "
                    f"{line[:60]!r}; export the data again, or as COCO json"
                )
            if min(made.box[2:]) <= 0:
                tally["annotations have no box of any area"] += 1
                continue
            unnamed.add(number)
            record.objects.append(made)
        records.append(record)
    if number := sum(map(bool, outside)):
        tally["boxes reach outside their images: cut at the borders"] += number
    is_corner = number >= LEAST_OUTSIDE and number > len(outside) / 20 and all(as_corner)
    if is_corner or (len(outside) >= LEAST and number > len(outside) / 2):
        raise UserError(
            f"{tree.path(next(filter(None, outside)))!r}: {number} of "
            f"{len(outside)} boxes reach outside their images when they are read as YOLO's centre, "
            "width and height: are they x1, y1, x2, y2, or do they begin at a corner? Export the "
            "data again, or as COCO json"
        )
    return records, names or [str(number) for number in sorted(unnamed)]


def _has_keypoints(tree: Tree, labels: Mapping[str, str], tally: Tally) -> bool:
    """Tell whether all lines are a box and points inside it, rather than a polygon."""
    rows = []
    for source in labels.values():
        for line in tree.read_lines(source):
            words = line.split()[1:]
            if len(words) < 6 or (rows and len(words) != len(rows[0])):
                return False
            try:
                rows.append([float(word) for word in words])
            except ValueError:  # which is named where the line is read
                return False
    if len(rows) < LEAST:
        return False
    numbers = np.array(rows)
    centre, half = numbers[:, None, :2], numbers[:, None, 2:4] / 2 + ABOVE_ONE - 1
    for step in (2, 3):  # 3: with their visibility
        if (numbers.shape[1] - 4) % step == 0:
            points = numbers[:, 4:].reshape(len(rows), -1, step)[..., :2]
            inside = (abs(points - centre) <= half).all(2) | (points == 0).all(2)
            if inside.all():
                tally["lines are a box and keypoints: the keypoints are left out"] += len(rows)
                return True
    return False


def _image_of(tree: Tree, name: str) -> str | None:
    """Return the image of a file of labels: beside it, or in the folder images for labels."""
    path = PurePosixPath(name)
    found = tree.find_image(f"{path.parent}/{path.stem}".replace("labels", "images"), name)
    return found if found and PurePosixPath(found).stem == path.stem else None


def _object(
    name: str, values: list[float], size: tuple[int, int], keypoints: bool
) -> Object | None:
    """Return the object of a line; None when its numbers are no shares."""
    is_box = len(values) < 6 or keypoints
    used = values[:4] if is_box else values
    if not all(math.isfinite(value) and -0.5 <= value <= 1 + 0.5 for value in used):
        return None
    if is_box:
        x, y, width, height = used
        points = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
    else:
        if max(used) > ABOVE_ONE:
            return None
        points = [used[i : i + 2] for i in range(0, len(used) - 1, 2)]
    points = [
        [min(max(p, 0.0), 1.0) * side for p, side in zip(point, size, strict=True)]
        for point in points
    ]
    shape = None if is_box else [[value for point in points for value in point]]
    return Object(name, box_of(points), shape)


def _leaves(values: list[float]) -> bool:
    """Tell whether a box, as its centre and size, reaches outside its image."""
    (x, y, width, height), most = values[:4], ABOVE_ONE - 0.5
    return abs(x - 0.5) + width / 2 > most or abs(y - 0.5) + height / 2 > most


def _settings(tree: Tree) -> dict[str, Any]:
    """Return the content of data.yaml, whatever it is called, with the place as ``_file``."""
    for name in tree.with_suffix(".yaml", ".yml"):
        try:
            with open(tree.path(name), encoding="utf-8") as file:
                content = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{tree.path(name)!r} is not yaml: {reason}") from error
        if isinstance(content, dict) and "names" in content:
            return {**content, "_file": name}
    return {}


def _names(tree: Tree, settings: dict[str, Any], tally: Tally) -> list[str]:
    names, number = settings.get("names"), settings.get("nc")
    tally.at = settings.get("_file", "")
    if isinstance(names, (list, dict)) and type(number) is int and number != len(names):
        raise UserError(
            f"{tree.path(settings['_file'])!r}: nc is {number}, but the names are {len(names)}: "
            f"{shorten([str(name) for name in names], 8)}; write nc: {len(names)}, or all names"
        )
    if isinstance(names, dict):
        if not all(str(number).isdecimal() for number in names):
            raise UserError(
                f"{tree.path(settings['_file'])!r}: names must be a list, or number: name, got "
                f"{printable(names)}"
            )
        numbers = [int(number) for number in names]
        by_number = {
            int(number): name_of(name, f"names[{number}]") for number, name in names.items()
        }
        return [by_number.get(i, str(i)) for i in range(max(numbers, default=-1) + 1)]
    if names is not None and not isinstance(names, list):
        raise FieldError("names", "a list of names", names)
    if isinstance(names, list):
        return [name_of(name, f"names[{number}]") for number, name in enumerate(names)]
    for name in tree.files:
        if PurePosixPath(name).name in ("classes.txt", "obj.names") or name.endswith(".names"):
            return tree.read_lines(name)
    return []


def _placed(tree: Tree, settings: dict[str, Any]) -> dict[str, str]:
    """Return the split by folder, or by image, as data.yaml says."""
    file = settings.get("_file", "")
    found = {}
    for key, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test")):
        entries = settings.get(key) or []
        for entry in [entries] if isinstance(entries, str) else entries:
            parts = [p for p in PurePosixPath(str(entry)).parts if p not in ("/", ".", "..")]
            for base in (os.path.dirname(file), "", str(settings.get("path") or "")):
                place = PurePosixPath(base, *parts).as_posix()
                if place != "." and (tree.root / place).is_dir():
                    found[f"{place}/"] = split
                    break
                if place in tree.files:
                    for line in tree.read_lines(place):
                        if image := tree.find_image(line, place):
                            found[image] = split
                    break
    return found
