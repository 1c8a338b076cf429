"""The originals' layouts of ParC-Net and of the ParC-ConvNets -> ours."""

import argparse
import json
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torchvision
from mmengine.registry import DefaultScope
from oracles import convmixer, reference
from oracles import parc as oracles
from oracles.fcvit import OracleFCViT
from oracles.lightvit import OracleLightViT
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models.heads.aspp import DeepLabV3Head
from mmvitconv.models.heads.ssdlite import SSDLiteHead, SSDLiteNeck
from mmvitconv.registry import MODELS
from mmvitconv.weights import (
    adapt_checkpoint,
    check_match,
    convert_state_dict,
    list_layouts,
)
from mmvitconv.weights.convert import _LAYOUTS, find_layout

StateDict = dict[str, Tensor]


@cache
def entries(build: Callable[..., nn.Module], *args: object, **kwargs: object) -> StateDict:
    """A state dict without numbers."""
    with torch.device("meta"):
        return dict(build(*args, **kwargs).state_dict())


def without(state_dict: StateDict, pattern: str) -> StateDict:
    return {key: value for key, value in state_dict.items() if not re.search(pattern, key)}


def parc_net(name: str = "xs") -> StateDict:
    """With the alias, which the oracle does not have."""
    state_dict = dict(entries(oracles.parc_net, name))
    residual = {k: v for k, v in state_dict.items() if k.startswith("layer_5.0.")}
    return state_dict | {f"residual.{key[10:]}": value for key, value in residual.items()}


def parc_convnext() -> StateDict:
    return dict(entries(oracles.ParCConvNeXt))


def parc_convnext_downstream() -> StateDict:
    return dict(entries(oracles.ParCConvNeXt, downstream=True))


def parc_resnet() -> StateDict:
    return dict(entries(oracles.ParCResNet50))


def parc_mobilenetv2() -> StateDict:
    return dict(entries(oracles.ParCMobileNetV2))


def conv_norm(name: str, *shape: int) -> dict[str, Tensor]:
    """A convolution without bias and a BatchNorm in the style of ParC-Net's code."""
    norm = {f"{name}.block.norm.{k}": v for k, v in nn.BatchNorm2d(shape[0]).state_dict().items()}
    return {f"{name}.block.conv.weight": torch.rand(shape), **norm}


def conv_bias(name: str, *shape: int) -> dict[str, Tensor]:
    return {f"{name}.block.conv.weight": torch.rand(shape),
            f"{name}.block.conv.bias": torch.rand(shape[0])}  # fmt: skip


def encoder(name: str = "xs") -> StateDict:
    """What the detector and the segmentor have of the network, alias included."""
    trunk = without(parc_net(name), r"^(conv_1x1_exp|classifier)\.")
    return {f"encoder.{key}": value for key, value in trunk.items()}


def ssd(name: str = "xs") -> StateDict:
    state_dict = encoder(name)
    for stride, channels, out in ((64, 160, 256), (128, 256, 128), (256, 128, 128)):
        state_dict |= conv_norm(f"extra_layers.os_{stride}.dw_conv", channels, 1, 3, 3)
        state_dict |= conv_norm(f"extra_layers.os_{stride}.pw_conv", out, channels, 1, 1)
    state_dict["extra_layers.os_-1.1.block.conv.weight"] = torch.rand(64, 128, 1, 1)
    state_dict |= conv_norm("ssd_heads.0.proj_layer", 512, 128, 1, 1)
    state_dict |= conv_norm("ssd_heads.1.proj_layer", 256, 160, 1, 1)
    for i, channels in enumerate((512, 256, 256, 128, 128)):
        layer = f"ssd_heads.{i}.loc_cls_layer"
        state_dict |= conv_norm(f"{layer}.dw_conv", channels, 1, 3, 3)
        state_dict |= conv_bias(f"{layer}.pw_conv", 6 * 85, channels, 1, 1)
    return state_dict | conv_bias("ssd_heads.5.loc_cls_layer", 4 * 85, 64, 1, 1)


def deeplab(name: str = "xs") -> StateDict:
    state_dict = encoder(name)
    aspp = "seg_head.aspp.aspp_layer"
    for i in range(4):
        kernel = 3 if i else 1
        state_dict |= conv_norm(f"{aspp}.convs.{i}", 256, 160, kernel, kernel)
    state_dict |= conv_norm(f"{aspp}.convs.4.aspp_pool.conv_1x1", 256, 160, 1, 1)
    state_dict |= conv_norm(f"{aspp}.project", 256, 5 * 256, 1, 1)
    return state_dict | conv_bias("seg_head.classifier.classifier", 21, 256, 1, 1)


