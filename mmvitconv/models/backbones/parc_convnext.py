"""ParC-ConvNeXt: ConvNeXt whose last blocks mix space by circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets); the resizing form for detection and
segmentation is from Fast-ParC's first author (arXiv:2210.04020). Written from a description of the
architecture; no code was copied. Original checkpoints load through
:mod:`mmvitconv.weights.families.parc_convnext`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import PyramidBackbone, check_integers, check_rate, resolve_arch
from mmvitconv.models.layers import (
    ChannelNorm,
    DepthwiseConv2d,
    ParC,
    ParCPair,
    ScaledResidual,
    drop_path_rates,
)
from mmvitconv.models.layers.parc import check_num_parc
from mmvitconv.ops.memory_format import convolution_format
from mmvitconv.ops.traced import as_one_node
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCConvNeXt", "ParCConvNeXtArch"]

_KERNEL_SIZE = 7
# Blocks of the third stage that share a learning rate, as in ConvNeXt's recipe.
_BLOCKS_PER_LAYER = 3


@dataclass(frozen=True)
class ParCConvNeXtArch:
    """Sizes of a ParC-ConvNeXt (docs/specs/parc.md#3-parc-convnets).

    Attributes:
        embed_dims: Channels of the four stages; even where a stage has ParC blocks.
        depths: Blocks of the four stages.
        num_parc: How many of each stage's blocks, counted from the last, are ParC blocks.
        kernel_lengths: Length of their stored kernels: the map's size in images of 224 x 224.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_parc: tuple[int, ...] = (0, 0, 3, 1)
    kernel_lengths: tuple[int, ...] = (56, 28, 14, 7)

    def __post_init__(self) -> None:
        check_integers(self, ("embed_dims", "depths", "kernel_lengths"), 4)
        check_num_parc(self.num_parc, self.depths)


ARCHS: Mapping[str, ParCConvNeXtArch] = {
    "xt": ParCConvNeXtArch((48, 96, 192, 384), (3, 3, 9, 3)),
    "tiny": ParCConvNeXtArch((96, 192, 384, 768), (3, 3, 9, 3)),
    "gcc_t": ParCConvNeXtArch((56, 112, 224, 448), (3, 9, 36, 6), num_parc=(0, 0, 12, 2)),
}


class PatchConv(nn.Conv2d):
    """Convolution of patches that do not overlap; rows and columns left over are dropped.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        patch_size: Kernel and stride.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a map of shape (B, in_channels, H, W); one smaller than a patch gets zeros."""
        return super().forward(fill_patch(x, self.stride[0]))


@as_one_node
def fill_patch(x: Tensor, size: int) -> Tensor:
    """Fill a map (B, C, H, W) that is smaller than a patch up with zeros."""
    height, width = x.shape[2:]
    if min(height, width) < size:
        x = F.pad(x, (0, max(0, size - width), 0, max(0, size - height)))
    return x


class Block(nn.Module):
    """ConvNeXt's block around a depth-wise 7x7 convolution or a ParC pair.

    See docs/specs/parc.md#3-parc-convnets.

    Args:
        channels: Channels of input and output.
        mixer: What mixes space.
        drop_path_rate: Chance that a sample skips the block while training.
        layer_scale_init_value: Initial scale of the branch; 0 for no layer scale.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        drop_path_rate: float,
        layer_scale_init_value: float,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = None
        if layer_scale_init_value > 0:
            self.gamma = nn.Parameter(layer_scale_init_value * torch.ones(channels))
        self.residual = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        y = self.norm(self.mixer(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)
        return self.residual(x, y, gamma=self.gamma)


@MODELS.register_module()
class ParCConvNeXt(PyramidBackbone):
    """ParC-ConvNeXt backbone (arXiv:2203.03952), four stages at strides 4, 8, 16 and 32.

    Args:
        arch: ``'xt'`` (48 to 384 channels), ``'tiny'`` (96 to 768), ``'gcc_t'`` (56 to 448, deep),
            or a dict of :class:`ParCConvNeXtArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        layer_scale_init_value: Initial layer scale, at least 0; 0 for none.
        gap_before_final_norm: Average the last output over the map before its norm, as the
            classifier does; it has shape (B, C) then.
        instance_kernel: ``'interpolation_bilinear'`` for any image, ``'fixed'`` for the
            classification form, which takes maps of ``kernel_lengths`` only; ``'crop'``.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.
        **options: ``frozen_stages``, ``norm_eval`` (there is no BatchNorm here), ``with_cp`` and
            ``init_cfg``, see :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = ParCConvNeXt("xt", out_indices=(3,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 224, 224))]
        [(1, 384, 7, 7)]
    """

    embedding = "downsample_layers.{stage}"

    def __init__(
        self,
        arch: str | Mapping = "xt",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        gap_before_final_norm: bool = False,
        instance_kernel: str = "interpolation_bilinear",
        algorithm: str = "auto",
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCConvNeXtArch)
        dims = sizes.embed_dims
        options.update(in_channels=in_channels, out_indices=out_indices)
        super().__init__(sizes.depths, dims, (4, 8, 16, 32), **options)
        check_rate("drop_path_rate", drop_path_rate)
        if layer_scale_init_value < 0:
            raise ValueError(
                f"layer_scale_init_value must be at least 0, got {layer_scale_init_value}"
            )
        self.arch = sizes
        self.gap_before_final_norm = gap_before_final_norm
        pair = partial(ParCPair, instance_kernel=instance_kernel, algorithm=algorithm)
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage in range(self.num_stages):
            channels = dims[stage]
            if stage == 0:
                layers = [PatchConv(in_channels, channels, 4), ChannelNorm(channels)]
            else:
                before = dims[stage - 1]
                layers = [ChannelNorm(before), PatchConv(before, channels, 2)]
            self.downsample_layers.append(nn.Sequential(*layers))
            blocks = nn.ModuleList()
            first_parc = sizes.depths[stage] - sizes.num_parc[stage]
            for index, rate in enumerate(rates[stage]):
                mixer: nn.Module = DepthwiseConv2d(channels, _KERNEL_SIZE)
                if index >= first_parc:
                    mixer = pair(channels, sizes.kernel_lengths[stage])
                blocks.append(Block(channels, mixer, rate, layer_scale_init_value))
            self.stages.append(blocks)
        for stage in self.out_indices:
            self.add_module(f"norm{stage}", ChannelNorm(dims[stage]))
        self.apply(_init_parameters)
        self.train()

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """Run the stem, or what is between two stages."""
        return super().embed(stage, x if stage else convolution_format(x, _KERNEL_SIZE))

    def output(self, stage: int, x: Tensor) -> Tensor:
        """Norm the output of a stage; the last one after its mean, if asked for."""
        if self.gap_before_final_norm and stage == self.out_indices[-1]:
            return self.pool(x)
        return super().output(stage, x)

    def to_features(self, x: Tensor) -> Tensor:
        """Return the last map as it is: a classifier norms its mean."""
        return x

    def pool(self, features: Tensor) -> Tensor:
        """Norm the mean of the last map."""
        mean = features.mean(dim=(2, 3), keepdim=True)
        return self.to_map(mean, self.norm_of(self.num_stages - 1)).flatten(1)

    def layer_names(self, stage: int) -> list[list[str]]:
        """Name the layers of ConvNeXt's recipe: a stage each, in the third every three blocks."""
        blocks = super().layer_names(stage)
        size = _BLOCKS_PER_LAYER if stage == 2 else len(blocks)
        starts = range(0, len(blocks), size)
        return [list(chain.from_iterable(blocks[i : i + size])) for i in starts]


def _init_parameters(module: nn.Module) -> None:
    """Initialise by a truncated normal; position embeddings are, where they are made."""
    if isinstance(module, (nn.Conv2d, nn.Linear, ParC)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
