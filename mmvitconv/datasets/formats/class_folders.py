"""A folder a class, and tables of names and classes."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from mmvitconv.datasets.formats.records import Object, Record, Tally
from mmvitconv.datasets.formats.tree import SPLIT_WORDS, Tree, split_of
from mmvitconv.errors import UserError, shorten

__all__ = ["read_folders", "read_tables"]

NAMES = ("filename", "file_name", "file", "image", "image_id", "img", "path", "image_path", "id")
CLASSES = ("class", "label", "category", "target", "class_name", "name")
BOX = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))


def read_folders(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read a folder a class, in folders for splits or beside them, at any depth.

    The class is the first folder that tells images apart and names no split. See
    :func:`..coco.read` for arguments and result.
    """
    folders = defaultdict(list)
    for image in tree.images:
        folders[os.path.dirname(image)].append(image)
    named = {}
    for folder in folders:
        parts = [part for part in folder.split("/") if part]
        named[folder] = [part for part in parts if not split_of(f"{part}/x")]  # what names no split
    shared = 0  # folders that all have in common, but for images that are in none of a class
    while (
        len({parts[shared] for parts in named.values() if len(parts) > shared}) == 1
        and max(map(len, named.values())) > shared + 1
    ):
        shared += 1
    classes = {folder: parts[shared] for folder, parts in named.items() if len(parts) > shared}
    records = [
        Record(image, label=classes[folder], split=split_of(image))
        for folder, images in folders.items()
        if folder in classes
        for image in images
    ]
    for name, inside in _find_splits(folders, classes).items():
        raise UserError(
            f"{tree.path(name)!r} holds the folders {shorten(sorted(inside), 4)}, which seem to be "
            "classes: is it a split? Call it train, val or test"
        )
    loose = sum(len(images) for folder, images in folders.items() if folder not in classes)
    tally["images are in no folder of a class"] += loose
    return records, sorted({record.label for record in records}, key=natural)


def _find_splits(folders: Iterable[str], classes: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the folders that were taken for classes and hold folders of other classes."""
    inside: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        parts = folder.split("/")
        label = classes.get(folder)
        if label in parts[:-1]:
            at = parts.index(label)
            inside["/".join(parts[: at + 1])].add(parts[at + 1])
    names = set(classes.values())
    same = len(inside) > 1 and len(set(map(frozenset, inside.values()))) == 1
    return {
        folder: below
        for folder, below in inside.items()
        if len(below & names) > 1
        or (same and len(below) > 1 and _resembles_split(folder.rpartition("/")[2]))
    }


def _resembles_split(name: str) -> bool:
    """Tell whether a folder's name is nearly that of a split."""
    return name.lower() in ("tr", "va", "te", "ts") or bool(
        get_close_matches(name.lower(), SPLIT_WORDS, n=1, cutoff=0.8)
    )


def natural(name: str) -> tuple[int, int, str]:
    """Return a key that sorts 2 before 10."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def read_tables(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read csv files with a line an image and class, or an object; see :func:`..coco.read`.

    Classes stand in a column of their own, or as columns of zeros and ones as Roboflow writes them.
    """
    records: dict[str, Record] = {}
    names: Counter[str] = Counter()
    for file in tree.with_suffix(".csv", ".tsv"):
        tally.at = file
        with open(tree.path(file), encoding="utf-8-sig", newline="", errors="replace") as table:
            start = table.read(4096)
            table.seek(0)
            separator = max(",;\t", key=start.partition("\n")[0].count)
            rows = csv.DictReader(table, delimiter=separator, skipinitialspace=True)
            columns = {name.strip().lower(): name for name in rows.fieldnames or () if name}
            image = next((columns[name] for name in NAMES if name in columns), None)
            label = next((columns[name] for name in CLASSES if name in columns), None)
            box = next((keys for keys in BOX if set(keys) <= set(columns)), None)
            if image is None:
                continue
            for row in rows:
                path = tree.find_image(row[image] or "", file)
                if path is None:
                    tally["annotated images are not in the folder"] += 1
                    continue
                name = (row[label] or "").strip() if label else _one_hot(row, image)
                if not name:
                    what = "lines of csv name no class in a column such as class or label"
                    tally.count(what, f"{file}, columns {', '.join(columns)}")
                    continue
                split = split_of(file, is_annotation=True) or split_of(path)
                record = records.setdefault(path, Record(path, split=split, source=file))
                if box is None:
                    record.label = name
                else:
                    x1, y1, x2, y2 = (float(row[columns[key]]) for key in box)
                    if x2 <= x1 or y2 <= y1:
                        tally["annotations have no box of any area"] += 1
                        continue
                    record.objects.append(Object(name, (x1, y1, x2 - x1, y2 - y1)))
                names[name] += 1
    return list(records.values()), sorted(names, key=natural)


def _one_hot(row: dict[str, str], image: str) -> str:
    """Return the only column that is 1; '' for none or several."""
    found = [key for key, value in row.items() if key != image and (value or "").strip() == "1"]
    return found[0].strip() if len(found) == 1 else ""
