"""Writes COCO json: images with boxes or with instance masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CocoWriter", "encode_mask"]


def encode_mask(mask: np.ndarray) -> dict:
    """Encode a mask as COCO's uncompressed run lengths, which are exact (polygons are not).

    Args:
        mask: (H, W), non-zero inside the object.

    Returns:
        ``{'size': [H, W], 'counts': [...]}``; the runs go down the columns and begin with zeros.
    """
    flat = (mask != 0).astype(np.int8).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, flat.size]).tolist()}


class CocoWriter:
    """Collects images and annotations of the first category and writes one json.

    Args:
        categories: Class names; their ids are 1, 2, ... in this order.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add_image(self, file_name: str, width: int, height: int) -> int:
        """Add an image, by its name in the split's folder; return its id, from 1."""
        size = {"width": width, "height": height}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, **size})
        return len(self.images)

    def add_mask(self, image_id: int, mask: np.ndarray) -> None:
        """Add an object by its mask (H, W), not empty, from which box and area come."""
        rows, columns = np.nonzero(mask)
        box = [*map(int, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))]
        self.add_box(image_id, box, area=len(rows), segmentation=encode_mask(mask))

    def add_box(self, image_id: int, box: Sequence[int], **more: Any) -> None:
        """Add an object by its box.

        Args:
            image_id: From :meth:`add_image`.
            box: Left, top, right, bottom in pixels, inside the image.
            **more: Fields of the annotation.
        """
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        annotation = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": 1}
        annotation |= {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        self.annotations.append(annotation | more)

    def write(self, path: Path, description: str) -> None:
        """Write the json, with one line for its ``info``."""
        content = {"info": {"description": description}, **vars(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
