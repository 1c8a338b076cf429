"""Masks: a class for each pixel, as numbers, 0 and 255, a palette, or colours."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mmvitconv.datasets.formats.records import Record, Tally
from mmvitconv.datasets.formats.tree import MASK_WORDS, Tree, split_of, words_of
from mmvitconv.datasets.formats.voc import listed_splits
from mmvitconv.datasets.image_files import decoding
from mmvitconv.datasets.map_values import IGNORED, MapValues, count_values
from mmvitconv.errors import UserError, shorten

__all__ = ["MaskValues", "codes_of", "find_pairs", "read_mask", "study"]

NO_DATA = (IGNORED, 65535)  # of 8 and of 16 bits
DARK = 32  # in a lossy format, up to which gray is black; white mirrors it
NEARLY = 250  # what some tools write for pixels to be ignored
GAP = 32  # between groups of values, that no numbers of classes have
MOST_CLASSES = 200  # distinct values: more are noise of a lossy format
# What else stands in names, of Cityscapes for example
AROUND = {"gtfine", "leftimg8bit", "color", "img", "image", "rgb"}
# Beside masks of classes, tools write masks of single objects: not what is looked for here
OF_OBJECTS = {"segmentationobject", "instances", "instanceids"}


def find_pairs(tree: Tree, tally: Tally) -> list[Record]:
    """Find images and their masks: files of one name in two folders, or with a suffix.

    Args:
        tree: The folder.
        tally: Counts images without a mask.

    Returns:
        A record a pair.
    """
    masks: dict[str, list[str]] = defaultdict(list)
    images = []
    for path in tree.images:
        words = {word for part in path.split("/")[:-1] for word in words_of(part)}
        stem = PurePosixPath(path).stem
        core, around = _core(stem)
        if (words | around) & OF_OBJECTS:
            continue
        if (words | around) & (MASK_WORDS | {"gtfine"}):
            masks[core].append(path)
        else:
            images.append(path)
    listed = listed_splits(tree)
    records: dict[str, Record] = {}
    for image in images:
        stem = PurePosixPath(image).stem
        found = masks.get(_core(stem)[0]) or masks.get(stem, [])
        if not found:
            tally["images have no mask"] += 1
            continue
        wanted = split_of(image)
        mask = max(
            found,
            key=lambda path: (
                split_of(path) == wanted,
                "labelids" in path.lower(),  # of Cityscapes, not its colours
                _shared(path, image),
            ),
        )
        known = records.get(mask)  # of copies of an image that which is nearer to the mask
        if known is None or _shared(mask, image) > _shared(mask, known.image):
            split = listed.get(stem) or wanted or split_of(mask)
            records[mask] = Record(image, split=split, mask=mask, source=mask)
    if records:
        left = (len(paths) for paths in masks.values() if not records.keys() & set(paths))
        tally["masks have no image"] += sum(left)
    return list(records.values())


def _core(stem: str) -> tuple[str, set[str]]:
    """Return what the names of an image and its mask have in common, and the words around it."""
    parts = re.split(r"([-_. ])", stem)
    around = set()
    while len(parts) > 2 and parts[-1].lower() in MASK_WORDS | AROUND:
        around.add(parts[-1].lower())
        parts = parts[:-2]
    while len(parts) > 2 and parts[0].lower() in MASK_WORDS | AROUND:
        around.add(parts[0].lower())
        parts = parts[2:]
    return "".join(parts), around


def _shared(first: str, second: str) -> int:
    """Return how many folders two paths share, from their ends."""
    pairs = zip(reversed(first.split("/")[:-1]), reversed(second.split("/")[:-1]), strict=False)
    return sum(one == other for one, other in pairs)


def read_mask(path: str, as_colours: bool = False) -> np.ndarray:
    """Read a mask.

    Args:
        path: The file.
        as_colours: Return a palette's colours instead of its numbers.

    Returns:
        Numbers (H, W), or colours (H, W, 3) as R, G, B.

    Raises:
        UserError: It cannot be decoded.
    """
    with decoding(path, "mask") as image:
        if image.mode == "1":
            image = image.convert("L")
        if image.mode in ("RGBA", "LA", "PA", "CMYK") or (image.mode == "P" and as_colours):
            image = image.convert("RGB" if image.mode != "LA" else "L")
        values = np.asarray(image)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise UserError(
                f"the mask {path!r} holds numbers that are not whole, or NaN; write class numbers "
                "0, 1, 2 ... as png"
            )
        values = values.astype(np.int32)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]  # gray, written as three colours
    return values


class MaskValues:
    """What stands in the masks of a data set.

    Attributes:
        classes: Names, in the order of the class numbers.
        mapping: Class number by pixel value or colour; None: the pixels are class numbers.
        colours: Of the classes, where the masks have them.
        kind: In words.
    """

    def __init__(
        self,
        classes: list[str],
        mapping: dict[Any, int] | None,
        kind: str,
        colours: list[tuple[int, int, int]] | None = None,
    ) -> None:
        self.classes, self.mapping, self.kind = classes, mapping, kind
        self.colours = colours or []
        self.seen: dict[str, frozenset[int]] = {}  # values, or codes of colours, by mask

    def classes_in(self, mask: str) -> frozenset[str]:
        """Return the classes in one of the masks that were studied."""
        numbers = self.mapping
        if numbers is None:
            numbers = {number: number for number in range(len(self.classes))}
        elif isinstance(next(iter(numbers)), tuple):
            numbers = {_code(colour): number for colour, number in numbers.items()}
            numbers |= {c & 255: n for c, n in numbers.items() if c == (c & 255) * 0x010101}
        found = (numbers.get(value) for value in self.seen.get(mask, ()))
        return frozenset(self.classes[number] for number in found if number is not None)

    def to_numbers(self, path: str) -> np.ndarray:
        """Return a mask as class numbers (H, W), uint8; values that are none become 255."""
        is_colours = self.mapping is not None and isinstance(next(iter(self.mapping)), tuple)
        values = read_mask(path, as_colours=is_colours)
        if self.mapping is None:
            return values.astype(np.uint8)
        result = np.full(values.shape[:2], IGNORED, np.uint8)
        if is_colours and values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=2)
        if is_colours:
            codes = codes_of(values)
            for colour, number in self.mapping.items():
                result[codes == _code(colour)] = number
        elif "lossy" in self.kind:
            result[:] = values > 127
        else:
            for value, number in self.mapping.items():
                result[values == value] = number
        return result


def _code(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def codes_of(colours: np.ndarray) -> np.ndarray:
    """Return colours (H, W, 3) as numbers (H, W), of which the first counts most."""
    red, green, blue = (colours[..., i].astype(np.int64) for i in range(3))
    return (red << 16) | (green << 8) | blue


def study(tree: Tree, masks: Iterable[str]) -> MaskValues:
    """Find out what the values of masks mean.

    Args:
        tree: The folder.
        masks: Paths below it.

    Returns:
        Classes, and the class number of each value.

    Raises:
        UserError: There are more values than any data set has classes.
    """
    grays, colours = MapValues(), MapValues()
    masks, seen = list(masks), {}
    as_colours = not _palettes_agree(tree, masks)
    for mask in masks:
        values = read_mask(tree.path(mask), as_colours)
        target, codes = (colours, codes_of(values)) if values.ndim == 3 else (grays, values)
        seen[mask] = target.add(count_values(codes))
    names = _named_colours(tree)
    if colours.seen:
        values = _from_colours(colours, grays, names, [m for m in masks if seen[m] in grays.seen])
    else:
        is_jpeg = any(PurePosixPath(mask).suffix.lower() in (".jpg", ".jpeg") for mask in masks)
        values = _from_grays(tree, grays, names, is_jpeg)
    values.seen = seen
    return values


def _from_grays(
    tree: Tree, grays: MapValues, names: dict[tuple[int, int, int], str], is_jpeg: bool
) -> MaskValues:
    """Return what numbers mean, with the lists in the folder."""
    used = set(grays.pixels) - {IGNORED}
    if names and not used <= set(range(len(names))):
        by_gray = {colour[0]: name for colour, name in names.items() if len(set(colour)) == 1}
        if used <= set(by_gray):
            known = [value for value in by_gray if value in grays.pixels]
            return MaskValues(
                [by_gray[value] for value in known],
                {value: number for number, value in enumerate(known)},
                "gray levels that a list names",
            )
    return _from_numbers(grays, list(names.values()) or _listed_names(tree), is_jpeg)


def _palettes_agree(tree: Tree, masks: list[str]) -> bool:
    """Tell whether a number means the same colour in all masks with a palette."""
    seen: dict[int, tuple[int, ...]] = {}
    for mask in masks:
        with decoding(tree.path(mask), "mask") as image:
            if image.mode != "P":
                continue
            palette = image.getpalette("RGB") or []
            for _, number in image.getcolors(256) or ():
                colour = tuple(palette[3 * number : 3 * number + 3])
                if seen.setdefault(number, colour) != colour:
                    return False
    return True


def _from_numbers(grays: MapValues, names: list[str], is_jpeg: bool) -> MaskValues:
    values = sorted(grays.pixels)
    borders = grays.find_borders()
    if borders or (is_jpeg and len(values) > 2):
        areas = {value: grays.pixels[value] for value in grays.areas()}
        white = sum(number for value, number in areas.items() if value >= IGNORED - DARK)
        black = sum(number for value, number in areas.items() if value <= DARK)
        if black and sum(areas.values()) - black - white < 0.2 * white:
            kind = "lossy 0 and 255, cut at 128"
            return MaskValues(["background", "object"], {0: 0, IGNORED: 1}, kind)
        if not borders:
            borders = f"JPEG, which changes numbers, has made {len(values)} values: write png"
        raise UserError(f"the masks hold no class numbers: {borders}")
    listed = bool(names) and values[-1] < len(names)
    if (what := grays.find_objects(listed)) or (what := grays.find_white()):
        raise UserError(f"the masks hold no class numbers: {what}")
    if len(values) > MOST_CLASSES:
        raise UserError(
            f"the masks hold {len(values)} different values, more than classes can be: masks of "
            "single objects, or of a lossy format? Write class numbers 0, 1, 2 ... as png"
        )
    groups = _groups(values)
    if not listed and len(groups) > 1 and sum(len(group) > 1 for group in groups) > 1:
        shown = shorten([f"{group[0]} to {group[-1]}" for group in groups if len(group) > 1])
        raise UserError(
            f"the masks hold no class numbers: the values stand in groups ({shown}), as a lossy "
            "format or a change of brightness leaves them: write one number for each class, as png"
        )
    kept = [value for value in values if value >= 0 and value not in NO_DATA]
    if len(kept) == 1 and values[-1] in NO_DATA:
        kind = f"{kept[0]} and {values[-1]}"
        return MaskValues(["background", "object"], {kept[0]: 0, values[-1]: 1}, kind)
    if len(kept) < 2:
        raise UserError(
            f"the masks hold the value {kept[0] if kept else IGNORED} only; a mask needs at least "
            "two classes, of which the background may be one"
        )
    if names and kept[-1] < len(names):
        return MaskValues(names, None, "class numbers")
    if kept == list(range(len(kept))):
        return MaskValues(_names(kept), None, "class numbers")
    if values[-1] == IGNORED and len(kept) + 1 == len(values) and kept[-1] > 2 * len(kept):
        kept = values  # levels of gray, of which white is one
    mapping = {value: number for number, value in enumerate(kept)}
    kind = f"the values {', '.join(map(str, kept[:12]))}"
    if 2 * len(kept) < NEARLY <= kept[-1] < IGNORED and len(kept) > 2:
        kind += f"; {kept[-1]} is read as a class: where it is none, write {IGNORED}"
    kind += "; 255 is read as a class, not as pixels to be ignored" * (kept[-1] == IGNORED)
    return MaskValues(_names(kept), mapping, kind)


def _groups(values: list[int]) -> list[list[int]]:
    """Return sorted values in groups with gaps between them."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value - groups[-1][-1] < GAP:
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _names(values: list[int]) -> list[str]:
    if values == [0, 1] or (len(values) == 2 and values[0] == 0):
        return ["background", "object"]
    return ["background" if value == 0 else f"class {value}" for value in values]