CLASSIFIERS: dict[str, Callable[[], StateDict]] = {
    "parc_convnext": parc_convnext,
    "parc_mobilenetv2": parc_mobilenetv2,
    "parc_net": parc_net,
    "parc_resnet": parc_resnet,
}
TRUNKS: dict[str, Callable[[], StateDict]] = {
    "parc_convnext": parc_convnext_downstream,
    "parc_mobilenetv2": lambda: without(parc_mobilenetv2(), r"^classifier\."),
    "parc_net": lambda: without(parc_net(), r"^(conv_1x1_exp|classifier)\."),
    "parc_resnet": lambda: without(parc_resnet(), r"^fc\."),
}
FILES: dict[str, tuple[str, Callable[[], StateDict]]] = {
    **{f"{family}, classifier": (family, make) for family, make in CLASSIFIERS.items()},
    **{f"{family}, trunk": (family, make) for family, make in TRUNKS.items()},
    "parc_net, detector": ("parc_net", ssd),
    "parc_net, segmentor": ("parc_net", deeplab),
}


STORED = {
    "parc_convnext_xt_224x224": parc_convnext,
    "parc_mv2_224x224": parc_mobilenetv2,
    "parc_net_xs_224x224": parc_net,
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def backbone_part(converted: StateDict) -> StateDict:
    return {k[9:]: v for k, v in converted.items() if k.startswith("backbone.")}


def is_alias(key: str) -> bool:
    return key.startswith(("residual.", "encoder.residual."))


@pytest.mark.parametrize("name", STORED)
def test_layouts_are_those_of_the_reference(name: str):
    with np.load(reference.ROOT / "parc" / f"{name}.npz") as file:
        expected = json.loads(str(file["shapes"]))
    assert {key: list(value.shape) for key, value in STORED[name]().items()} == expected


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
    for family, keys in {
        "convmixer": entries(convmixer.oracle, 16, 3, 4, 5, num_classes=6),
        "fcvit": OracleFCViT(**tiny, num_classes=7).state_dict(),
        "lightvit": OracleLightViT([16, 32], [1, 1], [1, 2], 3, False, 7).state_dict(),
    }.items():
        assert [name for name in list_layouts() if _LAYOUTS[name].is_original(keys)] == [family]


def test_plain_networks_are_no_parc():
    with torch.device("meta"):
        plain = [
            torchvision.models.resnet50(),
            torchvision.models.mobilenet_v2(),
            torchvision.models.convnext_tiny(),
            timm.create_model("convnext_tiny"),
            timm.create_model("mobilevit_xs"),
        ]
    for model in plain:
        assert find_layout(model.state_dict()) is None, type(model)


@pytest.mark.parametrize("family", ["parc_resnet", "parc_mobilenetv2", "parc_convnext"])
def test_plain_networks_are_refused_by_name(family: str):
    with torch.device("meta"):
        resnet = torchvision.models.resnet50().state_dict()
    with pytest.raises(
        CheckpointError, match=r"no block has (gcc|parc)_\{H,W\} layers; give a file"
    ):
        convert_state_dict(resnet, family)


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_lost(file: str):
    """All entries but the alias arrive, each once; only a detector's and a segmentor's change."""
    family, make = FILES[file]
    given = make()
    converted = convert_state_dict(given, family)
    assert len(converted) == sum(not is_alias(key) for key in given)
    values = {id(value) for value in given.values()}
    changed = {key for key, value in converted.items() if id(value) not in values}
    assert all(key.startswith(("bbox_head.", "decode_head.")) for key in changed)
    assert len(changed) == {"parc_net, detector": 12, "parc_net, segmentor": 1}.get(file, 0)
    parts = {"classifier": {"head"}, "trunk": set(), "detector": {"neck", "bbox_head"},
             "segmentor": {"decode_head"}}[file.split(", ")[1]]  # fmt: skip
    assert {key.partition(".")[0] for key in converted} == {"backbone"} | parts


BLOCK = "layer_4.1.spatial_global_rep.0."
EXPECTED = {
    "parc_net, classifier": {
        "conv_1.block.norm.bias": "backbone.stem.norm.bias",
        "layer_1.0.block.exp_1x1.block.conv.weight": "backbone.stages.0.0.expand.conv.weight",
        "layer_2.2.block.conv_3x3.block.norm.weight": "backbone.stages.1.2.depthwise.norm.weight",
        "layer_5.0.block.red_1x1.block.conv.weight": "backbone.stages.4.0.reduce.conv.weight",
        "layer_3.1.dim_adaptive.0.block.norm.bias": "backbone.stages.2.1.project_in.norm.bias",
        "layer_3.1.dim_adaptive.1.block.conv.weight": "backbone.stages.2.1.mix.weight",
        "layer_4.1.channel_adaptive.block.conv.weight":
            "backbone.stages.3.1.project_out.conv.weight",
        "layer_4.1.local_global_fusion.block.conv.weight": "backbone.stages.3.1.fuse.conv.weight",
        "layer_4.1.spatial_global_rep.3.running_mean": "backbone.stages.3.1.norm.running_mean",
        "conv_1x1_exp.block.conv.weight": "backbone.stages.5.conv.weight",
        "classifier.fc.weight": "head.fc.weight",
        **{
            f"{BLOCK}{theirs}": f"backbone.stages.3.1.blocks.0.{ours}"
            for theirs, ours in {
                "meta_kernel_1_H": "half1.0.weight",
                "meta_kernel_2_W": "half1.1.weight",
                "meta_kernel_1_W": "half2.0.weight",
                "meta_kernel_2_H": "half2.1.weight",
                "meta_pe_1_H": "half1.0.position_embedding",
                "meta_pe_2_W": "half1.1.position_embedding",
                "meta_pe_1_W": "half2.0.position_embedding",
                "meta_pe_2_H": "half2.1.position_embedding",
                "pre_Norm_1.bias": "half1.0.norm.bias",
                "pre_Norm_2.bias": "half2.0.norm.bias",
                "ffn.0.weight": "ffn.norm.weight",
                "ffn.1.bias": "ffn.fc1.bias",
                "ffn.4.bias": "ffn.fc2.bias",
                "ca.fc.0.weight": "attention.reduce.conv.weight",
                "ca.fc.1.running_var": "attention.reduce.norm.running_var",
                "ca.fc.3.weight": "attention.expand.conv.weight",
                "ca.fc.4.weight": "attention.expand.norm.weight",
            }.items()
        },
    },
    "parc_net, detector": {
        "encoder.layer_5.0.block.red_1x1.block.conv.weight":
            "backbone.stages.4.0.reduce.conv.weight",
        "extra_layers.os_64.dw_conv.block.norm.bias":
            "neck.extra_layers.0.depthwise_conv.bn.bias",
        "extra_layers.os_256.pw_conv.block.conv.weight":
            "neck.extra_layers.2.pointwise_conv.conv.weight",
        "extra_layers.os_-1.1.block.conv.weight": "neck.pooled_conv.weight",
        "ssd_heads.1.proj_layer.block.conv.weight": "bbox_head.projections.1.conv.weight",
        "ssd_heads.4.loc_cls_layer.dw_conv.block.norm.weight":
            "bbox_head.predictors.4.depthwise_conv.bn.weight",
    },
    "parc_net, segmentor": {
        "seg_head.aspp.aspp_layer.convs.2.block.conv.weight":
            "decode_head.aspp_modules.2.conv.weight",
        "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1.block.norm.bias":
            "decode_head.image_pool.1.bn.bias",
        "seg_head.aspp.aspp_layer.project.block.norm.bias": "decode_head.bottleneck.bn.bias",
        "seg_head.classifier.classifier.block.conv.bias": "decode_head.conv_seg.bias",
    },
    "parc_convnext, classifier": {
        "stages.2.5.dwconv.bias": "backbone.stages.2.5.mixer.bias",
        "stages.2.6.gcc_H.gcc_conv.weight": "backbone.stages.2.6.mixer.height.weight",
        "stages.2.6.gcc_W.gcc_conv.bias": "backbone.stages.2.6.mixer.width.bias",
        "stages.3.2.gcc_H.pe": "backbone.stages.3.2.mixer.height.position_embedding",
        "stages.3.2.gamma": "backbone.stages.3.2.gamma",
        "downsample_layers.2.1.weight": "backbone.downsample_layers.2.1.weight",
        "norm.weight": "backbone.norm3.weight",
        "head.bias": "head.fc.bias",
    },
    "parc_convnext, trunk": {
        "stages.2.6.gcc_conv_1H.weight": "backbone.stages.2.6.mixer.height.weight",
        "stages.2.6.gcc_conv_2W.bias": "backbone.stages.2.6.mixer.width.bias",
        "stages.3.2.gcc_conv_2W.meta_pe": "backbone.stages.3.2.mixer.width.position_embedding",
        "norm1.bias": "backbone.norm1.bias",
    },
    "parc_resnet, classifier": {
        "bn1.bias": "backbone.bn1.bias",
        "layer3.2.conv2.weight": "backbone.layer3.2.conv2.weight",
        "layer3.3.parc_H.gcc_conv.weight": "backbone.layer3.3.conv2.height.weight",
        "layer4.2.parc_W.gcc_conv.bias": "backbone.layer4.2.conv2.width.bias",
        "layer4.2.parc_W.pe": "backbone.layer4.2.conv2.width.position_embedding",
        "layer4.0.downsample.1.bias": "backbone.layer4.0.downsample.1.bias",
        "fc.weight": "head.fc.weight",
    },
    "parc_mobilenetv2, classifier": {
        "features.1.conv.2.bias": "backbone.features.1.conv.2.bias",
        "features.9.pw_expand.0.weight": "backbone.features.9.conv.0.0.weight",
        "features.9.pw_expand.1.bias": "backbone.features.9.conv.0.1.bias",
        "features.10.gcc_H.gcc_conv.weight": "backbone.features.10.conv.1.0.height.weight",
        "features.16.gcc_W.pe": "backbone.features.16.conv.1.0.width.position_embedding",
        "features.16.bn.running_mean": "backbone.features.16.conv.1.1.running_mean",
        "features.13.pw_linear.0.weight": "backbone.features.13.conv.2.weight",
        "features.13.pw_linear.1.weight": "backbone.features.13.conv.3.weight",
        "features.18.0.weight": "backbone.features.18.0.weight",
        "classifier.1.bias": "head.fc.bias",
    },
}  # fmt: skip


@pytest.mark.parametrize("file", EXPECTED)
def test_names(file: str):
    """Shapes cannot tell the halves, norms and directions apart."""
    family, make = FILES[file]
    given = make()
    converted = convert_state_dict(given, family)
    for theirs, ours in EXPECTED[file].items():
        assert converted[ours] is given[theirs], theirs


WRAPPERS = {
    "model": lambda sd: {"model": sd, "epoch": 3, "args": argparse.Namespace(lr=1)},
    "state_dict_ema": lambda sd: {"state_dict_ema": sd},
    "module": lambda sd: {f"module.{k}": v for k, v in sd.items()},
    "state_dict, backbone": lambda sd: {"state_dict": {f"backbone.{k}": v for k, v in sd.items()}},
    "model, module": lambda sd: {"model": {f"module.{k}": v for k, v in sd.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("family", TRUNKS)
def test_wrappers(family: str, wrap: str):
    given = TRUNKS[family]()
    converted = convert_state_dict(WRAPPERS[wrap](given), family)
    assert converted.keys() == convert_state_dict(given, family).keys()


def test_downstream_files_keep_their_other_parts():
    trunk = {f"backbone.{key}": value for key, value in parc_convnext_downstream().items()}
    others = {"decode_head.conv_seg.weight": torch.ones(1), "auxiliary_head.x": torch.ones(1)}
    converted = convert_state_dict({"state_dict": {**trunk, **others}}, "parc_convnext")
    assert {key for key in converted if not key.startswith("backbone.")} == set(others)


@pytest.mark.parametrize("file", FILES)
def test_each_missing_key_is_named(file: str):
    family, make = FILES[file]
    complete = make()
    layers = {re.sub(r"\.(running_\w+|num_\w+)$", ".bias", key): key for key in complete}
    for key in layers.values():  # one entry of a norm's stands for its statistics
        if is_alias(key):
            continue
        with pytest.raises(CheckpointError) as caught:
            convert_state_dict({k: v for k, v in complete.items() if k != key}, family)
        assert f"1 missing: {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "pattern", "first"),
    [
        ("parc_net, classifier", r"^conv_1x1_exp\.", r"6 missing: conv_1x1_exp\.block\.conv"),
        ("parc_net, classifier", r"^layer_5\.0\.", r"18 missing: layer_5\.0\.block\.conv_3x3"),
        ("parc_net, classifier", r"^layer_4.*rep\.1\.", r"35 missing: layer_4\.1"),
        ("parc_net, classifier", r"^layer_4\.1\.spatial_global_rep\.3\.",
         r"5 missing: layer_4\.1\.spatial_global_rep\.3\.bias"),
        ("parc_net, classifier", r"^layer_3\.", "missing: layer_3"),
        ("parc_net, classifier", r"rep\.1\.ca\.", r"36 missing: layer_3\.1\.\w+\.1\.ca\.fc\.0"),
        ("parc_net, classifier", r"layer_4.*_pe_", r"4 missing: layer_4\.1\.\w+\.0\.meta_pe_1_H"),
        ("parc_net, detector", r"^ssd_heads\.2\.", r"8 missing: ssd_heads\.2\.loc_cls_layer"),
        ("parc_net, detector", r"^ssd_heads\.", r"missing: ssd_heads\.0"),
        ("parc_net, segmentor", r"project", r"6 missing: seg_head\.aspp\.aspp_layer\.project"),
        ("parc_convnext, classifier", r"^stages\.1\.1\.", r"9 missing: stages\.1\.1\.dwconv"),
        ("parc_convnext, classifier", r"2\.7\.gcc_W", r"3 missing: stages\.2\.7\.gcc_W\.gcc_conv"),
        ("parc_convnext, classifier", r"2\.7\..*pe$", r"2 missing: stages\.2\.7\.gcc_H\.pe"),
        ("parc_convnext, classifier", r"^norm\.", r"2 missing: norm\.bias"),
        ("parc_convnext, trunk", r"^norm", r"8 missing: norm0\.bias"),
        ("parc_convnext, trunk", r"2\.7\..*2W", r"3 missing: stages\.2\.7\.gcc_conv_2W"),
        ("parc_resnet, trunk", r"^layer4\.", "missing: layer4"),
        ("parc_resnet, trunk", r"^layer3\.4\.parc_H", r"3 missing: layer3\.4\.parc_H\.gcc"),
        ("parc_mobilenetv2, trunk", r"^features\.18\.", r"6 missing: features\.18\.0\.weight"),
        ("parc_mobilenetv2, trunk", r"^features\.9\.gcc_H", r"3 missing: features\.9\.gcc_H"),
        ("parc_mobilenetv2, trunk", r"^features\.10\.gcc", r"4 missing: features\.10\.gcc_H"),
    ],
)  # fmt: skip
def test_missing_parts_are_named(file: str, pattern: str, first: str):
    family, make = FILES[file]
    with pytest.raises(CheckpointError, match=first):
        convert_state_dict(without(make(), pattern), family)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("parc_net, classifier", "extra.weight"),
        ("parc_net, classifier", "residual.extra.weight"),
        ("parc_net, classifier", "layer_4.1.spatial_global_rep.1.meta_pe_1_H"),
        ("parc_net, classifier", "classifier.bias"),
        ("parc_net, classifier", "stages.0.0.expand.conv.weight"),
        ("parc_net, detector", "conv_1.block.conv.weight"),
        ("parc_net, detector", "encoder.extra_layers.os_64.weight"),
        ("parc_net, segmentor", "aux_head.weight"),
        ("parc_convnext, classifier", "norm0.weight"),
        ("parc_convnext, classifier", "stages.2.6.dwconv.weight"),
        ("parc_convnext, classifier", "stages.2.5.mixer.weight"),
        ("parc_convnext, trunk", "stages.2.6.gcc_H.gcc_conv.weight"),
        ("parc_resnet, classifier", "layer3.3.conv2.weight"),
        ("parc_resnet, classifier", "layer3.3.conv2.height.weight"),
        ("parc_resnet, trunk", "layer5.0.conv1.weight"),
        ("parc_mobilenetv2, classifier", "features.9.conv.0.0.weight"),
        ("parc_mobilenetv2, classifier", "classifier.0.weight"),
    ],
)  # fmt: skip
def test_each_left_over_key_is_named(file: str, key: str):
    family, make = FILES[file]
    with pytest.raises(CheckpointError, match=f"1 unexpected: {re.escape(key)}"):
        convert_state_dict({**make(), key: torch.ones(1)}, family)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_the_alias_loses(prefix: str):
    """The originals' EMA lets the two copies drift apart."""
    given = parc_net() if not prefix else encoder()
    clean = without(given, rf"^{prefix}residual\.")
    assert len(given) - len(clean) == 18
    drifted = {key: value + 1 if is_alias(key) else value for key, value in given.items()}
    converted = convert_state_dict(drifted, "parc_net")
    assert converted.keys() == convert_state_dict(clean, "parc_net").keys()
    value = given[f"{prefix}layer_5.0.block.exp_1x1.block.conv.weight"]
    assert converted["backbone.stages.4.0.expand.conv.weight"] is value


def biased(given: StateDict) -> StateDict:
    kernels = [key for key in given if "meta_kernel_" in key]
    biases = {re.sub("kernel_(.*)", r"\1_bias", k): torch.rand(len(given[k])) for k in kernels}
    return {**given, **biases}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda sd: without(sd, r"\.ca\."), -7 * 12),
        (lambda sd: without(sd, r"\.meta_pe_"), -3 * 4),
        (biased, 7 * 4),
        (lambda sd: without(sd, r"^classifier\."), -2),
        (lambda sd: without(sd, r"^(classifier|conv_1x1_exp)\."), -8),
        (lambda sd: without(sd, r"^layer_2\.2\."), -18),
        (lambda sd: biased(without(sd, r"\.(ca|meta_pe_\w+)(\.|$)")), 7 * (4 - 12) - 12),
    ],
)  # fmt: skip
def test_variants_of_parc_net(change: Callable[[StateDict], StateDict], difference: int):
    converted = convert_state_dict(change(parc_net()), "parc_net")
    assert len(converted) == 469 + difference


