"""``type='mmvitconv.WithParC'`` around backbones of mmdet, mmseg and mmpretrain."""

import copy
import io

import mmdet.models
import mmpretrain.models
import mmseg.models
import pytest
import torch
from mmdet.registry import MODELS as DET_MODELS
from mmengine import Config
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as CLS_MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.models import WithParC
from mmvitconv.models.layers import ParCPair
from mmvitconv.registry import MODELS

RESNET = {"type": "mmdet.ResNet", "depth": 50, "stem_channels": 8, "base_channels": 8}
SWIN = {"embed_dims": 8, "depths": (1, 1, 3, 2), "num_heads": (1, 1, 2, 2)}
RESNET_NAMES = ["layer3.3.conv2", "layer3.4.conv2", "layer3.5.conv2", "layer4.2.conv2"]
SWIN_NAMES = ["stages.2.blocks.2.attn.mixer", "stages.3.blocks.1.attn.mixer"]
INNER = {
    "mmdet.ResNet": (RESNET, RESNET_NAMES),
    "mmseg.ResNet": ({**RESNET, "type": "mmseg.ResNet"}, RESNET_NAMES),
    "mmpretrain.ResNet": ({**RESNET, "type": "mmpretrain.ResNet"}, RESNET_NAMES),
    "mmdet.SwinTransformer": ({"type": "mmdet.SwinTransformer", **SWIN}, SWIN_NAMES),
    "mmseg.SwinTransformer": ({"type": "mmseg.SwinTransformer", **SWIN}, SWIN_NAMES),
    "mmpretrain.SwinTransformer": (
        {"type": "mmpretrain.SwinTransformer", "arch": SWIN, "img_size": 64, "window_size": 2},
        SWIN_NAMES,
    ),
    "mmseg.VisionTransformer": (
        {"type": "mmseg.VisionTransformer", "img_size": 64, "embed_dims": 16, "num_layers": 3,
         "num_heads": 2},
        ["layers.2.attn.mixer"],
    ),
    "mmpretrain.ConvNeXt": (
        {"type": "mmpretrain.ConvNeXt",
         "arch": {"depths": [1, 1, 3, 2], "channels": [8, 8, 16, 16]}},
        ["stages.2.2.depthwise_conv", "stages.3.1.depthwise_conv"],
    ),
    "mmpretrain.TIMMBackbone": (
        {"type": "mmpretrain.TIMMBackbone", "model_name": "convnext_atto", "features_only": True},
        ["timm_model.stages_2.blocks.4.conv_dw", "timm_model.stages_2.blocks.5.conv_dw",
         "timm_model.stages_3.blocks.1.conv_dw"],
    ),
}  # fmt: skip
LIBRARIES = (mmdet.models, mmpretrain.models, mmseg.models)  # registers their backbones


def build(backbone: dict, **options) -> BaseModule:
    options = {"image_size": 64, **options}
    return MODELS.build(
        Config({"x": {"type": "mmvitconv.WithParC", "backbone": backbone, **options}}).x
    )


def pairs(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, ParCPair)]


@pytest.mark.parametrize("name", INNER)
def test_is_the_backbone_itself(name):
    torch.manual_seed(0)
    inner, names = INNER[name]
    model = build(inner)
    original = MODELS.build(inner)
    assert type(model) is type(original)
    assert pairs(model) == names
    model.init_weights()
    model.train()
    x = torch.randn(2, 3, 64, 64)
    assert [y.shape for y in model(x)] == [y.shape for y in original(x)]
    sum(y.square().mean() for y in model(x)).backward()
    new = [p for n in names for p in model.get_submodule(n).parameters()]
    assert all(p.grad.isfinite().all() for p in new)


