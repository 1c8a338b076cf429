"""Every place where a checkpoint can be named takes a name, and no message or title mangles it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint
from PIL import Image
from weights import servers

from mmvitconv.apis import Predictor
from mmvitconv.cli import run
from mmvitconv.engine.checkpoint import use_safe_loading
from mmvitconv.export.subject import load_subject
from mmvitconv.models import FCViT
from mmvitconv.weights import load_backbone
from mmvitconv.zoo.loading import load_model

NAME = "mmvitconv://fcvit_tiny"
CONFIG = "fcvit_tiny_mnist"


@pytest.fixture(scope="module")
def file():
    """A classifier of ten digits in our layout."""
    content = io.BytesIO()
    torch.save({"state_dict": load_model(CONFIG, device="cpu").module.state_dict()}, content)
    return content.getvalue()


@pytest.fixture(autouse=True)
def mirror(file, tmp_path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))
    with servers.serve() as server:
        server.files["/fcvit_tiny/fcvit_tiny.pth.tar"] = file
        server.files["/host/a/fcvit.pth"] = file
        monkeypatch.setenv("MMVITCONV_MIRROR", server.url)
        yield server


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("checkpoint", "title"),
    [
        (NAME, NAME),
        (Path(NAME), NAME),
        ("https://host/a/fcvit.pth", "fcvit.pth"),
        (Path("https://host/a/fcvit.pth"), "fcvit.pth"),
    ],
)
@pytest.mark.parametrize(("source", "part"), [(CONFIG, "model"), ("fcvit_tiny", "backbone")])
def test_models(checkpoint, title, source, part):
    assert load_model(source, checkpoint, part=part).weights == f"weights of {title}"


@pytest.mark.parametrize("checkpoint", [NAME, Path(NAME)])
def test_predictor(checkpoint):
    assert Predictor(CONFIG, checkpoint, device="cpu").checkpoint == NAME


def test_predict(image, tmp_path):
    out = tmp_path / "out"
    assert run("predict", CONFIG, NAME, image, "--out", str(out), "--device", "cpu") == 0
    assert json.loads((out / "predictions.json").read_text())["checkpoint"] == NAME


def test_export():
    assert load_subject("fcvit_tiny", Path(NAME)).metadata["checkpoint"] == NAME


def test_pictures(image, tmp_path, capsys):
    out = str(tmp_path / "picture.png")
    options = ("--checkpoint", NAME, "--image", image, "--out", out, "--device", "cpu")
    assert run("similarity", "FCViT:tiny", *options) == 0


def test_convert(tmp_path, capsys):
    assert run("convert", "fcvit", NAME, str(tmp_path / "converted.pth")) == 1
    assert f"error: {NAME}: " in capsys.readouterr().err  # it is in our layout already


def test_backbones(monkeypatch):
    model = FCViT("tiny", init_cfg={"type": "Pretrained", "checkpoint": NAME})
    model.init_weights()
    other = FCViT("tiny")
    load_backbone(other, NAME)
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_whatever_mmengine_loads(safe_loading):
    model = load_model(CONFIG, device="cpu").module
    use_safe_loading()
    assert load_checkpoint(model, NAME)["state_dict"].keys() == model.state_dict().keys()


@pytest.mark.parametrize("checkpoint", ["mmvitconv://fcvit_tiny_", "https://host/b//gone.pth"])
@pytest.mark.parametrize(
    "command",
    [
        ("predict", CONFIG, "{}", "image.png", "--out", "out"),
        ("export", "fcvit_tiny", "{}", "--out", "model.onnx"),
        ("similarity", "FCViT:tiny", "--checkpoint", "{}"),
        ("convert", "fcvit", "{}", "out.pth"),
    ],
    ids=lambda command: command[0],
)
def test_a_wrong_address_is_said_as_it_was_given(checkpoint, command, capsys, monkeypatch, image):
    monkeypatch.chdir(Path(image).parent)
    assert run(*(word.format(checkpoint) for word in command)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert checkpoint.removeprefix("mmvitconv://") in line
