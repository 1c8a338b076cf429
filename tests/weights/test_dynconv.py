"""DeiT's and Swin's layouts -> ours, against timm's models with random weights."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mmdet.models
import mmpretrain.models
import mmseg.models
import pytest
import timm
import torch
import torch.nn.functional as F
from oracles import convmixer
from oracles import parc as parc_oracles
from oracles.fcvit import OracleFCViT
from oracles.lightvit import OracleLightViT
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models import DynConvSwin, DynConvViT
from mmvitconv.weights import (
    adapt_checkpoint,
    check_match,
    convert_state_dict,
    list_layouts,
    match,
)
from mmvitconv.weights.convert import _LAYOUTS, find_layout

StateDict = dict[str, Tensor]
VIT = {"embed_dims": 8, "depth": 2, "num_heads": 2}
SWIN = {"embed_dims": 8, "depths": (2, 2, 1), "num_heads": (1, 2, 4), "window_size": 3}
TOKEN = {"with_cls_token": True, "out_type": "cls_token"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def timm_vit(**kwargs: object) -> nn.Module:
    sizes = {"img_size": 20, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return timm.models.VisionTransformer(num_classes=5, **{**sizes, **kwargs})


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=48, embed_dim=8, depths=(2, 2, 1), num_heads=(1, 2, 4), window_size=3,
        num_classes=5,
    )  # fmt: skip


def deit() -> StateDict:
    return dict(timm_vit().state_dict())


def swin() -> StateDict:
    return dict(timm_swin().state_dict())


def microsoft_swin() -> StateDict:
    """Swin's own classifier: a merging ends its stage, and what can be computed is stored."""
    found = {}
    for key, value in swin().items():
        key = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )
        found[key.replace("head.fc.", "head.")] = value
    for stage, depth in enumerate(SWIN["depths"]):
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            found[f"{block}.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.long)
            if index % 2:
                found[f"{block}.attn_mask"] = torch.zeros(4, 9, 9)
    return found


def microsoft_dense_swin() -> StateDict:
    """Swin's own backbone of detectors and segmentors: a norm for each output."""
    found = {k: v for k, v in microsoft_swin().items() if not k.startswith(("head.", "norm."))}
    for stage in range(3):
        norm = nn.LayerNorm(8 * 2**stage).state_dict()
        found |= {f"norm{stage}.{entry}": value for entry, value in norm.items()}
    return found


def headless(make: Callable[[], StateDict]) -> Callable[[], StateDict]:
    return lambda: {key: value for key, value in make().items() if not key.startswith("head.")}


FILES: dict[str, tuple[str, Callable[[], StateDict]]] = {
    "deit": ("deit", deit),
    "deit, headless": ("deit", headless(deit)),
    "swin, timm": ("swin", swin),
    "swin, timm, headless": ("swin", headless(swin)),
    "swin, microsoft": ("swin", microsoft_swin),
    "swin, microsoft, dense": ("swin", microsoft_dense_swin),
}


def is_computed(key: str) -> bool:
    return key.endswith((".relative_position_index", ".attn_mask"))


def own_model(family: str, **kwargs: object) -> nn.Module:
    if family == "swin":
        return DynConvSwin(SWIN, **{"out_indices": (0, 1, 2), **kwargs})
    return DynConvViT(VIT, **{"patch_size": 4, "img_size": 20, "out_indices": 1, **kwargs})


def backbone_part(converted: StateDict) -> StateDict:
    return {k[9:]: v for k, v in converted.items() if k.startswith("backbone.")}


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.eval()  # by itself: OpenMMLab's return nothing here
    return model


def logits(features: Tensor, converted: StateDict) -> Tensor:
    return F.linear(features, converted["head.fc.weight"], converted["head.fc.bias"])


def save(state_dict: StateDict, folder: Path) -> dict[str, str]:
    """The ``init_cfg`` that loads it."""
    torch.save({"model": state_dict}, folder / "weights.pth")
    return {"type": "Pretrained", "checkpoint": str(folder / "weights.pth")}


# The same numbers as timm's models -------------------------------------------------------------


def test_deit_has_the_logits_of_timm():
    original = randomised(timm.create_model("deit_tiny_patch16_224"))
    converted = convert_state_dict(original.double().state_dict(), "deit")
    model = DynConvViT("tiny", out_indices=11, **TOKEN).eval().double()
    model.load_state_dict(backbone_part(converted))
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(logits(model(x)[0], converted), original(x))


def test_swin_has_the_logits_of_timm():
    original = randomised(timm.create_model("swin_tiny_patch4_window7_224"))
    converted = convert_state_dict(original.double().state_dict(), "swin")
    model = DynConvSwin("tiny", out_indices=3).eval().double()
    model.load_state_dict(backbone_part(converted))
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        found = logits(model(x)[0].mean(dim=(2, 3)), converted)
        torch.testing.assert_close(found, original(x))


def test_swin_has_the_features_of_timm():
    """Built for 224 x 320, as timm otherwise keeps the last stage's shift of 224 x 224: none."""
    whole = randomised(timm.create_model("swin_tiny_patch4_window7_224")).state_dict()
    original = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, img_size=(224, 320)
    ).eval()
    trunk = {k: v for k, v in whole.items() if not k.startswith(("norm.", "head."))}
    original.load_state_dict({k.replace("layers.", "layers_"): v for k, v in trunk.items()})
    model = DynConvSwin("tiny", output_norms=False).eval()
    converted = backbone_part(convert_state_dict(whole, "swin"))
    model.load_state_dict({k: v for k, v in converted.items() if not k.startswith("norm3.")})
    original, model, x = original.double(), model.double(), torch.randn(1, 3, 224, 320).double()
    with torch.no_grad():
        for found, expected in zip(model(x), original(x), strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [(48, 48), (56, 40)])
