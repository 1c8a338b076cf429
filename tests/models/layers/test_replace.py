"""Plug and play on small models of five libraries, and on the named ones."""

import copy
import io
import pickle
from collections.abc import Callable

import mmdet.models
import mmpretrain.models
import mmseg.models
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from mmvitconv.models.layers import ParCPair
from mmvitconv.models.layers.replace import (
    DeepStages,
    SwinParCBlock,
    TokenParC,
    replace_with_parc,
)

VIT = {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 32}
SWIN = {"embed_dims": 8, "depths": (1, 1, 3, 2), "num_heads": (1, 1, 2, 2)}
CONVNEXT = {"depths": [1, 1, 3, 2], "channels": [8, 8, 16, 16]}
RESNET = {"depth": 50, "stem_channels": 8, "base_channels": 8}


def timm_resnet() -> nn.Module:
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 1, 3, 2), num_classes=7)


def timm_vit(**options) -> nn.Module:
    options = {"dynamic_img_size": True, **options}
    return timm.models.VisionTransformer(
        64, 16, embed_dim=16, depth=3, num_heads=2, num_classes=7, **options
    )


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        64, embed_dim=8, depths=(1, 1, 3, 2), num_heads=(1, 1, 2, 2), window_size=4, num_classes=7,
        strict_img_size=False,
    )  # fmt: skip


# name: (how to build, what is replaced by default at 64 pixels, whether rectangles run)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], bool]] = {
    "torchvision.resnet": (
        lambda: torchvision.models.ResNet(Bottleneck, [1, 1, 3, 2], num_classes=7),
        ("layer3.2.conv2", "layer4.1.conv2"),
        True,
    ),
    "torchvision.mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=7),
        ("features.13.conv.1.0", "features.17.conv.1.0"),
        True,
    ),
    "torchvision.mobilenet_v3": (
        lambda: torchvision.models.mobilenet_v3_small(width_mult=0.25, num_classes=7),
        ("features.8.block.1.0", "features.11.block.1.0"),
        True,
    ),
    "timm.resnet": (timm_resnet, ("layer3.2.conv2", "layer4.1.conv2"), True),
    "timm.convnext": (
        lambda: timm.models.ConvNeXt(depths=(1, 1, 3, 2), dims=(8, 8, 16, 16), num_classes=7),
        ("stages.2.blocks.2.conv_dw", "stages.3.blocks.1.conv_dw"),
        True,
    ),
    "timm.mobilenetv2": (
        lambda: timm.create_model("mobilenetv2_035", num_classes=7),
        ("blocks.4.2.conv_dw", "blocks.6.0.conv_dw"),
        True,
    ),
    "timm.vit": (timm_vit, ("blocks.2.attn",), True),
    "timm.vit_registers": (lambda: timm_vit(reg_tokens=4), ("blocks.2.attn",), True),
    "timm.deit_distilled": (
        lambda: timm.models.deit.VisionTransformerDistilled(
            64, 16, embed_dim=16, depth=3, num_heads=2, num_classes=7
        ),
        ("blocks.2.attn",),
        False,
    ),
    "timm.swin": (timm_swin, ("layers.2.blocks.2", "layers.3.blocks.1"), True),
    "mmpretrain.ResNet": (
        lambda: mmpretrain.models.ResNet(**RESNET),
        ("layer3.3.conv2", "layer3.4.conv2", "layer3.5.conv2", "layer4.2.conv2"),
        True,
    ),
    "mmpretrain.ConvNeXt": (
        lambda: mmpretrain.models.ConvNeXt(CONVNEXT),
        ("stages.2.2.depthwise_conv", "stages.3.1.depthwise_conv"),
        True,
    ),
    "mmpretrain.MobileNetV2": (
        lambda: mmpretrain.models.MobileNetV2(0.25),
        ("layer5.2.conv.1.conv", "layer7.0.conv.1.conv"),
        True,
    ),
    "mmpretrain.VisionTransformer": (
        lambda: mmpretrain.models.VisionTransformer(VIT, 64, out_type="raw"),
        ("layers.2.attn",),
        True,
    ),
    "mmpretrain.VisionTransformer_scaled": (
        lambda: mmpretrain.models.VisionTransformer(
            VIT, 64, drop_path_rate=0.1, layer_scale_init_value=0.1, with_cls_token=False,
            out_type="featmap",
        ),
        ("layers.2.attn",),
        True,
    ),
    "mmpretrain.DistilledVisionTransformer": (
        lambda: mmpretrain.models.DistilledVisionTransformer(VIT, 64),
        ("layers.2.attn",),
        True,
    ),
    "mmpretrain.SwinTransformer": (
        lambda: mmpretrain.models.SwinTransformer(
            SWIN, 64, window_size=2, out_indices=(2, 3), pad_small_map=True
        ),
        ("stages.2.blocks.2.attn", "stages.3.blocks.1.attn"),
        True,
    ),
    "mmdet.ResNet": (
        lambda: mmdet.models.ResNet(**RESNET),
        ("layer3.3.conv2", "layer3.4.conv2", "layer3.5.conv2", "layer4.2.conv2"),
        True,
    ),
    "mmdet.MobileNetV2": (
        lambda: mmdet.models.MobileNetV2(0.25),
        ("layer5.2.conv.1.conv", "layer7.0.conv.1.conv"),
        True,
    ),
    "mmdet.SwinTransformer": (
        lambda: mmdet.models.SwinTransformer(**SWIN),
        ("stages.2.blocks.2.attn", "stages.3.blocks.1.attn"),
        True,
    ),
    "mmseg.ResNetV1c_dilated": (
        lambda: mmseg.models.ResNetV1c(**RESNET, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        ("layer3.3.conv2", "layer3.4.conv2", "layer3.5.conv2", "layer4.1.conv2", "layer4.2.conv2"),
        True,
    ),
    "mmseg.MobileNetV2": (
        lambda: mmseg.models.MobileNetV2(0.25),
        ("layer5.2.conv.1.conv", "layer7.0.conv.1.conv"),
        True,
    ),
    "mmseg.VisionTransformer": (
        lambda: mmseg.models.VisionTransformer(
            64, embed_dims=16, num_layers=3, num_heads=2, drop_path_rate=0.1, with_cp=True
        ),
        ("layers.2.attn",),
        True,
    ),
    "mmseg.SwinTransformer": (
        lambda: mmseg.models.SwinTransformer(**SWIN),
        ("stages.2.blocks.2.attn", "stages.3.blocks.1.attn"),
        True,
    ),
}
EVERY = pytest.mark.parametrize("name", MODELS)


