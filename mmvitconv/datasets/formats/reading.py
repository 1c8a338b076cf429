"""From a folder to a data set: which format, which classes, which split."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmvitconv.datasets.copies import find_copies
from mmvitconv.datasets.formats import (
    class_folders,
    coco,
    cvat,
    label_studio,
    labelme,
    masks,
    panoptic,
    via,
    voc,
    yolo,
)
from mmvitconv.datasets.formats.fields import FieldError
from mmvitconv.datasets.formats.records import (
    DataSet,
    Record,
    Tally,
    object_of_mask,
    polygon_of_box,
)
from mmvitconv.datasets.formats.splitting import divide
from mmvitconv.datasets.formats.tree import Tree
from mmvitconv.datasets.image_files import MAX_PIXELS, look_at
from mmvitconv.datasets.run_lengths import size_in, total_of
from mmvitconv.errors import UserError, printable, shorten

__all__ = ["READERS", "TASKS", "read_folder"]

TASKS = ("classification", "detection", "instance", "semantic")
# Of objects, in the order in which they are tried: what was converted last comes first.
READERS = {
    panoptic.NAME: panoptic.read,
    coco.NAME: coco.read,
    voc.NAME: voc.read,
    cvat.NAME: cvat.read,
    labelme.NAME: labelme.read,
    via.NAME: via.read,
    label_studio.NAME: label_studio.read,
    yolo.NAME: yolo.read,
    "csv": class_folders.read_tables,
}
BACKGROUND = "background"
LOOKED_FOR = (
    "COCO json, VOC xml, CVAT xml, labelme json, Label Studio json, CreateML json, VIA json "
    "and csv, YOLO txt, csv"
)


def read_folder(folder: str | os.PathLike, task: str, seed: int = 0) -> DataSet:
    """Find out what is in a folder, for a task; nothing in it is changed.

    Args:
        folder: Images and annotations, in any usual layout.
        task: One of :data:`TASKS`.
        seed: Of the division where there is one split.

    Returns:
        The records of train and val, and of test where there is one.

    Raises:
        UserError: Nothing in the folder fits the task.
    """
    tree = Tree(folder)
    tally = Tally()
    colours, values = [], None
    if task == "classification":
        kind, records, classes = _read_labels(tree, tally)
    elif task == "semantic":
        kind, records, classes, colours, values = _read_maps(tree, tally)
    else:
        kind, records, classes = _read_objects(tree, tally, needs_masks=task == "instance")
    least = 1 if task in ("detection", "instance") else 2
    if len(classes) < least:
        found = f"one class, {classes[0]!r}" if classes else "no class"
        raise UserError(f"{str(tree.root)!r} has {found} ({kind}); {task} needs at least {least}")
    is_stored = _look_at_all(tree, records, tally)
    for record in [r for r in records if r.objects and min(r.size) < 1]:
        tally.count("images cannot be opened: left out", record.image)
        records.remove(record)
    notes = [*tally.notes(), *(f"left out: {error}" for error in tree.unreadable)]
    splits, divided = _split(tree, records, task, seed)
    for split, what in (("train", "training"), ("val", "validation")):
        lost = _classes_without(splits[split], classes, records)
        if lost and not (divided and split == "val"):
            notes.append(f"no {what} image has the class {shorten(lost)}")
    notes += _note_copies(tree, splits)
    for name, other in _alike(classes):
        notes.append(
            f"the classes {other!r} and {name!r} differ in case or blanks only: one class?"
        )
    classes = _printable(classes, records)
    root = str(tree.root)
    return DataSet(root, task, kind, classes, splits, divided, notes, colours, values, is_stored)


def _alike(classes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield names that are other ones but for case and blanks, with those."""
    known: dict[str, str] = {}
    for name in classes:
        other = known.setdefault("".join(name.casefold().split()), name)
        if other != name:
            yield name, other


def _printable(classes: list[str], records: list[Record]) -> tuple[str, ...]:
    """Return names that can be printed and drawn, all different, and give them to the objects."""
    names = {}
    for name in classes:
        shown = printable(name) or "?"
        names[name] = f"{shown} {len(names)}" if shown in names.values() else shown
    if any(name != shown for name, shown in names.items()):
        for record in records:
            record.reference = ""
            record.label = names.get(record.label, record.label)
            for item in record.objects:
                item.name = names[item.name]
    return tuple(names.values())


def classes_in(record: Record) -> set[str]:
    """Return the classes in an image."""
    found = {item.name for item in record.objects if not item.is_crowd}
    return found | record.kinds | ({record.label} if record.label else set())


