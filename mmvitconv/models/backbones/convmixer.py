"""ConvMixer: patches, then nothing but depth-wise and point-wise convolutions.

Paper: Trockman and Kolter, "Patches Are All You Need?", arXiv:2201.09792. Written from a
description of the architecture; no code of the original (MIT) was copied. The module names are
those of timm's port, so that its state dicts differ from ours by a prefix only. Other layouts load
through :mod:`mmvitconv.weights.convmixer`.

One width, one resolution: a block mixes space by a large depth-wise convolution with a skip around
it, then channels by a 1x1 convolution without one. The order is always convolution, activation,
BatchNorm. :class:`~mmvitconv.models.necks.IsotropicPyramid` makes several scales of its outputs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models.base import Backbone, check_rate, resolve_arch
from mmvitconv.models.layers import (
    DepthwiseConv2d,
    build_activation,
    build_norm,
    draw_kept,
    is_plain,
    keep_memory_format,
)
from mmvitconv.ops import cpu_memory_format, depthwise_conv2d_gelu
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
        sizes = (self.embed_dims, self.depth, self.kernel_size, self.patch_size)
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(
                f"embed_dims={self.embed_dims}, depth={self.depth}, kernel_size="
                f"{self.kernel_size} and patch_size={self.patch_size} must be integers of at "
                "least 1"
            )


ARCHS: Mapping[str, ConvMixerArch] = {
    "1536_20": ConvMixerArch(1536, 20, kernel_size=9, patch_size=7),
    "768_32": ConvMixerArch(768, 32, kernel_size=7, patch_size=7, act="ReLU"),
    "1024_20": ConvMixerArch(1024, 20, kernel_size=9, patch_size=14),
    "1024_12": ConvMixerArch(1024, 12, kernel_size=8, patch_size=7),
    "512_16": ConvMixerArch(512, 16, kernel_size=8, patch_size=7),
    "256_8": ConvMixerArch(256, 8, kernel_size=5, patch_size=2),
}


class Stem(nn.Sequential):
    """Patch embedding: strided convolution, activation, BatchNorm (section 1).

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

    def accepts_kernel(self, shape: Sequence[int]) -> bool:
        """Whether a kernel of this shape is a patch embedding, of whatever patch size."""
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
    """A patch embedding's kernel for another patch size (section 6).

    Args:
        kernel: Shape (C, in_channels, P, P).
        size: The other patch size.

    Returns:
        Shape (C, in_channels, size, size), scaled so that a patch of one colour gives the same.
    """
    resized = F.interpolate(kernel.float(), size=(size, size), mode="bicubic", align_corners=False)
    return (resized * (kernel.shape[-1] / size) ** 2).to(kernel.dtype)


class Residual(nn.Module):
    """Holds the spatial half of a block, around which the skip goes.

    Args:
        fn: Depth-wise convolution, activation, BatchNorm.
    """

    def __init__(self, fn: nn.Sequential) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, drop_path_rate: float = 0.0) -> Tensor:
        """Mix space in a map of shape (B, C, H, W)."""
        conv, act, norm = self.fn
        y = norm(_activate(x, conv, act))
        if self.training and drop_path_rate > 0:
            return torch.addcmul(x, y.to(x.dtype), draw_kept(x, drop_path_rate))
        # A norm does not need its output again, so that no third map is written.
        return y.add_(x) if is_plain(norm, nn.BatchNorm2d) and y.dtype == x.dtype else y + x


