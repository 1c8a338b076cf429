"""Original LightViT layouts -> ours: every wrapper, prefix and kind of file."""

import argparse
import copy
from collections.abc import Callable

import pytest
import torch
from oracles import reference
from oracles.fcvit import OracleFCViT
from oracles.lightvit import OracleLightViT, OracleLightViTFPN
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models import LightViT
from mmvitconv.models.necks import LightViTFPN, LightViTPooling
from mmvitconv.weights import (
    adapt_checkpoint,
    check_match,
    convert_state_dict,
    list_layouts,
    load_backbone,
    match,
)
from mmvitconv.weights.convert import find_layout

SIZES = ([16, 32, 48], [1, 1, 2], [1, 2, 3], 3)
OPTIONS = {"mlp_ratios": (4, 2, 2)}
ARCH = {
    "depths": (1, 1, 2),
    "embed_dims": (16, 32, 48),
    "num_heads": (1, 2, 3),
    "mlp_ratios": (4, 2, 2),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def original(dense: bool = True, num_classes: int | None = None) -> dict[str, Tensor]:
    oracle = OracleLightViT(*SIZES, dense, num_classes, **OPTIONS)
    return reference.fill_like(oracle.state_dict())


def detector() -> dict[str, Tensor]:
    """A whole detector's weights, in the layout of mmdetection 2."""
    neck = reference.fill_like(OracleLightViTFPN(SIZES[0], 8).state_dict())
    return {
        **{f"backbone.{k}": v for k, v in original().items()},
        **{f"neck.{k}": v for k, v in neck.items()},
        "rpn_head.rpn_conv.weight": torch.ones(2, 2),
        "roi_head.bbox_head.fc_cls.bias": torch.ones(3),
    }


def features(model: nn.Module) -> list[Tensor]:
    images = torch.linspace(-2, 2, 3 * 64 * 88, dtype=torch.float64).view(1, 3, 64, 88).sin()
    with torch.no_grad():
        return list(copy.deepcopy(model).double().eval()(images))


def assert_loaded(model: LightViT) -> None:
    oracle = OracleLightViT(*SIZES, True, **OPTIONS)
    oracle.load_state_dict(original())
    for out, expected in zip(features(model), features(oracle), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def without_buffers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state_dict.items() if not k.endswith("relative_position_index")}


def pretrained(path: object) -> dict[str, str]:
    return {"type": "Pretrained", "checkpoint": str(path)}


class Classifier(nn.Module):
    """The parts of mmpretrain's ImageClassifier."""

    def __init__(self, num_classes: int, **kwargs) -> None:
        super().__init__()
        self.backbone = LightViT(ARCH, out_indices=-1, out_type="raw", **kwargs)
        self.neck = LightViTPooling(48)
        self.head = nn.Module()
        self.head.fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.neck(self.backbone(x))[0])


WRAPPERS = {
    "bare": lambda sd: sd,
    "state_dict": lambda sd: {"state_dict": sd, "epoch": 3, "args": argparse.Namespace(lr=1)},
    "model": lambda sd: {"model": sd, "epoch": 3, "scaler": {"scale": 2.0}},
    "module": lambda sd: {"state_dict": {f"module.{k}": v for k, v in sd.items()}},
    "bare module": lambda sd: {f"module.{k}": v for k, v in sd.items()},
    "model, module": lambda sd: {"model": {f"module.{k}": v for k, v in sd.items()}},
}
KINDS = {
    "dense": original,
    "dense, no buffers": lambda: without_buffers(original()),
    "backbone": lambda: {f"backbone.{k}": v for k, v in original().items()},
    "detector": detector,
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_dense_file_loads_through_init_cfg(kind: str, wrap: str, tmp_path):
    torch.save(WRAPPERS[wrap](KINDS[kind]()), tmp_path / "a.ckpt")
    model = LightViT(ARCH, init_cfg=pretrained(tmp_path / "a.ckpt"))
    model.init_weights()
    assert_loaded(model)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("has_buffers", [True, False])
def test_every_classification_file_loads_into_a_classifier(wrap: str, has_buffers: bool):
    given = original(False, 7)
    adapted = adapt_checkpoint(
        WRAPPERS[wrap](given if has_buffers else without_buffers(given)), model := Classifier(7)
    )
    check_match(adapted["state_dict"], model)
    model.load_state_dict(adapted["state_dict"])
    oracle = OracleLightViT(*SIZES, False, 7, **OPTIONS)
    oracle.load_state_dict(given)
    x = torch.randn(2, 3, 72, 60)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), oracle.eval()(x), rtol=0, atol=5e-6)


