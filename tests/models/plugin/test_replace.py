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

from mmvitconv.models import layers
from mmvitconv.models.layers import ParCPair
from mmvitconv.models.plugin import DeepStages, replace_with_parc
from mmvitconv.models.plugin.mixers import SwinParCBlock, TokenParC

VIT = {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 32}
SWIN = {"embed_dims": 8, "depths": (1, 1, 3, 2), "num_heads": (1, 1, 2, 2)}
CONVNEXT = {"depths": [1, 1, 3, 2], "channels": [8, 8, 16, 16]}
RESNET = {"depth": 50, "stem_channels": 8, "base_channels": 8}


def timm_resnet() -> nn.Module:
    return timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, (1, 1, 3, 2), num_classes=7, zero_init_last=False
    )


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
            VIT,
            64,
            drop_path_rate=0.1,
            layer_scale_init_value=0.1,
            with_cls_token=False,
            out_type="featmap",
        ),
        ("layers.2.attn",),
        True,
    ),
    "mmpretrain.DistilledVisionTransformer": (
        lambda: mmpretrain.models.DistilledVisionTransformer(VIT, img_size=64),
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
        ("layer5.2.depthwise_conv.conv", "layer7.0.depthwise_conv.conv"),
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


PAPERS = {  # timm's name: (default choice, parameters before and after)
    "resnet50": (
        ("layer3.3.conv2", "layer3.4.conv2", "layer3.5.conv2", "layer4.2.conv2"),
        (25_557_032, 23_737_640),
    ),
    "convnext_tiny": (
        (*(f"stages.2.blocks.{i}.conv_dw" for i in (6, 7, 8)), "stages.3.blocks.2.conv_dw"),
        (28_589_128, 28_538_056),
    ),
    "deit_small_patch16_224": (
        tuple(f"blocks.{i}.attn" for i in (8, 9, 10, 11)),
        # 384 x 4 x 384 + 4 x 384 are lost and 384 x (14 + 1 + 14) new, four times
        (22_050_664, 22_050_664 - 4 * (591_360 - 11_136)),
    ),
    "swin_tiny_patch4_window7_224": (
        ("layers.2.blocks.4", "layers.2.blocks.5", "layers.3.blocks.1"),
        # attention with its 169 positions for each head, against channels x (2n + 1)
        (28_288_354, 28_288_354 - 2 * (591_360 + 169 * 12 - 11_136) - 2_362_368 - 169 * 24
         + 11_520),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_named_models(name):
    """docs/specs/parc.md#3-parc-convnets blocks and docs/specs/parc.md#4-variants parameters; one
    training step."""
    torch.manual_seed(0)
    names, (before, after) = PAPERS[name]
    model = timm.create_model(name, **({"zero_init_last": False} if name == "resnet50" else {}))
    assert parameters(model) == before
    assert replace_with_parc(model).names == names
    assert parameters(model) == after
    x = torch.randn(2, 3, 224, 224)
    assert model(x).shape == (2, 1000)
    assert step(model, x) == {n for n, _ in model.named_parameters()}
    new = [p for m in model.modules() if isinstance(m, ParCPair) for p in m.parameters()]
    assert len(new) == 6 * len(names)
    assert all(p.grad.any() for p in new)


def test_mobilenetv2_as_in_the_paper():
    """docs/specs/parc.md#4-variants 3,532,136 and the embedding of features.10, which the paper
    leaves out."""
    model = timm.create_model("mobilenetv2_100", exportable=False)
    blocks = ("blocks.3.2", "blocks.3.3", "blocks.4.2", "blocks.5.2")
    report = replace_with_parc(model, [f"{block}.conv_dw" for block in blocks])
    assert report.names == tuple(f"{block}.conv_dw" for block in blocks)
    assert parameters(model) == 3_532_136 + 384 * 14
    assert [type(block.bn1).__name__ for block in model.blocks[3]][2:] == ["BatchNormAct2d"] * 2


def test_meta_device_and_costs():
    """docs/specs/parc.md#4-variants multiply-adds of ResNet50 and what is counted by hand for
    attention."""
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    report = replace_with_parc(model)
    assert all(p.is_meta for p in model.parameters())
    before, after = report.multiply_adds
    assert round((4_089_184_256 - before + after) / 1e9, 3) == 3.941
    assert "layer4.2.conv2" in str(report)
    assert "115.6M -> 45.0M" in str(report)
    tokens, dims = 196 + 1, 384
    report = replace_with_parc(timm.create_model("deit_small_patch16_224"), "blocks.11.attn")
    attention = 4 * tokens * dims**2 + 2 * tokens**2 * dims
    assert report.multiply_adds == (attention, 196 * dims * 14)
    windows = 4 * 4  # of 7 x 7: 24 is not a multiple of 7
    swin = timm.models.SwinTransformer(
        96, embed_dim=8, depths=(1,), num_heads=(1,), window_size=7, always_partition=True
    )
    report = replace_with_parc(swin, image_size=96)
    attention = windows * (4 * 49 * 8**2 + 2 * 49**2 * 8)
    assert report.multiply_adds == (attention, 24 * 24 * 8 * 24)


def mixed(x: Tensor, pair: ParCPair) -> Tensor:
    """A pair written down with rolls: docs/specs/parc.md#11-circular-convolution,
    #12-position-embedding on maps of the kernels' size."""
    outs = []
    for part, conv, axis in zip(x.chunk(2, 1), (pair.height, pair.width), (2, 3), strict=True):
        part = part + conv.position_embedding
        out = conv.bias.view(-1, 1, 1)
        taps = conv.weight.squeeze(5 - axis)
        for k in range(x.shape[axis]):
            shifted = part.roll(-k, axis)
            if taps.shape[1] == 1:
                out = out + taps[:, :, k, None] * shifted
            else:
                out = out + torch.einsum("dc,bchw->bdhw", taps[:, :, k], shifted)
        outs.append(out)
    return torch.cat(outs, 1)


@pytest.mark.parametrize("groups", [1, 6])
def test_replaced_convolution_is_the_plain_formula(groups):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=groups))
    model = model.double()
    replace_with_parc(model, image_size=(5, 8))
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), mixed(model[0](x), model[1]), rtol=1e-10, atol=1e-10)
    assert model[1].height.weight.shape == (3, 3 if groups == 1 else 1, 5, 1)
    assert model[1].width.weight.shape == (3, 3 if groups == 1 else 1, 1, 8)


