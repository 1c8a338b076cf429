"""Public data sets with three random images each, in the layouts that the configs expect."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_coco(root: Path) -> None:
    """Three images in COCO's layout, with all 80 categories under COCO's own numbers."""
    from mmdet.datasets import CocoDataset

    generator = np.random.default_rng(0)
    # Of 90 numbers COCO uses 80; here every ninth one is left out.
    numbers = [number for number in range(1, 91) if number % 9]
    names = CocoDataset.METAINFO["classes"]
    categories = [{"id": number, "name": name} for number, name in zip(numbers, names, strict=True)]
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (root / part).mkdir()
        images, annotations = [], []
        for image_id in range(3):
            pixels = generator.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{image_id:012d}.jpg")
            images.append(
                {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": 64, "width": 96}
            )
            left, top, width, height = 10 + 20 * image_id, 8, 30, 40
            right, bottom = left + width, top + height
            annotations.append(
                {
                    "id": image_id,
                    "image_id": image_id,
                    "category_id": numbers[30 * image_id],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def write_ade20k(root: Path) -> None:
    """Three images in ADE20K's layout, each with three of its classes."""
    generator = np.random.default_rng(0)
    for part in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / part).mkdir(parents=True)
        for image_id in range(3):
            pixels = generator.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"images/{part}/{image_id}.jpg")
            classes = np.repeat(np.uint8([1, 75, 150]), 32)[None].repeat(64, axis=0)
            Image.fromarray(classes).save(root / f"annotations/{part}/{image_id}.png")