def test_classifier_goes_to_backbone_neck_and_head():
    converted = convert_state_dict(original(False, 7), "lightvit")
    assert converted.keys() == Classifier(7).state_dict().keys()
    assert converted["head.fc.weight"].shape == (7, 1280)
    trunk = convert_state_dict(original(False), "lightvit")  # num_classes=0 of the original
    assert trunk.keys() == converted.keys() - {"head.fc.weight", "head.fc.bias"}


def test_dense_goes_to_the_backbone():
    converted = convert_state_dict(original(), "lightvit")
    own = LightViT(ARCH, num_global_tokens=3).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {
        f"backbone.{k}": v.shape for k, v in own.items()
    }


def test_each_entry_is_its_original_up_to_names_and_splits():
    """Nothing is lost, doubled or swapped: docs/specs/lightvit.md#24-attention,
    #25-feed-forward-network say what the parts are."""
    given = original(False, 7)
    converted = convert_state_dict(given, "lightvit")
    numbers = sum(v.numel() for v in without_buffers(given).values())
    assert sum(v.numel() for v in converted.values()) == numbers
    block, ours = "stages.2.2", "backbone.stages.2.1"
    weight = given[f"{block}.attn.qkv.weight"]
    assert torch.equal(converted[f"{ours}.attn.q.weight"], weight[:48])
    assert torch.equal(converted[f"{ours}.attn.kv.weight"], weight[48:])
    weight = given[f"{block}.mlp.attn.spatial_select.weight"]  # local half first
    assert torch.equal(converted[f"{ours}.ffn.spatial_select.weight"], weight[:, :12])
    assert torch.equal(converted[f"{ours}.ffn.spatial_context.weight"], weight[:, 12:])
    for key, expected in {
        "backbone.norm2.bias": "norm.bias",
        "neck.fc.weight": "neck.0.weight",
        "neck.norm.weight": "neck.1.weight",
        "head.fc.bias": "head.bias",
        "backbone.merges.1.res_proj.weight": "stages.2.0.res_proj.weight",
        "backbone.patch_embed.global_token": "global_token",
        "backbone.stages.0.0.ffn.norm.weight": "stages.0.0.mlp.attn.norm.weight",
    }.items():
        assert torch.equal(converted[key], given[expected])


def test_detector_keeps_its_other_parts():
    given = detector()
    converted = convert_state_dict({"state_dict": given}, "lightvit")
    others = {k: v for k, v in given.items() if not k.startswith("backbone.")}
    assert len(others) == 18
    assert all(converted[key] is value for key, value in others.items())
    own = {f"backbone.{k}" for k in LightViT(ARCH).state_dict()}
    assert own == set(converted) - set(others)
    neck = LightViTFPN(SIZES[0], 8)  # its layout is the original's
    assert {f"neck.{k}" for k in neck.state_dict()} == {k for k in others if "neck" in k}


def test_split_parts_do_not_share_memory():
    """A view would drag its whole tensor into a saved file."""
    for key, value in convert_state_dict(original(), "lightvit").items():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size(), key


@pytest.mark.parametrize(("dense", "num_classes"), [(True, None), (False, 7)])
def test_each_missing_key_is_named(dense: bool, num_classes: int | None):
    complete = original(dense, num_classes)
    for key in without_buffers(complete):
        if key in ("global_token", "stages.0.0.attn.kv_global.weight"):
            continue
        with pytest.raises(CheckpointError) as caught:
            convert_state_dict({k: v for k, v in complete.items() if k != key}, "lightvit")
        assert f"1 missing: {key}" in str(caught.value)
    for key in ("global_token", "stages.0.0.attn.kv_global.weight"):
        with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
            convert_state_dict({k: v for k, v in complete.items() if k != key}, "lightvit")


def test_a_missing_block_is_named():
    gap = {k: v for k, v in original().items() if not k.startswith("stages.2.1.")}
    with pytest.raises(CheckpointError, match=r"25 missing: stages\.2\.1\.attn\.kv_global"):
        convert_state_dict(gap, "lightvit")


@pytest.mark.parametrize(
    "key",
    ["extra.weight", "stages.0.0.gamma_1", "stages.1.0.reduction.bias", "aux.bias", "norm3.bias",
     "patch_embed.stem.0.bias", "pos_embed"],
)  # fmt: skip
def test_each_left_over_key_is_named(key: str):
    with pytest.raises(CheckpointError, match=f"1 unexpected: {key}"):
        convert_state_dict({**original(), key: torch.ones(1)}, "lightvit")


