import json

import numpy as np
import pytest
from PIL import Image

from mmvitconv.checks.annotations import (
    check_ade20k,
    check_coco,
    check_imagenet,
    explain_annotations,
    take_sample,
)
from mmvitconv.errors import UserError


def picture(path, size=(8, 6), value=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def coco_content():
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "area": 12}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"id": 1, **annotation}, {"id": 2, **annotation, "category_id": 7}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def coco_report(root, content, **arguments):
    picture(root / "val" / "a.png")
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / "instances_val.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return check_coco(root, ("val",), ("cat", "dog"), **arguments)


def test_coco_good(tmp_path, coco_content):
    report = coco_report(tmp_path, coco_content)
    assert report.rows == [("val", 1, 2)]
    assert report.errors == {}
    assert report.warnings == {}


def change(content, where, **values):
    name, index = where
    content[name][index].update(values)


@pytest.mark.parametrize(
    ("where", "values", "kind"),
    [
        (("images", 0), {"file_name": "b.png"}, "image of the json does not exist"),
        (("images", 0), {"file_name": "sub/b.png"}, "image of the json does not exist"),
        (("images", 0), {"width": 9}, "image has another size than the json says"),
        (("annotations", 0), {"id": 2}, "annotation id occurs twice"),
        (("annotations", 0), {"image_id": 5}, "annotation of an image that is not listed"),
        (("annotations", 0), {"category_id": 5}, "annotation of a category that is not listed"),
        (("annotations", 0), {"bbox": None}, "annotation without a box of 4 numbers"),
        (("annotations", 0), {"bbox": [1, 2, 3]}, "annotation without a box of 4 numbers"),
        (("images", 0), {"file_name": "../../b.png"}, "image of the json is outside the data root"),
        (("images", 0), {"file_name": "/b.png"}, "image of the json is outside the data root"),
        (("images", 0), {"width": None}, "image has another size than the json says"),
        (("annotations", 0), {"bbox": [1, 1, 0, 3]}, "box of zero or negative area"),
        (("annotations", 0), {"bbox": [1, 1, -2, 3]}, "box of zero or negative area"),
        (("annotations", 0), {"bbox": [8, 1, 2, 3]}, "box outside its image"),
        (("annotations", 0), {"bbox": [1, -9, 2, 3]}, "box outside its image"),
        (("annotations", 0), {"bbox": [1, 1, float("nan"), 3]}, "box with NaN or infinity"),
        (("annotations", 0), {"area": None}, "annotation without an area"),
        (
            ("annotations", 0),
            {"segmentation": [[1, 1, 2, 2]]},
            "mask without a polygon of 3 points, mmdet ignores the object",
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [8, 6], "counts": [48]}},
            "mask has another size than its image",
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [6, 8], "counts": [47]}},
            "run lengths of a mask do not add up to its size",
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [6, 8]}},
            "mask without size or counts, mmdet ignores the object",
        ),
        (("categories", 0), {"name": "bird"}, "category is unknown, mmdet would ignore it"),
        (("categories", 0), {"name": "bird"}, "class is missing from the categories"),
        (("categories", 0), {"name": "dog"}, "category name occurs twice"),
        (("categories", 0), {"id": 7}, "category id is missing or occurs twice"),
    ],
)
def test_coco_errors(tmp_path, coco_content, where, values, kind):
    change(coco_content, where, **values)
    assert kind in coco_report(tmp_path, coco_content).errors


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"bbox": [1, 1, 0.2, 3]}, "box or area below one pixel, mmdet leaves it out"),
        ({"bbox": [5, 1, 9, 3]}, "box reaches outside its image"),
    ],
)
def test_coco_warnings(tmp_path, coco_content, values, kind):
    change(coco_content, ("annotations", 0), **values)
    report = coco_report(tmp_path, coco_content)
    assert list(report.warnings) == [kind]
    assert report.errors == {}


def test_coco_broken_files(tmp_path, coco_content):
    assert "annotation file is not valid json" in coco_report(tmp_path, "{").errors
    assert any("lacks one of the lists" in kind for kind in coco_report(tmp_path, "[]").errors)
    (tmp_path / "val" / "a.png").write_bytes(b"")
    report = check_coco(tmp_path, ("train",), ("cat",))
    assert list(report.errors) == ["annotation file is missing"]


def test_coco_unreadable_image_is_found_in_the_sample_only(tmp_path, coco_content):
    coco_report(tmp_path, coco_content)
    (tmp_path / "val" / "a.png").write_bytes(b"no image")
    found = check_coco(tmp_path, ("val",), ("cat", "dog"))
    assert list(found.errors) == ["file cannot be read as an image"]
    assert check_coco(tmp_path, ("val",), ("cat", "dog"), sample=0).errors == {}


def ade_folder(root, label=150, label_size=(8, 6), mode="L"):
    for split in ("training", "validation"):
        picture(root / "images" / split / "a.jpg")
        picture(root / "annotations" / split / "a.png", label_size, label, mode)