@pytest.mark.parametrize("name", ["timm.vit_registers", "mmpretrain.VisionTransformer_scaled",
                                  "mmseg.VisionTransformer"])  # fmt: skip
def test_tokens_are_mixed_as_a_map(name):
    """On a rectangle; the tokens before the patches get the mean of the mixed ones."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    model.eval()
    replace_with_parc(model, image_size=(64, 128))
    attention = next(m for m in model.modules() if isinstance(m, TokenParC))
    seen = []
    attention.register_forward_hook(
        lambda m, a, k, out: seen.append((a[0], k, out)), with_kwargs=True
    )
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 128))
        ((x, options, out),) = seen
        prefix = {"timm": 5, "mmpretrain": 0, "mmseg": 1}[name.split(".")[0]]
        patches = x[:, prefix:].transpose(1, 2).reshape(2, 16, 4, 8)
        patches = mixed(patches, attention.mixer).flatten(2).transpose(1, 2)
        expected = torch.cat([patches.mean(1, True).expand(-1, prefix, -1), patches], 1)
        if name.startswith("mmpretrain"):
            expected = expected * 0.1  # the layer scale
        if name.startswith("mmseg"):
            expected = expected + options["identity"]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["timm.swin", "mmdet.SwinTransformer"])
def test_swin_mixes_the_whole_map(name):
    """A change in one corner reaches the far end of its row and of its column."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    model.eval()
    report = replace_with_parc(model, image_size=64)
    block = model.get_submodule(report.names[0])
    x = torch.randn(1, 3, 4, 8, dtype=torch.float32).new_zeros(
        1, 4, 8, block.mixer.height.channels * 2
    )
    changed = x.clone()
    changed[0, 0, 0] = torch.randn(x.shape[-1])
    if name.startswith("mmdet"):
        y, z = (block(m.flatten(1, 2), (4, 8)).view_as(x) for m in (x, changed))
    else:
        y, z = block(x), block(changed)
    difference = (y - z).abs().amax(-1)[0] > 1e-6
    assert difference[0].all()
    assert difference[:, 0].all()
    assert not difference[1:, 1:].any()