@pytest.mark.parametrize("name", [name for name in INNER if "TIMM" not in name])
def test_pretrained_weights_of_the_original(name, tmp_path):
    """What fits is loaded by ``init_weights``; new layers keep their own initialisation."""
    torch.manual_seed(0)
    inner, names = INNER[name]
    weights = MODELS.build(inner).state_dict()
    weights = {
        key: value + 0.01 if value.is_floating_point() else value for key, value in weights.items()
    }
    # mmdet's Swin reads nothing but keys with this prefix
    prefix = "backbone." if name == "mmdet.SwinTransformer" else ""
    path = tmp_path / "original.pth"
    torch.save({"state_dict": {prefix + key: value for key, value in weights.items()}}, path)
    model = build({**inner, "init_cfg": {"type": "Pretrained", "checkpoint": str(path)}})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model = copy.deepcopy(model)  # a copy initialises itself
    model.init_weights()
    after = model.state_dict()
    assert after.keys() == before.keys()
    for key, value in after.items():
        if key.startswith(tuple(names)):
            assert torch.equal(value, before[key]), key
        else:
            assert torch.equal(value, weights[key]), key
    assert any(not torch.equal(after[key], before[key]) for key in after)


@pytest.mark.parametrize("name", ["mmdet.ResNet", "mmseg.VisionTransformer"])
def test_initialisation_from_scratch_leaves_new_layers(name):
    inner, names = INNER[name]
    model = build(inner)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in after if k.startswith(tuple(names)))
    assert not torch.equal(*(s[next(k for k in s if s[k].dim() == 4)] for s in (before, after)))


def test_freezing():
    model = build({**RESNET, "frozen_stages": 2, "norm_eval": True})
    model.train()
    assert not any(p.requires_grad for p in model.layer2.parameters())
    assert all(p.requires_grad for p in model.layer3.parameters())
    assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))
    assert model.layer3[5].conv2.training


def test_default_scope():
    """A type without prefix is the project's; ours is found from anywhere."""
    inner = {key: value for key, value in RESNET.items() if key != "type"}
    for registry, scope in ((DET_MODELS, "mmdet"), (CLS_MODELS, "mmpretrain")):
        with DefaultScope.overwrite_default_scope(scope):
            model = registry.build(
                {"type": "mmvitconv.WithParC", "backbone": {"type": "ResNet", **inner},
                 "stages": (2, 3), "fraction": 0.2, "image_size": 64}
            )  # fmt: skip
        assert type(model).__module__.startswith(f"{scope}.")
        assert pairs(model) == ["layer3.5.conv2", "layer4.2.conv2"]


def test_rules_and_options():
    assert pairs(build(RESNET, stages=-1, fraction=1)) == ["layer4.1.conv2", "layer4.2.conv2"]
    assert len(pairs(build(RESNET, fraction=1))) == 7
    model = build(RESNET, names=["layer3.1.*", "layer3.2.*"], position_embedding=False)
    assert pairs(model) == ["layer3.1.conv2", "layer3.2.conv2"]
    assert model.layer3[1].conv2.height.position_embedding is None
    assert WithParC(RESNET, image_size=(64, 96)).layer4[2].conv2.width.length == 3
    with pytest.raises(ValueError, match="two rules"):
        build(RESNET, names="layer3.1.*", stages=1)
    with pytest.raises(ValueError, match=r"stage 3 .*layer4.1.conv2, layer4.2.conv2"):
        build(RESNET, stages=4)


def test_whole_classifier():
    """Built by mmpretrain, a step, and weights that come back."""
    config = {
        "type": "ImageClassifier",
        "backbone": {"type": "mmvitconv.WithParC", "image_size": 64, "backbone": {
            **RESNET, "type": "ResNet", "out_indices": (3,), "zero_init_residual": False}},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LinearClsHead", "num_classes": 5, "in_channels": 256},
    }  # fmt: skip
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model, other = CLS_MODELS.build(config), CLS_MODELS.build(config)
    model.init_weights()
    samples = [mmpretrain.structures.DataSample().set_gt_label(i) for i in range(2)]
    model(torch.randn(2, 3, 64, 64), samples, mode="loss")["loss"].backward()
    assert model.backbone.layer4[2].conv2.height.weight.grad.any()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(other.eval()(x)[0], model.eval()(x)[0])
