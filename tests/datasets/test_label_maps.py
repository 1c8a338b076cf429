"""Label maps of public data sets: values, lists, and what a mistake says."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from recipes import load
from scipy.io import savemat

from mmvitconv.cli import run
from mmvitconv.datasets.label_maps import write_cityscapes, write_coco_voc, write_voc_aug
from mmvitconv.datasets.layout import find_missing, missing_message


def values(path: Path) -> list[list[int]]:
    return np.asarray(Image.open(path)).tolist()


def test_cityscapes(tmp_path, capsys):
    """Road is 0, bicycle 18; what is not evaluated is 255, whatever its number."""
    folder = tmp_path / "gtFine/val/aachen"
    folder.mkdir(parents=True)
    image = Image.fromarray(np.uint8([[7, 33, 26], [0, 9, 255]]))
    image.save(folder / "aachen_0_0_gtFine_labelIds.png")
    assert run("data", "cityscapes", "--out-dir", str(tmp_path)) == 0
    assert "1 label maps written" in capsys.readouterr().out
    found = values(folder / "aachen_0_0_gtFine_labelTrainIds.png")
    assert found == [[0, 18, 13], [255, 255, 255]]
    assert write_cityscapes(tmp_path) == 1, "its own maps are no input"


def test_cityscapes_are_those_of_mmseg(tmp_path):
    """Classes in the order of mmseg's, by the names in Cityscapes' documentation."""
    from mmseg.datasets import CityscapesDataset

    names = CityscapesDataset.METAINFO["classes"]
    folder = tmp_path / "gtFine/train/a"
    folder.mkdir(parents=True)
    numbers = {"road": 7, "building": 11, "pole": 17, "person": 24, "car": 26, "train": 31}
    Image.fromarray(np.uint8([list(numbers.values())])).save(folder / "x_gtFine_labelIds.png")
    write_cityscapes(tmp_path)
    (row,) = values(folder / "x_gtFine_labelTrainIds.png")
    assert [names[index] for index in row] == list(numbers)


def test_voc_aug(tmp_path):
    lists = tmp_path / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    source = tmp_path / "sbd"
    (source / "cls").mkdir(parents=True)
    (source / "train.txt").write_text("d\na\n")
    (source / "val.txt").write_text("b\nc\n")
    for name in "abcd":
        cell = np.empty((1, 1), dtype=[("Segmentation", object)])
        cell[0, 0]["Segmentation"] = np.uint8([[0, 15], [255, ord(name)]])
        savemat(source / "cls" / f"{name}.mat", {"GTcls": cell})
    assert write_voc_aug(tmp_path / "voc", source) == 2
    assert (lists / "aug.txt").read_text() == "c\nd\n"
    assert values(tmp_path / "voc/SegmentationClassAug/c.png") == [[0, 15], [255, ord("c")]]
    assert len(list((tmp_path / "voc/SegmentationClassAug").iterdir())) == 2


def test_coco_in_classes_of_voc(tmp_path):
    """Overlaps and crowds are ignored; images with too little of the classes are left out."""
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO["classes"]
    numbers = {name: 2 * index for index, name in enumerate(names, start=1)}

    def box(image, name, left, top, right, bottom, crowd=0):
        outline = [left, top, right, top, right, bottom, left, bottom]
        if crowd:
            mask = np.zeros((60, 80), np.uint8, order="F")
            mask[top:bottom, left:right] = 1
            runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=0, append=0)))
            first = int(np.argmax(mask.ravel("F")))
            counts = [first, *runs.tolist()]
            outline = {"size": [60, 80], "counts": [*counts, 60 * 80 - sum(counts)]}
        else:
            outline = [outline]
        return {"image_id": image, "category_id": numbers[name], "segmentation": outline,
                "iscrowd": crowd, "bbox": [left, top, right - left, bottom - top],
                "area": 1}  # fmt: skip

    annotations = [
        box(1, "person", 0, 0, 40, 40),
        box(1, "tv", 30, 0, 60, 40),
        box(1, "zebra", 60, 40, 80, 60),
        box(1, "person", 60, 0, 80, 20, crowd=1),
        box(2, "dog", 0, 0, 10, 10),  # too small
        box(3, "zebra", 0, 0, 80, 60),  # none of VOC's
    ]
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 80}
            for number in (1, 2, 3)
        ],
        "annotations": [{"id": index, **entry} for index, entry in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text(json.dumps(content))
    assert write_coco_voc(tmp_path) == 1
    assert (tmp_path / "voc_masks/train2017.txt").read_text() == "1\n"
    mask = np.asarray(Image.open(tmp_path / "voc_masks/train2017/1.png"))
    assert [mask[20, x] for x in (10, 35, 50)] == [15, 255, 20]
    assert (mask[10, 70], mask[50, 70], mask[50, 10]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cityscapes"], "labelIds.png"),
        (["voc_aug"], "--source"),
        (["voc_aug", "--source", "nowhere"], "train.txt"),
        (["coco_voc"], "instances_train2017.json"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, arguments, words):
    assert run("data", *arguments, "--out-dir", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("upernet_fcvit_s12_cityscapes", "mmvitconv data cityscapes --out-dir data/cityscapes"),
        ("deeplabv3_parcnet_s_voc", "mmvitconv data voc_aug --source"),
    ],
)
def test_missing_data_say_how_to_make_them(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg: Config = load(name)
    assert command in missing_message(find_missing(cfg))