def test_biases_go_where_their_kernels_go():
    given = biased(parc_net())
    converted = convert_state_dict(given, "parc_net")
    for theirs, ours in (("1_H", "half1.0"), ("2_W", "half1.1"), ("1_W", "half2.0"),
                         ("2_H", "half2.1")):  # fmt: skip
        assert (
            converted[f"backbone.stages.3.1.blocks.0.{ours}.bias"]
            is given[f"{BLOCK}meta_{theirs}_bias"]
        )
    del given[f"{BLOCK}meta_1_H_bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: .*meta_1_H_bias"):
        convert_state_dict(given, "parc_net")


@pytest.mark.parametrize("family", ["parc_convnext", "parc_resnet", "parc_mobilenetv2"])
def test_convnets_without_position_embedding(family: str):
    given = without(CLASSIFIERS[family](), r"\.pe$")
    converted = convert_state_dict(given, family)
    assert len(converted) == len(given)
    assert not any("position_embedding" in key for key in converted)


def test_convnext_without_layer_scale():
    given = without(parc_convnext(), r"\.gamma$")
    assert len(convert_state_dict(given, "parc_convnext")) == len(given)


def test_the_detector_s_background_goes_last():
    given = ssd()
    converted = convert_state_dict(given, "parc_net")
    for i in range(6):
        anchors, theirs, ours = (4, "", "") if i == 5 else (6, "pw_conv.", "pointwise_conv.conv.")
        for name in ("weight", "bias"):
            old = given[f"ssd_heads.{i}.loc_cls_layer.{theirs}block.conv.{name}"]
            new = converted[f"bbox_head.predictors.{i}.{ours}{name}"]
            assert new.shape == old.shape
            for first in range(0, anchors * 85, 85):
                assert torch.equal(new[first : first + 4], old[first : first + 4])  # location
                assert torch.equal(new[first + 84], old[first + 4])  # background
                assert torch.equal(new[first + 4 : first + 84], old[first + 5 : first + 85])


