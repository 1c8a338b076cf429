"""ParC-ConvNeXt: ConvNeXt whose last blocks mix space by circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets); the resizing form for detection and
segmentation is from Fast-ParC's first author (arXiv:2210.04020). Written from a description of the
architecture; no code was copied. Original checkpoints load through
:mod:`mmvitconv.weights.parc_convnext`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import Backbone, check_rate, resolve_arch
from mmvitconv.models.layers import (
    DepthwiseConv2d,
    ParCPair,
    ScaledResidual,
    drop_path_rates,
    is_plain,
    keep_memory_format,
)
from mmvitconv.ops import cpu_memory_format, linear_gelu
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCConvNeXt", "ParCConvNeXtArch"]

_KERNEL_SIZE = 7
# Blocks of the third stage that share a learning rate, as in ConvNeXt's recipe.
_BLOCKS_PER_LAYER = 3


@dataclass(frozen=True)
class ParCConvNeXtArch:
    """Sizes of a ParC-ConvNeXt (section 3).

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
        for name, least in (("embed_dims", 1), ("depths", 1), ("num_parc", 0)):
            values = getattr(self, name)
            if len(values) != 4 or any(not isinstance(v, int) or v < least for v in values):
                raise ValueError(f"{name}={values} is illegal; give 4 integers of at least {least}")
        if len(self.kernel_lengths) != 4 or min(self.kernel_lengths) < 1:
            raise ValueError(f"kernel_lengths={self.kernel_lengths} is illegal; give 4 lengths")
        if any(parc > depth for parc, depth in zip(self.num_parc, self.depths, strict=True)):
            raise ValueError(
                f"num_parc={self.num_parc} is illegal; give at most depths={self.depths}"
            )