def _classes_without(
    records: list[Record], classes: Iterable[str], every: list[Record]
) -> list[str]:
    """Return the classes that some images have, but none of these."""
    seen = {name for record in records for name in classes_in(record)}
    used = {name for record in every for name in classes_in(record)}
    return [name for name in classes if name in used - seen]


def _read(name: str, tree: Tree, tally: Tally, **options: bool) -> tuple[list[Record], list[str]]:
    """Read one format; whatever is wrong with a file is one sentence."""
    try:
        return READERS[name](tree, tally, **options)
    except UserError:
        raise
    except Exception as error:  # whatever a file may hold instead
        file = tree.path(tally.at) if tally.at else str(tree.root)
        if isinstance(error, FieldError):
            raise UserError(f"{file!r}: {error}; correct the file, or export it again") from error
        reason = printable(f"{type(error).__name__}: {error}")
        raise UserError(
            f"{file!r} is not complete {name} ({reason}); export it again, or as COCO json"
        ) from error


def _read_objects(
    tree: Tree, tally: Tally, needs_masks: bool
) -> tuple[str, list[Record], list[str]]:
    """Read objects with boxes, and masks where they are needed."""
    without = ""
    for name in READERS:
        own = Tally()
        records, classes = _read(name, tree, own)
        _keep_drawable(records, own)
        objects = [item for record in records for item in record.objects]
        if not objects:
            if own.notes():
                without = without or f"{name} was found, but {'; '.join(own.notes())}"
            continue
        _keep_classes(records, own)
        if needs_masks:
            bare = [item for item in objects if not item.segmentation]
            if len(bare) == len(objects):
                why = "".join(f"; {note}" for note in own.notes())
                without = (
                    f"{name} with {len(objects)} boxes and no masks{why}; use the task "
                    "'detection', or export polygons or masks"
                )
                continue
            for record in records if bare else ():
                record.reference = ""
            for item in bare:  # a box in place of a mask, ignored: else it would be background
                item.segmentation = [polygon_of_box(item.box)]
                item.is_crowd = True
            own["objects have a box but no mask: ignored in training and evaluation"] += len(bare)
        tally.take(own)
        used = {item.name for item in objects if not item.is_crowd}
        for record in records:  # classes of which no object has a mask
            record.objects = [item for item in record.objects if item.name in used]
        return name, records, [one for one in classes if one in used]
    if needs_masks:
        found = _read_instance_maps(tree, tally)
        if found:
            return "masks of single objects", found, ["object"]
    reason = (
        without
        or next(iter(tree.unreadable), "")
        or f"none of the {len(tree.files)} files is one of {LOOKED_FOR}{_describe_unread(tree)}"
    )
    wanted = "masks" if needs_masks else "annotations"
    raise UserError(f"{str(tree.root)!r} holds no {wanted} of objects: {reason}")


def _describe_unread(tree: Tree) -> str:
    """Say why the first file that looks like annotations is not what it may be."""
    lists = ("images", "annotations", "categories")
    for file, content in tree.jsons.items():
        if isinstance(content, dict) and not content.keys().isdisjoint(lists):
            wrong = [key for key in lists if not isinstance(content.get(key), list)]
            if wrong:
                return f"; {file!r} may be COCO json, but has no list {shorten(wrong)}"
        elif isinstance(content, list) and content and isinstance(content[0], dict):
            keys = printable(", ".join(map(str, content[0])), 80)
            return f"; {file!r} is a list whose first item has {keys}"
    for file in tree.with_suffix(".txt"):
        if tree.find_image(file.rpartition("/")[2].removesuffix(".txt"), file):
            line = next(iter(tree.read_lines(file)), "")
            return (
                f"; {file!r} may be YOLO txt, but begins with {printable(line, 60)!r} instead of a "
                "class number and at least four shares of the image, separated by blanks"
            ) * bool(line)
    return ""


def _keep_drawable(records: list[Record], tally: Tally) -> None:
    """Leave out objects with NaN or infinity, or with a mask that cannot be drawn."""
    for record in records:
        kept = [item for item in record.objects if all(map(math.isfinite, item.box))]
        kept = [item for item in kept if _is_drawable(item.segmentation)]
        if lost := len(record.objects) - len(kept):
            record.objects, record.reference = kept, ""
            tally[
                "objects have coordinates that are NaN, infinite or no numbers, or a mask that "
                "cannot be drawn: left out"
            ] += lost