class Block(nn.Sequential):
    """Spatial half with a skip, channel half without (section 1).

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
        super().__init__(
            Residual(
                nn.Sequential(
                    DepthwiseConv2d(dims, arch.kernel_size, algorithm),
                    build_activation(act_cfg),
                    build_norm(norm_cfg, dims),
                )
            ),
            nn.Conv2d(dims, dims, 1),
            build_activation(act_cfg),
            build_norm(norm_cfg, dims),
        )
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        residual, conv, act, norm = self
        return norm(_activate(residual(x, self.drop_path_rate), conv, act))


def _activate(x: Tensor, conv: nn.Conv2d, act: nn.Module) -> Tensor:
    """Convolution and activation; in inference without a second map, or in one pass."""
    watched = not is_plain(conv, nn.Conv2d, DepthwiseConv2d)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or watched:
        return act(conv(x))
    if is_plain(act, nn.GELU) and act.approximate == "none":
        if isinstance(conv, DepthwiseConv2d):
            return depthwise_conv2d_gelu(x, conv.weight, conv.bias, conv.algorithm)
        return torch.ops.aten.gelu_(conv(x))
    return conv(x).relu_() if is_plain(act, nn.ReLU) else act(conv(x))


class FusedResidual(nn.Module):
    """:class:`Residual` for inference: skip plus scaled activation in one pass.

    The norm's shift is in the bias of the 1x1 convolution, the only reader of the result.

    Args:
        conv: Depth-wise convolution.
        act: Activation.
        scale: The norm's factor for each channel, shape (C,).
    """

    def __init__(self, conv: DepthwiseConv2d, act: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.conv, self.act = conv, act
        self.register_buffer("scale", scale.view(-1, 1, 1))

    def forward(self, x: Tensor, drop_path_rate: float = 0.0) -> Tensor:
        """Mix space in a map of shape (B, C, H, W)."""
        y = _activate(x, self.conv, self.act).to(x.dtype)
        return torch.addcmul(x, y, self.scale.to(x.dtype))


@MODELS.register_module()
class ConvMixer(Backbone):
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
        frozen_stages: The stem and blocks ``0..frozen_stages`` are frozen; -1 freezes nothing.
        norm_eval: Keep all BatchNorms in evaluation mode while training.
        with_cp: Recompute each block in the backward pass to save memory; values stay the same.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` for our, the original authors',
            timm's or mmpretrain's file. A stem of another patch size is resized.
        patch_size: Replaces the architecture's, for strides that are powers of two.
        act_cfg: Replaces the architecture's activation, such as ``dict(type='GELU')``.
        norm_cfg: BatchNorm or SyncBN.
        pad_to_patch: Pad images at the right and lower border to a multiple of the patch size.
            False drops the remainder as the original does.
        algorithm: Of the depth-wise convolutions (see :func:`mmvitconv.ops.depthwise_conv2d`);
            None for the measured rules.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.
    """

    unit = "blocks"

    def __init__(
        self,
        arch: str | Mapping = "768_32",
        in_channels: int = 3,
        out_indices: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        patch_size: int | None = None,
        act_cfg: Mapping | None = None,
        norm_cfg: Mapping | None = None,
        pad_to_patch: bool = True,
        algorithm: str | None = None,
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
            num_stages=depth,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
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
        self.out_channels = (sizes.embed_dims,) * len(self.out_indices)
        self.strides = (sizes.patch_size,) * len(self.out_indices)
        self.train()

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the blocks in ``out_indices``."""
        image, outs = x, []
        patch_size = self.arch.patch_size
        if self.pad_to_patch:
            x = F.pad(x, (0, -x.shape[3] % patch_size, 0, -x.shape[2] % patch_size))
        elif min(x.shape[2:]) < patch_size:
            raise ValueError(
                f"an image of {x.shape[2]} x {x.shape[3]} pixels has no whole patch of "
                f"{patch_size}; give a larger one or pad_to_patch=True"
            )
        # A compiler chooses for itself; on GPUs the user does.
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=cpu_memory_format(self.arch.kernel_size))
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if index in self.out_indices:
                outs.append(keep_memory_format(x, image))
        return outs

    def fuse(self) -> "ConvMixer":
        """Fold what can be folded exactly of the norms, in place, for inference only.

        The activation stands between a convolution and its norm, so a norm can only move forward.
        That of a spatial half becomes a factor in the skip's addition, and its shift goes into the
        1x1 convolution's bias. That of a channel half feeds a zero-padded convolution and a skip,
        where folding would be wrong at the borders; it stays.

        Returns:
            The backbone itself, in evaluation mode; its state dict has another layout now.

        Raises:
            RuntimeError: It is in training mode, or a norm has no running statistics.
        """
        if self.training:
            raise RuntimeError("fuse() is for inference; call eval() first")
        with torch.no_grad():
            for block in self.blocks:
                if isinstance(block[0], FusedResidual):
                    continue
                conv, act, norm = block[0].fn
                if norm.running_var is None:
                    raise RuntimeError(
                        "fuse() needs norms with running statistics; this one has "
                        "track_running_stats=False"
                    )
                scale = (norm.running_var + norm.eps).rsqrt()
                scale = scale if norm.weight is None else scale * norm.weight
                shift = -norm.running_mean * scale
                shift = shift if norm.bias is None else shift + norm.bias
                block[0] = FusedResidual(conv, act, scale)
                block[1].bias.add_(block[1].weight.flatten(1) @ shift)
        return self

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """A block, and the stem with the first one."""
        return [*([] if stage else [self.stem]), self.blocks[stage]]

    def is_optional_key(self, key: str) -> bool:
        """Blocks behind the last output are not built."""
        part, _, rest = key.partition(".")
        return part == "blocks" and (
            self.num_stages <= int(rest.partition(".")[0]) < self.arch.depth
        )

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """A stem of another patch size, to start from."""
        return fine_tuning and key == "stem.0.weight" and self.stem.accepts_kernel(shape)

    def check_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Tell ReLU weights from GELU weights, which have the same names and shapes.

        The mean of a ReLU is never negative, and that of a GELU is for some of its channels.
        """
        means = [value for key, value in state_dict.items() if key.endswith("running_mean")]
        has_negative = any((value < 0).any() for value in means)
        has_positive = any((value > 0).any() for value in means)
        act = type(self.stem[1])
        named_relu = "relu" in Path(source).name.lower()
        source = source or "the checkpoint"
        if act is nn.GELU and (named_relu or (has_positive and not has_negative)):
            raise CheckpointError(
                f"{source} was trained with ReLU (its file name says so, or no running mean is "
                "negative), but this ConvMixer has GELU, which takes the same names and shapes; "
                "give act_cfg=dict(type='ReLU')"
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

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, a block each.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            0 for the stem, 1 to depth for the blocks, then everything outside the backbone; and
            the number of ids.
        """
        num_layers = self.num_stages + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        if part == "stem":
            return 0, num_layers
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1, num_layers
        return num_layers - 1, num_layers
