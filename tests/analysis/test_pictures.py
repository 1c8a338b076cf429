"""Images of all kinds come in; pictures and their models come as they are asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmvitconv.analysis.pictures import (
    check_picture_path,
    fit,
    load_network,
    load_source,
    new_figure,
    open_scene,
    plain,
    read_image,
    sample_image,
    save_figure,
    title_of,
    to_input,
)
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import LoadedModel

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode: str):
    path = tmp_path / "Bild ü.tiff" if mode == "CMYK" else tmp_path / "Bild ü.png"
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(path)
    pixels = read_image(path)
    assert (pixels.shape, pixels.dtype) == ((6, 9, 3), np.uint8)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_deep_images_keep_their_brightness(tmp_path):
    gray = COLOURS[:, :, 0]
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[:, :, 1], gray)
    Image.fromarray(np.float32([[0, 1], [2, 4]]) * 1e-3).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[:, :, 0].tolist() == [[0, 64], [128, 255]]


def test_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(COLOURS, -1))


def test_what_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"a.png' cannot be decoded: it is no image"):
        read_image(tmp_path / "a.png")
    Image.fromarray(COLOURS.repeat(40, 0).repeat(40, 1)).save(tmp_path / "b.png")
    cut = (tmp_path / "b.png").read_bytes()[:400]
    (tmp_path / "b.png").write_bytes(cut)
    with pytest.raises(UserError, match="cannot be decoded"):
        read_image(tmp_path / "b.png")
    with pytest.raises(UserError, match="there is no image file"):
        read_image(tmp_path)


def test_the_sample_image_is_fixed_and_not_empty():
    first, name = load_source(None)
    assert np.array_equal(first, sample_image())
    assert (name, first.shape, first.dtype) == ("sample image", (256, 256, 3), np.uint8)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 100


def test_fitting_cuts_and_does_not_distort():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # a square in the middle
    assert fit(pixels, (10, 10)).min() > 200  # the square, up to its edge
    assert fit(pixels, (7, 31)).shape == (7, 31, 3)


def test_figures_are_written_the_same_each_time(tmp_path):
    paths = [tmp_path / "new" / name for name in ("a.png", "b.png")]
    for path in paths:
        figure = new_figure((3, 2), "a $\\frac$ title", "of_$1")
        figure.subplots().set_title(plain("x" * 80 + "$"))
        save_figure(figure, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for wrong in (tmp_path, tmp_path / "a", tmp_path / "a.txt"):
        with pytest.raises(UserError, match="not the name of a picture"):
            check_picture_path(wrong)
    with pytest.raises(UserError, match="cannot be written"):
        check_picture_path(paths[0] / "a.png")


def test_inputs_are_normalised_like_the_models():
    facts = {"mean": (1.0, 2.0, 3.0), "std": (2.0, 4.0, 5.0)}
    pixels = COLOURS.astype(np.float32)
    conv = torch.nn.Conv2d(3, 1, 1)
    found = to_input(LoadedModel(conv, "a", "", **facts), COLOURS)
    wanted = (pixels - [1, 2, 3]) / [2, 4, 5]
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), wanted, rtol=1e-5, atol=1e-5)
    found = to_input(LoadedModel(conv, "a", "", **facts, is_rgb=False), COLOURS)
    wanted = (pixels[:, :, ::-1] - [1, 2, 3]) / [2, 4, 5]
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert to_input(LoadedModel(conv, "a", "", in_channels=1), COLOURS).shape == (1, 1, 6, 9)
    with pytest.raises(UserError, match="takes 5 channels"):
        to_input(LoadedModel(conv, "a", "", in_channels=5), COLOURS)


def test_models_are_titled_with_their_weights(tmp_path):
    first = load_network("FCViT:tiny", seed=1)
    assert title_of(first) == "FCViT:tiny (random weights, seed 1)"
    torch.save(first.module.state_dict(), tmp_path / "best.pth")
    loaded = load_network("FCViT:tiny", tmp_path / "best.pth", seed=2)
    assert title_of(loaded) == "FCViT:tiny (weights of best.pth)"


def test_a_scene_of_a_whole_model_of_timm():
    scene = open_scene("timm:resnet10t", None, shape=(32, 48))
    assert scene.source.shape == (32, 48, 3)
    assert scene.loaded.module(scene.input).shape == (1, 1000)
    assert scene.note == "timm:resnet10t (random weights, seed 0), sample image"