def test_small_swin_has_the_features_of_timm(size: tuple[int, int]):
    original = timm.models.SwinTransformer(
        img_size=size, embed_dim=8, depths=(2, 2, 1), num_heads=(1, 2, 4), window_size=3,
        num_classes=5,
    )  # fmt: skip
    randomised(original)
    model = own_model("swin", out_indices=2).eval()
    model.load_state_dict(backbone_part(convert_state_dict(original.state_dict(), "swin")))
    original, model, x = original.double(), model.double(), torch.randn(2, 3, *size).double()
    with torch.no_grad():
        expected = original.forward_features(x).permute(0, 3, 1, 2)
        torch.testing.assert_close(model(x)[0], expected)


# The same numbers as OpenMMLab's models --------------------------------------------------------

OPENMMLAB_SWIN = {"embed_dims": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 8]}


def openmmlab_swin(package: ModuleType) -> nn.Module:
    sizes = {"out_indices": (0, 1, 2, 3), "window_size": 3}
    if package is mmpretrain.models:
        return package.SwinTransformer(OPENMMLAB_SWIN, img_size=48, **sizes)
    return package.SwinTransformer(**OPENMMLAB_SWIN, **sizes)


@pytest.mark.parametrize("package", [mmpretrain.models, mmdet.models, mmseg.models])
def test_dense_swin_has_the_features_of_openmmlab(package: ModuleType):
    original = randomised(openmmlab_swin(package)).double()
    given = {f"backbone.{key}": value for key, value in original.state_dict().items()}
    assert find_layout(given) == "swin"
    arch = {**SWIN, **{key: tuple(OPENMMLAB_SWIN[key]) for key in ("depths", "num_heads")}}
    model = DynConvSwin(arch, out_indices=(0, 1, 2, 3)).eval().double()
    model.load_state_dict(backbone_part(convert_state_dict(given, "swin")))
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(model(x), original(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_openmmlab_models_load_their_own_files():
    """What is another layout to our models is the layout of theirs."""
    for model in (openmmlab_swin(mmdet.models), mmpretrain.models.VisionTransformer("deit-tiny")):
        own = dict(model.state_dict())
        assert find_layout(own) is not None
        assert adapt_checkpoint(own, model)["state_dict"].keys() == own.keys()


def test_swin_classifier_of_mmpretrain():
    original = randomised(mmpretrain.models.SwinTransformer(OPENMMLAB_SWIN, img_size=48))
    given = {f"backbone.{key}": value for key, value in original.state_dict().items()}
    head = nn.Linear(64, 5).state_dict()
    converted = convert_state_dict(given | {f"head.fc.{k}": v for k, v in head.items()}, "swin")
    assert torch.equal(converted["head.fc.weight"], head["weight"])
    assert torch.equal(converted["backbone.norm3.weight"], given["backbone.norm3.weight"])


@pytest.mark.parametrize("distilled", [False, True])
def test_deit_of_mmpretrain(distilled: bool):
    """Its names; of a distilled one what is left has the shapes of a plain one."""
    kind = mmpretrain.models.DistilledVisionTransformer if distilled else (
        mmpretrain.models.VisionTransformer
    )  # fmt: skip
    sizes = {"embed_dims": 8, "num_layers": 2, "num_heads": 2, "feedforward_channels": 32}
    original = randomised(kind(sizes, img_size=20, patch_size=4)).double()
    given = {f"backbone.{key}": value for key, value in original.state_dict().items()}
    for name in ("head", "head_dist")[: 1 + distilled]:
        head = nn.Linear(8, 5).double().state_dict()
        given |= {f"head.layers.{name}.{key}": value for key, value in head.items()}
    assert find_layout(given) == "deit"
    converted = convert_state_dict(given, "deit")
    assert torch.equal(converted["head.fc.bias"], given["head.layers.head.bias"])
    model = own_model("deit", **TOKEN).eval().double()
    model.load_state_dict(backbone_part(converted))
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64)
    if not distilled:
        with torch.no_grad():
            torch.testing.assert_close(model(x)[0], original(x)[0])


def test_parts_that_were_compiled():
    """torch.compile of the backbone alone, or of a layer."""
    given = deit()
    wrapped = {f"backbone._orig_mod.{key}": value for key, value in given.items()}
    wrapped = {key.replace("blocks.1.", "blocks.1._orig_mod."): v for key, v in wrapped.items()}
    assert convert_state_dict(wrapped, "deit").keys() == convert_state_dict(given, "deit").keys()


# Layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("file", FILES)
def test_layouts(file: str, prefix: str, wrapper: str | None):
    family, make = FILES[file]
    given = make()
    wrapped = {f"{prefix}{key}": value for key, value in given.items()}
    converted = convert_state_dict({wrapper: wrapped} if wrapper else wrapped, family)
    assert len(converted) == sum(not is_computed(key) for key in given)
    model = own_model(family, **TOKEN if family == "deit" else {})
    own = dict(model.state_dict())
    if not file.endswith("dense"):  # a classifier has the last norm only
        own = {key: value for key, value in own.items() if not key.startswith(("norm0.", "norm1."))}
        if family == "deit":
            own |= {k: v for k, v in model.state_dict().items() if k.startswith("norm1.")}
    part = backbone_part(converted)
    assert {k: v.shape for k, v in part.items()} == {k: v.shape for k, v in own.items()}
    heads = {key for key in converted if not key.startswith("backbone.")}
    has_head = any(key.startswith("head.") for key in given)
    assert heads == ({"head.fc.weight", "head.fc.bias"} if has_head else set())


EXPECTED = {
    "deit": {
        "cls_token": "backbone.cls_token",
        "pos_embed": "backbone.pos_embed",
        "blocks.1.attn.qkv.weight": "backbone.blocks.1.mixer.qkv.weight",
        "blocks.0.attn.proj.bias": "backbone.blocks.0.mixer.proj.bias",
        "blocks.0.norm1.bias": "backbone.blocks.0.norm1.bias",
        "blocks.0.norm2.bias": "backbone.blocks.0.norm2.bias",
        "blocks.0.mlp.fc2.bias": "backbone.blocks.0.mlp.fc2.bias",
        "norm.weight": "backbone.norm1.weight",
        "head.bias": "head.fc.bias",
    },
    "swin, timm": {
        "layers.1.downsample.norm.bias": "backbone.downsamples.1.norm.bias",
        "layers.2.downsample.reduction.weight": "backbone.downsamples.2.reduction.weight",
        "layers.0.blocks.1.norm1.bias": "backbone.stages.0.1.norm1.bias",
        "layers.0.blocks.1.norm2.bias": "backbone.stages.0.1.norm2.bias",
        "layers.1.blocks.0.attn.relative_position_bias_table":
            "backbone.stages.1.0.mixer.relative_position_bias_table",
        "norm.bias": "backbone.norm2.bias",
        "head.fc.bias": "head.fc.bias",
    },
    "swin, microsoft": {
        "layers.0.downsample.norm.bias": "backbone.downsamples.1.norm.bias",
        "layers.1.downsample.reduction.weight": "backbone.downsamples.2.reduction.weight",
        "head.weight": "head.fc.weight",
    },
    "swin, microsoft, dense": {"norm0.bias": "backbone.norm0.bias"},
}  # fmt: skip


@pytest.mark.parametrize("file", EXPECTED)
def test_names(file: str):
    family, make = FILES[file]
    given = make()
    converted = convert_state_dict(given, family)
    for theirs, ours in EXPECTED[file].items():
        assert converted[ours] is given[theirs], theirs


@pytest.mark.parametrize("file", FILES)
def test_recognised_by_one_family_only(file: str):
    family, make = FILES[file]
    keys = list(make())
    assert [name for name in list_layouts() if _LAYOUTS[name].is_original(keys)] == [family]
    assert find_layout(keys) == find_layout(f"backbone.{key}" for key in keys) == family
    converted = convert_state_dict(make(), family)
    assert find_layout(converted) is None
    assert find_layout(backbone_part(converted)) is None


def test_other_families_files_are_theirs_alone():
    tiny = {"layers": [1] * 4, "embed_dims": [16] * 4, "mlp_ratios": [2] * 4}
    with torch.device("meta"):
        others = {
            "convmixer": convmixer.oracle(16, 3, 4, 5, num_classes=6),
            "fcvit": OracleFCViT(**tiny, num_classes=7),
            "lightvit": OracleLightViT([16, 32], [1, 1], [1, 2], 3, False, 7),
            "parc_convnext": parc_oracles.ParCConvNeXt(),
            "parc_net": parc_oracles.parc_net("xs"),
        }
    for family, model in others.items():
        keys = list(model.state_dict())
        assert [name for name in list_layouts() if _LAYOUTS[name].is_original(keys)] == [family]


def test_other_libraries_models_are_neither():
    vit = {"img_size": 32, "patch_size": 16, "embed_dims": 16, "num_layers": 1, "num_heads": 2}
    models = [mmseg.models.backbones.VisionTransformer(**vit)]
    with torch.device("meta"):
        models += [timm.create_model(name) for name in ("swinv2_tiny_window8_256", "levit_128s")]
        models += [timm_vit(init_values=1e-5), timm_vit(qk_norm=True)]  # as DINOv2 has it
    for model in models:
        assert find_layout(model.state_dict()) is None, type(model)


@pytest.mark.parametrize("file", FILES)
def test_each_missing_key_is_named(file: str):
    family, make = FILES[file]
    complete = make()
    for key in complete:
        if is_computed(key) or key == "cls_token":
            continue
        with pytest.raises(CheckpointError) as caught:
            convert_state_dict({k: v for k, v in complete.items() if k != key}, family)
        assert f"1 missing: {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("deit", "extra.weight"),
        ("deit", "blocks.0.ls1.gamma"),
        ("deit", "norm0.weight"),
        ("swin, timm", "layers.3.extra.weight"),
        ("swin, timm", "absolute_pos_embed"),
        ("swin, microsoft", "layers.2.downsample.norm.weight"),
        ("swin, microsoft, dense", "norm3.weight"),
    ],
)
def test_left_over_keys_are_named(file: str, key: str):
    family, make = FILES[file]
    with pytest.raises(CheckpointError, match=f"1 unexpected: {re.escape(key)}"):
        convert_state_dict({**make(), key: torch.ones(1)}, family)


