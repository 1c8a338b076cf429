"""ParC-Net: MobileNetV2 blocks around blocks of position-aware circular convolutions.

Paper: Zhang, Hu and Wang, "ParC-Net: Position Aware Circular Convolution with Merits from ConvNets
and Transformer", arXiv:2203.03952 (first called EdgeFormer). Written from a description of the
architecture; the original code has no licence that allows copying, and none was copied. Original
checkpoints load through :mod:`mmvitconv.weights.families.parc_net`.

The original runs on square maps only; here kernels and embeddings of the height follow the height
and those of the width the width, which is the same on squares.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import (
    PyramidBackbone,
    check_integers,
    check_positive,
    check_rate,
    resolve_arch,
)
from mmvitconv.models.layers import (
    Conv2d,
    Hardswish,
    ParC,
    ScaledResidual,
    SiLU,
    build_norm,
    drop_path_rates,
)
from mmvitconv.ops import convolution_format
from mmvitconv.ops.traced import as_one_node
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCNet", "ParCNetArch"]

MIXERS = ("gcc_ca", "gcc", "bkc_ca", "bkc")
OUTPUT_STRIDES = (32, 16, 8)


@dataclass(frozen=True)
class ParCNetArch:
    """Sizes of a ParC-Net (docs/specs/parc.md#23-network).

    Attributes:
        embed_dims: Channels of the five stages.
        depths: MobileNetV2 blocks of the first two stages, ParC blocks of the other three.
        inner_dims: Channels of the ParC blocks of the last three stages; even.
        ffn_dims: Hidden channels of their channel mixers.
        kernel_lengths: Length of their stored kernels: the map's size in images of 256 x 256.
        stem_dims: Channels of the stem.
        stem_kernel_size: Its kernel; odd.
        fusion: How a stage joins what it found with its input: ``'concat'`` or ``'add'``.
        out_dims: Channels of the expansion behind the last stage.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    inner_dims: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    kernel_lengths: tuple[int, ...] = (32, 16, 8)
    stem_dims: int = 16
    stem_kernel_size: int = 3
    fusion: str = "concat"
    out_dims: int = 640

    def __post_init__(self) -> None:
        check_integers(self, ("embed_dims", "depths"), 5)
        check_integers(self, ("inner_dims", "ffn_dims", "kernel_lengths"), 3)
        if any(dims % 2 for dims in self.inner_dims):
            raise ValueError(f"inner_dims must be even numbers, got {self.inner_dims}")
        check_positive(stem_dims=self.stem_dims, out_dims=self.out_dims)
        if self.stem_kernel_size < 1 or self.stem_kernel_size % 2 == 0:
            raise ValueError(
                f"stem_kernel_size must be a positive odd number, got {self.stem_kernel_size}"
            )
        if self.fusion not in ("concat", "add"):
            raise ValueError(f"fusion must be 'concat' or 'add', got {self.fusion!r}")


ARCHS: Mapping[str, ParCNetArch] = {
    "xs": ParCNetArch(
        embed_dims=(32, 64, 96, 128, 160),
        depths=(1, 3, 2, 3, 2),
        inner_dims=(96, 128, 160),
        ffn_dims=(192, 256, 320),
        fusion="add",
    ),
    "s": ParCNetArch(
        embed_dims=(32, 64, 96, 128, 160),
        depths=(1, 3, 2, 4, 3),
        inner_dims=(192, 256, 320),
        ffn_dims=(384, 512, 640),
    ),
    "h": ParCNetArch(
        embed_dims=(96, 144, 216, 288, 432),
        depths=(1, 3, 3, 9, 3),
        inner_dims=(324, 432, 432),
        ffn_dims=(648, 864, 864),
        stem_dims=48,
        stem_kernel_size=5,
        out_dims=960,
    ),
}


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm and, unless told otherwise, SiLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd; the padding keeps the size at stride 1.
        norm_cfg: The norm.
        act: Activation, or None.
        **kwargs: Of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: Mapping,
        act: nn.Module | None = None,
        **kwargs: int,
    ) -> None:
        super().__init__()
        padding = kwargs.get("dilation", 1) * (kernel_size - 1) // 2
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, bias=False, **kwargs
        )
        self.norm = build_norm(norm_cfg, out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, in_channels, H, W)."""
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block with SiLU and an expansion of 4 (docs/specs/parc.md#23-network).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        dilation: Of the depth-wise convolution.
        norm_cfg: The norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, dilation: int, norm_cfg: Mapping
    ) -> None:
        super().__init__()
        dims = 4 * in_channels
        self.expand = ConvNorm(in_channels, dims, 1, norm_cfg, SiLU())
        self.depthwise = ConvNorm(
            dims, dims, 3, norm_cfg, SiLU(), stride=stride, dilation=dilation, groups=dims
        )
        self.reduce = ConvNorm(dims, out_channels, 1, norm_cfg)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, in_channels, H, W)."""
        y = self.reduce(self.depthwise(self.expand(x)))
        return x + y if self.has_skip else y


