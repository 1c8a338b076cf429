"""Pascal VOC's xml, one file an image, with polygons where a tool writes them."""

from __future__ import annotations

from pathlib import PurePosixPath
from xml.etree import ElementTree

from mmvitconv.datasets.formats.fields import number_of
from mmvitconv.datasets.formats.records import Object, Record, Tally, box_of, size_of
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.errors import UserError

__all__ = ["NAME", "listed_splits", "read", "read_xml"]

NAME = "VOC xml"
ENDS = ("xmin", "ymin", "xmax", "ymax")


def read_xml(tree: Tree, name: str) -> ElementTree.Element:
    """Return the root element of an xml file.

    Raises:
        UserError: It is not xml.
    """
    try:
        return ElementTree.parse(tree.path(name)).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"the annotation file {tree.path(name)!r} is not xml ({error}); export it again"
        ) from error


def listed_splits(tree: Tree) -> dict[str, str]:
    """Return the split by stem, as lists such as ``ImageSets/Main/train.txt`` say.

    Only files that are called as a split count, and of their lines the first word.
    """
    found = {}
    for name in tree.with_suffix(".txt"):
        stem = PurePosixPath(name).stem.lower()
        split = split_of(f"{stem}/x")
        if split and split_of(name, is_annotation=True) == split and stem.isalpha():
            for line in tree.read_lines(name):
                found[PurePosixPath(line.split()[0].replace("\\", "/")).stem] = split
    return found


def read(tree: Tree, tally: Tally) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`."""
    records, names, boxes = {}, set(), []
    listed = listed_splits(tree)
    for file in tree.with_suffix(".xml"):
        tally.at = file
        root = read_xml(tree, file)
        if root.tag != "annotation":
            continue
        stem = PurePosixPath(file).stem
        # the xml's own name counts first: files are renamed, what is in them is not
        path = tree.find_image(stem, file) or tree.find_image(root.findtext("filename", ""), file)
        if path is None:
            tally["annotated images are not in the folder"] += 1
            continue
        split = listed.get(stem) or split_of(file) or split_of(path)
        record = records[path] = Record(path, split=split, source=file)
        record.stated = size_of(root.findtext("size/width"), root.findtext("size/height"))
        for node in root.iter("object"):
            boxes.append((file, _ends(node), record.stated))
            if node.findtext("deleted") == "1":
                continue
            made = _object(node)
            if made is None:
                what = " ".join(" ".join(node.itertext()).split())
                tally.count("objects have no name or no box of any area", what)
                continue
            record.objects.append(made)
            names.add(made.name)
    _check_ends(tree, boxes, tally)
    return list(records.values()), sorted(names)


def _check_ends(
    tree: Tree, boxes: list[tuple[str, list[float], tuple[int, int]]], tally: Tally
) -> None:
    """Refuse widths and heights in the place of corners; note corners that are swapped."""
    boxes = [box for box in boxes if box[1]]
    swapped = [file for file, (x1, y1, x2, y2), _ in boxes if x2 < x1 or y2 < y1]
    if not swapped:
        return
    fits = all(
        not size[0] or (x1 + x2 <= size[0] + 1 and y1 + y2 <= size[1] + 1)
        for _, (x1, y1, x2, y2), size in boxes
    )
    if fits and len(swapped) > max(2, len(boxes) / 20):
        raise UserError(
            f"{tree.path(swapped[0])!r}: xmax is below xmin, or ymax below ymin, in {len(swapped)} "
            f"of {len(boxes)} boxes, and all fit as x, y, width, height: write the right and the "
            "lower end of each box into xmax and ymax"
        )
    tally["boxes have xmin above xmax, or ymin above ymax: read with the two swapped"] += len(
        swapped
    )


def _ends(node: ElementTree.Element) -> list[float]:
    """Return xmin, ymin, xmax and ymax of an object; none of one without a box of numbers."""
    try:
        return [float(node.findtext(f"bndbox/{end}")) for end in ENDS]
    except (TypeError, ValueError):
        return []


def _object(node: ElementTree.Element) -> Object | None:
    name = (node.findtext("name") or "").strip()
    polygon = _polygon(node.find("polygon"))
    ends = _ends(node)
    corners = [ends[:2], ends[2:]] if ends else polygon
    if not name or not corners:
        return None
    found = box_of(corners)
    if min(found[2:]) <= 0:
        return None
    flat = [value for point in polygon for value in point]
    shape = [flat] if len(flat) >= 6 else None
    return Object(name, found, shape, node.findtext("difficult", "0").strip() == "1")


def _polygon(node: ElementTree.Element | None) -> list[list[float]]:
    """Return the points of ``<pt><x>, <y>`` (LabelMe's xml) or ``<x1>, <y1> ...`` (Roboflow's)."""
    if node is None:
        return []
    if node.find("pt") is not None:
        return [
            [number_of(pt.findtext(key), f"polygon/pt/{key}") for key in "xy"]
            for pt in node.iter("pt")
        ]
    numbers = [
        number_of(child.text, f"polygon/{child.tag}")
        for child in node
        if child.tag[:1] in "xy" and child.text
    ]
    return [numbers[i : i + 2] for i in range(0, len(numbers) - 1, 2)]
