"""All ParC families written down literally from the specification, with the ORIGINAL keys.

It shares no code with mmvitconv: circular convolutions are the reference's own concatenation and
unpadded convolution. It is the oracle of the tests (values, gradients, key layout). ResNet-50 and
MobileNetV2 are torchvision's, with the blocks in question exchanged. Kernels and position
embeddings follow the map, each along its own axis; where the originals ran this changes nothing.
``residual.*`` of ParC-Net, a second name of ``layer_5.0.*``, does not exist here. The last part
reads the fixtures.
"""

import json
import math
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from oracles import reference
from torch import Tensor, nn

DIMS = {"H": 2, "W": 3}


# The operators ---------------------------------------------------------------------------------


def rolled(x: Tensor, weight: Tensor, dim: int, bias: Tensor | None = None) -> Tensor:
    """docs/specs/parc.md#11-circular-convolution: tap 0 on the output position, taps forward, the
    border wrapped around."""
    length = x.shape[dim]
    assert weight.shape[dim] == length
    wrapped = torch.cat([x, x.narrow(dim, 0, length - 1)], dim=dim)
    return F.conv2d(wrapped, weight, bias, groups=x.shape[1] // weight.shape[1])


def resized(tensor: Tensor, length: int, dim: int, instance_kernel: str) -> Tensor:
    """docs/specs/parc.md#13-kernel-length: a kernel (D,C,M,1) or embedding (1,C,M,1), or (...,1,M),
    with M = ``length``."""
    if instance_kernel == "crop":
        return tensor.narrow(dim, 0, length)
    assert instance_kernel == "interpolation_bilinear"
    if length == tensor.shape[dim]:
        return tensor
    size = (length, 1) if dim == 2 else (1, length)
    return F.interpolate(tensor, size=size, mode="bilinear", align_corners=True)


def parc(x: Tensor, weight: Tensor, dim: int, bias: Tensor | None, pe: Tensor | None) -> Tensor:
    """docs/specs/parc.md#11-circular-convolution, #12-position-embedding, #13-kernel-length,
    interpolating."""
    length = x.shape[dim]
    if pe is not None:
        x = x + resized(pe, length, dim, "interpolation_bilinear")
    return rolled(x, resized(weight, length, dim, "interpolation_bilinear"), dim, bias)


def axis_shape(first: int, second: int, length: int, dim: int) -> tuple[int, int, int, int]:
    return (first, second, length, 1) if dim == 2 else (first, second, 1, length)


class Operator(nn.Module):
    """The operator of the ParC-ConvNets: keys pe, gcc_conv.weight, gcc_conv.bias."""

    def __init__(
        self, channels: int, direction: str, length: int, pe: bool = True, dense: bool = False
    ):
        super().__init__()
        self.dim = DIMS[direction]
        kernel = axis_shape(1, 1, length, self.dim)[2:]
        groups = 1 if dense else channels
        self.gcc_conv = nn.Conv2d(channels, channels, kernel, groups=groups)
        self.pe = None
        if pe:
            self.pe = nn.Parameter(torch.empty(axis_shape(1, channels, length, self.dim)))
            nn.init.trunc_normal_(self.pe, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return parc(x, self.gcc_conv.weight, self.dim, self.gcc_conv.bias, self.pe)


class DownstreamOperator(nn.Module):
    """The operator of the downstream ConvNeXt: keys weight, bias, meta_pe."""

    def __init__(self, channels: int, direction: str, length: int):
        super().__init__()
        self.dim = DIMS[direction]
        start = Operator(channels, direction, length)
        self.weight, self.bias = start.gcc_conv.weight, start.gcc_conv.bias
        self.meta_pe = start.pe

    def forward(self, x: Tensor) -> Tensor:
        return parc(x, self.weight, self.dim, self.bias, self.meta_pe)


class OversizeConv(nn.Module):
    """docs/specs/parc.md#16-oversize-convolution: kernels of 2n-1 taps, zero padding, along H and
    then along W."""

    def __init__(self, channels: int, length: int, bias: bool = False, interpolate: bool = False):
        super().__init__()
        taps = 2 * length - 1
        self.interpolate = interpolate
        self.conv_h = nn.Conv2d(channels, channels, (taps, 1), groups=channels, bias=bias)
        self.conv_w = nn.Conv2d(channels, channels, (1, taps), groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for conv, dim in ((self.conv_h, 2), (self.conv_w, 3)):
            weight = conv.weight
            if self.interpolate:
                weight = resized(weight, 2 * x.shape[dim] - 1, dim, "interpolation_bilinear")
            padding = tuple(size // 2 for size in weight.shape[2:])
            x = F.conv2d(x, weight, conv.bias, padding=padding, groups=x.shape[1])
        return x


# ParC-Net --------------------------------------------------------------------------------------


class ConvLayer(nn.Module):
    """Convolution, BN, SiLU; docs/specs/parc.md#22-stage, #23-network, #10-details."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
    ):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)
        layers = OrderedDict(conv=conv)
        if norm:
            layers["norm"] = nn.BatchNorm2d(c_out)
        if act:
            layers["act"] = nn.SiLU()
        self.block = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """MV2 of docs/specs/parc.md#23-network."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        c = 4 * c_in
        self.skip = stride == 1 and c_in == c_out
        self.block = nn.Sequential(
            OrderedDict(
                exp_1x1=ConvLayer(c_in, c, 1),
                conv_3x3=ConvLayer(c, c, 3, stride, dilation, groups=c),
                red_1x1=ConvLayer(c, c_out, 1, act=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.skip else self.block(x)


class ChannelAttention(nn.Module):
    """CA of docs/specs/parc.md#21-parc-block."""

    def __init__(self, c: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(c, c // 16, 1, bias=False),
            nn.BatchNorm2d(c // 16),
            nn.Hardswish(),
            nn.Conv2d(c // 16, c, 1, bias=False),
            nn.BatchNorm2d(c),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(dim=(2, 3), keepdim=True))


class Block(nn.Module):
    """docs/specs/parc.md#21-parc-block on ``channels`` = d, meta length ``length`` = M; without
    ``attention``: gcc."""

    def __init__(
        self,
        channels: int,
        length: int,
        hidden: int,
        pe: bool = True,
        attention: bool = True,
        bias: bool = False,
        mid_mix: bool = False,
        instance_kernel: str = "interpolation_bilinear",
        ffn_drop: float = 0.1,
    ):
        super().__init__()
        half = channels // 2
        self.pe, self.mid_mix, self.instance_kernel = pe, mid_mix, instance_kernel
        names = ("1_H", "1_W", "2_H", "2_W")
        for name in names:
            kernel = torch.empty(axis_shape(half, 1, length, DIMS[name[-1]]))
            nn.init.uniform_(kernel, -(length**-0.5), length**-0.5)
            setattr(self, f"meta_kernel_{name}", nn.Parameter(kernel))
        for name in names if bias else ():
            setattr(self, f"meta_{name}_bias", nn.Parameter(torch.zeros(half)))
        for name in names if pe else ():
            embedding = torch.randn(axis_shape(1, half, length, DIMS[name[-1]]))
            setattr(self, f"meta_pe_{name}", nn.Parameter(embedding))
        self.pre_Norm_1 = nn.BatchNorm2d(half)
        self.pre_Norm_2 = nn.BatchNorm2d(half)
        self.ffn = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, hidden, 1),
            nn.Hardswish(),
            nn.Dropout(0),
            nn.Conv2d(hidden, channels, 1),
            nn.Dropout(ffn_drop),
        )
        self.ca = ChannelAttention(channels) if attention else nn.Identity()

    def instance(self, kind: str, name: str, x: Tensor) -> Tensor:
        """``kind`` is kernel or pe, ``name`` is 1_H, 1_W, 2_H or 2_W."""
        dim = DIMS[name[-1]]
        meta = getattr(self, f"meta_{kind}_{name}")
        return resized(meta, x.shape[dim], dim, self.instance_kernel)

    def embed(self, x: Tensor, name: str) -> Tensor:
        return x + self.instance("pe", name, x) if self.pe else x

    def convolve(self, x: Tensor, name: str) -> Tensor:
        bias = getattr(self, f"meta_{name}_bias", None)
        return rolled(x, self.instance("kernel", name, x), DIMS[name[-1]], bias)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        v1 = self.convolve(self.pre_Norm_1(self.embed(x1, "1_H")), "1_H")
        v2 = self.convolve(self.pre_Norm_2(self.embed(x2, "1_W")), "1_W")
        if self.mid_mix:
            v = torch.cat([v1, v2], dim=1).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
            v1, v2 = v.chunk(2, dim=1)
        x1 = x1 + self.convolve(self.embed(v1, "2_W"), "2_W")
        x2 = x2 + self.convolve(self.embed(v2, "2_H"), "2_H")
        t = torch.cat([x1, x2], dim=1)
        return t + self.ca(self.ffn(t))


class Frame(nn.Module):
    """outer_frame_v1 of docs/specs/parc.md#22-stage on C = ``c``, d = ``inner``."""

    def __init__(self, c: int, inner: int, depth: int, fusion: str, pe: bool, **block: object):
        super().__init__()
        groups = math.gcd(inner, c)
        self.concat = fusion == "concat"
        self.dim_adaptive = nn.Sequential(
            ConvLayer(c, inner, 3, groups=groups),
            ConvLayer(inner, inner, 1, norm=False, act=False),
        )
        blocks = [Block(inner, pe=pe and i == 0, **block) for i in range(depth)]
        self.spatial_global_rep = nn.Sequential(*blocks, nn.BatchNorm2d(inner))
        self.channel_adaptive = ConvLayer(inner, c, 1, groups=groups)
        self.local_global_fusion = ConvLayer(2 * c if self.concat else c, c, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.channel_adaptive(self.spatial_global_rep(self.dim_adaptive(x)))
        return self.local_global_fusion(torch.cat([z, x], dim=1) if self.concat else z + x)


# stem: channels and kernel; channels of layer_1..5; per stage 3..5: d, f, n of
# docs/specs/parc.md#23-network
PARC_NETS = {
    "xs": {
        "stem": (16, 3),
        "channels": (32, 64, 96, 128, 160),
        "inner": (96, 128, 160),
        "hidden": (192, 256, 320),
        "depths": (2, 3, 2),
        "fusion": "add",
    },
    "s": {
        "stem": (16, 3),
        "channels": (32, 64, 96, 128, 160),
        "inner": (192, 256, 320),
        "hidden": (384, 512, 640),
        "depths": (2, 4, 3),
        "fusion": "concat",
    },
    "h": {
        "stem": (48, 5),
        "channels": (96, 144, 216, 288, 432),
        "inner": (324, 432, 432),
        "hidden": (648, 864, 864),
        "depths": (3, 9, 3),
        "fusion": "concat",
    },
}


class ParCNet(nn.Module):
    """docs/specs/parc.md#23-network; gives out_l1..out_l5, out_l5_exp and logits.

    ``block`` holds what ``Block`` takes beyond its sizes and ``pe``.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        channels: tuple[int, ...],
        inner: tuple[int, ...],
        hidden: tuple[int, ...],
        depths: tuple[int, ...],
        fusion: str,
        lengths: tuple[int, ...] = (32, 16, 8),
        output_stride: int = 32,
        num_classes: int = 1000,
        pe: bool = True,
        dropout: float = 0.2,
        **block: object,
    ):
        super().__init__()
        c = channels
        self.conv_1 = ConvLayer(3, *stem, stride=2)
        self.layer_1 = nn.Sequential(InvertedResidual(stem[0], c[0]))
        self.layer_2 = nn.Sequential(
            InvertedResidual(c[0], c[1], 2),
            InvertedResidual(c[1], c[1]),
            InvertedResidual(c[1], c[1]),
        )
        reached, dilation = 4, 1
        for i in range(3):
            sizes = {"length": lengths[i], "hidden": hidden[i]}
            stride = 2 if reached < output_stride else 1
            layer = nn.Sequential(
                InvertedResidual(c[i + 1], c[i + 2], stride, dilation),
                Frame(c[i + 2], inner[i], depths[i], fusion, pe, **sizes, **block),
            )
            self.add_module(f"layer_{i + 3}", layer)
            reached *= stride
            if stride == 1:  # only the layers after this one see it
                dilation *= 2
        last = min(4 * c[4], 960)
        self.conv_1x1_exp = ConvLayer(c[4], last, 1)
        self.classifier = nn.Sequential(
            OrderedDict(dropout=nn.Dropout(dropout), fc=nn.Linear(last, num_classes))
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        x = self.conv_1(x)
        for i in range(1, 6):
            x = out[f"out_l{i}"] = getattr(self, f"layer_{i}")(x)
        x = out["out_l5_exp"] = self.conv_1x1_exp(x)
        out["logits"] = self.classifier(x.mean(dim=(2, 3)))
        return out


def parc_net(name: str, **kwargs: object) -> ParCNet:
    """A published variant: xs, s or h."""
    return ParCNet(**{**PARC_NETS[name], **kwargs})


# ParC-ConvNets, docs/specs/parc.md#3-parc-convnets


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B,C,H,W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """``length`` None: 7x7 depth-wise convolution, else a ParC pair."""

    def __init__(self, c: int, length: int | None, downstream: bool, layer_scale: float = 1e-6):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((c,), layer_scale))
        if length is None:
            self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
            self.mixers = ("dwconv",)
        elif downstream:
            self.gcc_conv_1H = DownstreamOperator(c // 2, "H", length)
            self.gcc_conv_2W = DownstreamOperator(c // 2, "W", length)
            self.mixers = ("gcc_conv_1H", "gcc_conv_2W")
        else:
            self.gcc_H = Operator(c // 2, "H", length)
            self.gcc_W = Operator(c // 2, "W", length)
            self.mixers = ("gcc_H", "gcc_W")
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1 = nn.Linear(c, 4 * c)
        self.pwconv2 = nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.mixers), dim=1)
        mixers = [getattr(self, name) for name in self.mixers]
        z = torch.cat([mix(part) for mix, part in zip(mixers, parts, strict=True)], dim=1)
        z = self.norm(z.permute(0, 2, 3, 1))
        z = self.gamma * self.pwconv2(F.gelu(self.pwconv1(z)))
        return x + z.permute(0, 3, 1, 2)


class ParCConvNeXt(nn.Module):
    """Gives stage0..3 and logits, or out0..3 (``downstream``). Defaults: ParC-ConvNeXt-XT.

    The last third of the last two stages is ParC.
    """

    def __init__(
        self,
        dims: tuple[int, ...] = (48, 96, 192, 384),
        depths: tuple[int, ...] = (3, 3, 9, 3),
        downstream: bool = False,
        num_classes: int = 1000,
    ):
        super().__init__()
        self.downstream = downstream
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), ChannelNorm(dims[0]))]
        )
        for before, after in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(ChannelNorm(before), nn.Conv2d(before, after, 2, 2))
            )
        self.stages = nn.ModuleList()
        for c, depth, length in zip(dims, depths, (None, None, 14, 7), strict=True):
            lengths = [length if j >= 2 * depth // 3 else None for j in range(depth)]
            self.stages.append(nn.Sequential(*[ConvNeXtBlock(c, n, downstream) for n in lengths]))
        if downstream:
            for i, c in enumerate(dims):
                self.add_module(f"norm{i}", ChannelNorm(c))
        else:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        for i, (downsample, stage) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = stage(downsample(x))
            if self.downstream:
                out[f"out{i}"] = getattr(self, f"norm{i}")(x)
            else:
                out[f"stage{i}"] = x
        if not self.downstream:
            out["logits"] = self.head(self.norm(x.mean(dim=(2, 3))))
        return out


class ParCBottleneck(nn.Module):
    """A stride-1 bottleneck whose 3x3 convolution is a dense ParC pair."""

    def __init__(self, channels: int, length: int):
        super().__init__()
        width = channels // 4
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.parc_H = Operator(width // 2, "H", length, dense=True)
        self.parc_W = Operator(width // 2, "W", length, dense=True)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        z1, z2 = F.relu(self.bn1(self.conv1(x))).chunk(2, dim=1)
        z = F.relu(self.bn2(torch.cat([self.parc_H(z1), self.parc_W(z2)], dim=1)))
        return F.relu(x + self.bn3(self.conv3(z)))


class ParCResNet50(torchvision.models.ResNet):
    """Gives layer1..layer4 and logits."""

    def __init__(self, num_classes: int = 1000):
        super().__init__(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], num_classes)
        for i in (3, 4, 5):
            self.layer3[i] = ParCBottleneck(1024, 14)
        self.layer4[2] = ParCBottleneck(2048, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, 5):
            x = out[f"layer{i}"] = getattr(self, f"layer{i}")(x)
        out["logits"] = self.fc(x.mean(dim=(2, 3)))
        return out


class ParCInvertedResidual(nn.Module):
    """A stride-1 block of MobileNetV2 with a ParC pair on the expanded width."""

    def __init__(self, channels: int, length: int, pe: bool):
        super().__init__()
        width = 6 * channels
        self.pw_expand = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.gcc_H = Operator(width // 2, "H", length, pe)
        self.gcc_W = Operator(width // 2, "W", length, pe)
        self.bn = nn.BatchNorm2d(width)
        self.pw_linear = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        z1, z2 = self.pw_expand(x).chunk(2, dim=1)
        z = F.relu6(self.bn(torch.cat([self.gcc_H(z1), self.gcc_W(z2)], dim=1)))
        return x + self.pw_linear(z)


class ParCMobileNetV2(torchvision.models.MobileNetV2):
    """Gives features0..features18 and logits."""

    def __init__(self, num_classes: int = 1000):
        super().__init__(num_classes)
        for i, channels, length, pe in (
            (9, 64, 14, True),
            (10, 64, 14, False),
            (13, 96, 14, True),
            (16, 160, 7, True),
        ):
            self.features[i] = ParCInvertedResidual(channels, length, pe)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        for i, layer in enumerate(self.features):
            x = out[f"features{i}"] = layer(x)
        out["logits"] = self.classifier(x.mean(dim=(2, 3)))
        return out


# The fixtures, docs/specs/parc.md#9-reference-numbers, #10-details

MODELS = tuple(name for name in reference.names("parc") if not name.startswith("op_"))
OPERATOR_TOLERANCE = 1e-12  # of max |reference|; float64


def gain_applies(key: str, value: Tensor) -> bool:
    leaf = key.rpartition(".")[2]
    return value.dim() >= 2 and leaf != "pe" and not leaf.startswith("meta_")


def apply_gain(state_dict: dict[str, Tensor], gain: float) -> dict[str, Tensor]:
    return {k: v * gain if gain_applies(k, v) else v for k, v in state_dict.items()}


def fill_like(state_dict: dict[str, Tensor], gain: float = 1.0) -> dict[str, Tensor]:
    """The rule's weights for a state dict with original keys."""
    return apply_gain(reference.fill_like(state_dict), gain)


def read_model(name: str) -> tuple[dict[str, Tensor], Tensor, dict[str, np.ndarray]]:
    """Original state dict (with the gain, without ``residual.*``), input, stored outputs."""
    with np.load(reference.ROOT / "parc" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    shapes = json.loads(str(arrays.pop("shapes")))
    keys = [str(key) for key in arrays.pop("keys") if not str(key).startswith("residual.")]
    state_dict = reference.fill(keys, [shapes[key] for key in keys])
    x = np.random.RandomState(0).standard_normal(arrays.pop("input_shape")).astype(np.float32)
    return apply_gain(state_dict, float(arrays["weight_gain"])), torch.from_numpy(x), arrays


def filled(layer: nn.Module) -> nn.Module:
    """The layer in evaluation mode with parameters and statistics that all matter."""
    generator = torch.Generator().manual_seed(0)
    for name, value in layer.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(noise.abs() + 0.5 if "var" in name else noise)
    return layer.eval()


def map_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """The stored maps, and logits."""
    maps = [key.removesuffix("/shape") for key in arrays if key.endswith("/shape")]
    return [*maps, *(["logits"] if "logits" in arrays else [])]


def tolerance(name: str) -> float:
    """Of a model fixture, in standard deviations of each map."""
    if "convnext" in name or "downstream" in name:
        return 1.5e-5
    return 3e-4 if name.rpartition("_")[2].startswith("g") else 5e-5


def assert_map(
    arrays: dict[str, np.ndarray], map_name: str, tensor: Tensor, tolerance: float
) -> None:
    """A map by its samples, mean and standard deviation; logits in full."""
    if map_name in arrays:
        expected = torch.from_numpy(arrays[map_name])
        assert tensor.shape == expected.shape
        torch.testing.assert_close(
            tensor, expected, rtol=0, atol=tolerance * expected.std(correction=0).item()
        )
        return
    assert tensor.shape == tuple(arrays[f"{map_name}/shape"])
    std = float(arrays[f"{map_name}/std"])
    values = tensor.flatten()[torch.from_numpy(arrays[f"{map_name}/idx"])]
    expected = torch.from_numpy(arrays[f"{map_name}/val"])
    torch.testing.assert_close(values, expected, rtol=0, atol=tolerance * std)
    assert abs(tensor.double().mean().item() - arrays[f"{map_name}/mean"]) <= tolerance * std
    assert abs(tensor.double().std(correction=0).item() - std) <= tolerance * std


def read_operator(name: str) -> dict[str, dict[str, Tensor]]:
    """An ``op_*`` file as {case: {field: tensor}}; a case is what stands before the first slash."""
    cases: dict[str, dict[str, Tensor]] = {}
    with np.load(reference.ROOT / "parc" / f"{name}.npz") as file:
        for key in file.files:
            case, slash, field = key.partition("/")
            if slash:
                cases.setdefault(case, {})[field] = torch.from_numpy(file[key])
    return cases


def split_case(fields: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict]]:
    """The parameters (``p/*``) of a case, and the rest by size: {size: {field: tensor}}."""
    parameters, sizes = {}, {}
    for key, value in fields.items():
        size, _, field = key.partition("/")
        if size == "p":
            parameters[field] = value
        else:
            sizes.setdefault(size, {})[field] = value
    return parameters, sizes


def assert_operator(tensor: Tensor, expected: Tensor) -> None:
    atol = OPERATOR_TOLERANCE * expected.abs().max().item()
    torch.testing.assert_close(tensor, expected, rtol=0, atol=atol)