def test_of_a_distilled_deit_the_class_token_stays(monkeypatch):
    """What is left is the plain network with these weights, and a warning says so."""
    plain = timm_vit()
    distilled = {**plain.state_dict(), "dist_token": torch.randn(1, 1, 8)}
    position = distilled["pos_embed"]
    distilled["pos_embed"] = torch.cat(
        [position[:, :1], torch.randn(1, 1, 8), position[:, 1:]], dim=1
    )
    distilled |= {f"head_dist.{key}": torch.randn(5) for key in ("weight", "bias")}
    assert find_layout(distilled) == "deit"
    said = []
    monkeypatch.setattr(_LAYOUTS["deit"], "print_log", lambda text, *_: said.append(text))
    converted = convert_state_dict(distilled, "deit")
    (text,) = said
    assert "distillation token and the head behind it are dropped" in text
    expected = convert_state_dict(plain.state_dict(), "deit")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], expected[key]) for key in expected)


# Loading into backbones that differ ------------------------------------------------------------


def test_class_token_is_dropped_where_there_is_none(tmp_path: Path):
    given = deit()
    model = own_model("deit", init_cfg=save(given, tmp_path))
    model.init_weights()
    assert torch.equal(model.pos_embed, given["pos_embed"][:, 1:])
    strict = own_model("deit")
    strict.load_state_dict(backbone_part(convert_state_dict(given, "deit")))
    assert torch.equal(strict.pos_embed, model.pos_embed)