def test_swin_block_is_the_plain_formula():
    torch.manual_seed(0)
    model = timm_swin().eval()
    replace_with_parc(model, "layers.0.blocks.0", image_size=64)
    block = model.layers[0].blocks[0]
    x = torch.randn(2, 16, 16, 8)
    y = x + mixed(block.norm1(x).permute(0, 3, 1, 2), block.mixer).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))


def test_class_token_sees_the_image():
    torch.manual_seed(0)
    model = timm_vit().eval()
    replace_with_parc(model, {"fraction": 1}, image_size=64)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert (gradient != 0).all()


def conv_net() -> nn.Module:
    """Two stages of depth-wise convolutions, and layers that cannot be replaced."""
    stage = [nn.Conv2d(4, 4, 7, padding=3, groups=4) for _ in range(6)]
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 4),
        nn.Sequential(*stage),
        nn.Conv2d(4, 4, 3, 2, 1, groups=4),  # strided
        nn.Conv2d(4, 9, 3, 1, 1),  # more channels
        nn.Conv2d(9, 9, 3, 1, 1, groups=9),  # an odd number
        nn.Conv2d(9, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, 1, 1, groups=2),  # neither plain nor depth-wise
        nn.Conv2d(8, 8, 5, 1, 2),  # plain, but 5x5
        nn.Conv2d(8, 8, 3),  # smaller maps
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.Conv2d(8, 8, 3, 1, 1),
    )


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (None, ("1.4", "1.5", "11")),
        ({}, ("1.4", "1.5", "11")),
        ({"stages": (-1,)}, ("11",)),
        ({"stages": 0, "fraction": 0.5}, ("1.3", "1.4", "1.5")),
        ({"stages": [1, -1], "fraction": 1}, ("10", "11")),
        (DeepStages(stages=(0,), fraction=1e-9), ("1.5",)),
        ("1.[01]", ("1.0", "1.1")),
        (["10", "1.2"], ("1.2", "10")),
        (lambda name, module: module.in_channels == 8, ("10", "11")),
    ],
)
def test_rules(rule, names):
    model = conv_net()
    assert replace_with_parc(model, rule, image_size=64).names == names
    found = [n for n, m in model.named_modules() if isinstance(m, ParCPair)]
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"stages": 2}, "stages must be indices from -2 to 1, got 2"),
        ({"stages": (-3,)}, "indices from -2 to 1"),
        ({"stages": ()}, "indices"),
        ({"stages": (True,)}, "indices"),
        ({"stages": "last"}, "indices"),
        ({"stage": 1}, "unknown keys stage"),
        ({"fraction": 0}, "number in"),
        ({"fraction": 1.5}, "number in"),
        ({"fraction": "half"}, "number in"),
        ("layer4*", "'layer4[*]' fits no"),
        (["1.0", "2"], "'2' fits no"),
        ([], r"rule must be a dict.* got \[\]"),
        (3, "rule must be a dict.* got 3"),
        (lambda name, module: False, "chooses no"),
    ],
)
def test_illegal_rules_list_what_is_legal(rule, words):
    model = conv_net()
    with pytest.raises(ValueError, match=words) as error:
        replace_with_parc(model, rule, image_size=64)
    assert "stage 0 (16 x 16, 4 channels): 1.0, 1.1, 1.2, 1.3, 1.4, 1.5" in str(error.value)
    assert "stage 1 (6 x 6, 8 channels): 10, 11" in str(error.value)
    assert not any(isinstance(m, ParCPair) for m in model.modules())


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "224", (224,), (64, 64, 64), None])
def test_illegal_image_size(size):
    with pytest.raises(ValueError, match="image_size"):
        replace_with_parc(conv_net(), image_size=size)