def _from_colours(
    shades: MapValues,
    grays: MapValues,
    names: dict[tuple[int, int, int], str],
    gray_masks: list[str],
) -> MaskValues:
    colours = shades.pixels
    known = {code & 255 for code in colours if code == (code & 255) * 0x010101} | {0, IGNORED}
    numbers = set(grays.pixels) - known
    if not names and numbers and max(numbers) < DARK:
        raise UserError(
            f"{len(shades.seen)} masks have colours and {len(grays.seen)} have numbers "
            f"({', '.join(map(str, sorted(grays.pixels)[:8]))}), the first of these is "
            f"{gray_masks[0]!r}: write all in one way"
        )
    if not names and (borders := shades.find_borders(are_colours=True)):
        raise UserError(f"the masks hold no colours of classes: {borders}")
    for gray, number in grays.pixels.items():  # masks of one gray value, e.g. all background
        colours[gray << 16 | gray << 8 | gray] += number
    found = [(code >> 16, code >> 8 & 255, code & 255) for code, _ in colours.most_common()]
    unnamed = [colour for colour in found if colour not in names]
    if not names and len(found) > MOST_CLASSES:
        raise UserError(
            f"the masks hold {len(found)} different colours, more than classes can be: are they "
            "photographs, or of a lossy format? Write them as png, one colour a class"
        )
    if names:
        used = [colour for colour in names if colour in found]
        classes = [names[colour] for colour in used]
        kind = "colours that a list names"
        if len(used) < 2:
            raise UserError(
                f"of the {len(names)} colours in the list of classes, the masks have {len(used)}; "
                f"they have {', '.join(map(str, unnamed[:4]))}: give the list that belongs to them"
            )
    else:
        used = sorted(found, key=lambda colour: (any(colour), colour))
        classes = [
            "background" if not any(c) else "colour {:02x}{:02x}{:02x}".format(*c) for c in used
        ]
        kind = "colours"
    return MaskValues(classes, {colour: n for n, colour in enumerate(used)}, kind, used)