ARCHS: Mapping[str, ParCConvNeXtArch] = {
    "xt": ParCConvNeXtArch((48, 96, 192, 384), (3, 3, 9, 3)),
    "tiny": ParCConvNeXtArch((96, 192, 384, 768), (3, 3, 9, 3)),
    "gcc_t": ParCConvNeXtArch((56, 112, 224, 448), (3, 9, 36, 6), num_parc=(0, 0, 12, 2)),
}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map of shape (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        size = self.stride[0]
        height, width = x.shape[2:]
        if min(height, width) < size:
            x = F.pad(x, (0, max(0, size - width), 0, max(0, size - height)))
        return super().forward(x)


class Block(nn.Module):
    """ConvNeXt's block around a depth-wise 7x7 convolution or a ParC pair (section 3).

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
        if is_plain(self.pwconv1, nn.Linear) and is_plain(self.act, nn.GELU):
            y = linear_gelu(y, self.pwconv1.weight, self.pwconv1.bias)
        else:
            y = self.act(self.pwconv1(y))
        return self.residual(x, self.pwconv2(y).permute(0, 3, 1, 2), self.gamma)


@MODELS.register_module()
class ParCConvNeXt(Backbone):
    """ParC-ConvNeXt backbone (arXiv:2203.03952), four stages at strides 4, 8, 16 and 32.

    Args:
        arch: ``'xt'`` (48 to 384 channels), ``'tiny'`` (96 to 768), ``'gcc_t'`` (56 to 448, deep),
            or a dict of :class:`ParCConvNeXtArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        frozen_stages: Stages ``0..frozen_stages`` and everything before them are frozen; -1 freezes
            nothing.
        norm_eval: There is no BatchNorm here; accepted as in every backbone.
        with_cp: Recompute each block in the backward pass to save memory; values stay the same.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` for our or the original file.
        layer_scale_init_value: Initial layer scale, at least 0; 0 for none.
        gap_before_final_norm: Average the last output over the map before its norm, as the
            classifier does; it has shape (B, C) then.
        instance_kernel: ``'interpolation_bilinear'`` for any image, ``'fixed'`` for the
            classification form, which takes maps of ``kernel_lengths`` only; ``'crop'``.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.
    """

    def __init__(
        self,
        arch: str | Mapping = "xt",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        layer_scale_init_value: float = 1e-6,
        gap_before_final_norm: bool = False,
        instance_kernel: str = "interpolation_bilinear",
        algorithm: str = "auto",
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCConvNeXtArch)
        super().__init__(
            num_stages=4,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_rate("drop_path_rate", drop_path_rate)
        if layer_scale_init_value < 0:
            raise ValueError(
                f"layer_scale_init_value={layer_scale_init_value} is illegal; give at least 0"
            )
        self.arch = sizes
        self.gap_before_final_norm = gap_before_final_norm
        dims, rates = sizes.embed_dims, drop_path_rates(drop_path_rate, sizes.depths)
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(PatchConv(in_channels, dims[0], 4), ChannelNorm(dims[0]))]
        )
        for before, after in list(pairwise(dims))[: self.num_stages - 1]:
            self.downsample_layers.append(
                nn.Sequential(ChannelNorm(before), PatchConv(before, after, 2))
            )
        self.stages = nn.ModuleList()
        for stage in range(self.num_stages):
            blocks = []
            for block, rate in enumerate(rates[stage]):
                if block < sizes.depths[stage] - sizes.num_parc[stage]:
                    mixer: nn.Module = DepthwiseConv2d(dims[stage], _KERNEL_SIZE)
                else:
                    mixer = ParCPair(
                        dims[stage],
                        sizes.kernel_lengths[stage],
                        instance_kernel=instance_kernel,
                        algorithm=algorithm,
                    )
                blocks.append(Block(dims[stage], mixer, rate, layer_scale_init_value))
            self.stages.append(nn.ModuleList(blocks))
        for stage in self.out_indices:
            self.add_module(f"norm{stage}", ChannelNorm(dims[stage]))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.strides = tuple(4 * 2**i for i in self.out_indices)
        self.apply(_init_parameters)
        self.train()

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The normalised outputs of the stages in ``out_indices``."""
        image, outs = x, []
        # A compiler chooses for itself; on GPUs the user does.
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=cpu_memory_format(_KERNEL_SIZE))
        for index, (downsample, blocks) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = downsample(x)
            for block in blocks:
                x = self.run_block(block, x)
            if index in self.out_indices:
                norm = getattr(self, f"norm{index}")
                if self.gap_before_final_norm and index == self.out_indices[-1]:
                    outs.append(norm(x.mean(dim=(2, 3), keepdim=True)).flatten(1))
                else:
                    outs.append(keep_memory_format(norm(x), image))
        return outs

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """A stage, what brings its resolution, and its output norm."""
        norm = getattr(self, f"norm{stage}", None)
        modules = [self.downsample_layers[stage], self.stages[stage], norm]
        return [module for module in modules if module is not None]

    def is_optional_key(self, key: str) -> bool:
        """Output norms, and stages behind the last output, which are not built."""
        part, _, rest = key.partition(".")
        if part in ("stages", "downsample_layers"):
            return self.num_stages <= int(rest.partition(".")[0]) < 4
        return part.startswith("norm")

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, as in ConvNeXt's recipe.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            0 for the stem, one id for each stage with what brings its resolution, except for the
            third, which has one for every three blocks; then the output norms and everything
            outside the backbone; and the number of ids.
        """
        groups = [1, 1, -(-self.arch.depths[2] // _BLOCKS_PER_LAYER), 1][: self.num_stages]
        num_layers = sum(groups) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        names = param_name.removeprefix(prefix).split(".")
        if names[0] not in ("downsample_layers", "stages"):
            return num_layers - 1, num_layers
        stage = int(names[1])
        if names[0] == "downsample_layers":
            return (sum(groups[:stage]) + 1 if stage else 0), num_layers
        group = int(names[2]) // _BLOCKS_PER_LAYER if stage == 2 else 0
        return sum(groups[:stage]) + 1 + group, num_layers


def _init_parameters(module: nn.Module) -> None:
    """Truncated normal, zero biases; embeddings are initialised where they are made."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ParCPair):
        for half in (module.height, module.width):
            nn.init.trunc_normal_(half.weight, std=0.02)
            nn.init.zeros_(half.bias)