def test_norms_of_the_two_codes_do_not_mix():
    with pytest.raises(CheckpointError, match=r"unexpected: norm0\.weight"):
        convert_state_dict({**original(False, 7), "norm0.weight": torch.ones(16)}, "lightvit")


def test_recognise():
    assert "lightvit" in list_layouts()
    assert find_layout(original()) == find_layout(original(False, 7)) == "lightvit"
    assert find_layout(without_buffers(original())) == find_layout(detector()) == "lightvit"
    options = {"layers": [1] * 4, "embed_dims": [16] * 4, "mlp_ratios": [2] * 4}
    for num_classes in (None, 7):
        assert find_layout(OracleFCViT(**options, num_classes=num_classes).state_dict()) == "fcvit"
    assert find_layout(LightViT(ARCH).state_dict()) is None
    assert find_layout(Classifier(7).state_dict()) is None
    assert find_layout({"global_token": 0, "stages.0.0.attn.qkv.weight": 0}) is None
    with pytest.raises(CheckpointError, match=r"missing: .*network\.0"):
        convert_state_dict(original(), "fcvit")


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_our_own_checkpoints(prefix: str, tmp_path):
    source = LightViT(ARCH, num_global_tokens=5)
    state_dict = {prefix + k: v for k, v in source.state_dict().items()}
    torch.save({"state_dict": state_dict}, tmp_path / "a.pth")
    for given in (None, prefix or None):
        model = LightViT(ARCH)
        load_backbone(model, str(tmp_path / "a.pth"), given)
        assert all(map(torch.equal, features(model), features(source)))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(match, "print_log", lambda line, **kwargs: lines.append(line))
    return lines


@pytest.mark.parametrize("out_indices", [(0, 1, 2), (1, 2), (2,), (0, 1)])
def test_classification_weights_in_dense_models(
    out_indices: tuple[int, ...], tmp_path, logged: list[str]
):
    torch.save({"state_dict": original(False, 7)}, tmp_path / "a.ckpt")
    model = LightViT(ARCH, out_indices=out_indices, init_cfg=pretrained(tmp_path / "a.ckpt"))
    model.init_weights()
    converted = convert_state_dict(original(False, 7), "lightvit")
    kept = []
    for key, value in model.state_dict().items():
        if key.startswith(("norm0.", "norm1.")):
            assert value.unique().tolist() == [float("weight" in key)]
            kept.append(key)
        else:  # norm2 is the classifier's norm
            assert torch.equal(value, converted[f"backbone.{key}"])
    (line,) = logged
    assert "original lightvit" in line
    assert f"not in the file, so as initialised: {', '.join(kept)}" in line or not kept
    assert ("as initialised" in line) == bool(kept)


def test_dense_weights_in_a_classifier_s_backbone(tmp_path, logged: list[str]):
    torch.save(detector(), tmp_path / "a.pth")
    model = Classifier(7, init_cfg=pretrained(tmp_path / "a.pth")).backbone
    model.init_weights()
    expected = convert_state_dict(original(), "lightvit")
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[f"backbone.{key}"])
    assert "not needed here: 4 entries" in logged[0]  # norm0 and norm1


def damaged(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    state_dict = LightViT(ARCH).state_dict()
    change(state_dict)
    return state_dict


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (lambda: damaged(lambda sd: sd.pop("patch_embed.global_token")),
         r"1 missing: patch_embed\.global_token"),
        (lambda: damaged(lambda sd: sd.update({"stages.3.0.x": torch.ones(1)})),
         r"1 unexpected: stages\.3\.0\.x"),
        (lambda: LightViT({**ARCH, "depths": (2, 1, 2)}).state_dict(), r"28 unexpected: stages\.0"),
        (lambda: LightViT({**ARCH, "embed_dims": (16, 32, 96)}).state_dict(), "is of another size"),
        (lambda: original(False, 7) | {"x.y": torch.ones(1)}, r"1 unexpected: x\.y"),
    ],
)  # fmt: skip
def test_nothing_is_loaded_partially(state_dict, message: str, tmp_path):
    torch.save(state_dict(), tmp_path / "a.pth")
    model = LightViT(ARCH, num_global_tokens=None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(model, str(tmp_path / "a.pth"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_head_is_refused_unless_only_the_backbone_counts():
    adapted = adapt_checkpoint({"model": original(False, 7)}, Classifier(9))["state_dict"]
    check_match(adapted, Classifier(9), scope="backbone")
    with pytest.raises(CheckpointError, match=r"head\.fc\.weight is \(7, 1280\) in the file, \(9,"):
        check_match(adapted, Classifier(9))
