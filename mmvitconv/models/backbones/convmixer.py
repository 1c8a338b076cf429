"""ConvMixer: patches, then nothing but depth-wise and point-wise convolutions.

Paper: Trockman and Kolter, "Patches Are All You Need?", arXiv:2201.09792. Written from a
description of the architecture; no code of the original (MIT) was copied. The module names are
those of timm's port, so that its state dicts differ from ours by a prefix only. Other layouts load
through :mod:`mmvitconv.weights.families.convmixer`.

One width, one resolution: a block mixes space by a large depth-wise convolution with a skip around
it, then channels by a 1x1 convolution without one. The order is always convolution, activation,
BatchNorm. :class:`~mmvitconv.models.necks.IsotropicPyramid` makes several scales of its outputs.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models.base import PyramidBackbone, check_positive, check_rate, resolve_arch
from mmvitconv.models.layers import (
    DepthwiseConv2d,
    ScaledResidual,
    build_activation,
    build_norm,
)
from mmvitconv.ops import convolution_format, resize_bicubic
from mmvitconv.ops.traced import as_one_node
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ConvMixer", "ConvMixerArch"]


@dataclass(frozen=True)
class ConvMixerArch:
    """Sizes of a ConvMixer.

    Attributes:
        embed_dims: Channels.
        depth: Number of blocks.
        kernel_size: Depth-wise kernel, odd or even.
        patch_size: Kernel and stride of the stem.
        act: Activation: that of the released weights where there are any.
    """

    embed_dims: int
    depth: int
    kernel_size: int
    patch_size: int
    act: str = "GELU"

    def __post_init__(self) -> None:
        check_positive(**{name: size for name, size in vars(self).items() if name != "act"})


ARCHS: Mapping[str, ConvMixerArch] = {
    "1536_20": ConvMixerArch(1536, 20, kernel_size=9, patch_size=7),
    "768_32": ConvMixerArch(768, 32, kernel_size=7, patch_size=7, act="ReLU"),
    "1024_20": ConvMixerArch(1024, 20, kernel_size=9, patch_size=14),
    "1024_12": ConvMixerArch(1024, 12, kernel_size=8, patch_size=7),
    "512_16": ConvMixerArch(512, 16, kernel_size=8, patch_size=7),
    "256_8": ConvMixerArch(256, 8, kernel_size=5, patch_size=2),
}


class ActivatedNorm(nn.Sequential):
    """Layers in a row of which a BatchNorm comes last, behind an activation."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the layers, the BatchNorm first.

        Tools that fold BatchNorms, such as mmcv's ``fuse_conv_bn``, take the child in front of a
        norm for the convolution whose output it norms. Here it is the activation's output.
        """
        *layers, norm = super().named_children()
        return iter([norm, *layers])


class Stem(ActivatedNorm):
    """Patch embedding: strided convolution, activation, BatchNorm.

    See docs/specs/convmixer.md#1-network.

    Args:
        in_channels: Channels of the image.
        arch: The sizes.
        act_cfg: Activation.
        norm_cfg: Norm.
    """

    def __init__(
        self, in_channels: int, arch: ConvMixerArch, act_cfg: Mapping, norm_cfg: Mapping
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, arch.embed_dims, arch.patch_size, arch.patch_size),
            build_activation(act_cfg),
            build_norm(norm_cfg, arch.embed_dims),
        )
        self.kernel_size = arch.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Embed images of shape (B, in_channels, H, W)."""
        return super().forward(convolution_format(x, self.kernel_size))

    def accepts_kernel(self, shape: Sequence[int]) -> bool:
        """Return whether a kernel of this shape is a patch embedding, of whatever patch size."""
        own = self[0].weight.shape
        return len(shape) == 4 and tuple(shape[:2]) == tuple(own[:2]) and shape[2] == shape[3]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}0.weight"
        kernel = state_dict.get(key)
        own = self[0].weight
        if kernel is not None and kernel.shape != own.shape and self.accepts_kernel(kernel.shape):
            state_dict[key] = resize_kernel(kernel, own.shape[-1])
            print_log(
                f"the stem's kernel was resized from patches of {kernel.shape[-1]} to patches of "
                f"{own.shape[-1]}; fine-tune, or refresh the BatchNorm statistics, before testing",
                logger="current",
                level=logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Resize a patch embedding's kernel to another patch size.

    See docs/specs/convmixer.md#6-dense-prediction.

    Args:
        kernel: Shape (C, in_channels, P, P).
        size: The other patch size.

    Returns:
        Shape (C, in_channels, size, size), scaled so that a patch of one colour gives the same.
    """
    return resize_bicubic(kernel, (size, size)) * (kernel.shape[-1] / size) ** 2


class Residual(nn.Module):
    """Adds its input to what layers make of it: the spatial half of a block.

    Args:
        fn: Depth-wise convolution, activation, BatchNorm.
        drop_path_rate: Chance that a sample skips them while training.
    """

    def __init__(self, fn: nn.Module, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.fn = fn
        self.add = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Mix space in a map of shape (B, C, H, W)."""
        return self.add(x, self.fn(x))


class Block(ActivatedNorm):
    """``x + norm(act(depthwise(x)))``, then ``norm(act(pointwise(x)))``.

    See docs/specs/convmixer.md#1-network.

    Args:
        arch: The sizes.
        act_cfg: Activation.
        norm_cfg: Norm.
        drop_path_rate: Chance that a sample skips the spatial half while training.
        algorithm: Of the depth-wise convolution.
    """

    def __init__(
        self,
        arch: ConvMixerArch,
        act_cfg: Mapping,
        norm_cfg: Mapping,
        drop_path_rate: float,
        algorithm: str | None,
    ) -> None:
        dims = arch.embed_dims
        mix = ActivatedNorm(
            DepthwiseConv2d(dims, arch.kernel_size, algorithm),
            build_activation(act_cfg),
            build_norm(norm_cfg, dims),
        )
        super().__init__(
            Residual(mix, drop_path_rate),
            nn.Conv2d(dims, dims, 1),
            build_activation(act_cfg),
            build_norm(norm_cfg, dims),
        )


@as_one_node
def check_patch(x: Tensor, size: int) -> Tensor:
    """Return images (B, C, H, W), or raise a ValueError if they have no whole patch."""
    if min(x.shape[2:]) < size:
        raise ValueError(
            f"an image of {x.shape[2]} x {x.shape[3]} pixels has no whole patch of {size}; "
            "give a larger one or pad_to_patch=True"
        )
    return x


@MODELS.register_module()
class ConvMixer(PyramidBackbone):
    """ConvMixer backbone (arXiv:2201.09792); every output has the stride of the patch size.

    Outputs are taken after blocks, so ``out_indices`` and ``frozen_stages`` count blocks. Each
    block ends in a BatchNorm, so there are no output norms. Give the outputs to
    :class:`~mmvitconv.models.necks.IsotropicPyramid` for heads that need several scales, and mind
    the true strides: a patch size of 7 gives 7, not 8.

    Args:
        arch: ``'1536_20'``, ``'768_32'``, ``'1024_20'``, ``'1024_12'``, ``'512_16'``, ``'256_8'``,
            or a dict of :class:`ConvMixerArch`'s fields (``dim`` stands for ``embed_dims``).
        in_channels: Channels of the input image, at least 1.
        out_indices: Blocks whose outputs are returned, first to last. Negative ones count from the
            end. None for four evenly spaced ones, the last block among them.
        drop_path_rate: Stochastic depth of the last spatial half, in [0, 1); it grows linearly
            from 0. The original has none.
        patch_size: Replaces the architecture's, for strides that are powers of two.
        act_cfg: Replaces the architecture's activation, such as ``dict(type='GELU')``.
        norm_cfg: BatchNorm or SyncBN.
        pad_to_patch: Pad images at the right and lower border to a multiple of the patch size.
            False drops the remainder as the original does.
        algorithm: Of the depth-wise convolutions (see :func:`mmvitconv.ops.depthwise_conv2d`);
            None for the measured rules.
        **options: ``frozen_stages`` (counts blocks), ``norm_eval``, ``with_cp`` and ``init_cfg``
            (also timm's and mmpretrain's files; a stem of another patch size is resized), see
            :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = ConvMixer("256_8", patch_size=8, out_indices=(7,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 96))]
        [(1, 256, 8, 12)]
    """

    unit = "blocks"
    stem_names = ("stem",)
    block = "blocks.{stage}"
    output_norm = None

    def __init__(
        self,
        arch: str | Mapping = "768_32",
        in_channels: int = 3,
        out_indices: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        patch_size: int | None = None,
        act_cfg: Mapping | None = None,
        norm_cfg: Mapping | None = None,
        pad_to_patch: bool = True,
        algorithm: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(arch, Mapping):
            arch = {"embed_dims" if key == "dim" else key: value for key, value in arch.items()}
        sizes = resolve_arch(arch, ARCHS, ConvMixerArch)
        if patch_size is not None:
            sizes = ConvMixerArch(**{**vars(sizes), "patch_size": patch_size})
        depth = sizes.depth
        if out_indices is None:
            out_indices = tuple(sorted({-(-depth * i // 4) - 1 for i in (1, 2, 3, 4)}))
        super().__init__(
            depths=(1,) * depth,
            channels=(sizes.embed_dims,) * depth,
            strides=(sizes.patch_size,) * depth,
            in_channels=in_channels,
            out_indices=out_indices,
            **options,
        )
        check_rate("drop_path_rate", drop_path_rate)
        act_cfg = dict(act_cfg or {"type": sizes.act})
        norm_cfg = dict(norm_cfg or {"type": "BN"})
        self.arch = sizes
        self.pad_to_patch = pad_to_patch
        self.stem = Stem(in_channels, sizes, act_cfg, norm_cfg)
        self.blocks = nn.ModuleList(
            Block(sizes, act_cfg, norm_cfg, drop_path_rate * i / max(depth - 1, 1), algorithm)
            for i in range(self.num_stages)
        )
        self.train()

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """Pad images to whole patches, or check that there is one, and embed them."""
        size = self.arch.patch_size
        if stage == 0 and self.pad_to_patch:
            x = F.pad(x, (0, -x.shape[3] % size, 0, -x.shape[2] % size))
        elif stage == 0:
            x = check_patch(x, size)
        return super().embed(stage, x)

    def fuse(self) -> "ConvMixer":
        """Fold the shift of the spatial halves' norms; take ``mmvitconv.runtime.fold`` instead.

        Returns:
            The backbone itself, in evaluation mode.

        Raises:
            RuntimeError: It is in training mode, or a norm has no running statistics.
        """
        warnings.warn(
            "ConvMixer.fuse() is deprecated; mmvitconv.runtime.fold(model) folds more",
            DeprecationWarning,
            stacklevel=2,
        )
        if self.training:
            raise RuntimeError("fuse() is for inference; call eval() first")
        for block in self.blocks:
            norm, conv = block[0].fn[-1], block[1]
            if norm.running_var is None or norm.bias is None:
                raise RuntimeError(
                    "fuse() needs affine norms with running statistics; this one has "
                    f"affine={norm.affine} and track_running_stats={norm.track_running_stats}"
                )
            with torch.no_grad():  # only the 1x1 convolution reads the shift
                shift = norm(norm.bias.new_zeros(1, len(norm.bias), 1, 1)).flatten()
                norm.bias -= shift
                conv.bias += conv.weight.flatten(1) @ shift
        return self

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """Accept a stem of another patch size, to start from."""
        return fine_tuning and key == "stem.0.weight" and self.stem.accepts_kernel(shape)

    def check_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Tell ReLU weights from GELU weights, which have the same names and shapes.

        The mean of a ReLU is never negative, and that of a GELU is for some of its channels.
        """
        means = [value for key, value in state_dict.items() if key.endswith("running_mean")]
        has_negative = any((value < 0).any() for value in means)
        has_positive = any((value > 0).any() for value in means)
        act = type(self.stem[1])
        source = source or "the checkpoint"
        if act is nn.GELU and has_positive and not has_negative:
            raise CheckpointError(
                f"{source} was trained with ReLU (no running mean is negative), but this ConvMixer "
                "has GELU, which takes the same names and shapes; give act_cfg=dict(type='ReLU')"
            )
        sizes = (self.arch.embed_dims, self.arch.depth)
        released = next((a for a in ARCHS.values() if (a.embed_dims, a.depth) == sizes), self.arch)
        if act is nn.GELU and not has_negative and released.act != "GELU":
            print_log(
                f"{source} does not show its activation; the released weights of this size have "
                f"{released.act}, this ConvMixer has GELU",
                logger="current",
                level=logging.WARNING,
            )
        if act is nn.ReLU and has_negative:
            print_log(
                f"{source} was not trained with ReLU (it has negative running means), but this "
                "ConvMixer has ReLU",
                logger="current",
                level=logging.WARNING,
            )