def tensors(outputs) -> list[Tensor]:
    """Every tensor of a nested output."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in tensors(output)]


def shapes(outputs) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors(outputs)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def step(model: nn.Module, x: Tensor) -> set[str]:
    """One training step; the names of the parameters that have a gradient, all of them finite."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    outputs = tensors(model(x))
    weights = torch.Generator().manual_seed(1)
    sum((y * torch.randn(y.shape, generator=weights)).sum() for y in outputs).backward()
    optimizer.step()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    return set(gradients)


@EVERY
def test_replaces_and_leaves_the_rest(name):
    torch.manual_seed(0)
    build, names, _ = MODELS[name]
    model = build()
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    x = torch.randn(2, 3, 64, 64)
    original = copy.deepcopy(model)
    expected = shapes(original(x))
    learning = step(original, x)

    report = replace_with_parc(model, image_size=64)

    assert report.names == names
    assert all(isinstance(model.get_submodule(n), ParCPair | TokenParC | SwinParCBlock)
               for n in names)  # fmt: skip
    for key, value in model.state_dict().items():
        if key in state:  # above all the norms' statistics
            assert torch.equal(value, state[key]), key
        else:
            assert key.startswith(names)
    for key, module in model.named_modules():
        assert module.training == modes.get(key, True), key
    hooks = [m for m in model.modules() if m._forward_hooks]
    assert len(hooks) == ("iT" in name or "vit" in name or "deit" in name or "isionT" in name)
    before, after = report.parameters
    assert parameters(model) == parameters(original) - before + after
    assert shapes(model(x)) == expected
    idle = {n for n, _ in original.named_parameters()} - learning
    assert step(model, x) == {n for n, _ in model.named_parameters()} - idle
    new = [p for m in model.modules() if isinstance(m, ParCPair) for p in m.parameters()]
    assert all(p.grad.any() for p in new)


@EVERY
def test_copies_and_rectangles(name):
    torch.manual_seed(0)
    build, _, rectangles = MODELS[name]
    model = build()
    model.eval()  # some libraries' return nothing
    original = copy.deepcopy(model)
    replace_with_parc(model, image_size=64)
    copied = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    sizes = [(64, 64), (64, 128), (128, 64)] if rectangles else [(64, 64)]
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(2, 3, *size)
            y = model(x)
            assert shapes(y) == shapes(original(x))
            model(torch.randn(1, 3, *sizes[0]))  # a copy must not look at this model's grid
            for other in (copied, loaded):
                for first, second in zip(tensors(other(x)), tensors(y), strict=True):
                    assert torch.equal(first, second)
