"""Images and names that would cost far more than they are: bombs, giants, damaged files."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from apis.test_drawing import draw, segmentation
from apis.tiny import CONFIGS, ROOT
from PIL import Image

from mmvitconv.apis import Predictor, save_predictions
from mmvitconv.apis.drawing import MOST_PIXELS, MOST_SIDE
from mmvitconv.apis.images import Loading, UnreadableImageError, content_of, decode
from mmvitconv.apis.inference import LEAST_SIDE_SHARE, bounded_size
from mmvitconv.errors import UserError, printable
from mmvitconv.zoo.loading import read_names


def black_png(width: int, height: int) -> bytes:
    """A tiny file of a large image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3000, 2990), (10_000, 10_000), (5, 5)])
def test_the_size_in_which_an_image_is_looked_at(size: tuple[int, int]) -> None:
    for most in (1000, 2**23):
        height, width = bounded_size(*size, most)
        # the sides are whole, and a thin image gets a side that is rounded up
        assert height * width <= most + max(height, width)
        assert min(height, width) >= max(height, width) * LEAST_SIDE_SHARE
    assert bounded_size(480, 640, 2**23) == (480, 640)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (black_png(10_001, 10_000), "10001x10000 are more than 100,000,000 pixels"),
        (black_png(20_000, 20_000), "more than 100,000,000 pixels"),
        (
            saved(Image.new("P", (9, 9)), "GIF").replace(b"a\x09\0\x09\0", b"a\xff\xff\xff\xff"),
            "more",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be decoded"),
    ],
    ids=["png", "png beyond Pillow's limit", "gif", "a program for Ghostscript"],
)
def test_the_header_decides_before_anything_is_decoded(
    data: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("mmcv.imfrombytes", fail)
    (tmp_path / "a.png").write_bytes(data)
    for content in (data, tmp_path / "a.png"):
        for backend in ("cv2", "pillow"):
            with pytest.raises(UnreadableImageError, match=says):
                decode(content, Loading(backend=backend))


def test_the_limit_is_an_option(predictors: dict[str, Predictor]) -> None:
    with pytest.raises(UnreadableImageError, match="30x20 are more than 599 pixels"):
        decode(black_png(30, 20), Loading(max_pixels=599))
    assert decode(black_png(30, 20), Loading(max_pixels=600)).shape == (20, 30, 3)
    with pytest.raises(UnreadableImageError, match="too large"):
        content_of(Image.new("L", (30, 20)), 599)
    with pytest.raises(UserError, match="at least 1, got 0"):
        Predictor(CONFIGS["classification"], device="cpu", max_pixels=0)


@pytest.mark.parametrize("size", [(3000, 3000), (1, 20_000), (20_000, 4)])
def test_giants_are_drawn_smaller_and_their_results_are_not(
    size: tuple[int, int], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmvitconv.apis.inference.MOST_INPUT", 2**16)
    monkeypatch.setattr(predictor, "_most_pixels", 2**17)
    seen = []
    test_step = predictor.model.test_step
    monkeypatch.setattr(
        predictor.model, "test_step", lambda batch: seen.append(batch) or test_step(batch)
    )
    (result,) = predictor.predict(black_png(*size), score_threshold=0.0)
    assert seen[0]["inputs"][0][0].numel() <= 2**16 + 2**11  # one side is rounded up
    width, height = size
    assert (result.width, result.height) == size
    if result.task == "segmentation":
        assert result.class_map.shape == (height, width)
    if result.task == "detection":
        assert all(code["size"] == [height, width] for code in result.codes)
        assert (result.boxes <= np.array(size * 2) * 1.0001).all()
    picture = result.draw()
    assert max(picture.shape) < MOST_SIDE + 1000
    assert picture.size < 3 * 2 * MOST_PIXELS


def test_results_of_a_giant_are_in_its_own_pixels(
    predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image, looked at in its size and in a smaller one."""
    detector = predictors["detection"]
    image = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    image = image.repeat(32, axis=0).repeat(32, axis=1)
    (plain,) = detector.predict(image, score_threshold=0.0)
    monkeypatch.setattr(detector, "_most_pixels", 192 * 192)
    (bounded,) = detector.predict(image, score_threshold=0.0)
    assert np.allclose(plain.boxes, bounded.boxes, atol=1e-3 * 384)
    for mask, (left, top, right, bottom) in zip(bounded.masks, bounded.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):  # two pixels of the image in one of what was looked at
            assert top - 4 <= rows.min() <= rows.max() <= bottom + 4
            assert left - 4 <= columns.min() <= columns.max() <= right + 4
    assert bounded.masks.any()


NAMES = ["\ud800", "a\n\x1b[31mb", "\x00", "x" * 300_000, "\u202egnp", "$" * 100, "", "名前"]


def test_names_from_files_are_cleaned_and_clipped() -> None:
    (names, _) = read_names({"meta": {"dataset_meta": {"classes": NAMES}}}, {})
    assert len(names) == len(NAMES)
    assert all(len(name) <= 200 and name.isprintable() for name in names)
    assert names[-1] == "名前"
    assert printable("a" * 200) == "a" * 200
    assert printable("a" * 201) == "a" * 199 + "…"


def test_long_names_and_many_rows_make_no_giant_picture() -> None:
    names = tuple(f"{number} " + "x" * 300_000 for number in range(150))
    class_map = np.arange(150, dtype=np.uint8).repeat(100).reshape(100, 150)
    picture = draw(segmentation(class_map, classes=names))
    assert max(picture.shape) < 2500


def damaged_images() -> dict[str, bytes]:
    """Fifty files that are no image, or not the one that they seem to be."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (40, 60, 3), np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    good = {
        "jpg": saved(image, "JPEG"),
        "turned.jpg": saved(image, "JPEG", exif=exif),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "png": saved(image, "PNG"),
        "palette.png": saved(image.convert("P"), "PNG", transparency=3),
        "deep.png": saved(Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG"),
        "gif": saved(image.convert("P"), "GIF", save_all=True, append_images=[image] * 3),
        "tiff": saved(image, "TIFF", compression="tiff_lzw"),
        "webp": saved(image, "WEBP"),
        "bmp": saved(image, "BMP"),
    }
    files = {f"good.{name}": data for name, data in good.items()}
    for name, data in good.items():
        cut = int(random.integers(1, len(data)))
        files[f"cut.{name}"] = data[:cut]
        for number in range(3):
            changed = bytearray(data)
            within = len(data) if number == 2 else 40  # most of what a header says
            for place in random.integers(2, within, 6):
                changed[place] = random.integers(256)
            files[f"changed{number}.{name}"] = bytes(changed)
    return files


def test_fifty_damaged_images(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["classification"]
    files = damaged_images()
    assert len(files) == 50
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "missing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "folder.png").mkdir()
    summary = save_predictions(predictor, folder, tmp_path / "out")
    content = json.loads(summary.file.read_text("utf-8"))
    found = {Path(entry["image"]).name for entry in content["predictions"]}
    left_out = {Path(entry["image"]).name: entry["error"] for entry in content["errors"]}
    assert found | left_out.keys() == {*files, "pipe.png", "nowhere.png", "loop.png"}
    assert {name for name in files if name.startswith("good")} <= found
    assert left_out["pipe.png"] == "there is no file, but a pipe or device"
    assert "points nowhere" in left_out["nowhere.png"]
    for reason in left_out.values():
        assert "\n" not in reason
        assert 0 < len(reason) < 200
    for name, data in files.items():
        (result,) = [*predictor.predict([data, files["good.png"]], on_error=lambda *_: None)][-1:]
        assert result.task == "classification", name


@pytest.mark.parametrize("at_once", [1, 5 * 60 * 71, 2**25])
@pytest.mark.parametrize(
    ("classes", "size", "meta"),
    [
        (7, (33, 40), {}),
        (150, (16, 16), {"padding_size": [1, 2, 3, 0]}),
        (3, (60, 71), {"flip": True, "flip_direction": "vertical"}),
        (
            2,
            (9, 9),
            {"flip": True, "flip_direction": "horizontal", "img_padding_size": [0, 1, 0, 2]},
        ),
    ],
)
def test_classes_are_chosen_in_parts(
    monkeypatch: pytest.MonkeyPatch, at_once: int, classes: int, size: tuple, meta: dict
) -> None:
    from mmseg.models import BaseSegmentor
    from mmseg.structures import SegDataSample

    monkeypatch.setattr("mmvitconv.apis.inference.AT_ONCE", at_once)
    segmentor = Predictor(CONFIGS["segmentation"], device="cpu").model
    logits = torch.randn(2, classes, *size, generator=torch.Generator().manual_seed(0))
    logits[:, classes // 2] = logits[:, 0]  # of equal scores the first counts
    samples = [
        [SegDataSample(metainfo={"ori_shape": (60, 71), **meta}) for _ in logits] for _ in range(2)
    ]
    segmentor.postprocess_result(logits, samples[0])
    BaseSegmentor.postprocess_result(segmentor, logits, samples[1])
    for own, theirs in zip(*samples, strict=True):
        assert torch.equal(own.pred_sem_seg.data, theirs.pred_sem_seg.data)


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(CONFIGS))
def test_memory_of_the_largest_images(task: str, tmp_path: Path) -> None:
    """Decoding 100 million pixels takes 300 MB, drawing and results as much again."""
    files = {"thin.png": (1, 60_000), "long.png": (1_000_000, 100), "large.png": (8000, 8000)}
    for name, size in files.items():
        (tmp_path / name).write_bytes(black_png(*size))
    script = f"""
import resource, sys, warnings
warnings.simplefilter("ignore")
from mmvitconv.apis import Predictor
few = {{"model.test_cfg.rcnn.max_per_img": 10}} if {task!r} == "detection" else None
predictor = Predictor({str(CONFIGS[task])!r}, None, "cpu", few)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(result.draw() is not None for result in predictor({str(tmp_path)!r}, batch_size=1))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    count, grown = map(int, result.stdout.split())
    assert count == len(files)
    assert grown < 1500, "MB"


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3), (7, 5, 4)])
def test_arrays_arrive_exactly(shape: tuple[int, ...], backend: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    decoded = decode(content_of(array), Loading(backend=backend))
    rgb = array if array.ndim == 3 and shape[2] > 1 else np.stack([array.reshape(7, 5)] * 3, 2)
    np.testing.assert_array_equal(decoded, rgb[..., 2::-1])
    grey = decode(content_of(array), Loading("unchanged", backend=backend))
    assert grey.ndim == 2 if array.ndim == 2 or shape[2] == 1 else grey.shape[2] == 3
