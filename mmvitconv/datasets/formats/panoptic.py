"""COCO's panoptic json: a png an image, whose colours number its segments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmvitconv.datasets.formats.masks import codes_of, read_mask
from mmvitconv.datasets.formats.records import Record, Tally, object_of_mask, size_of
from mmvitconv.datasets.formats.tree import Tree, split_of

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
        categories = {entry["id"]: entry for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        for annotation in content["annotations"]:
            image = images.get(annotation["image_id"], {})
            path = tree.find_image(image.get("file_name", ""), file)
            mask = _mask_of(tree, annotation["file_name"], path)
            if path is None or mask is None:
                tally["annotated images, or their png of segments, are not in the folder"] += 1
                continue
            colours = read_mask(tree.path(mask))
            colours = colours if colours.ndim == 3 else np.repeat(colours[..., None], 3, axis=2)
            numbers = codes_of(colours[..., ::-1])  # red counts least
            split = split_of(file, is_annotation=True) or split_of(path)
            record = Record(path, split=split, source=file)
            record.stated = size_of(image.get("width"), image.get("height"))
            for segment in annotation["segments_info"]:
                category = categories[segment["category_id"]]
                if category.get("isthing", 1) or stuff:
                    found, is_crowd = numbers == segment["id"], bool(segment.get("iscrowd", 0))
                    made = object_of_mask(str(category["name"]), found, is_crowd)
                    record.objects += [made] if made is not None else []
            records.append(record)
        names.update(dict.fromkeys(str(entry["name"]) for entry in categories.values()))
    used = {item.name for record in records for item in record.objects}
    return records, [name for name in names if name in used]


def _mask_of(tree: Tree, name: str, image: str | None) -> str | None:
    """Return the png of the segments: of that name, and not the image itself."""
    found = [path for path in tree.images if path != image and path.endswith(f"/{name}")]
    return max(found, key=lambda path: "panoptic" in os.path.dirname(path), default=None)
