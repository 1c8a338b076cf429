import json

import numpy as np
import pytest
from PIL import Image

from mmvitconv.datasets.first_runs import trees
from mmvitconv.datasets.first_runs.tiles import Area


@pytest.fixture(scope="session")
def scenes(trees_root):
    return {
        scene.name: scene for scene in trees.read_source(cache_dir=trees_root.parent / ".cache")
    }


def content(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def position(name):
    scene, left, top = name.removesuffix(".png").rsplit("_", 2)
    return scene, int(left[1:]), int(top[1:])


def test_source(scenes):
    assert sum(len(scene.boxes) for scene in scenes.values()) == 951
    assert sorted(scene.image.size for scene in scenes.values()) == [
        (400, 400), (400, 400), (1249, 1035), (2299, 2472)
    ]  # fmt: skip


def test_training_and_held_out_pixels_are_disjoint(trees_root, scenes):
    held_out = {name: np.zeros(scene.image.size[::-1], dtype=int) for name, scene in scenes.items()}
    for split in ("val", "train"):
        images = content(trees_root, split)["images"]
        assert sorted(i["file_name"] for i in images) == sorted(
            path.name for path in (trees_root / split).iterdir()
        )
        for image in images:
            scene, left, top = position(image["file_name"])
            assert (image["width"], image["height"]) == (400, 400)
            picture = np.asarray(Image.open(trees_root / split / image["file_name"]))
            window = np.s_[top : top + 400, left : left + 400]
            assert np.array_equal(picture, np.asarray(scenes[scene].image)[window])
            if split == "val":
                held_out[scene][window] += 1
            else:
                assert held_out[scene][window].sum() == 0
    assert max(area.max() for area in held_out.values()) == 1
    assert sum(area.sum() for area in held_out.values()) == 8 * 400 * 400


def test_boxes_come_from_the_source(trees_root, scenes):
    total = 0
    for split in ("train", "val"):
        data = content(trees_root, split)
        assert data["categories"] == [{"id": 1, "name": "tree"}]
        images = {image["id"]: image for image in data["images"]}
        for annotation in data["annotations"]:
            scene, tile_left, tile_top = position(images[annotation["image_id"]]["file_name"])
            left, top, width, height = annotation["bbox"]
            assert left >= 0
            assert top >= 0
            assert left + width <= 400
            assert top + height <= 400
            assert annotation["area"] == width * height > 0
            # Some source box contains it, and at least 40 % of that box is visible.
            boxes = np.array(scenes[scene].boxes) - [tile_left, tile_top] * 2
            inside = (
                (boxes[:, 0] <= left) & (boxes[:, 1] <= top)
                & (boxes[:, 2] >= left + width) & (boxes[:, 3] >= top + height)
            )  # fmt: skip
            whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            assert (annotation["area"] / whole[inside]).max() >= 0.4
            total += 1
        if split == "val":
            assert len(data["annotations"]) == 194
    assert total > 951


def test_clip_boxes():
    tile = Area(100, 200, 500, 600)
    boxes = [
        (110, 210, 120, 220),  # inside
        (90, 210, 110, 220),  # half visible
        (90, 210, 106, 220),  # 37.5 % visible
        (495, 595, 505, 601),  # 5 x 5 of 10 x 6 pixels: 41.7 % visible
        (0, 0, 50, 50),  # elsewhere
        (500, 210, 510, 220),  # touches
    ]
    assert trees.clip_boxes(boxes, tile) == [
        (10, 10, 20, 20), (0, 10, 10, 20), (395, 395, 400, 400)
    ]  # fmt: skip


def test_small_images_only_train():
    assert trees.plan_tiles(400, 400) == {"train": [Area(0, 0, 400, 400)], "val": []}
