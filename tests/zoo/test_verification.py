"""Published weights on the user's copy of the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import shallow
from mmengine.registry import DefaultScope
from PIL import Image

from mmvitconv import cli
from mmvitconv.errors import UserError
from mmvitconv.resources import resource_root
from mmvitconv.weights import index
from mmvitconv.zoo.loading import load_model
from mmvitconv.zoo.verification import Figure, has_data, to_markdown, verify

FILE = "tiny.pth"


@pytest.fixture
def entry(tmp_path, monkeypatch) -> index.Weights:
    """Weights of a classifier of digits, in the cache, known by name."""
    config = tmp_path / "tiny.py"
    base = resource_root() / "configs/fcvit/fcvit_tiny_mnist.py"
    config.write_text(
        f"_base_ = {str(base)!r}\n"
        f"model = dict(backbone=dict(arch=dict(_delete_=True, **{shallow('FCViT')})))\n"
        "test_dataloader = dict(num_workers=0, persistent_workers=False)\n"
    )
    (source,) = index.find_weights("fcvit_tiny").sources
    entry = replace(
        index.find_weights("fcvit_tiny"),
        name="tiny_digits",
        config=str(config),
        published={"Top 1 Accuracy": 12.5},
        sources=(replace(source, file=FILE),),
    )
    monkeypatch.setitem(index.read_index(), entry.name, entry)
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / entry.name).mkdir(parents=True)
    model = load_model(str(config), device="cpu").module
    torch.save({"state_dict": model.state_dict()}, tmp_path / "home" / entry.name / FILE)
    return entry


@pytest.fixture
def digits(tmp_path):
    """Two noisy images of each digit, in another place than the config says."""
    generator = np.random.default_rng(0)
    for digit in range(10):
        folder = tmp_path / "mine" / "val" / str(digit)
        folder.mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "mine"


def test_measured_is_what_the_model_gives(
    entry, digits, tmp_path, runner_state, safe_loading, capsys
):
    loaded = load_model(entry.config, entry.uri, device="cpu")
    right = []
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.no_grad():
        for path in sorted(digits.glob("val/*/*.png")):
            pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
            x = (pixels - loaded.mean) / loaded.std
            scores = loaded.module(torch.tensor(x, dtype=torch.float32).permute(2, 0, 1)[None])
            right.append(scores.argmax().item() == int(path.parent.name))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not has_data(entry, [str(empty)])
    assert has_data(entry, [str(empty), str(digits)])
    (figure,) = verify(entry, [str(empty), str(digits)])
    assert (figure.name, figure.published) == ("tiny_digits", 12.5)
    assert figure.measured == pytest.approx(100 * np.mean(right), abs=1e-4)  # float32 percent
    assert cli.run("weights", "verify", "tiny_digits", "--data", str(digits)) == 0
    assert f"published 12.5, measured {figure.measured:.2f}" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_said(entry, tmp_path):
    with pytest.raises(UserError, match="tiny_digits cannot be evaluated: it is a link only"):
        verify(replace(entry, loads=False), [])
    with pytest.raises(UserError, match=r"not there. Missing:\n.*nowhere"):
        verify(entry, [str(tmp_path / "nowhere")])


@pytest.mark.parametrize("words", [(), ("fcvit_s12", "--all")])
def test_names_or_all(words):
    with pytest.raises(SystemExit) as stopped:
        cli.run("weights", "verify", *words)
    assert stopped.value.code == 2


def test_table():
    figure = Figure("fcvit_s12_maskrcnn_coco", "box AP", 42.3, 42.25, "README")
    assert to_markdown([figure]).splitlines()[2] == (
        "| `fcvit_s12_maskrcnn_coco` | box AP | 42.3 | 42.25 | -0.05 |"
    )
