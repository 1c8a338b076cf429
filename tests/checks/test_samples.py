import numpy as np
import pytest
from mmengine.dataset import Compose
from PIL import Image

from mmvitconv.checks.samples import (
    BadSampleError,
    CheckedPipeline,
    class_numbers,
    conversions,
    explain,
    is_cut_off,
    paths_of,
    png_depth,
)


class Data:
    """The attributes of a dataset that are read."""

    data_root = ""

    def __init__(self):
        self.metainfo = {"classes": ("a", "b")}


class Result:
    """Stands in for the transforms that load, under another name."""

    def __init__(self, **result):
        self.result = result

    def __call__(self, sample):
        return {**sample, **self.result}


def picture(path, mode="RGB", **options):
    Image.effect_noise((64, 48), 50).convert(mode).save(path, **options)
    return str(path)


def test_cut_jpeg_is_told_from_one_with_something_behind(tmp_path):
    # some versions of OpenCV decode the beginning of a cut file, so that no error tells it
    path = picture(tmp_path / "a.JPG")
    content = (tmp_path / "a.JPG").read_bytes()
    assert not is_cut_off(path)
    (tmp_path / "a.JPG").write_bytes(content + b"trailing")
    assert not is_cut_off(path)
    # without the last bytes all pixels may still be there
    for keep in (len(content) * 9 // 10, len(content) // 2, 300):
        (tmp_path / "a.JPG").write_bytes(content[:keep])
        assert is_cut_off(path)
    assert not is_cut_off(picture(tmp_path / "a.png"))
    sample = {"img_path": path}
    pipeline = CheckedPipeline(Compose([Result(ori_shape=(48, 64))]), Data())
    with pytest.raises(BadSampleError, match=r"decoded as an image \(cut off"):
        pipeline(sample)


def test_conversions(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = tmp_path / "16.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(sixteen)
    found = {
        picture(tmp_path / "rgb.jpg"): [],
        picture(tmp_path / "l.jpg", "L"): ["grayscale"],
        picture(tmp_path / "la.png", "LA"): ["grayscale", "transparent"],
        picture(tmp_path / "1.png", "1"): ["grayscale"],
        picture(tmp_path / "cmyk.jpg", "CMYK"): ["CMYK"],
        picture(tmp_path / "p.png", "P"): ["palette"],
        picture(tmp_path / "rgba.png", "RGBA"): ["transparent"],
        picture(tmp_path / "turned.jpg", exif=exif): ["EXIF-rotated"],
        picture(tmp_path / "turned.png", exif=exif): ["EXIF-rotated"],
        picture(tmp_path / "turned.tif", exif=exif): ["EXIF-rotated"],
        str(sixteen): ["16-bit"],
    }
    assert {path: conversions(path) for path in found} == found
    assert png_depth(str(sixteen)) == 16
    assert png_depth(picture(tmp_path / "8.png")) == 8
    assert png_depth(picture(tmp_path / "8.jpg")) == 0


def test_paths_and_classes_of_a_sample():
    sample = {
        "img_path": "a",
        "img_paths": ["b", "c"],
        "seg_map_path": None,
        "images": [{"img_path": "d"}],
        "caption": "/no/path",
        "instances": [{"bbox_label": 3}, {"bbox": 1}],
    }
    assert paths_of(sample) == ["a", "b", "c", "d"]
    assert class_numbers(sample) == [3]
    assert class_numbers({"gt_label": [1, 2]}) == [1, 2]
    assert class_numbers({"gt_label": 0}) == [0]
    assert class_numbers({}) == []


def test_explain_looks_at_all_files(tmp_path):
    good, bad = picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"")
    error = ValueError("too\nbad")
    assert explain(error, [good, str(bad)], good).file == str(bad)
    assert "missing" in explain(error, [good, str(tmp_path / "c")], good).kind
    assert explain(error, [good], good)[1:] == (good, "ValueError: too bad")
    assert explain(error, ["s3://bucket/a.png"], "s3://bucket/a.png").kind == (
        "sample cannot be loaded"
    )


BOXES = np.array([[1, 1, 5, 5], [2, 2, 9, 9]], np.float32)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ({"gt_bboxes": BOXES, "gt_bboxes_labels": np.array([0, 1])}, None),
        ({"gt_bboxes": BOXES * np.nan}, "NaN"),
        ({"gt_bboxes": BOXES * [1, 1, np.inf, 1]}, "infinity"),
        ({"gt_bboxes": BOXES * [1, 1, 0.1, 1]}, "zero or negative area"),
        ({"gt_bboxes": BOXES + 100}, "outside its image"),
        ({"gt_bboxes": BOXES - 100}, "outside its image"),
        ({"gt_bboxes": BOXES + 6}, None),
        ({"gt_bboxes": BOXES, "gt_bboxes_labels": np.array([0, 2])}, "label of a box is unknown"),
        ({"gt_bboxes": BOXES, "gt_bboxes_labels": np.array([0, -1])}, "label of a box is unknown"),
        ({"gt_bboxes": BOXES, "gt_masks": np.zeros((4, 5, 10))}, "mask has another size"),
        ({"gt_bboxes": np.zeros((0, 4))}, None),
        ({"gt_label": 1}, None),
        ({"gt_label": 2}, "class number is unknown"),
        ({"gt_label": [0, 5]}, "class number is unknown"),
        ({"gt_seg_map": np.zeros((10, 10), np.uint8)}, None),
        ({"gt_seg_map": np.zeros((10, 9), np.uint8)}, "label map has another size"),
        ({"gt_seg_map": np.zeros((10, 10, 3), np.uint8)}, "colours"),
        # numbers of mmdet's panoptic maps are no class numbers
        ({"gt_seg_map": np.full((10, 10), 7, np.uint8)}, None),
    ],
)
def test_loaded_samples(result, kind):
    pipeline = CheckedPipeline(Compose([Result(ori_shape=(10, 10), **result)]), Data())
    if kind is None:
        pipeline({"img_path": "a.jpg.gone"})
    else:
        with pytest.raises(BadSampleError, match=kind):
            pipeline({"img_path": "a.jpg.gone"})


def test_class_number_of_a_sample_without_an_image():
    with pytest.raises(BadSampleError, match="class number is unknown"):
        CheckedPipeline(Compose([Result(gt_label=2)]), Data())({})


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("ignored", [255, 254, 0])
def test_labels_of_maps(kind, ignored):
    class Maps(Data):
        reduce_zero_label = False
        ignore_index = ignored

    for label in range(256):
        values = np.full((3, 3), 1, kind)
        values[1, 2] = label
        pipeline = CheckedPipeline(Compose([Result(ori_shape=(3, 3), gt_seg_map=values)]), Maps())
        if label in (0, 1, ignored):
            pipeline({})
        else:
            with pytest.raises(BadSampleError, match=f"unknown label .{label}, legal"):
                pipeline({})
