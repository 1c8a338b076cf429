"""Writes COCO json: images with boxes or with instance masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

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
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": counts}


class CocoWriter:
    """Collects images and annotations and writes one json.

    Args:
        categories: class names; their ids are 1, 2, ... in this order.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add_image(self, file_name: str, width: int, height: int) -> int:
        """Add an image.

        Args:
            file_name: relative to the image folder of the split.
            width: in pixels.
            height: in pixels.

        Returns:
            Id of the image, from 1.
        """
        image_id = len(self.images) + 1
        self.images.append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        return image_id

    def add_mask(self, image_id: int, mask: np.ndarray) -> None:
        """Add an object of the first category by its mask, from which box and area come.

        Args:
            image_id: from :meth:`add_image`.
            mask: (H, W) of the image, non-zero inside the object, not empty.
        """
        rows, columns = np.nonzero(mask)
        left, top = int(columns.min()), int(rows.min())
        self.add_box(image_id, (left, top, int(columns.max()) + 1, int(rows.max()) + 1))
        self.annotations[-1].update(area=len(rows), segmentation=encode_mask(mask))

    def add_box(self, image_id: int, box: Sequence[int]) -> None:
        """Add an object of the first category by its box.

        Args:
            image_id: from :meth:`add_image`.
            box: left, top, right, bottom in pixels, inside the image.
        """
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )

    def write(self, path: Path, description: str) -> None:
        """Write the json.

        Args:
            path: file to write; its folder is made when missing.
            description: one line for ``info``.
        """
        content = {
            "info": {"description": description},
            "categories": self.categories,
            "images": self.images,
            "annotations": self.annotations,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