def _is_drawable(mask: Any) -> bool:
    """Tell whether polygons are pairs of finite numbers, and run lengths add up to their size."""
    if isinstance(mask, dict):
        height, width = size_in(mask)
        return 0 < height * width <= MAX_PIXELS and total_of(mask.get("counts")) == height * width
    if not isinstance(mask, list):
        return mask is None
    return all(
        isinstance(ring, list)
        and len(ring) % 2 == 0
        and set(map(type, ring)) <= {int, float}
        and all(map(math.isfinite, ring))
        for ring in mask
    )


def _keep_classes(records: list[Record], tally: Tally) -> None:
    """Read objects to be ignored (crowds, difficult ones) as usual ones where a class has no other.

    Some converters write iscrowd=1 for all masks of run lengths.
    """
    known = {item.name for r in records for item in r.objects if not item.is_crowd}
    for record in records:
        for item in record.objects:
            if item.name not in known:
                record.reference, item.is_crowd = "", False
                tally[
                    "objects of classes of which all are to be ignored (iscrowd, difficult): read "
                    "as usual ones"
                ] += 1


def _read_instance_maps(tree: Tree, tally: Tally) -> list[Record]:
    """Read masks that number the objects of an image; of masks of 0 and 255, connected parts."""
    import cv2

    records = masks.find_pairs(tree, tally)
    for record in records:
        values = masks.read_mask(tree.path(record.mask))
        if values.ndim != 2:
            return []
        numbers = np.unique(values[values > 0])
        if len(numbers) == 1:
            _, values = cv2.connectedComponents((values > 0).astype(np.uint8))
            numbers = np.unique(values[values > 0])
        for number in numbers:
            record.objects.append(object_of_mask("object", values == number))
        record.mask = None
    return records if any(record.objects for record in records) else []


def _read_labels(tree: Tree, tally: Tally) -> tuple[str, list[Record], list[str]]:
    """Read one class an image."""
    for name in (label_studio.NAME, cvat.NAME, "csv"):
        own = Tally()
        records = [record for record in _read(name, tree, own)[0] if record.label]
        classes = sorted({record.label for record in records}, key=class_folders.natural)
        if len(classes) > 1:
            tally.take(own)
            return name, records, classes
    records, classes = class_folders.read_folders(tree, tally)
    if len(classes) < 2:
        raise UserError(
            f"{str(tree.root)!r} has no classes of images: a folder a class is looked for, "
            "train/cat/1.jpg or cat/1.jpg, or a csv with filename and class, found "
            f"{f'the folder {classes[0]!r} only' if classes else 'no folders with images'}"
        )
    return "a folder a class", records, classes


def _read_maps(tree: Tree, tally: Tally) -> tuple[str, list[Record], list[str], list, dict | None]:
    """Read masks of classes, else polygons, which become masks."""
    records, classes = _read(panoptic.NAME, tree, tally, stuff=True)
    if records:
        return f"{panoptic.NAME}, drawn as masks", records, [BACKGROUND, *classes], [], None
    own = Tally()
    pairs = masks.find_pairs(tree, own)
    if pairs:
        tally.take(own)
        found = masks.study(tree, [record.mask for record in pairs])
        for record in pairs:
            record.kinds = found.classes_in(record.mask)
        return f"masks ({found.kind})", pairs, found.classes, found.colours, found.mapping
    try:
        kind, records, classes = _read_objects(tree, tally, needs_masks=True)
    except UserError as error:
        raise UserError(
            f"{str(tree.root)!r} holds neither masks (folders such as images and masks with files "
            f"of the same names) nor polygons: {str(error).partition(': ')[2]}"
        ) from error
    if BACKGROUND not in classes:
        classes = [BACKGROUND, *classes]
    return f"{kind}, drawn as masks", records, classes, [], None


def _look_at_all(tree: Tree, records: list[Record], tally: Tally) -> bool:
    """Find out the sizes of all images; what cannot be opened keeps (0, 0): the check names it.

    Returns:
        Whether annotations are of the images as they are stored, not as EXIF turns them.
    """

    def look(record: Record) -> bool | None:
        """Tell for an image that is turned on reading whether its annotations are not."""
        try:
            found = look_at(tree.path(record.image))
            record.size = found.size
            if record.mask:
                record.stated = look_at(tree.path(record.mask)).size
        except (UserError, OSError):
            record.size = record.stated  # the check names the file
            return None
        if not found.is_turned or found.size[0] == found.size[1] or not record.stated[0]:
            return None
        return record.stated == found.size[::-1]

    with ThreadPoolExecutor() as pool:
        turned = list(pool.map(look, records))
    _compare_masks(tree, records, turned)
    _compare_sizes(tree, records)
    if not any(turned):
        return False
    if turned.count(False):
        tally[
            "images are turned by their EXIF orientation, but their annotations are not; those of "
            "others are: export all in one way"
        ] += turned.count(True)
        return False
    tally[
        "images have an EXIF orientation that their annotations do not follow: read as stored"
    ] += turned.count(True)
    for record, is_stored in zip(records, turned, strict=True):
        if is_stored:
            record.size = record.stated
    return True


