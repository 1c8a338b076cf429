import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmvitconv.datasets.first_runs import nuclei
from mmvitconv.datasets.first_runs.coco import encode_mask
from mmvitconv.datasets.first_runs.tiles import Area


@pytest.fixture(scope="session")
def source(nuclei_root):
    return nuclei.read_source(cache_dir=nuclei_root.parent / ".cache")


def tiles_on_disk(root, split):
    """The pixel ranges, read back from the file names and sizes."""
    tiles = {}
    for path in sorted((root / split).iterdir()):
        left, top = (int(part[1:]) for part in path.stem.split("_"))
        width, height = Image.open(path).size
        tiles[path.name] = Area(left, top, left + width, top + height)
    return tiles


def test_encode_mask_agrees_with_pycocotools():
    generator = np.random.RandomState(0)
    corner = np.zeros((5, 7), dtype=np.uint8)
    corner[0, 0] = corner[4, 6] = 1
    masks = [generator.rand(9, 4) > 0.5 for _ in range(5)]
    for mask in [corner, np.ones((3, 2)), np.zeros((3, 2)), *masks]:
        encoded = encode_mask(np.asarray(mask))
        assert sum(encoded["counts"]) == np.asarray(mask).size
        runs = coco_mask.frPyObjects(encoded, *encoded["size"])
        assert np.array_equal(coco_mask.decode(runs), np.asarray(mask, dtype=np.uint8))


def test_training_and_held_out_pixels_are_disjoint(nuclei_root):
    train = tiles_on_disk(nuclei_root, "train")
    val = tiles_on_disk(nuclei_root, "val")
    assert len(train) == 33
    assert len(val) == 2
    assert {(t.width, t.height) for t in [*train.values(), *val.values()]} == {(192, 192)}
    painted = np.zeros((512, 512), dtype=int)
    for tile in val.values():
        painted[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert painted.max() == 1, "held-out tiles overlap"
    for tile in train.values():
        assert painted[tile.top : tile.bottom, tile.left : tile.right].sum() == 0


def test_tiles_show_the_source_pixels(nuclei_root, source):
    image, _ = source
    for split in ("train", "val"):
        for name, tile in tiles_on_disk(nuclei_root, split).items():
            picture = np.asarray(Image.open(nuclei_root / split / name))
            assert picture.shape == (192, 192, 3)
            assert picture.dtype == np.uint8
            expected = image[tile.top : tile.bottom, tile.left : tile.right]
            assert (picture == expected[..., None]).all()


def test_contrast_is_normalised_on_the_training_area(source):
    image, labels = source
    assert image.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 255
    # About one percent of the training pixels is saturated at each end.
    assert 0.002 < (image[:, :320] == 255).mean() < 0.02
    assert len(np.unique(labels)) - 1 == 125
    assert image[labels != 0].mean() > 3 * image[labels == 0].mean()


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_boxes_and_areas_equal_the_label_image(nuclei_root, source, split, capsys):
    _, labels = source
    whole = np.bincount(labels.ravel())
    coco = COCO(str(nuclei_root / "annotations" / f"instances_{split}.json"))
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [(1, "nucleus")]
    tiles = tiles_on_disk(nuclei_root, split)
    assert sorted(tiles) == sorted(image["file_name"] for image in coco.dataset["images"])
    for image in coco.dataset["images"]:
        tile = tiles[image["file_name"]]
        window = labels[tile.top : tile.bottom, tile.left : tile.right]
        kept = set()
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            (number,) = np.unique(window[mask])
            assert number != 0
            assert np.array_equal(mask, window == number)
            assert annotation["area"] == mask.sum()
            box = coco_mask.toBbox(coco.annToRLE(annotation))
            assert annotation["bbox"] == box.tolist()
            assert number not in kept
            kept.add(number)
        for number in set(np.unique(window)) - kept - {0}:
            # Only slivers of cut nuclei are left out.
            assert (window == number).sum() < min(30, whole[number])


def test_held_out_has_enough_nuclei(nuclei_root):
    content = json.loads((nuclei_root / "annotations" / "instances_val.json").read_text())
    assert len(content["annotations"]) == 35


@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "validation")])
def test_segmentation_layout(nuclei_root, source, split, folder):
    _, labels = source
    for name, tile in tiles_on_disk(nuclei_root, split).items():
        image = nuclei_root / "images" / folder / name
        assert image.read_bytes() == (nuclei_root / split / name).read_bytes()
        label = np.asarray(Image.open(nuclei_root / "annotations" / folder / name))
        assert label.dtype == np.uint8
        expected = labels[tile.top : tile.bottom, tile.left : tile.right] != 0
        assert np.array_equal(label, expected)


def test_mmdet_reads_it(nuclei_root):
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs

    dataset = CocoDataset(
        data_root=str(nuclei_root),
        ann_file="annotations/instances_val.json",
        data_prefix={"img": "val/"},
        metainfo={"classes": ("nucleus",)},
        pipeline=[
            LoadImageFromFile(),
            LoadAnnotations(with_bbox=True, with_mask=True),
            PackDetInputs(meta_keys=("img_id", "img_path", "ori_shape")),
        ],
    )
    found = [dataset[index]["data_samples"].gt_instances for index in range(2)]
    assert sum(len(instances) for instances in found) == 35
    for instances in found:
        areas = instances.masks.masks.reshape(len(instances), -1).sum(1)
        assert areas.min() >= 25


def test_mmseg_reads_it(nuclei_root):
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs

    dataset = BaseSegDataset(
        data_root=str(nuclei_root),
        data_prefix={"img_path": "images/validation", "seg_map_path": "annotations/validation"},
        img_suffix=".png",
        metainfo={"classes": ("background", "nucleus")},
        pipeline=[
            LoadImageFromFile(),
            LoadAnnotations(),
            PackSegInputs(meta_keys=("img_path", "ori_shape")),
        ],
    )
    assert len(dataset) == 2
    labels = dataset[0]["data_samples"].gt_sem_seg.data
    assert sorted(labels.unique().tolist()) == [0, 1]
