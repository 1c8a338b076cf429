"""COCO's panoptic json: a png an image, whose colours number its segments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmvitconv.datasets.formats.fields import (
    FieldError,
    get_list,
    id_of,
    name_of,
    number_of,
    take,
)
from mmvitconv.datasets.formats.masks import codes_of, read_mask
from mmvitconv.datasets.formats.records import Record, Tally, object_of_mask, size_of
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.errors import shorten

__all__ = ["NAME", "is_panoptic", "read"]

NAME = "COCO panoptic json"


def is_panoptic(content: Any) -> bool:
    """Tell whether a json's content has segments of whole images."""
    annotations = content.get("annotations") if isinstance(content, Mapping) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, Mapping) and isinstance(first.get("segments_info"), list)


def read(tree: Tree, tally: Tally, stuff: bool = False) -> tuple[list[Record], list[str]]:
    """Read all files of the format below a folder; see :func:`..coco.read`.

    Args:
        tree: The folder.
        tally: Counts what is left out.
        stuff: Take what is no object (sky, grass), too.
    """
    records, names = [], {}
    for file, content in tree.jsons.items():
        if not is_panoptic(content):
            continue
        tally.at = file
        categories, images = (_by_id(content, key) for key in ("categories", "images"))
        for position, annotation in enumerate(content["annotations"]):
            where = f"annotations[{position}]"
            image = images.get(id_of(take(annotation, "image_id", where), f"{where}.image_id"), {})
            path = tree.find_image(str(image.get("file_name") or ""), file)
            mask = _mask_of(tree, str(annotation.get("file_name") or ""), path)
            if path is None or mask is None:
                tally["annotated images, or their png of segments, are not in the folder"] += 1
                continue
            colours = read_mask(tree.path(mask))
            colours = colours if colours.ndim == 3 else np.repeat(colours[..., None], 3, axis=2)
            numbers = codes_of(colours[..., ::-1])  # red counts least
            split = split_of(file, is_annotation=True) or split_of(path)
            record = Record(path, split=split, source=file)
            record.stated = size_of(image.get("width"), image.get("height"))
            segments = get_list(annotation.get("segments_info"), f"{where}.segments_info")
            for number, segment in enumerate(segments):
                place = f"{where}.segments_info[{number}]"
                kind = id_of(take(segment, "category_id", place), f"{place}.category_id")
                if kind not in categories:
                    legal = f"the id of a category, {shorten(list(map(repr, categories)), 5)}"
                    raise FieldError(f"{place}.category_id", legal, kind)
                category = categories[kind]
                if category.get("isthing", 1) or stuff:
                    code = number_of(segment.get("id"), f"{place}.id")
                    found, is_crowd = numbers == code, bool(segment.get("iscrowd", 0))
                    made = object_of_mask(_name_of(category), found, is_crowd)
                    record.objects += [made] if made is not None else []
            records.append(record)
        names.update(
            dict.fromkeys(_name_of(category, needed=False) for category in categories.values())
        )
    used = {item.name for record in records for item in record.objects}
    return records, [name for name in names if name in used]


def _name_of(category: Mapping[str, Any], needed: bool = True) -> str:
    """Return the name of a category; '' of one that has none and is not needed."""
    where = f"the name of category {category.get('id')}"
    name = name_of(category.get("name"), where)
    if needed and not name:
        raise FieldError(where, "a text", category.get("name"))
    return name


def _by_id(content: Mapping[str, Any], key: str) -> dict[Any, Mapping[str, Any]]:
    """Return the entries of a list by their ids."""
    entries = enumerate(get_list(content.get(key), key))
    return {id_of(take(e, "id", f"{key}[{n}]"), f"{key}[{n}].id"): e for n, e in entries}


def _mask_of(tree: Tree, name: str, image: str | None) -> str | None:
    """Return the png of the segments: of that name, and not the image itself."""
    found = [path for path in tree.images if path != image and path.endswith(f"/{name}")]
    return max(found, key=lambda path: "panoptic" in os.path.dirname(path), default=None)
