"""Images of all kinds come in; pictures and their models come as they are asked for."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmvitconv.analysis.pictures import (
    check_picture_path,
    fit,
    load_source,
    new_figure,
    plain,
    read_image,
    sample_image,
    save_figure,
)
from mmvitconv.analysis.subjects import Subject, load_subject
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models.backbones.fcvit import FCViT

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
    with pytest.raises(UserError, match=r"a.png' cannot be read as an image"):
        read_image(tmp_path / "a.png")
    Image.fromarray(COLOURS.repeat(40, 0).repeat(40, 1)).save(tmp_path / "b.png")
    cut = (tmp_path / "b.png").read_bytes()[:400]
    (tmp_path / "b.png").write_bytes(cut)
    with pytest.raises(UserError, match="cannot be read"):
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
        with pytest.raises(UserError, match="no name for a picture"):
            check_picture_path(wrong)
    with pytest.raises(UserError, match="cannot be written"):
        check_picture_path(paths[0] / "a.png")


def test_inputs_are_normalised_like_the_models():
    facts = {"mean": (1.0, 2.0, 3.0), "std": (2.0, 4.0, 5.0)}
    pixels = COLOURS.astype(np.float32)
    conv = torch.nn.Conv2d(3, 1, 1)
    found = Subject("a", conv, "", (6, 9), **facts).to_input(COLOURS)
    wanted = (pixels - [1, 2, 3]) / [2, 4, 5]
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), wanted, rtol=1e-5, atol=1e-5)
    found = Subject("a", conv, "", (6, 9), **facts, is_rgb=False).to_input(COLOURS)
    wanted = (pixels[:, :, ::-1] - [1, 2, 3]) / [2, 4, 5]
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), wanted, rtol=1e-5, atol=1e-5)
    model = FCViT("tiny", in_channels=1, out_indices=(0,))
    assert Subject("a", model, "", (6, 9)).to_input(COLOURS).shape == (1, 1, 6, 9)
    model = FCViT("tiny", in_channels=5, out_indices=(0,))
    with pytest.raises(UserError, match="takes 5 channels"):
        Subject("a", model, "", (6, 9)).to_input(COLOURS)


def test_models_by_name_are_fixed_by_their_seed(tmp_path):
    state = torch.random.get_rng_state()
    first, again, other = (load_subject("FCViT:tiny", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [subject.model.state_dict()["stages.0.0.token_mixer.mixes.0.dwconv.weight"]
               for subject in (first, again, other)]  # fmt: skip
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.title == "FCViT:tiny (random weights, seed 1)"
    assert not first.model.training

    file = tmp_path / "best.pth"
    torch.save({"state_dict": first.model.state_dict()}, file)
    loaded = load_subject("FCViT:tiny", file, seed=2)
    assert loaded.title == "FCViT:tiny (weights of best.pth)"
    assert all(map(torch.equal, first.model.state_dict().values(),
                   loaded.model.state_dict().values()))  # fmt: skip
    with pytest.raises(CheckpointError, match=r"best.pth: the checkpoint does not belong"):
        load_subject("LightViT:tiny", file)


def test_models_of_timm(tmp_path):
    pytest.importorskip("timm")
    subject = load_subject("timm:resnet10t", seed=3)
    assert (subject.shape, subject.in_channels) == ((176, 176), 3)
    assert subject.mean == pytest.approx((123.675, 116.28, 103.53))
    torch.save(subject.model.state_dict(), tmp_path / "a.pth")
    load_subject("timm:resnet10t", tmp_path / "a.pth", seed=4)
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="does not belong"):
        load_subject("timm:resnet10t", tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"timm has no model 'deit_tin'; did you mean"):
        load_subject("timm:deit_tin")


def test_models_of_configs(tmp_path):
    path = tmp_path / "mine.py"
    Config(
        {
            "default_scope": "mmpretrain",
            "model": {
                "type": "ImageClassifier",
                "data_preprocessor": {"mean": [33.0] * 3, "std": [79.0] * 3},
                "backbone": {
                    "type": "mmvitconv.LightViT",
                    "out_indices": (2,),
                    "out_type": "raw",
                    "init_cfg": {"type": "Pretrained", "checkpoint": "nowhere.pth"},
                },
            },
            "test_pipeline": [{"type": "Resize", "scale": 64}],
        }
    ).dump(path)
    subject = load_subject(str(path))
    assert (subject.name, subject.shape) == ("mine", (64, 64))
    assert (subject.mean, subject.std, subject.is_rgb) == ((33.0,) * 3, (79.0,) * 3, False)
    assert subject.model(torch.randn(1, 3, 64, 64))[0].shape == (1, 256, 2, 2)
    assert load_subject(str(path), shape=(32, 48)).shape == (32, 48)
    path.write_text("default_scope = 'mmdet'\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"has no model\.backbone"):
        load_subject(str(path))


def test_names_that_mean_nothing():
    with pytest.raises(UserError, match="there is no architecture 'FCViT:tinny'; did you mean"):
        load_subject("FCViT:tinny")
