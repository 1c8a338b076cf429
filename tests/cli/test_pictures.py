"""The commands that draw pictures, from the command line to the files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmvitconv.cli import run
from mmvitconv.models.backbones.fcvit import FCViT

COMMANDS = ("erf", "similarity", "attention", "attention-stats", "gradcam")
MNIST = "configs/fcvit/fcvit_tiny_mnist.py"
VIT = "configs/dynconv/dynconv_deit_nano_lnrelu_mnist.py"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A grey image with an odd size and a name that is no formula."""
    path = tmp_path / "images" / "Bild $ü_1$.png"
    path.parent.mkdir()
    Image.fromarray(np.arange(41 * 57, dtype=np.uint8).reshape(41, 57)).save(path)
    return path


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return min(picture.size) > 300 and np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys):
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert f"usage: mmvitconv {command}" in capsys.readouterr().out


def test_erf(tmp_path, image: Path, capsys):
    torch.manual_seed(0)
    torch.save(FCViT("tiny").state_dict(), tmp_path / "best.pth")
    out = tmp_path / "new" / "a.png"
    models = ("FCViT:tiny", "FCViT:tiny", "--checkpoint", "-", str(tmp_path / "best.pth"))
    images = ("--images", str(image.parent), "--size", "64", "--count", "2")
    arguments = ("erf", *models, *images, "--out")
    assert run(*arguments, str(out)) == 0
    assert is_picture(out)
    assert f"wrote {out}" in capsys.readouterr().out
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["threshold"] for row in rows] == ["0.2", "0.3", "0.5", "0.99"] * 2
    assert len({row["model"] for row in rows}) == 2
    # with layer scales of 1 the blocks reach farther than with the small ones of the file
    assert int(rows[3]["side"]) > int(rows[7]["side"])
    settings = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["settings"]
    assert settings["images"] == "1 images of images"
    assert [name.partition("\n")[2] for name in settings["models"]] == [
        "random weights, seed 0, layer scales 1",
        "weights of best.pth",
    ]
    assert run(*arguments, str(tmp_path / "b.png")) == 0
    assert (tmp_path / "b.csv").read_bytes() == out.with_suffix(".csv").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "mmdet.ResNet", "depth": 18},
        {"type": "mmpretrain.ConvNeXt", "arch": "atto", "gap_before_final_norm": False},
    ],
    ids=lambda backbone: backbone["type"],
)
def test_erf_of_other_projects(tmp_path, backbone: dict):
    config = tmp_path / "other.py"
    config.write_text(f"default_scope = 'mmdet'\nmodel = dict(backbone={backbone!r})\n")
    out = tmp_path / "a.png"
    images = ("--size", "64", "--count", "1")
    assert run("erf", str(config), "fcvit_tiny_mnist", *images, "--out", str(out)) == 0
    assert is_picture(out)


def test_similarity(tmp_path, image: Path):
    out = tmp_path / "a.png"
    arguments = ("--image", str(image), "--size", "64", "96", "--stage", "3", "--out", str(out))
    assert run("similarity", MNIST, "--heads", *arguments) == 0
    assert is_picture(out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("LightViT:tiny", "--size", "64", "--layer", "stages.1.5.attn"),
        ("LightViT:tiny", "--size", "64", "--layer", "stages.1.5.attn", "--read", "--head", "3"),
        (VIT, "--query", "63", "0"),
        (VIT,),
    ],
    ids=["gather", "read", "query", "centre"],
)
def test_attention(tmp_path, arguments: tuple[str, ...]):
    out = tmp_path / "a.png"
    assert run("attention", *arguments, "--out", str(out)) == 0
    assert is_picture(out)


def test_attention_stats(tmp_path, image: Path):
    out = tmp_path / "a.png"
    assert run("attention-stats", VIT, "--images", str(image.parent), "--out", str(out)) == 0
    assert is_picture(out)
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        assert [row["depth"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


def test_gradcam(tmp_path, image: Path, capsys):
    out = tmp_path / "a.png"
    arguments = (VIT, "-", str(image), "--target", "7", "--out", str(out))
    assert run("gradcam", *arguments) == 0
    assert is_picture(out)
    assert "class 7: 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("erf", "FCViT:tinny"), "there is no architecture 'FCViT:tinny'"),
        (("erf", "FCViT:tiny", "--checkpoint", "-", "-"), "2 files for 1 models"),
        (("erf", "FCViT:tiny", "--checkpoint", "none.pth"), "'none.pth' does not exist"),
        (("erf", "FCViT:tiny", "--images", "nowhere"), "nowhere"),
        (("erf", "FCViT:tiny", "--out", "a.txt"), "'a.txt' is not the name of a picture"),
        (("erf", "FCViT:tiny", "--stage", "4", "--size", "32"), "-4 to 3, got 4"),
        (("similarity", "LightViT:tiny", "--size", "32"), "no similarity of tokens"),
        (("similarity", "FCViT:tiny", "--image", "no.png"), "there is no image file 'no.png'"),
        (("attention", "FCViT:tiny", "--size", "32"), "no attention weights that can be read"),
        (("attention", VIT, "--query", "64", "0"), "outside of the image of 64 x 64"),
        (("attention", VIT, "--read"), "no attention of global tokens"),
        (("attention", "LightViT:tiny", "--size", "32", "--query", "1", "1"), "leave --query out"),
        (("attention-stats", VIT, "--image", "a", "--images", "b"), "give one of them"),
        (("gradcam", "no.py", "-", "-"), "there is no config file 'no.py'"),
        (("gradcam", "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py", "-", "-"), "for classifiers"),
        (("gradcam", VIT, "-", "-", "--target", "10"), "there is no class '10'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str, tmp_path, capsys):
    out = () if "--out" in arguments else ("--out", str(tmp_path / "a.png"))
    assert run(*arguments, *out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"mmvitconv {arguments[0]}: error: ")
    assert not (tmp_path / "a.png").exists()


def test_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run("similarity", "FCViT:tiny", "--size", "0")
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        run("attention", "FCViT:tiny", "--size", "1", "2", "3")
    assert ended.value.code == 2
