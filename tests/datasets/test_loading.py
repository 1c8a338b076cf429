"""Images of any depth and number of bands, in training and in predictions alike."""

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from mmvitconv.apis.images import build_pipeline, decode, decode_to_show
from mmvitconv.datasets.image_files import look_at, read_bands
from mmvitconv.datasets.loading import LoadBands
from mmvitconv.errors import UserError

SHAPE = (12, 18)


def write(path, bands, dtype=np.uint16):
    """Write numbers of 0 to 4095, in the order of the file."""
    values = np.random.default_rng(0).integers(0, 4096, (*SHAPE, bands))
    values = values.astype(dtype)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.stem == "stack":
        cv2.imwritemulti(str(path), [np.ascontiguousarray(values[..., i]) for i in range(bands)])
    else:
        order = [2, 1, 0, 3][:bands] if bands > 2 else [0]
        cv2.imwrite(str(path), values[..., order])
    return values


@pytest.mark.parametrize(
    ("name", "bands", "dtype"),
    [
        ("gray.png", 1, np.uint16),
        ("gray.tif", 1, np.uint16),
        ("gray_float.tif", 1, np.float32),
        ("colour.png", 3, np.uint16),
        ("colour.tif", 3, np.uint16),
        ("four.png", 4, np.uint16),
        ("four.tif", 4, np.uint16),
        ("stack.tif", 7, np.uint16),
        ("many.npy", 12, np.float32),
    ],
)
def test_numbers_and_looks(name, bands, dtype, tmp_path):
    path = tmp_path / name
    values = write(path, bands, dtype)
    np.testing.assert_array_equal(read_bands(path.read_bytes()), values)
    assert look_at(path) == (SHAPE[::-1], bands, 8 * np.dtype(dtype).itemsize, False)
    step = {"type": "mmvitconv.LoadBands", "value_range": (0, 4095)}
    loaded = TRANSFORMS.build(step)({"img_path": str(path)})
    np.testing.assert_allclose(loaded["img"], values * (255 / 4095), rtol=1e-5)
    assert loaded["ori_shape"] == loaded["img_shape"] == SHAPE
    with DefaultScope.overwrite_default_scope("mmengine"):
        loading, _ = build_pipeline([step])
    np.testing.assert_array_equal(decode(path, loading), loaded["img"])
    shown = decode_to_show(path, loading)
    assert (shown.shape, shown.dtype) == ((*SHAPE, 3), np.uint8)
    np.testing.assert_array_equal(shown[..., 0], loaded["img"][..., 0].round())


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", (1, 8)), ("RGB", (3, 8)), ("RGBA", (4, 8)), ("P", (3, 8))]
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_looks_at_eight_bits(mode, expected, suffix, tmp_path):
    Image.new(mode, (9, 5)).save(tmp_path / f"a{suffix}")
    assert look_at(tmp_path / f"a{suffix}") == ((9, 5), *expected, False)


def test_a_turned_photograph_has_the_size_that_is_loaded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 5)).save(tmp_path / "a.jpg", exif=exif)
    assert look_at(tmp_path / "a.jpg").size == (5, 9)


def test_percentiles_are_of_each_band():
    values = np.stack([np.arange(101.0), 1000 + 10 * np.arange(101.0)], axis=1)[None]
    scaled = LoadBands(percentiles=(10, 90)).rescale(values)
    np.testing.assert_allclose(scaled[..., 0], scaled[..., 1], rtol=1e-4)
    assert (scaled.min(), scaled.max()) == (0, 255)
    assert (scaled[0, :, 0] == 0).sum() == 11


def test_bands_in_an_order_of_ones_own():
    values = np.float32([[[0, 50, 100]]])
    step = LoadBands(value_range=(0, 100), bands=(2, 2, 0))
    assert step.rescale(values).tolist() == [[[255.0, 255.0, 0.0]]]
    with pytest.raises(UserError, match=r"a\.tif has 3 bands, but .* band 5"):
        LoadBands(value_range=(0, 1), bands=(5,)).rescale(values, "a.tif")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"value_range": (5, 5)},
        {"value_range": (0, 1), "percentiles": (1, 99)},
        {"percentiles": (1, 101)},
        {"value_range": (1, 2, 3)},
    ],
)
def test_ranges_that_are_none(settings):
    with pytest.raises(UserError, match=r"value_range|percentiles"):
        LoadBands(**settings)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0" + b"\0" * 40, b"\x93NUMPY\1\0"])
def test_what_is_no_image(content):
    with pytest.raises(UserError, match="the image"):
        read_bands(content)