def test_class_token_is_not_invented(tmp_path: Path):
    given = deit()
    del given["cls_token"]
    given["pos_embed"] = given["pos_embed"][:, 1:]
    own_model("deit", init_cfg=save(given, tmp_path)).init_weights()
    with pytest.raises(CheckpointError, match="1 missing: cls_token"):
        own_model("deit", init_cfg=save(given, tmp_path), **TOKEN).init_weights()
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        own_model("deit", **TOKEN).load_state_dict(
            backbone_part(convert_state_dict(given, "deit")), strict=False
        )


@pytest.mark.parametrize("options", [{}, TOKEN])
@pytest.mark.parametrize("img_size", [12, 36])
def test_position_embedding_of_another_grid(tmp_path: Path, img_size: int, options: dict):
    given = deit()
    model = own_model("deit", img_size=img_size, init_cfg=save(given, tmp_path), **options)
    model.init_weights()
    side = img_size // 4
    grid = given["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (5, 5))
    grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
    expected = grid.flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.pos_embed[:, bool(options) :], expected, rtol=0, atol=2e-4)
    if options:
        assert torch.equal(model.pos_embed[:, :1], given["pos_embed"][:, :1])
        assert torch.equal(model.cls_token, given["cls_token"])


@pytest.mark.parametrize("shape", [(1, 24, 8), (1, 26, 9), (2, 26, 8), (26, 8)])
def test_position_embedding_that_does_not_fit(shape: tuple[int, ...]):
    converted = backbone_part(convert_state_dict(deit() | {"pos_embed": torch.ones(shape)}, "deit"))
    with pytest.raises(CheckpointError, match=r"pos_embed is .* in the file"):
        check_match(converted, own_model("deit"), scope="backbone")
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        own_model("deit").load_state_dict(converted, strict=False)


