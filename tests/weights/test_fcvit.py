"""Original FCViT layouts -> ours: every wrapper, prefix and defect."""

import argparse
import copy
import subprocess
import sys

import pytest
import torch
from oracles import reference
from oracles.fcvit import OracleFCViT
from torch import nn

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models import FCViT
from mmvitconv.weights import adapt_checkpoint, check_match, convert_state_dict, load_backbone
from mmvitconv.weights.convert import find_layout

OPTIONS = {"layers": [1, 2, 1, 1], "embed_dims": [16, 32, 64, 128], "mlp_ratios": [4, 4, 2, 2]}
ARCH = {"depths": (1, 2, 1, 1), "embed_dims": (16, 32, 64, 128), "mlp_ratios": (4, 4, 2, 2)}


def original(num_classes: int | None = None) -> dict:
    return reference.fill_like(OracleFCViT(**OPTIONS, num_classes=num_classes).state_dict())


def features(model: nn.Module) -> list:
    images = torch.linspace(-2, 2, 3 * 64 * 64, dtype=torch.float64).view(1, 3, 64, 64)
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(images)


def assert_loaded(model: FCViT, state_dict: dict) -> None:
    oracle = OracleFCViT(**OPTIONS)
    oracle.load_state_dict(state_dict)
    for out, expected in zip(features(model), features(oracle), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: sd,
        lambda sd: {"state_dict": sd, "epoch": 3, "args": argparse.Namespace(lr=1)},
        lambda sd: {"model": sd},
        lambda sd: {"state_dict_ema": sd},
        lambda sd: {"model_ema": {f"module.{k}": v for k, v in sd.items()}},
        lambda sd: {"state_dict": {f"module.{k}": v for k, v in sd.items()}},
        lambda sd: {"state_dict": {f"backbone.{k}": v for k, v in sd.items()}, "meta": {}},
        lambda sd: {f"module.backbone.{k}": v for k, v in sd.items()},
    ],
)
def test_every_wrapping_loads_through_init_cfg(wrap, tmp_path):
    torch.save(wrap(original()), tmp_path / "a.pth.tar")
    config = {"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth.tar")}
    model = FCViT(ARCH, init_cfg=config)
    model.init_weights()
    assert_loaded(model, original())


def test_classifier_goes_to_backbone_and_head():
    converted = convert_state_dict(original(7), "fcvit")
    assert {k.partition(".")[0] for k in converted} == {"backbone", "head"}
    assert converted["head.fc.weight"].shape == (7, 128)
    own = FCViT(ARCH, out_indices=(3,)).state_dict()
    assert {k for k in converted if k.startswith("backbone.")} == {f"backbone.{k}" for k in own}


def test_detector_keeps_its_other_parts():
    others = {"neck.lateral_convs.0.conv.weight": torch.ones(1), "roi_head.x": torch.ones(1)}
    state_dict = {**{f"backbone.{k}": v for k, v in original().items()}, **others}
    converted = convert_state_dict({"state_dict": state_dict}, "fcvit")
    assert set(others) < set(converted)
    assert {f"backbone.{k}" for k in FCViT(ARCH).state_dict()} == set(converted) - set(others)


@pytest.mark.parametrize("num_classes", [None, 7])
def test_each_missing_key_is_named(num_classes):
    complete = original(num_classes)
    for key in complete:
        if key in ("norm0.weight", "norm0.bias"):
            continue
        with pytest.raises(CheckpointError) as caught:
            convert_state_dict({k: v for k, v in complete.items() if k != key}, "fcvit")
        assert f"missing: {key}" in str(caught.value)


def test_norm0_may_be_absent_as_a_whole():
    """The original drops it on demand (its FORK_LAST3), for RetinaNet."""
    state_dict = {k: v for k, v in original().items() if not k.startswith("norm0.")}
    assert "backbone.norm0.weight" not in convert_state_dict(state_dict, "fcvit")
    del (half := original())["norm0.bias"]
    with pytest.raises(CheckpointError, match=r"missing: norm0\.bias"):
        convert_state_dict(half, "fcvit")


@pytest.mark.parametrize("key", ["extra.weight", "network.0.0.token_mixer.dw3.weight", "aux.bias"])
def test_each_left_over_key_is_named(key):
    with pytest.raises(CheckpointError, match=f"1 unexpected: {key}"):
        convert_state_dict({**original(), key: torch.ones(1)}, "fcvit")


