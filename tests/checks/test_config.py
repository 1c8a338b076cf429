import json
import shutil
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken_data import CASES, Case, dataset, images, json_of, label_map
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.config import check_config, take_sample
from mmvitconv.checks.effects import check_effects
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError

EMPTY = "file is empty"
TASKS = ("detection", "segmentation", "classification")


def check(cfg, **arguments):
    return check_config(Config(deepcopy(cfg)), **arguments)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("workers", [0, 2])
def test_good_data(make, task, workers):
    report = check(make(task)[1], workers=workers)
    assert report.errors == {}
    assert report.warnings == {}
    sizes = (16, 4) if task == "classification" else (8, 2)
    assert [row[:2] for row in report.rows] == [("train", sizes[0]), ("val", sizes[1])]
    assert all(row[2] > 0 for row in report.rows)


def test_a_coco_json_is_read_once(make, monkeypatch):
    _, cfg = make("detection")
    expected = check(cfg)
    read = []
    monkeypatch.setattr(json, "load", lambda file: read.append(file.name))  # as pycocotools does
    assert check(cfg) == expected
    assert read == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_defect_is_found(make, case: Case, count):
    root, cfg = make(case.task)
    file = case.defect.apply(root, images(case.task, root)[3])
    report = check(cfg, splits=["train"])
    count("broken data sets checked")
    # what training leaves out, or uses as it is, does not keep it from starting
    assert bool(report.errors) == (case.defect.run == "stops")
    found = [(k, text) for w in (report.errors, report.warnings) for k in w for text in w[k]]
    examples = [text for kind, text in found if case.defect.kind in kind]
    if case.defect.kind in ("grayscale", "CMYK", "palette", "EXIF-rotated"):  # which cost nothing
        assert not found
        assert any(case.defect.kind in note for note in report.notes)
    elif case.defect.kind:
        # these are about no file, or about another one
        about_file = case.defect.name not in ("lost image", "absolute", "16 bit")
        assert examples
        assert not about_file or any(file.name in text for text in examples)
    else:
        assert not report.warnings


@pytest.mark.parametrize("case", [c for c in CASES if c.defect.run == "left out"], ids=str)
def test_an_evaluation_needs_every_sample(make, case: Case):
    root, cfg = make(case.task)
    case.defect.apply(root, images(case.task, root, "val")[1])
    report = check(cfg, splits=["val"])
    assert any(case.defect.kind in kind for kind in report.errors)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_problems_of_all_splits_are_found(make, workers):
    root, cfg = make("classification")
    broken = [images("classification", root)[n] for n in (0, 3)]
    broken += images("classification", root, "val")[:1]
    for path in broken:
        path.write_bytes(b"")
    report = check(cfg, workers=workers)
    assert report.errors == {EMPTY: [str(broken[-1])]}
    assert report.warnings == {EMPTY: [str(path) for path in broken[:2]]}
    report = check(cfg, splits=["val"], workers=workers)
    assert report.errors == {EMPTY: [str(broken[-1])]}
    # the sample is spread over the dataset and has its first image
    report = check(cfg, splits=["train"], sample=2, workers=workers)
    assert report.warnings == {EMPTY: [str(broken[0])]}
    assert check(cfg, sample=0, workers=workers).errors == {}