@pytest.mark.parametrize("family", ["deit", "swin"])
@pytest.mark.parametrize("mixer", ["ln_relu", "relu_ln"])
def test_affine_part_of_norms_stays(
    tmp_path: Path, family: str, mixer: str, monkeypatch: pytest.MonkeyPatch
):
    lines: list[str] = []
    monkeypatch.setattr(match, "print_log", lambda line, **kwargs: lines.append(line))
    given = FILES["deit" if family == "deit" else "swin, timm"][1]()
    model = own_model(family, mixer=mixer, init_cfg=save(given, tmp_path))
    affine = {k: v for k, v in model.named_parameters() if k.endswith((".gamma", ".beta"))}
    assert len(affine) == 2 * (2 if family == "deit" else 5)
    for value in affine.values():
        nn.init.uniform_(value)
    before = {key: value.clone() for key, value in affine.items()}
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in affine.items())
    block = "blocks.0" if family == "deit" else "stages.0.0"
    theirs = "blocks.0" if family == "deit" else "layers.0.blocks.0"
    own = model.state_dict()
    assert torch.equal(own[f"{block}.mixer.qkv.weight"], given[f"{theirs}.attn.qkv.weight"])
    (line,) = lines
    assert "not in the file, so as initialised" in line
    assert all(key in line for key in affine)