def test_ade20k_good(tmp_path):
    ade_folder(tmp_path)
    report = check_ade20k(tmp_path)
    assert report.rows == [("training", 1, 1), ("validation", 1, 1)]
    assert report.errors == {}
    ade_folder(tmp_path, label=255)
    assert check_ade20k(tmp_path).errors == {}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"label": 151}, "label outside 0..150 (and 255)"),
        ({"label_size": (6, 8)}, "label png has another size than its image"),
        (
            {"mode": "RGB", "label": (1, 2, 3)},
            "label png has colours, one channel of label numbers is needed",
        ),
    ],
)
def test_ade20k_labels(tmp_path, arguments, kind):
    ade_folder(tmp_path, **arguments)
    report = check_ade20k(tmp_path)
    assert list(report.errors) == [kind]
    assert len(report.errors[kind]) == 2


def test_ade20k_files(tmp_path):
    ade_folder(tmp_path)
    picture(tmp_path / "images" / "training" / "b.jpg")
    picture(tmp_path / "annotations" / "validation" / "c.png", mode="L")
    report = check_ade20k(tmp_path)
    assert list(report.errors) == ["image without a label png"]
    assert list(report.warnings) == ["label png without an image"]
    for path in (tmp_path / "annotations" / "training").iterdir():
        path.unlink()
    (tmp_path / "annotations" / "training").rmdir()
    assert "folder is missing" in check_ade20k(tmp_path).errors


def imagenet_folder(root):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            picture(root / split / name / "a.JPEG")


def test_imagenet_good(tmp_path):
    imagenet_folder(tmp_path)
    report = check_imagenet(tmp_path, num_classes=2)
    assert report.rows == [("train", 2, 2), ("val", 2, 2)]
    assert report.errors == {}
    assert report.warnings == {}
    # Another number of classes is unusual, not wrong.
    other = check_imagenet(tmp_path)
    assert other.errors == {}
    assert list(other.warnings) == ["not 1000 classes"]


def test_imagenet_errors(tmp_path):
    imagenet_folder(tmp_path)
    (tmp_path / "val" / "dog" / "a.JPEG").unlink()
    assert list(check_imagenet(tmp_path, 2).errors) == ["class folder without images"]
    (tmp_path / "val" / "dog").rmdir()
    kinds = list(check_imagenet(tmp_path, 2).errors)
    assert kinds == ["class folder is in only one of train and val"]
    (tmp_path / "train" / "cat" / "a.JPEG").write_bytes(b"")
    assert "file cannot be read as an image" in check_imagenet(tmp_path, 2).errors


def test_imagenet_flat_validation_folder(tmp_path):
    imagenet_folder(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "val" / name / "a.JPEG").rename(tmp_path / "val" / f"{name}.JPEG")
        (tmp_path / "val" / name).rmdir()
    (kind,) = check_imagenet(tmp_path, 2).errors
    assert kind.startswith("no class folders")
    (tmp_path / "meta").mkdir()
    listing = tmp_path / "meta" / "val.txt"
    listing.write_text("cat.JPEG 0\ndog.JPEG 1\n")
    assert check_imagenet(tmp_path, 2).errors == {}
    listing.write_text("cat.JPEG 0\nbird.JPEG 1\ndog.JPEG 2\ndog.JPEG\n")
    errors = check_imagenet(tmp_path, 2).errors
    assert len(errors["image of the list does not exist"]) == 1
    assert len(errors["line is not '<file> <class number below 2>'"]) == 2


def test_missing_root(tmp_path):
    for check in (check_ade20k, check_imagenet):
        with pytest.raises(UserError, match="is not a folder"):
            check(tmp_path / "absent")
    with pytest.raises(UserError, match="is not a folder"):
        check_coco(tmp_path / "absent", ("val",), ("cat",))


def test_take_sample():
    assert take_sample([1, 2, 3], None) == [1, 2, 3]
    assert take_sample([1, 2, 3], 5) == [1, 2, 3]
    assert take_sample(list(range(100)), 4) == [0, 25, 50, 75]
    assert take_sample([1, 2], 0) == []
    assert np.unique(take_sample(list(range(1000)), 300)).size == 300


def test_explain_annotations(tmp_path, coco_content):
    coco_report(tmp_path, coco_content)
    dataset = {
        "data_root": str(tmp_path),
        "ann_file": "annotations/instances_val.json",
        "metainfo": {"classes": ("cat", "dog")},
    }
    cfg = {"val_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": dataset}}}
    assert explain_annotations(cfg, ("train", "val")) == ""
    coco_report(tmp_path, {**coco_content, "annotations": []})
    sentence = explain_annotations(cfg, ("train", "val"))
    assert sentence.startswith("val_dataloader.dataset.dataset: the list annotations is empty (1x)")
    assert sentence.endswith("instances_val.json")
    del dataset["metainfo"]
    coco_report(tmp_path, coco_content)
    assert explain_annotations(cfg, ("val",)) == ""