def test_wrapped_datasets(make):
    root, cfg = make("detection")
    path = images("detection", root)[0]
    path.write_bytes(b"")
    leaf = cfg["train_dataloader"]["dataset"]
    for wrapper in (
        {"type": "RepeatDataset", "times": 3, "dataset": leaf},
        {"type": "ConcatDataset", "datasets": [dataset("detection", root, "val"), leaf]},
        {"type": "mmdet.MultiImageMixDataset", "dataset": leaf, "pipeline": []},
    ):
        cfg["train_dataloader"]["dataset"] = wrapper
        assert check(cfg).warnings[EMPTY] == [str(path)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_split_without_a_class(make, split):
    root, cfg = make("segmentation")
    for path in images("segmentation", root, split):
        Image.fromarray(np.zeros((192, 192), np.uint8)).save(label_map(root, path))
    report = check(cfg)
    if split == "train":  # it is evaluated, but cannot be learnt
        assert report.warnings == {
            "class without a sample in training, which the evaluation has": ["train: nucleus"]
        }
    else:
        assert report.warnings == {}
        assert report.notes == ["val: no sample of the class nucleus"]
    # those that are not opened may have it
    report = check(cfg, sample=1)
    assert report.warnings == {}
    assert not any("no sample" in note for note in report.notes)


def test_a_transparency_that_is_none(make):
    root, cfg = make("detection")
    for path in images("detection", root):
        Image.open(path).convert("RGBA").save(path)
    report = check(cfg, splits=["train"])
    assert report.warnings == {}
    assert report.notes == []


def test_background_is_counted(make):
    root, cfg = make("detection")
    content = json.loads(json_of(root).read_text())
    empty = {image["id"] for image in content["images"][:3]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in empty]
    json_of(root).write_text(json.dumps(content))
    cfg["train_dataloader"]["dataset"]["filter_cfg"] = {"filter_empty_gt": False}
    report = check(cfg, splits=["train"])
    assert (report.errors, report.warnings) == ({}, {})
    assert report.notes == ["train: 3 of 8 images have no objects: they are background"]


def test_a_class_of_crowds_in_an_evaluation(make):
    root, cfg = make("detection")
    for split in ("train", "val"):
        content = json.loads(json_of(root, split).read_text())
        content["categories"].append({"id": 2, "name": "clump"})
        content["annotations"][0].update(category_id=2, iscrowd=int(split == "val"))
        json_of(root, split).write_text(json.dumps(content))
        cfg[f"{split}_dataloader"]["dataset"]["metainfo"] = {"classes": ("nucleus", "clump")}
    report = check(cfg)
    assert report.errors == {}
    assert any("of 1 objects of the class 'clump' none is left" in kind for kind in report.warnings)
    content = json.loads(json_of(root).read_text())
    content["annotations"][0]["iscrowd"] = 1
    json_of(root).write_text(json.dumps(content))
    (kind,) = check(cfg, splits=["train"]).errors
    assert kind.startswith("of 1 objects of the class 'clump' none is left to be trained on")


def test_class_folders_that_differ(make):
    root, cfg = make("classification")
    (root / "val" / "1").rename(root / "val" / "2")
    errors = check(cfg).errors
    (kind,) = errors
    assert "class folder is missing" in kind
    assert errors[kind] == ["train: 2", "val: 1"]


def test_label_above_the_head(make):
    root, cfg = make("classification")
    names = [f"{path.parent.name}/{path.name}" for path in images("classification", root)]
    (root / "list.txt").write_text("\n".join(f"{name} {n}" for n, name in enumerate(names)))
    cfg["train_dataloader"]["dataset"]["ann_file"] = "list.txt"
    cfg["model"] = {"head": {"num_classes": 15}}
    errors = check(cfg, splits=["train"]).errors
    assert list(errors) == [
        "the data have 16 classes, but the model has model.head.num_classes=15: write "
        "model.head.num_classes=16, or name the model's classes in metainfo of "
        "train_dataloader.dataset"
    ]
    del cfg["model"]
    (root / "list.txt").write_text(f"{names[0]} 0\n../../../elsewhere/a.jpg 1\n")
    (kind,) = check(cfg, splits=["train"]).errors
    assert kind == "file is outside the data root"


@pytest.mark.parametrize("classes", [2, 60])
def test_an_evaluation_of_other_classes(make, classes):
    """Two images of 60 classes may share none with training by chance: that stops nobody."""
    root, cfg = make("segmentation")
    for split in ("train", "val"):
        names = ["background", "nucleus", *(f"class {number}" for number in range(2, classes))]
        cfg[f"{split}_dataloader"]["dataset"]["metainfo"] = {"classes": names}
        for path in images("segmentation", root, split):
            Image.fromarray(np.full((192, 192), split == "val", np.uint8)).save(
                label_map(root, path)
            )
    report = check(cfg)
    (sentence,) = report.sentences("errors" if classes == 2 else "warnings")
    assert sentence.startswith("val: nucleus: none of the classes in the val data has a sample")
    assert "training has background" in sentence
    assert bool(report.errors) == (classes == 2)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0, 0, 192, 192], "nearly all boxes are as large as their images"),
        ([9, 9, 1, 1], "most boxes have at most 2 pixels a side"),
        ([30, 40, 20, 60], "all boxes end at 100 or before"),
    ],
)
def test_boxes_of_sizes_that_objects_do_not_have(make, box, words):
    root, cfg = make("detection")
    content = json.loads(json_of(root).read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["bbox"] = [value - 1e-3 * number * (value > 1) for value in box]
        entry["area"] = box[2] * box[3]
        entry.pop("segmentation")
    json_of(root).write_text(json.dumps(content))
    cfg["train_dataloader"]["dataset"]["pipeline"][1]["with_mask"] = False
    report = check(cfg, splits=["train"])
    assert report.errors == {}
    assert any(words in kind for kind in report.warnings)


def test_boxes_of_larger_copies_of_the_images(make):
    root, cfg = make("detection")
    content = json.loads(json_of(root).read_text())
    for entry in content["annotations"]:
        entry["bbox"] = [3 * value for value in entry["bbox"]]
        entry["area"] *= 9
        entry.pop("segmentation")
    json_of(root).write_text(json.dumps(content))
    kinds = list(check(cfg, splits=["train"]).errors)
    assert any("of the boxes leave their images: do they belong to larger" in k for k in kinds)


def test_the_order_of_the_classes(make):
    root, cfg = make("detection")
    content = json.loads(json_of(root).read_text())
    content["categories"] = [{"id": 2, "name": "ghost"}, *content["categories"]]
    json_of(root).write_text(json.dumps(content))
    for classes, kind in (
        (("nucleus", "ghost"), ["classes are in another order than the categories"]),
        (("ghost", "nucleus"), []),
        (("ghost", "nucleus", "more"), ["class is missing from the categories"]),
    ):
        cfg["train_dataloader"]["dataset"]["metainfo"] = {"classes": classes}
        assert list(check(cfg, splits=["train"]).errors) == kind


def test_image_in_two_splits_or_twice(make):
    root, cfg = make("detection")
    cfg["val_dataloader"]["dataset"] = dataset("detection", root, test_mode=True)
    cfg["test_dataloader"] = cfg["val_dataloader"]  # the same again is no news
    report = check(cfg)
    assert report.errors == {}
    kind = "the val data are those of training (all 8 images)"
    option = "val_dataloader.dataset.ann_file"
    assert report.warnings == {
        kind: [f"{option} is that of train_dataloader.dataset: {json_of(root)}"]
    }
    content = json.loads(json_of(root).read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    json_of(root).write_text(json.dumps(content))
    assert "image is listed more than once" in check(cfg, splits=["train"]).warnings


def copied_json(root, cfg):
    shutil.copy(json_of(root), json_of(root, "other"))
    settings = {"ann_file": "annotations/instances_other.json", "test_mode": True}
    cfg["val_dataloader"]["dataset"] = dataset("detection", root, **settings)


def copied_images(root, cfg):
    for new, old in zip(images("detection", root, "val"), images("detection", root), strict=False):
        shutil.copy(old, new)


def copied_image(root, cfg):
    shutil.copy(images("detection", root)[0], images("detection", root, "val")[0])


@pytest.mark.parametrize(
    ("change", "kind", "place"),
    [
        (copied_json, "the val data are those of training (all 8 images)", "has the content of"),
        (copied_images, "the val data are those of training (all 2 images)", "val_dataloader: "),
        (copied_image, "the same image, byte for byte, is in train and val", "/train/"),
    ],
)
def test_images_of_training_in_an_evaluation_are_one_finding(make, change, kind, place):
    root, cfg = make("detection")
    change(root, cfg)
    report = check(cfg)
    assert report.errors == {}
    ((found, (example,)),) = report.warnings.items()
    assert found == kind
    assert place in example


def test_the_same_image_in_two_classes(make):
    root, cfg = make("classification")
    zero = next((root / "train" / "0").iterdir())
    shutil.copy(zero, root / "train" / "1" / "again.jpg")
    (kind,) = check(cfg).warnings
    assert kind == "the same image, byte for byte, is in two classes"


def numbered(number, rows):
    """An object a row, counted up from 1: as many as the map has of the first values."""
    values = np.zeros_like(rows)
    for value in range(1, 3 + number % 4):
        values[value * 20 : value * 20 + 9, 10:90] = value
    return values


def many_objects(number, rows):
    return (np.arange(len(rows))[:, None] // 12 + 0 * rows) % (12 + number % 4)


def soft(number, rows):
    values = (rows > 96) * 120 + (rows > 30) * 120
    return cv2.GaussianBlur(values.astype(np.uint8), (9, 9), 2)


def lossy(number, rows):
    values = (rows > 96) * 120 + (rows > 30) * 120 + np.eye(len(rows)) * 60
    code = cv2.imencode(".jpg", values.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize(
    ("draw", "classes", "words"),
    [
        (numbered, 2, "masks count their values up one by one: numbers of single objects"),
        (many_objects, 20, "masks count their values up one by one: numbers of single objects"),
        (soft, 2, "only stand at the borders of others, as smoothing"),
        (soft, 250, "only stand at the borders of others, as smoothing"),
        (lossy, 2, "or a lossy format leaves them"),
    ],
)
def test_label_maps_that_hold_no_classes(make, draw, classes, words):
    root, cfg = make("segmentation")
    for number, path in enumerate(images("segmentation", root)):
        rows = np.mgrid[:192, :192][0]
        Image.fromarray(draw(number, rows).astype(np.uint8)).save(label_map(root, path))
    names = tuple(f"class {number}" for number in range(classes))
    cfg["train_dataloader"]["dataset"]["metainfo"] = {"classes": names}
    report = check(cfg, splits=["train"])
    assert any(words in kind for kind in report.warnings), report
    assert bool(report.errors) == (classes == 2)  # an unknown label


def test_pillow_and_16_bits(make):
    root, cfg = make("detection")
    path = images("detection", root)[2]
    Image.fromarray(np.full((192, 192), 4000, np.uint16)).save(path)
    cfg["train_dataloader"]["dataset"]["pipeline"][0]["imdecode_backend"] = "pillow"
    (kind,) = check(cfg, splits=["train"]).warnings
    assert kind.startswith("16-bit image, which the backend 'pillow' would cut to white")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, "annotation file is missing"),
        ("{", "annotation file is not valid json"),
        ("[]", "annotation file lacks one of the lists"),
        ('{"images": [], "annotations": [], "categories": []}', "the list images is empty"),
    ],
)
def test_broken_annotation_files(make, text, kind):
    root, cfg = make("detection")
    json_of(root).unlink()
    if text is not None:
        json_of(root).write_text(text)
    report = check(cfg)
    assert any(kind in found for found in report.errors)
    assert report.rows[0] == ("train", 0, 0)
    assert report.rows[1][:2] == ("val", 2)


def test_empty_list_of_annotations(make):
    root, cfg = make("detection")
    content = json.loads(json_of(root).read_text())
    json_of(root).write_text(json.dumps({**content, "annotations": []}))
    report = check(cfg)
    assert list(report.errors) == ["the list annotations is empty"]


def test_wrong_configs(make, tmp_path):
    _, cfg = make("detection")
    with pytest.raises(UserError, match="no test_dataloader; it has the splits train, val"):
        check(cfg, splits=["test"])
    with pytest.raises(UserError, match="no train_dataloader and no val_dataloader"):
        check({"model": {}})
    steps = cfg["train_dataloader"]["dataset"]["pipeline"]
    steps.append({"type": "RandomFlip", "prob": 0.5, "direction": "up"})
    with pytest.raises(UserError, match=r"dataset cannot be built: .*RandomFlip\(prob=0.5, dir"):
        check(cfg)
    steps[-1] = {"type": "RandomFlip", "prob": 0.5, "directoin": 3}  # said once, in its own words
    assert list(check(cfg).errors) == ["RandomFlip has no 'directoin': did you mean 'direction'?"]
    steps.pop()
    kind = cfg["train_dataloader"]["dataset"]["type"]
    cfg["train_dataloader"]["dataset"]["type"] = f"{kind}s"
    (kind_of_error,) = check(cfg).errors
    assert f"no class is registered as '{kind}s': did you mean {kind!r}" in kind_of_error
    cfg["train_dataloader"]["dataset"] = dataset("detection", tmp_path / "absent")
    assert "annotation file is missing" in check(cfg).errors


def test_take_sample():
    assert take_sample([1, 2, 3], None) == [1, 2, 3]
    assert take_sample([1, 2, 3], 5) == [1, 2, 3]
    assert take_sample(list(range(100)), 4) == [0, 25, 50, 75]
    assert take_sample([1, 2], 0) == []
    assert np.unique(take_sample(list(range(1000)), 300)).size == 300


def test_missing_files_are_found_without_opening_any(make):
    root, cfg = make("segmentation")
    paths = images("segmentation", root)
    label_map(root, paths[5]).unlink()
    report = check(cfg, splits=["train"], sample=1)
    assert report.warnings == {"file is missing": [str(label_map(root, paths[5]))]}


@TRANSFORMS.register_module()
class OwnReader(BaseTransform):
    """Opens files under a name that says nothing."""

    def __init__(self, backend_args=None):
        self.backend_args = backend_args

    def transform(self, results):
        results["img"] = np.asarray(Image.open(results["img_path"]))
        return results


@TRANSFORMS.register_module()
class LoadNothing(BaseTransform):
    """Opens no file, whatever its name says."""

    def transform(self, results):
        raise AssertionError("comes after the loading")


def test_what_opens_the_files_is_not_told_by_its_name(make):
    root, cfg = make("classification")
    (path,) = images("classification", root)[3:4]
    path.write_bytes(b"no image")
    pipeline = [{"type": "OwnReader"}, {"type": "LoadNothing"}]
    cfg["train_dataloader"]["dataset"]["pipeline"] = pipeline
    assert check(cfg).warnings == {"file cannot be decoded as an image": [str(path)]}


def test_model_and_evaluator_are_compared_with_the_data(make):
    root, cfg = make("detection")
    right, other = (str(json_of(root, split)) for split in ("val", "train"))
    cfg["val_evaluator"] = [{"type": "CocoMetric", "ann_file": path} for path in (right, other)]
    cfg["model"] = {"head": {"num_classes": 1}}
    report = check(cfg)
    kind = "evaluator has another annotation file than its data"
    assert report.errors == {kind: [f"val_evaluator.1: {other}"]}
    assert f"write val_evaluator.1.ann_file={right!r}" in report.advice[kind]
    assert report.warnings == {}
    cfg["model"]["head"]["num_classes"] = 2
    assert any("model.head.num_classes=2" in kind for kind in check(cfg).errors)


def test_a_config_that_a_run_has_written_is_used_again(tmp_path: Path) -> None:
    """It has the values of the helper variables, ``test_pipeline`` for one, written out."""
    written = tmp_path / "written.py"
    load_config("convmixer_256_8_mnist").dump(written)
    cfg = load_config(written)
    assert "test_pipeline" in cfg
    report = Report()
    check_effects(report, cfg)
    assert not report.errors
    written.write_text(written.read_text() + "\noptim_wraper = dict(type='OptimWrapper')\n")
    check_effects(report, load_config(written))
    assert "did you mean 'optim_wrapper'" in str(report.errors)
