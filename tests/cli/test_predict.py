import json
from pathlib import Path

import numpy as np
import pytest
import torch
from apis.tiny import CONFIGS, save_checkpoint
from PIL import Image

from mmvitconv.cli import run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("classification", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(("a.png", "a.jpg", "inside/a.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28), 80 * number, np.uint8)).save(folder / name)
    return folder


def test_a_folder(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (images / "broken.png").write_text("no image")
    out = tmp_path / "out"
    arguments = [str(CONFIGS["classification"]), str(checkpoint), str(images), "--out", str(out)]
    options = ["--recursive", "--top-k", "2", "--batch-size", "2", "--device", "cpu"]
    assert run("predict", *arguments, *options) == 0
    output = capsys.readouterr()
    assert output.out.startswith("3 images, 1 left out, ")
    assert f"on cpu: {out / 'predictions.json'}" in output.out
    assert "left out: " in output.err
    assert "broken.png: the file cannot be decoded" in output.err
    content = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    pictures = [entry["picture"] for entry in content["predictions"]]
    assert sorted(pictures) == ["a.jpg.png", "a.png.png", "inside/a.png.png"]
    assert all((out / picture).is_file() for picture in pictures)
    assert all(len(entry["labels"]) == 2 for entry in content["predictions"])


def test_random_weights(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(CONFIGS["classification"]), "none", str(images / "a.png")]
    assert run("predict", *arguments, "--out", str(tmp_path / "out"), "--device", "cpu") == 0
    output = capsys.readouterr()
    assert "the weights are random" in output.err
    assert output.out.startswith("1 image, ")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert content["checkpoint"] is None
    assert [entry["picture"] for entry in content["predictions"]] == ["a.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "missing.png"}, "there is no image or folder"),
        ({"image": "empty"}, "holds no image"),
        ({"image": "text.png"}, "text.png: the file cannot be decoded as an image"),
        ({"config": "missing.py"}, "there is no config"),
        ({"config": str(CONFIGS["segmentation"])}, "does not hold the weights"),
        ({"checkpoint": "missing.pth"}, "does not exist"),
        ({"checkpoint": "text.png"}, "text.png"),
        ({"options": ["--batch-size", "-1"]}, "batch size must be at least 1, got -1"),
        ({"options": ["--score-threshold", "1.2"]}, "between 0 and 1, got 1.2"),
        ({"options": ["--top-k", "0"]}, "top-k must be at least 1"),
        ({"options": ["--device", "cuda:99"]}, "the device 'cuda:99' cannot be used"),
        ({"options": ["--cfg-options", "modle.head=1"]}, "did you mean 'model'"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_sentence(
    changes: dict,
    message: str,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    given = {
        "config": str(CONFIGS["classification"]),
        "checkpoint": str(checkpoint),
        "image": str(images),
        "options": [],
        **changes,
    }
    names = [given[name] for name in ("config", "checkpoint", "image")]
    options = given["options"] + (["--device", "cpu"] if "--device" not in given["options"] else [])
    assert run("predict", *names, "--out", "out", *options) == 1
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("mmvitconv predict: error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_code_in_a_checkpoint_never_runs(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"a": Trap()}}, tmp_path / "trap.pth")
    arguments = [str(CONFIGS["classification"]), str(tmp_path / "trap.pth"), str(images)]
    assert run("predict", *arguments, "--out", str(tmp_path / "out")) == 1
    assert "trap.pth" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_wrong_command_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("predict", "config.py", "checkpoint.pth")
    assert stopped.value.code == 2
    assert "mmvitconv predict" in capsys.readouterr().err
