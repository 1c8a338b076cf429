"""Writes what the data sets of mmdet, mmseg and mmpretrain read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmvitconv.datasets.formats.masks import IGNORED, MaskValues
from mmvitconv.datasets.formats.records import DataSet, Object, Record
from mmvitconv.datasets.image_files import decoding

__all__ = ["plain_masks", "write_coco", "write_list", "write_masks"]


def write_coco(file: Path, records: Sequence[Record], classes: Sequence[str]) -> None:
    """Write a split as COCO json.

    Args:
        file: The json.
        records: Its images; paths are those below the folder of the data.
        classes: Names; category ids count from 1.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image_id, record in enumerate(records, 1):
        width, height = record.size
        images.append({"id": image_id, "file_name": record.image, "width": width, "height": height})
        for item in record.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[item.name],
                    "bbox": [round(value, 2) for value in item.box],
                    "area": round(area_of(item), 2),
                    "iscrowd": int(item.is_crowd),
                    **({"segmentation": item.segmentation} if item.segmentation else {}),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write(file, json.dumps(content, ensure_ascii=False))


def area_of(item: Object) -> float:
    """Return the area of an object: of its polygons, else of its run lengths, else of its box."""
    if isinstance(item.segmentation, list):
        return sum(map(_area_of_polygon, item.segmentation))
    if item.segmentation:
        return float(_decode(item.segmentation).sum())
    return item.box[2] * item.box[3]


def _area_of_polygon(polygon: Sequence[float]) -> float:
    x, y = np.asarray(polygon[0::2]), np.asarray(polygon[1::2])
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _decode(code: dict[str, Any]) -> np.ndarray:
    from pycocotools import mask

    if isinstance(code["counts"], list):
        code = mask.frPyObjects(code, *code["size"])
    return mask.decode(code)


def write_list(file: Path, lines: Sequence[str]) -> None:
    """Write a line a sample."""
    _write(file, "".join(f"{line}\n" for line in lines))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)


def plain_masks(data: DataSet) -> tuple[str, str, str, str] | None:
    """Tell whether mmseg can use the masks as they are.

    Args:
        data: A data set for semantic segmentation.

    Returns:
        Folder of images, their suffix, folder of masks and their suffix, such that a list of names
        fits both; None where masks have to be written.
    """
    records = [record for split in data.splits.values() for record in split]
    if data.values is not None or not all(record.mask for record in records):
        return None
    first = records[0]
    image_folder, mask_folder = first.image.split("/")[:-1], first.mask.split("/")[:-1]
    while image_folder and mask_folder and image_folder[-1] == mask_folder[-1]:
        image_folder, mask_folder = image_folder[:-1], mask_folder[:-1]
    folders = ["/".join(folder) + "/" * bool(folder) for folder in (image_folder, mask_folder)]
    name, suffix = os.path.splitext(first.image.removeprefix(folders[0]))
    mask_name = first.mask.removeprefix(folders[1])
    if not mask_name.startswith(name):
        return None
    mask_suffix = mask_name.removeprefix(name)
    for record in records:
        name = record.image.removeprefix(folders[0]).removesuffix(suffix)
        if (
            record.image != f"{folders[0]}{name}{suffix}"
            or record.mask != f"{folders[1]}{name}{mask_suffix}"
            or not _is_plain(Path(data.root, record.mask))
        ):
            return None
    return folders[0], suffix, folders[1], mask_suffix


def _is_plain(path: Path) -> bool:
    """Tell whether mmseg's decoder finds the class numbers in a mask."""
    with decoding(path, "mask") as image:
        return image.mode in ("L", "P")


def write_masks(folder: Path, data: DataSet) -> None:
    """Write the mask of each image as class numbers, ``FOLDER/IMAGE.png``.

    Args:
        folder: Where to write.
        data: A data set for semantic segmentation.
    """
    values = MaskValues(list(data.classes), data.values, data.format)
    numbers = {name: number for number, name in enumerate(data.classes)}
    for records in data.splits.values():
        for record in records:
            if record.mask:
                mask = values.to_numbers(os.path.join(data.root, record.mask))
            else:
                mask = _draw(record, numbers)
            file = folder / f"{record.image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(file)


def _draw(record: Record, numbers: dict[str, int]) -> np.ndarray:
    """Draw objects as class numbers, larger ones first; those to be ignored as 255."""
    picture = Image.new("L", record.size, 0)
    for item in sorted(record.objects, key=area_of, reverse=True):
        number = IGNORED if item.is_crowd else numbers[item.name]
        if isinstance(item.segmentation, dict):
            picture.paste(number, mask=Image.fromarray(_decode(item.segmentation) * 255))
        else:
            for polygon in item.segmentation or []:
                ImageDraw.Draw(picture).polygon(polygon, fill=number, outline=number)
    return np.asarray(picture)
