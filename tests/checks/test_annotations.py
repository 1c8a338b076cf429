import json

import pytest

from mmvitconv.checks.annotations import Report, check_coco_file, explain_annotations


@pytest.fixture
def coco_content():
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"id": 1, **annotation}, {"id": 2, **annotation, "category_id": 7}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def coco_report(root, content):
    path = root / "instances_val.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    report = Report()
    check_coco_file(report, path, ("cat", "dog"))
    return report


def test_coco_good(tmp_path, coco_content):
    report = coco_report(tmp_path, coco_content)
    assert report.errors == {}
    assert report.warnings == {}


@pytest.mark.parametrize(
    ("where", "values", "kind", "left_out"),
    [
        (("annotations", 0), {"id": 2}, "annotation id occurs twice", False),
        (("annotations", 0), {"image_id": 5}, "annotation of an image that is not", True),
        (("annotations", 0), {"category_id": 5}, "annotation of a category that is not", True),
        (("annotations", 0), {"bbox": None}, "annotation without a box of 4 numbers", False),
        (("annotations", 0), {"bbox": [1, 2, 3]}, "annotation without a box of 4 numbers", False),
        (("annotations", 0), {"bbox": [1, 1, 0, 3]}, "box of zero or negative area", True),
        (("annotations", 0), {"bbox": [1, 1, -2, 3]}, "box of zero or negative area", True),
        (("annotations", 0), {"bbox": [8, 1, 2, 3]}, "box outside its image", True),
        (("annotations", 0), {"bbox": [1, -9, 2, 3]}, "box outside its image", True),
        (("annotations", 0), {"bbox": [1, 1, float("nan"), 3]}, "box with NaN or infinity", True),
        (("annotations", 0), {"area": None}, "annotation without an area", False),
        (("annotations", 0), {"iscrowd": None}, "annotation whose iscrowd", False),
        (
            ("annotations", 0),
            {"segmentation": [[1, 1, 2, 2]]},
            "mask without a polygon of 3 points, mmdet ignores the object",
            True,
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [8, 6], "counts": [48]}},
            "mask has another size than its image",
            True,
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [6, 8], "counts": [47]}},
            "run lengths of a mask do not add up to its size",
            True,
        ),
        (
            ("annotations", 0),
            {"segmentation": {"size": [6, 8]}},
            "mask without size or counts, mmdet ignores the object",
            True,
        ),
        (("categories", 0), {"name": "bird"}, "class is missing from the categories", False),
        (("categories", 0), {"name": "dog"}, "category name occurs twice", False),
        (("categories", 0), {"id": 7}, "category id is missing or occurs twice", False),
    ],
)
def test_coco_errors(tmp_path, coco_content, where, values, kind, left_out):
    name, index = where
    coco_content[name][index].update(values)
    report = coco_report(tmp_path, coco_content)
    found = report.warnings if left_out else report.errors
    assert any(k.startswith(kind) for k in found)
    assert left_out == (not report.errors)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"bbox": [1, 1, 0.2, 3]}, "box or area below one pixel, mmdet leaves it out"),
        ({"bbox": [5, 1, 9, 3]}, "box reaches outside its image"),
        ({"bbox": [1, 1, 4, 6.8]}, "box reaches outside its image"),
        ({"bbox": [1, 1, 7.8, 5.8]}, None),
        ({"segmentation": [[1, 1, 8, 1, 8, 7.2]]}, "polygon reaches outside its image"),
        ({"segmentation": [[1, 1, 8.8, 1, 8, 6.8]]}, None),
    ],
)
def test_coco_warnings(tmp_path, coco_content, values, kind):
    coco_content["annotations"][0].update(values)
    report = coco_report(tmp_path, coco_content)
    assert list(report.warnings) == ([kind] if kind else [])
    assert report.errors == {}


def test_coco_broken_files(tmp_path):
    assert "annotation file is not valid json" in coco_report(tmp_path, "{").errors
    for text in ("[]", '{"images": [1], "annotations": [], "categories": []}'):
        (kind,) = coco_report(tmp_path, text).errors
        assert "lacks one of the lists" in kind
    report = Report()
    assert check_coco_file(report, tmp_path / "absent.json", ("cat",)) is None
    assert list(report.errors) == ["annotation file is missing"]


def test_explain_annotations(tmp_path, coco_content):
    coco_report(tmp_path, coco_content)
    dataset = {
        "data_root": str(tmp_path),
        "ann_file": "instances_val.json",
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


def test_annotations_that_are_written_twice(tmp_path, coco_content):
    twice = [{**entry, "id": entry["id"] + 100} for entry in coco_content["annotations"]]
    number = len(twice)
    coco_content["annotations"] += twice
    report = coco_report(tmp_path, coco_content)
    assert report.errors == {}
    ((kind, examples),) = report.warnings.items()
    assert "written twice" in kind
    assert len(examples) == number