def _compare_masks(tree: Tree, records: list[Record], turned: list[bool | None]) -> None:
    """Compare the sizes of masks with those of their images.

    Raises:
        UserError: Some are others.
    """
    others = [
        record
        for record, is_turned in zip(records, turned, strict=True)
        if record.mask and not is_turned and min(*record.size, *record.stated) > 0
        if record.size != record.stated
    ]
    if others:
        first = others[0]
        (width, height), (other_width, other_height) = first.stated, first.size
        raise UserError(
            f"the mask {tree.path(first.mask)!r} has {width} x {height} pixels, but its image "
            f"{first.image!r} has {other_width} x {other_height} ({len(others)} of {len(records)} "
            "pairs are so, "
            f"{shorten([record.mask for record in others], 3)}): a mask has a number for each "
            "pixel of its image; give the images that were annotated, or resize the masks to "
            "them with nearest-neighbour interpolation"
        )


def _compare_sizes(tree: Tree, records: list[Record]) -> None:
    """Compare the sizes that annotations say with those of the images, either way round.

    Raises:
        UserError: Some are others: the coordinates belong to larger or smaller copies.
    """
    others = [
        record
        for record in records
        if min(*record.size, *record.stated) > 0
        and any(
            abs(one - other) > 1  # rounding of tools
            for one, other in zip(sorted(record.size), sorted(record.stated), strict=True)
        )
    ]
    if others:
        first = others[0]
        (width, height), (other_width, other_height) = first.stated, first.size
        raise UserError(
            f"{tree.path(first.source)!r} says {width} x {height} pixels of {first.image!r}, but "
            f"the file has {other_width} x {other_height} ({len(others)} of {len(records)} images "
            "are so): its coordinates are of other copies of the images; give the images that "
            "were annotated, or export the annotations for these"
        )


def _note_copies(tree: Tree, splits: dict[str, list[Record]]) -> list[str]:
    """Say which images are the same in two splits, or in two classes."""
    groups = {
        tree.path(record.image): (split, record.label)
        for split, records in splits.items()
        for record in records
    }
    pairs, left = find_copies(groups)
    notes = []
    for index, what in enumerate(("splits", "classes")):
        found = [pair for pair in pairs if groups[pair[0]][index] != groups[pair[1]][index]]
        if found:
            first, second = (os.path.relpath(path, tree.root) for path in found[0])
            notes.append(
                f"{len(found)} images are the same, byte for byte, in two {what}, the first is "
                f"{first!r} and {second!r}"
            )
    if left:
        notes.append(f"{left} images of equal sizes were not compared, whether they are the same")
    return notes


def _split(
    tree: Tree, records: list[Record], task: str, seed: int
) -> tuple[dict[str, list[Record]], str]:
    """Return the records by split, dividing where there is no validation."""
    named = Counter(record.split for record in records)
    splits = {name: [r for r in records if r.split == name] for name in ("train", "val", "test")}
    unnamed = [record for record in records if not record.split]
    if splits["train"] and splits["val"]:
        splits["train"] += unnamed
        if not splits["test"]:
            del splits["test"]
        return splits, ""
    pool = splits["train"] + splits["val"] + unnamed
    if not pool or not (splits["train"] or unnamed):
        pool, splits["test"] = records, []
    if len(pool) < 2:
        raise UserError(
            f"one image with annotations is too few for {task}: training and validation need one "
            f"each, and a good model some dozens (found: {dict(named)})"
        )
    if task in ("detection", "instance"):
        some = [record for record in pool if record.objects]
        if len(some) < 2:
            raise UserError(
                f"all objects are in {some[0].image!r}, none is in the other {len(pool) - 1} images"
                ": training and validation need objects each; does each annotation name its image?"
            )
    pairs, _ = find_copies({tree.path(record.image): record.image for record in pool})
    same = {os.path.relpath(b, tree.root): os.path.relpath(a, tree.root) for a, b in pairs}
    train, val = divide(pool, classes_in, seed, copies=same)
    splits = {"train": train, "val": val, **({"test": splits["test"]} if splits["test"] else {})}
    return splits, f"divided by image, seed {seed}"