class BigKernelConv(nn.Module):
    """Norm and a plain depth-wise convolution along one axis: zeros instead of a circle.

    Args:
        channels: Channels.
        direction: ``'H'`` or ``'W'``.
        kernel_size: Odd.
        bias: Add a bias.
        pre_norm: The norm, or None.
    """

    def __init__(
        self, channels: int, direction: str, kernel_size: int, bias: bool, pre_norm: Mapping | None
    ) -> None:
        super().__init__()
        size = (kernel_size, 1) if direction == "H" else (1, kernel_size)
        self.norm = None if pre_norm is None else build_norm(pre_norm, channels)
        self.conv = nn.Conv2d(channels, channels, size, padding="same", groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        return self.conv(x if self.norm is None else self.norm(x))


class FFN(nn.Module):
    """Channel mixer: BatchNorm, 1x1 convolution, Hardswish, 1x1 convolution, dropout.

    Args:
        channels: Channels of input and output.
        hidden_channels: Channels between.
        drop_rate: Dropout of the output.
        norm_cfg: The norm.
    """

    def __init__(
        self, channels: int, hidden_channels: int, drop_rate: float, norm_cfg: Mapping
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, channels)
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.act = Hardswish()
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        return self.drop(self.fc2(self.act(self.fc1(self.norm(x)))))


class ChannelAttention(nn.Module):
    """Scales each channel by what the mean of the map says (docs/specs/parc.md#21-parc-block).

    Args:
        channels: Channels of the map.
        norm_cfg: The norms.
    """

    def __init__(self, channels: int, norm_cfg: Mapping) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.reduce = ConvNorm(channels, hidden, 1, norm_cfg, Hardswish())
        self.expand = ConvNorm(hidden, channels, 1, norm_cfg, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map of shape (B, C, H, W).

        Raises:
            ValueError: There is one image, and its norms are to take statistics of a batch.
        """
        norm = self.reduce.norm
        if norm.training and isinstance(norm, nn.BatchNorm2d):
            x = check_batch(x)
        return x * self.expand(self.reduce(x.mean(dim=(2, 3), keepdim=True)))


@as_one_node
def check_batch(x: Tensor) -> Tensor:
    """Return maps of a batch, or raise a ValueError if there is one only."""
    if x.shape[0] == 1:
        raise ValueError(
            "ParC-Net's channel attention normalises one value per image and channel, so it "
            "cannot train with one image per process; give a batch_size of at least 2 "
            "and drop_last=True, norm_cfg=dict(type='SyncBN') on several processes, or "
            "norm_eval=True"
        )
    return x


class ParCBlock(nn.Module):
    """Two passes of circular convolutions, then channels (docs/specs/parc.md#21-parc-block).

    The first half of the channels goes along the height and then the width, the second half the
    other way round, so that each half sees the whole map.

    Args:
        channels: Channels of input and output; even.
        ffn_channels: Hidden channels of the channel mixer.
        length: Length of the stored kernels.
        position_embedding: Whether this block has one.
        net: The other options, which all blocks share.
        drop_path_rate: Chance that a sample skips a branch while training.
    """

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        length: int,
        position_embedding: bool,
        net: "BlockOptions",
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        half = channels // 2

        def conv(direction: str, pre_norm: Mapping | None) -> nn.Module:
            if net.mixer.startswith("bkc"):
                kernel_size = length - 1 + length % 2
                return BigKernelConv(half, direction, kernel_size, net.bias, pre_norm)
            return ParC(
                half,
                direction,
                length,
                position_embedding=position_embedding,
                bias=net.bias,
                pre_norm=pre_norm,
                instance_kernel=net.instance_kernel,
                algorithm=net.algorithm,
            )

        self.half1 = nn.ModuleList([conv("H", net.norm_cfg), conv("W", None)])
        self.half2 = nn.ModuleList([conv("W", net.norm_cfg), conv("H", None)])
        self.mid_mix = net.mid_mix
        self.ffn = FFN(channels, ffn_channels, net.ffn_drop_rate, net.norm_cfg)
        self.attention = None
        if net.mixer.endswith("_ca"):
            self.attention = ChannelAttention(channels, net.norm_cfg)
        self.residual = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        first, second = self.half1[0](first), self.half2[0](second)
        if self.mid_mix:  # a shuffle of the channels in two groups
            mixed = torch.stack([first, second], dim=2).flatten(1, 2)
            first, second = mixed.chunk(2, dim=1)
        x = self.residual(x, torch.cat([self.half1[1](first), self.half2[1](second)], dim=1))
        y = self.ffn(x)
        return self.residual(x, y if self.attention is None else self.attention(y))


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a ParC-Net share; see :class:`ParCNet`."""

    mixer: str
    bias: bool
    mid_mix: bool
    ffn_drop_rate: float
    instance_kernel: str
    norm_cfg: Mapping
    algorithm: str


class Pointwise(nn.Module):
    """1x1 convolution alone, without bias.

    No ``nn.Conv2d``: tools that fold BatchNorms pair one with the next norm among its siblings,
    which in a :class:`ParCStage` comes after the blocks.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, 1, bias=False).weight

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of a map of shape (B, C, H, W)."""
        return F.conv2d(x, self.weight)


class ParCStage(nn.Module):
    """ParC blocks between a way in and a way out, joined with the input.

    See docs/specs/parc.md#22-stage.

    Args:
        channels: Channels of input and output.
        inner_channels: Channels of the blocks.
        blocks: The blocks.
        fusion: ``'concat'`` or ``'add'``.
        norm_cfg: The norms.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int,
        blocks: Sequence[nn.Module],
        fusion: str,
        norm_cfg: Mapping,
    ) -> None:
        super().__init__()
        groups = math.gcd(channels, inner_channels)
        self.project_in = ConvNorm(channels, inner_channels, 3, norm_cfg, SiLU(), groups=groups)
        self.mix = Pointwise(inner_channels)
        self.blocks = nn.ModuleList(blocks)
        self.norm = build_norm(norm_cfg, inner_channels)
        self.project_out = ConvNorm(inner_channels, channels, 1, norm_cfg, SiLU(), groups=groups)
        self.fusion = fusion
        joined = 2 * channels if fusion == "concat" else channels
        self.fuse = ConvNorm(joined, channels, 3, norm_cfg, SiLU())

    def forward(self, x: Tensor, run_block: Any) -> Tensor:
        """Transform a map of shape (B, C, H, W); ``run_block(block, x)`` runs a block."""
        y = self.mix(self.project_in(x))
        for block in self.blocks:
            y = run_block(block, y)
        y = self.project_out(self.norm(y))
        return self.fuse(torch.cat([y, x], dim=1) if self.fusion == "concat" else y + x)


@MODELS.register_module()
class ParCNet(PyramidBackbone):
    """ParC-Net backbone (arXiv:2203.03952), stages at strides 2, 4, 8, 16 and 32.

    Args:
        arch: ``'xs'``, ``'s'``, ``'h'``, or a dict of :class:`ParCNetArch`'s fields.
        in_channels: Channels of the input image, at least 1. The original takes BGR in [0, 1]
            without mean and standard deviation.
        out_indices: Stages 0 to 4 (the original's ``layer_1`` to ``layer_5``), and 5 for the 1x1
            expansion in front of the classifier.
        drop_path_rate: Stochastic depth of the last ParC block, in [0, 1); it grows linearly from
            0. The original has none.
        output_stride: 32, or 16 or 8: the last stages keep the resolution, and the kernels of the
            circular convolutions follow the map.
        mixer: ``'gcc_ca'`` (the paper's: circular convolutions, channel attention), ``'gcc'``
            (without attention), ``'bkc_ca'`` and ``'bkc'`` (for comparison: zero-padded kernels of
            the largest odd length up to the circular one's, no position embedding).
        position_embedding: Give the first block of each stage position embeddings.
        parc_bias: Give the circular convolutions a bias; no released model has one.
        mid_mix: Shuffle channels between the two passes.
        ffn_drop_rate: Dropout behind the channel mixers, in [0, 1).
        instance_kernel: See :class:`mmvitconv.models.layers.ParC`.
        norm_cfg: BatchNorm or SyncBN.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.
        **options: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg``, see
            :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = ParCNet("s", out_indices=(5,))
        >>> [tuple(y.shape) for y in model(torch.randn(2, 3, 256, 256))]
        [(2, 640, 8, 8)]
    """

    stem_names = ("stem",)
    output_norm = None

    def __init__(
        self,
        arch: str | Mapping = "s",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (1, 2, 3, 4),
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        mixer: str = "gcc_ca",
        position_embedding: bool = True,
        parc_bias: bool = False,
        mid_mix: bool = False,
        ffn_drop_rate: float = 0.1,
        instance_kernel: str = "interpolation_bilinear",
        norm_cfg: Mapping | None = None,
        algorithm: str = "auto",
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCNetArch)
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride must be 32, 16 or 8, got {output_stride}")
        if mixer not in MIXERS:
            raise ValueError(f"mixer={mixer!r} is unknown; give one of {', '.join(MIXERS)}")
        check_rate("drop_path_rate", drop_path_rate)
        check_rate("ffn_drop_rate", ffn_drop_rate)
        dims = (*sizes.embed_dims, sizes.out_dims)
        strides = [min(2 ** (stage + 1), output_stride) for stage in (0, 1, 2, 3, 4, 4)]
        options.update(in_channels=in_channels, out_indices=out_indices)
        super().__init__((*sizes.depths, 1), dims, strides, **options)
        norm_cfg = norm_cfg or {"type": "BN"}
        self.arch = sizes
        net = BlockOptions(
            mixer, parc_bias, mid_mix, ffn_drop_rate, instance_kernel, norm_cfg, algorithm
        )
        rates = drop_path_rates(drop_path_rate, sizes.depths[2:])
        self.stem = ConvNorm(
            in_channels, sizes.stem_dims, sizes.stem_kernel_size, norm_cfg, SiLU(), stride=2
        )
        self.stages = nn.ModuleList()
        channels, before = sizes.stem_dims, 2
        for stage in range(min(self.num_stages, 5)):
            # A stage without stride dilates the next one's first block, as in the original.
            dilation = max(2**stage // before, 1)
            blocks: list[nn.Module] = [
                InvertedResidual(
                    channels, dims[stage], strides[stage] // before, dilation, norm_cfg
                )
            ]
            channels, before = dims[stage], strides[stage]
            if stage < 2:
                for _ in range(sizes.depths[stage] - 1):
                    blocks.append(InvertedResidual(channels, channels, 1, 1, norm_cfg))
            else:
                inner, hidden, length = (
                    values[stage - 2]
                    for values in (sizes.inner_dims, sizes.ffn_dims, sizes.kernel_lengths)
                )
                parc_blocks = [
                    ParCBlock(inner, hidden, length, position_embedding and block == 0, net, rate)
                    for block, rate in enumerate(rates[stage - 2])
                ]
                blocks.append(ParCStage(channels, inner, parc_blocks, sizes.fusion, norm_cfg))
            self.stages.append(nn.ModuleList(blocks))
        if self.num_stages == 6:
            self.stages.append(ConvNorm(channels, sizes.out_dims, 1, norm_cfg, SiLU()))
        self.apply(_init_parameters)
        self.train()

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """Run the stem."""
        return super().embed(stage, x if stage else convolution_format(x))

    def run_stage(self, stage: int, x: Tensor) -> Tensor:
        """Run a stage's blocks, under activation checkpointing when ``with_cp`` asks for it."""
        if stage == 5:
            return self.stages[5](x)
        for block in self.stages[stage]:
            is_frame = isinstance(block, ParCStage)
            x = block(x, self.run_block) if is_frame else self.run_block(block, x)
        return x

    def layer_names(self, stage: int) -> list[list[str]]:
        """Name a layer for each block; what is around a stage's ParC blocks joins the nearest."""
        if stage == 5:
            return [["stages.5"]]
        if stage < 2:
            return super().layer_names(stage)
        frame = f"stages.{stage}.1"
        blocks = [[f"{frame}.blocks.{block}"] for block in range(self.depths[stage])]
        blocks[0] += [f"{frame}.{part}" for part in ("project_in", "mix")]
        blocks[-1] += [f"{frame}.{part}" for part in ("norm", "project_out", "fuse")]
        return [[f"stages.{stage}.0"], *blocks]


def _init_parameters(module: nn.Module) -> None:
    """Initialise convolutions by Kaiming's rule; circular ones keep torch's, as in the original."""
    if isinstance(module, (nn.Conv2d, Pointwise)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ParC) and module.position_embedding is not None:
        nn.init.normal_(module.position_embedding)