def test_model_that_does_not_run_stays_as_it_was():
    model = timm.models.VisionTransformer(64, 16, embed_dim=16, depth=1, num_heads=2)
    model.blocks.eval()
    with pytest.raises(ValueError, match=r"224 x 224 pixels .*Input height.*image_size"):
        replace_with_parc(model)
    assert model.training
    assert not model.blocks.training
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="nothing to replace at 64 x 64"):
        replace_with_parc(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), image_size=64)
    with pytest.raises(ValueError, match="no convolution"):
        replace_with_parc(nn.Linear(3, 3))
    strided = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1))  # keeps a map of one pixel
    with pytest.raises(ValueError, match="nothing to replace at 1 x 1"):
        replace_with_parc(strided, image_size=1)


def test_layers_under_several_names_and_of_several_sizes():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 3, padding=1)
            self.second = self.first
            self.pyramid = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x))
            return self.pyramid(x).mean() + self.pyramid(F.avg_pool2d(x, 2)).mean()

    model = Shared()
    assert replace_with_parc(model, {"fraction": 1}, image_size=8).names == ("first",)
    assert isinstance(model.first, ParCPair)
    assert model.first is model.second


def test_options_and_place():
    model = conv_net().to(torch.bfloat16).eval()
    replace_with_parc(
        model, "11", 64, position_embedding=False, bias=False, instance_kernel="crop",
        algorithm="fft",
    )  # fmt: skip
    conv = model[11].height
    assert conv.position_embedding is None
    assert conv.bias is None
    assert (conv.instance_kernel, conv.algorithm, conv.length) == ("crop", "fft", 6)
    assert conv.weight.dtype == torch.bfloat16
    assert not conv.training


def test_mixer_refuses_what_it_cannot_do():
    model = timm_vit(patch_drop_rate=0.5)
    replace_with_parc(model, image_size=64)
    with pytest.raises(ValueError, match="9 tokens are not 1 and a map of"):
        model.train()(torch.randn(1, 3, 64, 64))
    mask = torch.ones(17, 17, dtype=torch.bool)
    with pytest.raises(ValueError, match="does not take attn_mask"):
        model.eval().forward_features(torch.randn(1, 3, 64, 64), attn_mask=mask)


def test_pickle_keeps_one_grid():
    model = pickle.loads(pickle.dumps(replaced := timm_vit()))
    assert replaced is not model
    replace_with_parc(model, {"fraction": 1}, image_size=64)
    model = pickle.loads(pickle.dumps(model))
    mixers = [m for m in model.modules() if isinstance(m, TokenParC)]
    (hook,) = model.patch_embed.proj._forward_hooks.values()
    assert len(mixers) == 3
    assert all(m.grid is hook for m in mixers)


def test_second_replacement_goes_on():
    model = timm_vit()
    replace_with_parc(model, "blocks.2.attn", image_size=64)
    report = replace_with_parc(model, image_size=64)
    assert report.names == ("blocks.1.attn",)
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 7)


def test_timm_swin_takes_another_input_size():
    model = timm_swin()
    replace_with_parc(model, image_size=64)
    model.set_input_size((96, 64))
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 7)


def test_old_import_works_for_one_release():
    with pytest.warns(DeprecationWarning, match="import it from mmvitconv.models.plugin"):
        assert layers.replace_with_parc is replace_with_parc
    with pytest.raises(AttributeError, match="has no attribute 'replace'"):
        _ = layers.replace