def test_wrong_use():
    with pytest.raises(UserError, match=r"unknown family 'vit'; known: .*fcvit"):
        convert_state_dict(original(), "vit")
    with pytest.raises(CheckpointError, match="holds no weights"):
        convert_state_dict({}, "fcvit")
    with pytest.raises(CheckpointError, match="epoch are not tensors"):
        convert_state_dict({"epoch": 3}, "fcvit")


def test_recognise():
    assert find_layout(original()) == find_layout(original(7)) == "fcvit"
    assert find_layout(FCViT(ARCH).state_dict()) is None
    assert find_layout({"conv1.weight": 0, "patch_embed.proj.weight": 0}) is None


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_our_own_checkpoints(prefix, tmp_path):
    source = FCViT(ARCH)
    torch.save(
        {"state_dict": {prefix + k: v for k, v in source.state_dict().items()}}, tmp_path / "a.pth"
    )
    for given in (None, prefix or None):
        model = FCViT(ARCH)
        load_backbone(model, str(tmp_path / "a.pth"), given)
        assert all(
            torch.equal(a, b) for a, b in zip(features(model), features(source), strict=True)
        )


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2), (0,)])
def test_classification_weights_in_dense_models(out_indices, tmp_path):
    torch.save(original(7), tmp_path / "a.pth")
    model = FCViT(ARCH, out_indices=out_indices)
    load_backbone(model, str(tmp_path / "a.pth"))
    converted = convert_state_dict(original(7), "fcvit")
    for key, value in model.state_dict().items():
        if key.startswith("norm") and key != "norm3.weight" and key != "norm3.bias":
            assert value.unique().tolist() == [float("weight" in key)]  # as initialised
        else:
            assert torch.equal(value, converted[f"backbone.{key}"])


def test_nothing_is_loaded_partially(tmp_path):
    state_dict = FCViT(ARCH).state_dict()
    other = FCViT({**ARCH, "depths": (2, 2, 1, 1)})
    before = {k: v.clone() for k, v in other.state_dict().items()}
    torch.save(state_dict, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"36 missing: stages\.0\.1\."):
        load_backbone(other, str(tmp_path / "a.pth"))
    wide = FCViT({**ARCH, "embed_dims": (16, 32, 64, 256)})
    with pytest.raises(CheckpointError, match=r"is .* in the file, .* here"):
        load_backbone(wide, str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match=r"has no key below 'trunk\.'"):
        load_backbone(other, str(tmp_path / "a.pth"), prefix="trunk")
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: conv1\.weight"):
        load_backbone(other, str(tmp_path / "b.pth"))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_whole_models():
    class Classifier(nn.Module):
        def __init__(self, num_classes: int):
            super().__init__()
            self.backbone = FCViT(ARCH, out_indices=(3,))
            self.head = nn.Module()
            self.head.fc = nn.Linear(128, num_classes)

    model = Classifier(7)
    adapted = adapt_checkpoint({"state_dict": original(7), "epoch": 4}, model)
    assert adapted["epoch"] == 4
    check_match(adapted["state_dict"], model)
    other_head = Classifier(9)
    check_match(adapted["state_dict"], other_head, scope="backbone")
    with pytest.raises(
        CheckpointError, match=r"head\.fc\.weight is \(7, 128\) in the file, \(9, 128\)"
    ):
        check_match(adapted["state_dict"], other_head)
    del adapted["state_dict"]["head.fc.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: head\.fc\.bias"):
        check_match(adapted["state_dict"], model)


@pytest.mark.slow
def test_the_command(tmp_path):
    torch.save(
        {"state_dict": original(7), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth.tar"
    )

    def run(*args: str) -> subprocess.CompletedProcess:
        tool = "tools/model_converters/convert_official.py"
        return subprocess.run(
            [sys.executable, tool, *args], capture_output=True, text=True, check=False
        )

    target = tmp_path / "out" / "a.pth"
    done = run("fcvit", str(tmp_path / "a.pth.tar"), str(target))
    assert done.returncode == 0, done.stderr
    assert "sha256" in done.stdout
    state_dict = torch.load(target, weights_only=True)["state_dict"]
    assert state_dict.keys() == convert_state_dict(original(7), "fcvit").keys()
    for args, message in (
        (("fcvit", str(tmp_path / "a.pth.tar"), str(target)), "exists already"),
        (("vit", str(tmp_path / "a.pth.tar"), str(tmp_path / "b.pth")), "unknown family 'vit'"),
        (("fcvit", str(tmp_path / "none"), str(tmp_path / "b.pth")), "does not exist"),
    ):
        failed = run(*args)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
