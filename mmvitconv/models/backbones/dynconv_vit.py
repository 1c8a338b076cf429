"""Isotropic Transformers whose attention is a dynamic convolution of one's choice.

Following the abstract of Zhou, Loy, Dai, "Interpret Vision Transformers as ConvNets with Dynamic
Convolutions", arXiv:2309.10713, of which no more is known to us and for which no code is public.
The trunk has the sizes of DeiT (arXiv:2012.12877), whose weights load through
:mod:`mmvitconv.weights.families.deit`; what mixes positions in its blocks is any of
:data:`mmvitconv.models.layers.mixers.MIXERS`.

One width, one resolution. Tokens are a map of shape (B, H, W, C) throughout, or with a class token
a sequence that starts with it. :class:`~mmvitconv.models.necks.IsotropicPyramid` makes several
scales of the outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import PyramidBackbone, check_positive, check_rate, resolve_arch
from mmvitconv.models.layers import ScaledResidual, make_mixer
from mmvitconv.models.layers.mixers import Attention, GlobalMixer, Mixer
from mmvitconv.ops import convolution_format, resize_bicubic
from mmvitconv.ops.traced import as_one_node
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
        check_positive(embed_dims=self.embed_dims, depth=self.depth, num_heads=self.num_heads)
        if self.embed_dims % self.num_heads:
            raise ValueError(
                f"num_heads must divide embed_dims={self.embed_dims}, got {self.num_heads}"
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
        x = self.proj(convolution_format(x)).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x.contiguous())


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
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))``.

    DWNet's mixers bring their own norms: around them it is ``x + mixer(x)``, and the MLP's norm is
    a BatchNorm.

    Args:
        mixer: What mixes positions.
        channels: Channels C of input and output.
        mlp_ratio: Hidden width of the MLP over C.
        eps: Epsilon of the LayerNorms.
        drop_path_rate: Chance in [0, 1) that an image skips a residual branch while training.
    """

    def __init__(
        self,
        mixer: Mixer,
        channels: int,
        mlp_ratio: float,
        eps: float,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if mlp_ratio * channels < 1:
            raise ValueError(f"mlp_ratio must leave at least one hidden channel, got {mlp_ratio}")
        norms = mixer.has_norms
        self.norm1 = nn.Identity() if norms else nn.LayerNorm(channels, eps=eps)
        self.mixer = mixer
        self.norm2 = nn.BatchNorm2d(channels) if norms else nn.LayerNorm(channels, eps=eps)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.add = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Transform a map, or with ``grid`` a sequence.

        Args:
            x: A map (B, H, W, C), or P tokens and those of a map, shape (B, P + H * W, C).
            grid: None, or (H, W) of the sequence's map.

        Returns:
            Tensor of x's shape.
        """
        y = self.norm1(x)
        x = self.add(x, self.mixer.mix(y) if grid is None else self.mixer.mix_tokens(y, grid))
        return self.add(x, self.mlp(self._norm2(x)))

    def _norm2(self, x: Tensor) -> Tensor:
        if self.mixer.has_norms:  # the layer itself stays one that SyncBN can replace
            return self.norm2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm2(x)


@MODELS.register_module()
class DynConvViT(PyramidBackbone):
    """Isotropic Transformer of dynamic convolutions; every output has the stride of the patches.

    Outputs are taken after blocks, so ``out_indices`` and ``frozen_stages`` count blocks.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of :class:`DynConvViTArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Blocks whose outputs are returned, first to last. Negative ones count from the
            end. None for those after a third, half, two thirds and all of the trunk, which are
            (3, 5, 7, 11) of 12.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        mixer: A preset's name or ``dict(preset=NAME, ...)`` with its options; see
            :func:`mmvitconv.models.layers.mixers.make_mixer`.
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
        pos_antialias: Whether the position embedding is resized with antialiasing, as timm does it
            today; without it as DeiT's code and earlier versions of this package.
        **options: :class:`PyramidBackbone`'s other arguments. ``init_cfg`` takes our, the original
            authors' or timm's file of a DeiT: a position embedding of another grid is resized, and
            a class token dropped if there is none here.

    Raises:
        ValueError: Unknown ``arch``, an argument outside its legal range, or arguments that do not
            go together.

    Examples:
        >>> model = DynConvViT("tiny", mixer="ln_relu", out_indices=(11,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 96))]
        [(1, 192, 4, 6)]
    """

    unit = "blocks"
    stem_names = ("patch_embed", "pos_embed", "cls_token")
    block = "blocks.{stage}"

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        mixer: str | Mapping = "deit",
        img_size: int = 224,
        patch_size: int = 16,
        with_cls_token: bool = False,
        out_type: Literal["featmap", "cls_token"] = "featmap",
        window_size: int = 0,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        output_norms: bool = True,
        pos_antialias: bool = True,
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, DynConvViTArch)
        depth, dims = sizes.depth, sizes.embed_dims
        if out_indices is None:
            out_indices = tuple(sorted({-(-depth * part // whole) - 1 for part, whole in _TAPS}))
        options.update(in_channels=in_channels, out_indices=out_indices)
        super().__init__((1,) * depth, (dims,) * depth, (patch_size,) * depth, **options)
        check_rate("drop_path_rate", drop_path_rate)
        for name, value, least in (
            ("img_size", img_size, 1),
            ("patch_size", patch_size, 1),
            ("window_size", window_size, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
        if out_type not in ("featmap", "cls_token"):
            raise ValueError(f"out_type must be 'featmap' or 'cls_token', got {out_type!r}")
        if out_type == "cls_token" and not with_cls_token:
            raise ValueError("out_type='cls_token' needs a class token; give with_cls_token=True")
        if window_size and any(not 0 <= block < depth for block in global_blocks):
            raise ValueError(
                f"global_blocks must be blocks from 0 to {depth - 1}, got {tuple(global_blocks)}"
            )
        self.arch = sizes
        self.out_type = out_type
        self.pos_antialias = pos_antialias
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        side = -(-img_size // patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims)) if with_cls_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, with_cls_token + side**2, dims))
        self.blocks = nn.ModuleList()
        for index in range(self.num_stages):
            windowed = window_size > 0 and index not in global_blocks
            token_mixer = _make_mixer(mixer, sizes, window_size if windowed else 0)
            rate = drop_path_rate * index / max(depth - 1, 1)
            self.blocks.append(Block(token_mixer, dims, sizes.mlp_ratio, _EPS, rate))
        if with_cls_token and not any(isinstance(b.mixer, GlobalMixer) for b in self.blocks):
            raise ValueError(
                f"with_cls_token must be False with mixer={mixer!r} in blocks 0 to "
                f"{self.num_stages - 1}: a class token takes part only where pairs of tokens of "
                "the whole map are compared"
            )
        if output_norms:
            for index in self.out_indices:
                self.add_module(f"norm{index}", nn.LayerNorm(dims, eps=_EPS))
        self.apply(init_layer)
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.train()

    def embed(self, stage: int, x: Any) -> Any:
        """Embed images: tokens, and the grid that they leave where a class token is among them."""
        if stage > 0:
            return x
        x = self.patch_embed(x)
        grid = x.shape[1:3]
        position = self._position(grid[0], grid[1])
        if self.cls_token is None:
            return (x + position).contiguous(), None
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        return x + position, grid

    def run_stage(self, stage: int, x: Any) -> Any:
        """Run a block, under activation checkpointing when ``with_cp`` asks for it."""
        x, grid = x
        return self.run_block(self.blocks[stage], x, grid), grid

    def output(self, stage: int, x: Any) -> Tensor:
        """Norm a block's output, a map (B, C, H, W) or the class token (B, C)."""
        if self.out_type == "cls_token":
            return super().to_map(x[0][:, 0], self.norm_of(stage))
        return super().output(stage, x)

    def to_map(self, x: Any, norm: nn.Module | None = None) -> Tensor:
        """Return the tokens as a map, without the class token."""
        x, grid = x
        x = x if grid is None else x[:, 1:].unflatten(1, grid)
        return super().to_map(x, norm).permute(0, 3, 1, 2)

    def to_features(self, x: Any) -> Tensor:
        """Return the normed map, or all normed tokens where a classifier takes the class token."""
        if self.out_type == "cls_token":
            return super().to_map(x[0], self.norm_of(self.num_stages - 1))
        return super().to_features(x)

    def pool(self, features: Tensor) -> Tensor:
        """Take the class token, or the mean of the map."""
        return features[:, 0] if self.out_type == "cls_token" else super().pool(features)

    def _position(self, height: int, width: int) -> Tensor:
        """Return the position embedding for a grid: of a map, or of all tokens with a class token.

        Its shape is (1, height, width, C), or (1, 1 + height * width, C).
        """
        if self.cls_token is None:
            return resize_position(self.pos_embed, height, width, self.pos_antialias)
        return resize_tokens(self.pos_embed, height, width, self.pos_antialias)

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
            tokens = resize_position(stored[:, num_prefix:], side, side, self.pos_antialias)
            own_prefix = stored[:, : self.pos_embed.shape[1] - side**2]
            state_dict[key] = torch.cat([own_prefix, tokens.flatten(1, 2)], dim=1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _accepts_position(self, shape: Sequence[int]) -> bool:
        """Whether it is the embedding of a square grid, with a class token's if there is one."""
        if len(shape) != 3 or (shape[0], shape[2]) != (1, self.arch.embed_dims) or shape[1] < 1:
            return False
        num_prefix = shape[1] - isqrt(shape[1]) ** 2
        return num_prefix == 1 or (num_prefix == 0 and self.cls_token is None)

    def is_optional_key(self, key: str) -> bool:
        """Output norms, blocks behind the last output, a class token that is not needed here.

        The norm's affine parameters of LN+ReLU mixers stay as initialised where weights of a
        softmax mixer are loaded.
        """
        if key == "cls_token":
            return self.cls_token is None
        return super().is_optional_key(key) or is_new_affine(self, key)

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """The position embedding of another grid."""
        return key == "pos_embed" and self._accepts_position(shape)


def _make_mixer(mixer: str | Mapping, arch: DynConvViTArch, window_size: int) -> Mixer:
    """Make the mixer of a block, inside windows unless ``window_size`` is 0."""
    whole = make_mixer(mixer, arch.embed_dims, arch.num_heads)
    if not window_size:
        return whole
    if not isinstance(whole, GlobalMixer):
        raise ValueError(
            f"window_size must be 0 with mixer={mixer!r}, got {window_size}: windows are for "
            "mixers that compare pairs of tokens of the whole map, and this one needs none"
        )
    windowed = {"reach": "window", "size": window_size, "shift": 0}
    return make_mixer(mixer, arch.embed_dims, arch.num_heads, **windowed)


@as_one_node
def resize_position(tokens: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """Resize a position embedding to another grid, bicubic.

    Args:
        tokens: Embedding of a square grid, shape (1, N, C).
        height: Rows of the grid.
        width: Columns of the grid.
        antialias: See :class:`DynConvViT`.

    Returns:
        Shape (1, height, width, C), in the dtype of ``tokens``.
    """
    side = isqrt(tokens.shape[1])
    grid = tokens.unflatten(1, (side, side))
    # An exporter that leaves the size open must record the rule, not this size's shortcut.
    is_open = not (isinstance(height, int) and isinstance(width, int))
    if not is_open and (height, width) == (side, side):
        return grid
    grid = resize_bicubic(grid.permute(0, 3, 1, 2), (height, width), antialias)
    return grid.permute(0, 2, 3, 1)


@as_one_node
def resize_tokens(tokens: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """Resize a position embedding with a class token in front to another grid.

    Args:
        tokens: Embedding of a class token and a square grid, shape (1, 1 + N, C).
        height: Rows of the grid.
        width: Columns of the grid.
        antialias: See :class:`DynConvViT`.

    Returns:
        Shape (1, 1 + height * width, C), in the dtype of ``tokens``.
    """
    side = isqrt(tokens.shape[1])
    is_open = not (isinstance(height, int) and isinstance(width, int))
    if not is_open and (height, width) == (side, side):
        return tokens
    grid = resize_position(tokens[:, 1:], height, width, antialias)
    return torch.cat([tokens[:, :1], grid.flatten(1, 2)], dim=1)


def is_new_affine(backbone: nn.Module, key: str) -> bool:
    """Return whether a key is the affine part of a norm over keys that the backbone has."""
    parent, _, name = key.rpartition(".")
    layer = dict(backbone.named_modules()).get(parent)
    return name in ("gamma", "beta") and isinstance(layer, Attention) and bool(layer.rule.norm)


def init_layer(module: nn.Module) -> None:
    """Initialise linear layers and convolutions: truncated normal weights, zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
