"""ConvMixer's three public layouts, and the activation that no tensor shows."""

from pathlib import Path

import mmpretrain.models
import pytest
import timm
import torch
from families import FAMILIES
from oracles.convmixer import oracle
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models import ConvMixer
from mmvitconv.models.backbones import convmixer
from mmvitconv.weights import adapt_checkpoint, check_match, convert_state_dict
from mmvitconv.weights.families.convmixer import arch_from_weights

SIZES = {"embed_dims": 16, "depth": 3, "kernel_size": 4, "patch_size": 5}


def official() -> dict[str, Tensor]:
    return oracle(16, 3, 4, 5, num_classes=6).state_dict()


def of_timm() -> dict[str, Tensor]:
    return timm.models.convmixer.ConvMixer(16, 3, 4, 5, num_classes=6).state_dict()


def of_mmpretrain() -> dict[str, Tensor]:
    backbone = mmpretrain.models.backbones.ConvMixer(dict(SIZES)).state_dict()
    head = {"head.fc.weight": torch.ones(6, 16), "head.fc.bias": torch.ones(6)}
    return {**{f"backbone.{key}": value for key, value in backbone.items()}, **head}


LAYOUTS = {"official": official, "timm": of_timm, "mmpretrain": of_mmpretrain}


def trained(mean: float = 0.3) -> dict[str, Tensor]:
    """Our state dict, its norms' means around a value."""
    model = ConvMixer(SIZES, act_cfg={"type": "ReLU"})
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(mean - 0.2, mean + 0.2)
    return model.state_dict()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "ema_model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, prefix: str, wrapper: str | None):
    state_dict = {f"{prefix}{key}": value for key, value in LAYOUTS[layout]().items()}
    checkpoint = {wrapper: state_dict} if wrapper else state_dict
    converted = convert_state_dict(checkpoint, "convmixer")
    own = ConvMixer(SIZES).state_dict()
    assert set(converted) == {*(f"backbone.{k}" for k in own), "head.fc.weight", "head.fc.bias"}
    assert all(converted[f"backbone.{key}"].shape == value.shape for key, value in own.items())
    assert arch_from_weights(converted) == SIZES
    assert len(converted) == len(state_dict)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_load_as_they_are(layout: str, tmp_path: Path):
    file = tmp_path / "weights.pth"
    state_dict = LAYOUTS[layout]()
    torch.save({"state_dict": state_dict}, file)
    model = ConvMixer(SIZES, init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    model.init_weights()
    converted = convert_state_dict(state_dict, "convmixer")
    for key, value in model.state_dict().items():
        assert torch.equal(value, converted[f"backbone.{key}"])


def test_other_patch_size_is_resized_on_loading(tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save(official(), file)
    init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    model = ConvMixer(SIZES, patch_size=8, init_cfg=init_cfg)
    model.init_weights()
    assert model.stem[0].weight.shape == (16, 3, 8, 8)


def test_our_own_layout_is_not_converted():
    model = nn.Module()
    model.backbone = ConvMixer(SIZES)
    checkpoint = {"state_dict": model.state_dict()}
    adapted = adapt_checkpoint(checkpoint, model)["state_dict"]
    assert set(adapted) == set(checkpoint["state_dict"])
    check_match(adapted, model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_left_over_keys_are_named(layout: str):
    state_dict = LAYOUTS[layout]()
    key = next(key for key in state_dict if key.endswith("0.fn.2.running_var"))
    value = state_dict.pop(key)
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.0\.0\.fn\.2\.running_var"):
        convert_state_dict(state_dict, "convmixer")
    with pytest.raises(CheckpointError, match=r"1 unexpected: extra\.weight"):
        convert_state_dict({**state_dict, key: value, "extra.weight": value}, "convmixer")


def test_relu_weights_are_refused_by_gelu(tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save(trained(), file)
    init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    with pytest.raises(CheckpointError, match=r"was trained with ReLU .* act_cfg=dict"):
        ConvMixer(SIZES, init_cfg=init_cfg).init_weights()
    ConvMixer(SIZES, act_cfg={"type": "ReLU"}, init_cfg=init_cfg).init_weights()
    torch.save(trained(mean=0.0), file)  # some means are negative: no ReLU
    ConvMixer(SIZES, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize("weights", [official, lambda: trained(mean=0.0)], ids=["zero", "GELU"])
def test_a_file_may_be_called_anything(weights, tmp_path: Path):
    """The means tell the activation, a name with "relu" in it does not."""
    file = tmp_path / "convmixer_no_relu.pth"
    torch.save(weights(), file)
    ConvMixer(SIZES, init_cfg={"type": "Pretrained", "checkpoint": str(file)}).init_weights()


def test_another_patch_size_is_for_fine_tuning_only():
    model = nn.Module()
    model.backbone = ConvMixer(SIZES, patch_size=8)
    state_dict = {f"backbone.{k}": v for k, v in ConvMixer(SIZES).state_dict().items()}
    check_match(state_dict, model, scope="backbone")
    with pytest.raises(CheckpointError, match="is of another size"):
        check_match(state_dict, model, scope="all")


def test_a_bare_backbone_fits_a_whole_model():
    model = nn.Module()
    model.backbone = ConvMixer(SIZES)
    adapted = adapt_checkpoint(ConvMixer(SIZES).state_dict(), model)["state_dict"]
    assert set(adapted) == set(model.state_dict())


def test_errors_name_the_file(tmp_path: Path):
    file = tmp_path / "weights.pth"
    state_dict = official()
    state_dict.pop("3.1.bias")
    torch.save(state_dict, file)
    init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    with pytest.raises(CheckpointError, match=r"weights\.pth: .*1 missing: blocks\.0\.1\.bias"):
        ConvMixer(SIZES, init_cfg=init_cfg).init_weights()


def test_whole_model_with_relu_weights_is_refused():
    model = nn.Module()
    model.backbone = ConvMixer(SIZES)
    state_dict = {f"backbone.{key}": value for key, value in trained().items()}
    with pytest.raises(CheckpointError, match="the checkpoint was trained with ReLU"):
        check_match(state_dict, model)


def test_doubts_are_logged(monkeypatch):
    lines = []
    monkeypatch.setattr(convmixer, "print_log", lambda line, **kwargs: lines.append(line))
    dims = {"embed_dims": 768, "depth": 32, "kernel_size": 1, "patch_size": 1}
    with torch.device("meta"):
        model = ConvMixer(dims)
    model.check_weights({"stem.2.running_mean": torch.zeros(3)}, "FILE")
    ConvMixer(SIZES, act_cfg={"type": "ReLU"}).check_weights(
        {"stem.2.running_mean": torch.tensor([-0.1, 0.2])}, "OTHER"
    )
    assert "FILE does not show its activation" in lines[0]
    assert "OTHER was not trained with ReLU" in lines[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_go_by_the_names_of_families(family: str):
    for name in (family, family.upper(), f" {family.lower()}"):
        with pytest.raises(CheckpointError) as caught:  # of the layout, not of the name
            convert_state_dict({"a.weight": torch.ones(1)}, name)
        assert "unknown family" not in str(caught.value)
    with pytest.raises(UserError, match=r"unknown family 'resnext'; known: convmixer, deit"):
        convert_state_dict({"a.weight": torch.ones(1)}, "resnext")