def test_a_detector_with_other_anchors_is_refused():
    given = ssd()
    given["ssd_heads.1.loc_cls_layer.pw_conv.block.conv.bias"] = torch.ones(4 * 85)
    with pytest.raises(
        CheckpointError, match=r"ssd_heads\.1 predicts 340 channels; expected 6 times"
    ):
        convert_state_dict(given, "parc_net")


def test_the_segmentor_s_pooled_branch_goes_first():
    given = deeplab()
    old = given["seg_head.aspp.aspp_layer.project.block.conv.weight"]
    new = convert_state_dict(given, "parc_net")["decode_head.bottleneck.conv.weight"]
    assert torch.equal(new[:, :256], old[:, 1024:])
    assert torch.equal(new[:, 256:], old[:, :1024])


TRUNK = {"arch": "xs", "out_indices": (1, 2, 3, 4)}
CLASSIFIER = {"out_indices": (5,)}
# original, ours without the head
MODELS_OF = {
    **{f"parc_net_{a}": (lambda a=a: parc_net(a), {"type": "ParCNet", "arch": a, **CLASSIFIER})
       for a in ("xs", "s", "h")},
    "parc_net, trunk": (TRUNKS["parc_net"], {"type": "ParCNet", **TRUNK}),
    "parc_net, detector": (ssd, {"type": "ParCNet", **TRUNK}),
    "parc_net, segmentor": (deeplab, {"type": "ParCNet", **TRUNK, "output_stride": 16}),
    "parc_net, biased": (lambda: biased(parc_net()),
                         {"type": "ParCNet", "arch": "xs", "parc_bias": True, **CLASSIFIER}),
    "parc_net, gcc": (lambda: without(parc_net(), r"\.ca\."),
                      {"type": "ParCNet", "arch": "xs", "mixer": "gcc", **CLASSIFIER}),
    "parc_net, no embedding": (
        lambda: without(parc_net(), r"\.meta_pe_"),
        {"type": "ParCNet", "arch": "xs", "position_embedding": False, **CLASSIFIER}),
    "parc_convnext": (parc_convnext, {"type": "ParCConvNeXt", "arch": "xt", "out_indices": (3,)}),
    "parc_convnext, tiny": (
        lambda: dict(entries(oracles.ParCConvNeXt, dims=(96, 192, 384, 768))),
        {"type": "ParCConvNeXt", "arch": "tiny", "out_indices": (3,)}),
    "parc_convnext, downstream": (parc_convnext_downstream, {"type": "ParCConvNeXt"}),
    "parc_resnet": (parc_resnet, {"type": "ParCResNet", "out_indices": (3,)}),
    "parc_resnet, trunk": (TRUNKS["parc_resnet"], {"type": "ParCResNet"}),
    "parc_mobilenetv2": (parc_mobilenetv2, {"type": "ParCMobileNetV2", "out_indices": (7,)}),
    "parc_mobilenetv2, trunk": (TRUNKS["parc_mobilenetv2"], {"type": "ParCMobileNetV2"}),
}  # fmt: skip