def _named_colours(tree: Tree) -> dict[tuple[int, int, int], str]:
    """Return the classes by colour: CVAT's labelmap.txt, Roboflow's _classes.csv, CamVid's lists.

    A line is ``name:r,g,b``, ``name r g b``, ``r g b name`` or ``name,r,g,b``.
    """
    for file in tree.with_suffix(".txt", ".csv"):
        name = PurePosixPath(file).name.lower()
        if (
            not re.search(r"label|class|colou?r|palette", name)
            or os.path.getsize(tree.path(file)) > 1 << 20
        ):
            continue
        found = {}
        for line in tree.read_lines(file):
            numbers = re.findall(r"(?<![\w.])\d+(?![\w.])", line)
            words = re.sub(r"(?<![\w.])\d+(?![\w.])", " ", line.lstrip("#"))
            label = re.sub(r"[,:;\t]+", " ", words).strip()
            if label and len(numbers) == 3 and max(map(int, numbers)) <= 255:
                found[tuple(map(int, numbers))] = label
        if len(found) > 1:
            return found
    return {}


def _listed_names(tree: Tree) -> list[str]:
    """Return the classes by number: Roboflow's ``0, background``, or a line a name."""
    for file in tree.with_suffix(".txt", ".csv"):
        if not re.search(r"class|label", PurePosixPath(file).name.lower()):
            continue
        lines = tree.read_lines(file)
        pairs = [re.fullmatch(r"(\d+)\s*[,:;\t ]\s*(\S.*)", line) for line in lines]
        numbered = {int(pair[1]): pair[2].strip() for pair in pairs if pair}
        if numbered and max(numbered) < IGNORED:
            return [numbered.get(i, f"class {i}") for i in range(max(numbered) + 1)]
        if lines and not any(pairs) and len(lines) < IGNORED and file.endswith(".txt"):
            return lines
    return []
