"""The check at the start of a run, what it remembers, and the rehearsal."""

import json

import numpy as np
import pytest
import torch
from broken_data import images, json_of, label_map
from mmengine.config import Config
from PIL import Image

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.config import check_config
from mmvitconv.checks.start import check_before_run
from mmvitconv.checks.zero_loss import ZeroLossHook
from mmvitconv.datasets.layout import prepare_config
from mmvitconv.errors import UserError

KEPT = "nothing has changed since the last check"


@pytest.fixture
def start(make, monkeypatch, tmp_path):
    """The check of a task's data as a run begins with it, and its root."""
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))

    def prepare(task):
        root, cfg = make(task)
        return root, lambda: check_before_run(Config(cfg), ("train", "val"))

    return prepare


def test_a_second_start_looks_at_times_and_sizes_only(start):
    root, check = start("detection")
    first = check()
    assert KEPT not in first.notes
    second = check()
    assert KEPT in second.notes
    assert (second.rows, second.warnings) == (first.rows, first.warnings)
    path = images("detection", root)[2]
    Image.fromarray(np.zeros((192, 192), np.uint8)).save(path)
    third = check()
    assert KEPT not in third.notes
    assert third.warnings == {}  # grey pictures are no news at a start
    path.write_bytes(b"")
    assert "file is empty" in check().warnings
    for file in images("detection", root):
        file.write_bytes(b"")
    for _ in range(2):  # errors are never taken from the cache
        with pytest.raises(UserError, match="file is empty; 8 of 8 samples cannot be used"):
            check()


def change_objects(root, change, split="train"):
    content = json.loads(json_of(root, split).read_text())
    for annotation in content["annotations"]:
        change(annotation)
    json_of(root, split).write_text(json.dumps(content))


def as_corners(annotation):
    left, top, width, height = annotation["bbox"]
    annotation["bbox"] = [left, top, left + width, top + height]


def as_centre(annotation):
    left, top, width, height = annotation["bbox"]
    annotation["bbox"] = [left + width / 2, top + height / 2, width, height]


def in_shares(annotation):
    annotation["bbox"] = [side / 192 for side in annotation["bbox"]]
    annotation.pop("segmentation")


def corners_alone(annotation):
    as_corners(annotation)
    annotation.pop("segmentation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(iscrowd=1), "iscrowd is 1"),
        (lambda a: a.update(ignore=1), "ignore is set"),
        (lambda a: a.update(area=0), "area is 0"),
        (in_shares, "multiplied by its width and height"),
        (lambda a: a.update(segmentation=[[1, 2, 3, 4]]), "no polygon of the mask has 3 points"),
        (as_corners, "they look like x1, y1, x2, y2"),
        (as_centre, "they look like the centre, width, height"),
        (corners_alone, "boxes look like x1, y1, x2, y2"),
    ],
)
def test_objects_that_nobody_learns_from(make, change, words):
    root, cfg = make("detection")
    change_objects(root, change)
    found = check_config(Config(cfg), ["train"]).sentences()
    assert any(words in sentence for sentence in found), found


def test_a_detector_with_masks_needs_masks(make):
    root, cfg = make("detection")
    change_objects(root, lambda a: a.pop("segmentation"))
    cfg["model"] = {"roi_head": {"mask_head": {"num_classes": 1}}}
    (sentence,) = check_config(Config(cfg), ["train"]).sentences()
    assert "no object has a mask (segmentation), but model.roi_head.mask_head" in sentence


def rename_categories(root, *categories):
    content = json.loads(json_of(root).read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in categories]
    for index, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = categories[index % len(categories)][0]
    json_of(root).write_text(json.dumps(content))


def test_odd_but_good(make):
    root, cfg = make("detection")
    rename_categories(root, (17, "nucleus"), (3, "debris"))  # gaps; a subset of the classes
    change_objects(root, lambda a: a.update(attributes={"occluded": False}, score=1))
    content = json.loads(json_of(root).read_text())
    content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
    dropped = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != dropped]
    for image in content["images"]:
        file = root / "train" / image["file_name"]
        image["file_name"] = f"細胞 é {file.name}"
        file.rename(file.with_name(image["file_name"]))
    json_of(root).write_text(json.dumps(content))
    report = check_config(Config(cfg), ["train"])
    assert report.errors == {}
    assert report.warnings == {}
    assert any("their categories are not in metainfo.classes" in note for note in report.notes)


def test_masks_of_two_values(make):
    root, cfg = make("segmentation")
    for path in images("segmentation", root):
        values = np.asarray(Image.open(label_map(root, path)))
        Image.fromarray((values > 0).astype(np.uint8) * 255).save(label_map(root, path))
    (sentence,) = check_config(Config(cfg), ["train"]).sentences()
    assert "the labels are only 0 and 255, and 255 is ignored" in sentence
    assert "Write 0 and 1" in sentence


def test_images_of_another_suffix(make):
    root, cfg = make("segmentation")
    cfg["train_dataloader"]["dataset"]["img_suffix"] = ".jpeg"
    (sentence,) = check_config(Config(cfg), ["train"]).sentences()
    assert f"looked for *.jpeg in {root}/images/training, where there is 8 .png" in sentence
    assert "write img_suffix='.png'" in sentence


def test_12_bits_in_16(make):
    root, cfg = make("detection")
    for path in images("detection", root):
        Image.fromarray(np.full((192, 192), 4000, np.uint16)).save(path)
    (sentence,) = check_config(Config(cfg), ["train"]).sentences("warnings")
    assert "measured values 0 to 4000, so that they become 0 to 15" in sentence
    assert "mmvitconv.LoadBands" in sentence


def test_what_a_config_leaves_open(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = {"type": "CocoDataset", "data_root": "~/data", "ann_file": "val.json"}
    cfg = Config({"val_dataloader": {"dataset": dataset}, "val_evaluator": {"type": "CocoMetric"}})
    prepare_config(cfg)
    assert cfg.val_dataloader.dataset.data_root == f"{tmp_path}/data"
    assert cfg.val_evaluator.ann_file == f"{tmp_path}/data/val.json"


def test_a_loss_of_zero_ends_the_run():
    hook = ZeroLossHook(iterations=3)
    zero, one = {"loss": torch.zeros(())}, {"loss": torch.ones(()), "acc": torch.zeros(1)}
    for outputs in (zero, zero, one, *[zero] * 9):
        hook.after_train_iter(None, 0, outputs=outputs)
    hook.before_train(None)
    for _ in range(2):
        hook.after_train_iter(None, 0, outputs=zero)
    with pytest.raises(UserError, match="exactly 0 in the first 3 iterations"):
        hook.after_train_iter(None, 0, outputs=zero)


def test_what_a_report_says():
    report = Report()
    report.error("it is red", "a.json", advice="paint it")
    assert report.sentences() == ["a.json: it is red; paint it"]
    other = Report()
    other.take(report, errors_as="warnings")
    assert (other.errors, other.sentences("warnings")) == ({}, report.sentences())