def shapes(state_dict: StateDict) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state_dict.items()}


def build(config: dict) -> nn.Module:
    with torch.device("meta"):
        # With the prefix: tests before this one may have left another default scope.
        return MODELS.build({**config, "type": f"mmvitconv.{config['type']}"})


@pytest.mark.parametrize("name", MODELS_OF)
def test_converted_weights_are_those_of_our_backbone(name: str):
    make, config = MODELS_OF[name]
    given = make()
    converted = convert_state_dict(given, find_layout(given))
    assert shapes(backbone_part(converted)) == shapes(build(config).state_dict())
    assert find_layout(build(config).state_dict()) is None


@pytest.mark.parametrize("name", MODELS_OF)
@pytest.mark.parametrize("out_indices", [(0, 2), (1,), (0, 1, 2, 3)])
def test_files_load_into_backbones_with_other_outputs(name: str, out_indices: tuple[int, ...]):
    make, config = MODELS_OF[name]
    model = nn.Module()
    model.backbone = build({**config, "out_indices": out_indices})
    adapted = adapt_checkpoint({"state_dict": make()}, model)["state_dict"]
    check_match(adapted, model, scope="backbone")


def part(converted: StateDict, prefix: str) -> dict[str, torch.Size]:
    return shapes({k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)})


def test_a_detector_s_other_parts_are_ours():
    converted = convert_state_dict(ssd(), "parc_net")
    assert part(converted, "neck.") == shapes(entries(SSDLiteNeck))
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        head = SSDLiteHead(anchor_generator={"type": "mmvitconv.SSDLiteAnchorGenerator"})
    assert part(converted, "bbox_head.") == shapes(head.state_dict())


def test_a_segmentor_s_other_parts_are_ours():
    converted = convert_state_dict(deeplab(), "parc_net")
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        head = DeepLabV3Head(in_channels=160, channels=256, num_classes=21,
                             dilations=(1, 6, 12, 18), norm_cfg={"type": "BN"})  # fmt: skip
    assert part(converted, "decode_head.") == shapes(head.state_dict())
