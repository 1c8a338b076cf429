"""Isotropic Transformers whose attention is a dynamic convolution of one's choice.

Following the abstract of Zhou, Loy, Dai, "Interpret Vision Transformers as ConvNets with Dynamic
Convolutions", arXiv:2309.10713, of which no more is known to us and for which no code is public.
The trunk has the sizes of DeiT (arXiv:2012.12877), whose weights load through
:mod:`mmvitconv.weights.deit`; what mixes space in its blocks is any legal
:class:`~mmvitconv.models.layers.dynamic_conv.DynamicConvMixer`.

One width, one resolution. Tokens stay a map of shape (B, H, W, C) throughout; a class token, where
there is one, is kept beside it. :class:`~mmvitconv.models.necks.IsotropicPyramid` makes several
scales of the outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import Backbone, check_rate, resolve_arch
from mmvitconv.models.layers import (
    DynamicConvMixer,
    draw_kept,
    is_plain,
    keep_memory_format,
    make_mixer,
)
from mmvitconv.ops import linear_gelu
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "DynConvViT", "DynConvViTArch"]

_EPS = 1e-6
# Depths of the default outputs, as parts of the trunk: blocks 3, 5, 7 and 11 of 12.
_TAPS = ((1, 3), (1, 2), (2, 3), (1, 1))


@dataclass(frozen=True)
class DynConvViTArch:
    """Sizes of a DynConvViT.

    Attributes:
        embed_dims: Channels.
        depth: Number of blocks.
        num_heads: Attention heads; they divide ``embed_dims``.
        mlp_ratio: Hidden width of the MLPs over ``embed_dims``.
    """

    embed_dims: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        sizes = (self.embed_dims, self.depth, self.num_heads)
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(
                f"embed_dims={self.embed_dims}, depth={self.depth} and num_heads={self.num_heads} "
                "must be integers of at least 1"
            )
        if self.embed_dims % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is illegal; it must divide "
                f"embed_dims={self.embed_dims}"
            )
        if self.mlp_ratio * self.embed_dims < 1:
            raise ValueError(
                f"mlp_ratio={self.mlp_ratio} is illegal; it must leave at least one hidden channel"
            )


ARCHS: Mapping[str, DynConvViTArch] = {
    "tiny": DynConvViTArch(192, 12, 3),
    "small": DynConvViTArch(384, 12, 6),
    "base": DynConvViTArch(768, 12, 12),
}


class PatchEmbed(nn.Module):
    """Convolution of patches that do not overlap, with an optional LayerNorm.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the tokens.
        patch_size: Kernel and stride.
        norm: LayerNorm of the tokens, or None.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, norm: nn.LayerNorm | None = None
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Embed images of shape (B, in_channels, H, W), filled up with zeros to whole patches.

        Returns:
            Tokens of shape (B, ceil(H / patch_size), ceil(W / patch_size), embed_dims).
        """
        size = self.proj.stride[0]
        is_open = not isinstance(x.shape[2], int)  # an exporter leaves the size open
        if is_open or x.shape[2] % size or x.shape[3] % size:
            x = F.pad(x, (0, -x.shape[3] % size, 0, -x.shape[2] % size))
        # On CPUs the convolution is faster so; a compiler chooses for itself.
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.proj(x).permute(0, 2, 3, 1).contiguous()
        return x if self.norm is None else self.norm(x)


class Mlp(nn.Module):
    """Linear layer, exact GELU, linear layer.

    Args:
        channels: Channels C of input and output.
        hidden: Channels between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens of shape (..., C)."""
        if is_plain(self.fc1, nn.Linear):
            return self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))``.

    DWNet's mixers bring their own norms: around them it is ``x + mixer(x)``, and the MLP's norm is
    a BatchNorm.

    Args:
        mixer: What mixes space.
        channels: Channels C of input and output.
        mlp_ratio: Hidden width of the MLP over C.
        eps: Epsilon of the LayerNorms.
        drop_path_rate: Chance that an image skips a branch while training.
    """

    def __init__(
        self,
        mixer: DynamicConvMixer,
        channels: int,
        mlp_ratio: float,
        eps: float,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        is_dwnet = mixer.is_dwnet
        self.norm1 = nn.Identity() if is_dwnet else nn.LayerNorm(channels, eps=eps)
        self.mixer = mixer
        self.norm2 = nn.BatchNorm2d(channels) if is_dwnet else nn.LayerNorm(channels, eps=eps)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Any:
        """Transform a map.

        Args:
            x: Shape (B, H, W, C).
            prefix: Tokens beside the map, shape (B, P, C), or None.

        Returns:
            The map; with a prefix the pair of both.
        """
        kept = self._draw_kept(x)
        if prefix is None:
            x = _add(x, self.mixer.mix(self.norm1(x)), kept)
            return _add(x, self.mlp(self._norm2(x)), self._draw_kept(x))
        mixed, mixed_prefix = self.mixer.mix(self.norm1(x), prefix=self.norm1(prefix))
        x, prefix = _add(x, mixed, kept), _add(prefix, mixed_prefix, kept)
        kept = self._draw_kept(x)
        return tuple(_add(part, self.mlp(self._norm2(part)), kept) for part in (x, prefix))

    def _norm2(self, x: Tensor) -> Tensor:
        if self.mixer.is_dwnet:  # the layer itself stays one that SyncBN can replace
            return self.norm2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm2(x)

    def _draw_kept(self, x: Tensor) -> Tensor | None:
        """Factor for each image, shape (B, 1, 1, 1), which all its tokens share."""
        drops = self.training and self.drop_path_rate > 0
        return draw_kept(x, self.drop_path_rate) if drops else None


def _add(x: Tensor, branch: Tensor, kept: Tensor | None) -> Tensor:
    branch = branch.to(x.dtype)
    if kept is None:
        return x + branch
    return torch.addcmul(x, branch, kept.view(-1, *(1,) * (x.dim() - 1)))


@MODELS.register_module()
class DynConvViT(Backbone):
    """Isotropic Transformer of dynamic convolutions; every output has the stride of the patches.

    Outputs are taken after blocks, so ``out_indices`` and ``frozen_stages`` count blocks.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of :class:`DynConvViTArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Blocks whose outputs are returned, first to last. Negative ones count from the
            end. None for those after a third, half, two thirds and all of the trunk, which are
            (3, 5, 7, 11) of 12.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        frozen_stages: The embedding and blocks ``0..frozen_stages`` are frozen; -1 freezes nothing.
        norm_eval: Keep the BatchNorms, which only some mixers have, in evaluation mode while
            training.
        with_cp: Recompute each block in the backward pass to save memory; values stay the same.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` for our, the original authors' or
            timm's file of a DeiT. A position embedding of another grid is resized, and a class
            token dropped if there is none here.
        mixer: A preset's name or ``dict(preset=NAME, ...)`` with its options; see
            :data:`mmvitconv.models.layers.dynamic_conv.MIXERS`.
        img_size: Side of the images whose grid the position embedding has, at least 1. It is
            resized to the grid of each image, so images of any size are taken.
        patch_size: Side of the patches, at least 1. Images are filled up to whole ones.
        with_cls_token: Whether a class token takes part. ``mixer`` must be a global one that
            compares pairs of tokens: others see the map only.
        out_type: ``'featmap'`` gives maps (B, C, H_i, W_i), ``'cls_token'`` the class token (B, C).
        window_size: 0, or the side of the windows inside which all blocks but ``global_blocks``
            mix, as in ViTDet (14 there), to save time and memory in large images.
        global_blocks: Blocks that mix the whole map when ``window_size`` is given.
        output_norms: Whether the outputs are normed (``norm{i}``).

    Raises:
        ValueError: Unknown ``arch``, an argument outside its legal range, or arguments that do not
            go together.
    """

    unit = "blocks"

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        mixer: str | Mapping = "deit",
        img_size: int = 224,
        patch_size: int = 16,
        with_cls_token: bool = False,
        out_type: Literal["featmap", "cls_token"] = "featmap",
        window_size: int = 0,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        output_norms: bool = True,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, DynConvViTArch)
        depth, dims = sizes.depth, sizes.embed_dims
        if out_indices is None:
            out_indices = tuple(sorted({-(-depth * part // whole) - 1 for part, whole in _TAPS}))
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
        for name, value, least in (
            ("img_size", img_size, 1),
            ("patch_size", patch_size, 1),
            ("window_size", window_size, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value} is illegal; give an integer of at least {least}")
        if out_type not in ("featmap", "cls_token"):
            raise ValueError(f"out_type={out_type!r} is illegal; give 'featmap' or 'cls_token'")
        if out_type == "cls_token" and not with_cls_token:
            raise ValueError("out_type='cls_token' needs a class token; give with_cls_token=True")
        if window_size and any(not 0 <= block < depth for block in global_blocks):
            raise ValueError(
                f"global_blocks={tuple(global_blocks)} is illegal; give blocks from 0 to "
                f"{depth - 1}, or none"
            )
        self.arch = sizes
        self.out_type = out_type
        self.output_norms = output_norms
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        side = -(-img_size // patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims)) if with_cls_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, with_cls_token + side**2, dims))
        self.blocks = nn.ModuleList()
        for index in range(self.num_stages):
            windowed = window_size > 0 and index not in global_blocks
            self.blocks.append(
                Block(
                    _make_mixer(mixer, sizes, window_size if windowed else 0),
                    dims,
                    sizes.mlp_ratio,
                    _EPS,
                    drop_path_rate * index / max(depth - 1, 1),
                )
            )
        if with_cls_token and not any(_takes_prefix(block.mixer) for block in self.blocks):
            raise ValueError(
                f"with_cls_token=True is illegal with mixer={mixer!r} in blocks 0 to "
                f"{self.num_stages - 1}: the class token takes part only where pairs of tokens of "
                "the whole map are compared; give with_cls_token=False"
            )
        if output_norms:
            for index in self.out_indices:
                self.add_module(f"norm{index}", nn.LayerNorm(dims, eps=_EPS))
        self.out_channels = (dims,) * len(self.out_indices)
        self.strides = (patch_size,) * len(self.out_indices)
        self.apply(init_layer)
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.train()

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the blocks in ``out_indices``."""
        image, outs, prefix = x, [], None
        x = self.patch_embed(x)
        x = x + self._position(x.shape[1], x.shape[2])
        if self.cls_token is not None:
            prefix = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        for index, block in enumerate(self.blocks):
            if prefix is None:
                x = self.run_block(block, x)
            else:
                x, prefix = self.run_block(block, x, prefix)
            if index in self.out_indices:
                out = x if self.out_type == "featmap" else prefix[:, 0]
                out = getattr(self, f"norm{index}")(out) if self.output_norms else out
                if self.out_type == "featmap":
                    out = keep_memory_format(out.permute(0, 3, 1, 2), image)
                outs.append(out)
        return outs

    def _position(self, height: int, width: int) -> Tensor:
        """The map's position embedding for a grid, shape (1, height, width, C)."""
        tokens = self.pos_embed if self.cls_token is None else self.pos_embed[:, 1:]
        return resize_position(tokens, height, width)

    def train(self, mode: bool = True) -> "DynConvViT":
        """Switch the mode; what is embedded is frozen with the first block."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for parameter in (self.pos_embed, self.cls_token):
                if parameter is not None:
                    parameter.requires_grad_(False)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}pos_embed"
        stored = state_dict.get(key)
        if stored is not None and self._accepts_position(stored.shape):
            num_prefix = stored.shape[1] - isqrt(stored.shape[1]) ** 2
            if num_prefix and self.cls_token is None:
                state_dict.pop(f"{prefix}cls_token", None)
            side = isqrt(self.pos_embed.shape[1])
            tokens = resize_position(stored[:, num_prefix:], side, side).flatten(1, 2)
            own_prefix = stored[:, : self.pos_embed.shape[1] - side**2]
            state_dict[key] = torch.cat([own_prefix, tokens], dim=1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _accepts_position(self, shape: Sequence[int]) -> bool:
        """Whether it is the embedding of a square grid, with a class token's if there is one."""
        if len(shape) != 3 or (shape[0], shape[2]) != (1, self.arch.embed_dims) or shape[1] < 1:
            return False
        num_prefix = shape[1] - isqrt(shape[1]) ** 2
        return num_prefix == 1 or (num_prefix == 0 and self.cls_token is None)

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """A block and its output norm, and the embedding with the first one."""
        norm = getattr(self, f"norm{stage}", None)
        modules = [None if stage else self.patch_embed, self.blocks[stage], norm]
        return [module for module in modules if module is not None]

    def is_optional_key(self, key: str) -> bool:
        """Output norms, blocks behind the last output, a class token that is not needed here.

        The norm's affine parameters of LN+ReLU mixers stay as initialised where weights of a
        softmax mixer are loaded.
        """
        part, _, rest = key.partition(".")
        if part == "blocks":
            return self.num_stages <= int(rest.partition(".")[0]) < self.arch.depth or (
                is_new_affine(self, key)
            )
        if key == "cls_token":
            return self.cls_token is None
        return part in {f"norm{index}" for index in range(self.arch.depth)}

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """The position embedding of another grid."""
        return key == "pos_embed" and self._accepts_position(shape)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, a block each.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            0 for the embeddings and the class token, 1 to depth for the blocks, then the output
            norms and everything outside the backbone; and the number of ids.
        """
        num_layers = self.num_stages + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        if part in ("patch_embed", "pos_embed", "cls_token"):
            return 0, num_layers
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1, num_layers
        return num_layers - 1, num_layers


def _make_mixer(mixer: str | Mapping, arch: DynConvViTArch, window_size: int) -> DynamicConvMixer:
    """The mixer of a block, inside windows unless ``window_size`` is 0."""
    whole = make_mixer(mixer, arch.embed_dims, arch.num_heads)
    if not window_size:
        return whole
    if not _takes_prefix(whole):
        raise ValueError(
            f"window_size={window_size} is illegal with mixer={mixer!r}: windows are for mixers "
            "that compare pairs of tokens of the whole map, and this one needs none; give "
            "window_size=0"
        )
    windowed = {"reach": "window", "size": window_size, "shift": 0}
    return make_mixer(mixer, arch.embed_dims, arch.num_heads, **windowed)


def _takes_prefix(mixer: DynamicConvMixer) -> bool:
    """Whether tokens beside the map take part."""
    return mixer.kernel == "pairwise" and mixer.reach == "global"


def resize_position(tokens: Tensor, height: int, width: int) -> Tensor:
    """A position embedding for another grid, bicubic and in float32.

    Args:
        tokens: Embedding of a square grid, shape (1, N, C).
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        Shape (1, height, width, C), in the dtype of ``tokens``.
    """
    side = isqrt(tokens.shape[1])
    grid = tokens.unflatten(1, (side, side))
    # An exporter that leaves the size open must record the rule, not this size's shortcut.
    is_open = not (isinstance(height, int) and isinstance(width, int))
    if not is_open and (height, width) == (side, side):
        return grid
    grid = grid.float().permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(tokens.dtype)


def is_new_affine(backbone: nn.Module, key: str) -> bool:
    """Whether a key is the affine part of a norm in attention, and the backbone has it."""
    return key.endswith((".mixer.gamma", ".mixer.beta")) and key in backbone.state_dict()


def init_layer(module: nn.Module) -> None:
    """Truncated normal and zero biases for linear layers and convolutions."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