def test_affine_part_is_not_thrown_away():
    """What was trained with LN and ReLU is no softmax model, and is not taken for one."""
    trained = own_model("deit", mixer="ln_relu").state_dict()
    with pytest.raises(CheckpointError, match=r"4 unexpected: blocks\.0\.mixer\.beta"):
        check_match(trained, own_model("deit"), scope="backbone")


@pytest.mark.parametrize(
    ("family", "mixer"), [("deit", "dwvit"), ("swin", "dwvit"), ("swin", "dw")]
)
def test_other_mixers_are_not_loaded_partially(tmp_path: Path, family: str, mixer: str):
    given = FILES["deit" if family == "deit" else "swin, timm"][1]()
    with pytest.raises(CheckpointError, match=r"does not belong to this DynConv.*missing: .*mixer"):
        own_model(family, mixer=mixer, init_cfg=save(given, tmp_path)).init_weights()


def test_deit_in_window_form(tmp_path: Path):
    given = deit()
    options = {"window_size": 2, "global_blocks": (1,)}
    model = own_model("deit", init_cfg=save(given, tmp_path), **options)
    model.init_weights()
    assert model.blocks[0].mixer.reach == "window"
    own = model.state_dict()
    assert torch.equal(own["blocks.0.mixer.proj.bias"], given["blocks.0.attn.proj.bias"])


@pytest.mark.parametrize("window_size", [2, 5])
def test_tables_of_other_windows_are_resized(tmp_path: Path, window_size: int):
    given = swin()
    init_cfg = save(given, tmp_path)
    sizes = {**SWIN, "window_size": window_size}
    model = DynConvSwin(sizes, out_indices=(0, 1, 2), init_cfg=init_cfg)
    model.init_weights()
    side = 2 * window_size - 1
    for stage, index in ((0, 1), (2, 0)):
        table = given[f"layers.{stage}.blocks.{index}.attn.relative_position_bias_table"]
        grid = table.T.reshape(1, -1, 5, 5)
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        own = model.stages[stage][index].mixer.relative_position_bias_table
        torch.testing.assert_close(own, grid[0].flatten(1).T, rtol=0, atol=0)


def test_other_windows_are_for_fine_tuning_only():
    whole = nn.Module()
    whole.backbone = DynConvSwin({**SWIN, "window_size": 5}, out_indices=2)
    given = {f"backbone.{k}": v for k, v in own_model("swin", out_indices=2).state_dict().items()}
    check_match(given, whole, scope="backbone")
    with pytest.raises(CheckpointError, match="is of another size"):
        check_match(given, whole, scope="all")


def test_tables_of_other_heads_do_not_fit():
    given = own_model("swin").state_dict()
    other = DynConvSwin({**SWIN, "num_heads": (2, 2, 4)}, out_indices=(0, 1, 2))
    with pytest.raises(CheckpointError, match=r"stages\.0\.0.*table is \(25, 1\) in the file"):
        check_match(given, other, scope="backbone")


@pytest.mark.parametrize("family", ["deit", "swin"])
def test_our_own_layout_is_not_converted(family: str):
    whole = nn.Module()
    whole.backbone = own_model(family)
    adapted = adapt_checkpoint({"state_dict": whole.state_dict()}, whole)["state_dict"]
    assert set(adapted) == set(whole.state_dict())
    check_match(adapted, whole)
    bare = adapt_checkpoint(whole.backbone.state_dict(), whole)["state_dict"]
    assert set(bare) == set(adapted)


def test_first_stages_of_a_swin(tmp_path: Path):
    """Weights of stages behind the last output are left where they are."""
    model = own_model("swin", out_indices=(0, 1), init_cfg=save(microsoft_swin(), tmp_path))
    model.init_weights()
    assert len(model.stages) == 2
