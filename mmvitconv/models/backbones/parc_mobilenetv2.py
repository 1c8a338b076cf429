"""ParC-MobileNetV2: MobileNetV2 whose last blocks mix space by circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets). Written from a description of the
architecture; no code of the original was copied. Original checkpoints load through
:mod:`mmvitconv.weights.families.parc_mobilenetv2`; other keys are torchvision's.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from mmvitconv.models.base import PyramidBackbone, check_integers, check_rate, resolve_arch
from mmvitconv.models.layers import (
    Conv2d,
    ParCPair,
    ReLU6,
    ScaledResidual,
    build_norm,
    drop_path_rates,
)
from mmvitconv.models.layers.parc import check_num_parc, init_kaiming
from mmvitconv.ops import convolution_format
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCMobileNetV2", "ParCMobileNetV2Arch"]

_STEM_DIMS = 32
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)


@dataclass(frozen=True)
class ParCMobileNetV2Arch:
    """Sizes of a ParC-MobileNetV2 (docs/specs/parc.md#3-parc-convnets).

    Attributes:
        embed_dims: Channels of the seven rows of blocks; expanded six times (the first row: not at
            all) they must be even where a row has ParC blocks.
        depths: Blocks of the seven rows.
        num_parc: How many of each row's blocks, counted from the last, are ParC blocks; the first
            of a row cannot be. Only the first ParC block of a row has position embeddings.
        kernel_lengths: Length of their stored kernels: the map's size in images of 224 x 224.
        out_dims: Channels of the last convolution.
    """

    embed_dims: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    num_parc: tuple[int, ...] = (0, 0, 0, 2, 1, 1, 0)
    kernel_lengths: tuple[int, ...] = (112, 56, 28, 14, 14, 7, 7)
    out_dims: int = 1280

    def __post_init__(self) -> None:
        check_integers(self, ("embed_dims", "depths", "kernel_lengths"), 7)
        check_num_parc(self.num_parc, self.depths, spared=1)


ARCHS: Mapping[str, ParCMobileNetV2Arch] = {"1.0": ParCMobileNetV2Arch()}


class InvertedResidual(nn.Module):
    """Expansion, depth-wise convolution or ParC pair, projection (MobileNetV2's block).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the depth-wise convolution.
        expansion: Channels in the middle, in multiples of ``in_channels``.
        norm: Makes a norm for a number of channels.
        mixer: What mixes space instead of the depth-wise 3x3 convolution, or None.
        drop_path_rate: Chance that a sample skips the branch while training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        norm: Any,
        mixer: nn.Module | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        dims = expansion * in_channels
        if mixer is None:
            mixer = Conv2d(dims, dims, 3, stride, 1, groups=dims, bias=False)
        layers = [] if expansion == 1 else [_norm_act(_conv(in_channels, dims), norm)]
        layers += [_norm_act(mixer, norm, dims), _conv(dims, out_channels), norm(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.residual = None
        if stride == 1 and in_channels == out_channels:
            self.residual = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        y = self.conv(x)
        return y if self.residual is None else self.residual(x, y)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _norm_act(layer: nn.Module, norm: Any, channels: int | None = None) -> nn.Sequential:
    channels = layer.out_channels if channels is None else channels
    return nn.Sequential(layer, norm(channels), ReLU6())


@MODELS.register_module()
class ParCMobileNetV2(PyramidBackbone):
    """ParC-MobileNetV2 backbone (arXiv:2203.03952), strides 2, 4, 8, 16, 16, 32, 32 and 32.

    Args:
        arch: ``'1.0'``, or a dict of :class:`ParCMobileNetV2Arch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Rows of blocks 0 to 6, and 7 for the last convolution, as in mmpretrain. The
            default is what the authors give to dense heads.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
            The original has none.
        instance_kernel: ``'interpolation_bilinear'`` for any image, ``'fixed'`` for the
            classification form, which takes maps of ``kernel_lengths`` only; ``'crop'``.
        norm_cfg: BatchNorm or SyncBN.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.
        **options: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg``, see
            :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = ParCMobileNetV2("1.0", out_indices=(7,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 224, 224))]
        [(1, 1280, 7, 7)]
    """

    stem_names = ("features.0",)
    block = "features.{layer}"
    output_norm = None

    def __init__(
        self,
        arch: str | Mapping = "1.0",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (1, 2, 4, 7),
        drop_path_rate: float = 0.0,
        instance_kernel: str = "interpolation_bilinear",
        norm_cfg: Mapping | None = None,
        algorithm: str = "auto",
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCMobileNetV2Arch)
        strides = list(accumulate((*_STRIDES, 1), operator.mul, initial=2))[1:]
        options.update(in_channels=in_channels, out_indices=out_indices)
        dims = (*sizes.embed_dims, sizes.out_dims)
        super().__init__((*sizes.depths, 1), dims, strides, **options)
        check_rate("drop_path_rate", drop_path_rate)
        self.arch = sizes
        norm = partial(build_norm, norm_cfg or {"type": "BN"})
        pair = partial(ParCPair, instance_kernel=instance_kernel, algorithm=algorithm)
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        stem = nn.Conv2d(in_channels, _STEM_DIMS, 3, stride=2, padding=1, bias=False)
        self.features = nn.ModuleList([_norm_act(stem, norm)])
        channels = _STEM_DIMS
        for row in range(min(self.num_stages, 7)):
            expansion, length = _EXPANSIONS[row], sizes.kernel_lengths[row]
            first_parc = sizes.depths[row] - sizes.num_parc[row]
            for index, rate in enumerate(rates[row]):
                stride = _STRIDES[row] if index == 0 else 1
                mixer = None
                if index >= first_parc:
                    has_embedding = index == first_parc
                    mixer = pair(channels * expansion, length, position_embedding=has_embedding)
                self.features.append(
                    InvertedResidual(channels, dims[row], stride, expansion, norm, mixer, rate)
                )
                channels = dims[row]
        if self.num_stages == 8:
            self.features.append(_norm_act(_conv(channels, sizes.out_dims), norm))
        self.apply(init_kaiming)
        self.train()

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """Run the stem."""
        return super().embed(stage, x if stage else convolution_format(x))
