"""LightViT: light Transformers in which a few global tokens do the work of convolutions.

Paper: Huang et al., "LightViT: Towards Light-Weight Convolution-Free Vision Transformers",
arXiv:2207.05557. Written from a description of the architecture; no code of the original
repositories was copied. Original checkpoints load through
:mod:`mmvitconv.weights.families.lightvit`.

Three stages of pre-norm blocks on strides 8, 16 and 32. A block's attention has three parts: image
tokens attend inside 7x7 windows; a few learned *global tokens* gather from the whole image; and
every image token reads them back. The feed-forward network is followed by a gate over channels and
one over positions, which again see the whole image.

Image tokens and global tokens are kept in two tensors. A stage keeps its image tokens in window
order (see :class:`WindowGrid`), so that its windows are slices and no block moves a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import (
    PyramidBackbone,
    check_positive,
    check_rate,
    check_stages,
    resolve_arch,
)
from mmvitconv.models.layers import Conv2d, draw_kept, drop_path_rates
from mmvitconv.models.layers.window import PositionIndex
from mmvitconv.ops import attention, convolution_format, multiply_add, window_attention
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "LightViT", "LightViTArch"]

# The original code's epsilon of block and output norms; all others have torch's default.
_EPS = 1e-6


@dataclass(frozen=True)
class LightViTArch:
    """Sizes of a LightViT; the defaults are those of every released model.

    Attributes:
        depths: Blocks of each stage.
        embed_dims: Channels of each stage; the first one is even.
        num_heads: Attention heads of each stage; each divides the stage's ``embed_dims``.
        num_global_tokens: Number of global tokens, at least 1.
        mlp_ratios: Hidden width of the feed-forward networks over ``embed_dims``.
        window_size: Side of the attention windows, at least 1.
        reduction_ratio: Width of the bi-dimensional attention over ``embed_dims``, in (0, 1].
    """

    depths: tuple[int, ...]
    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_global_tokens: int = 8
    mlp_ratios: tuple[float, ...] = (8, 4, 4)
    window_size: int = 7
    reduction_ratio: float = 0.25

    def __post_init__(self) -> None:
        check_stages(
            depths=self.depths,
            embed_dims=self.embed_dims,
            num_heads=self.num_heads,
            mlp_ratios=self.mlp_ratios,
        )
        check_positive(num_global_tokens=self.num_global_tokens, window_size=self.window_size)
        pairs = zip(self.embed_dims, self.num_heads, strict=True)
        if any(dims % heads for dims, heads in pairs) or self.embed_dims[0] % 2:
            raise ValueError(
                "the first of embed_dims must be even and each must be divisible by its entry of "
                f"num_heads={self.num_heads}, got {self.embed_dims}"
            )
        if not 0 < self.reduction_ratio <= 1 or self.reduction_ratio * min(self.embed_dims) < 1:
            raise ValueError(
                "reduction_ratio must be a number in (0, 1] that leaves at least one channel of "
                f"embed_dims={self.embed_dims}, got {self.reduction_ratio}"
            )


ARCHS: Mapping[str, LightViTArch] = {
    "tiny": LightViTArch((2, 6, 6), (64, 128, 256), (2, 4, 8), 8),
    "small": LightViTArch((2, 6, 6), (96, 192, 384), (3, 6, 12), 16),
    "base": LightViTArch((3, 8, 6), (128, 256, 512), (4, 8, 16), 24),
}


class Region(NamedTuple):
    """Windows of one shape, side by side.

    Args:
        top: First row of tokens.
        left: First column of tokens.
        num_rows: Windows along the height.
        num_cols: Windows along the width.
        height: Rows of real tokens in each window.
        width: Columns of real tokens in each window.
    """

    top: int
    left: int
    num_rows: int
    num_cols: int
    height: int
    width: int


class WindowGrid:
    """A grid of tokens, cut into windows that start at its upper left corner.

    *Window order* has the tokens of a window one after the other, row by row. Where the size is no
    multiple of the window's, the windows at the right and lower border are smaller, and one region
    of equal windows follows the other: whole ones, right border, lower border, corner.

    Args:
        height: Rows of tokens.
        width: Columns of tokens.
        window_size: Side of a whole window.
        index: Row of the bias table for each pair of slots in a whole window, queries slow, shape
            (window_size^4,).

    Attributes:
        has_padding: Whether some windows have padded slots.
        regions: The regions that are not empty.
        sizes: Number of tokens of each region.
        indices: For each region the table's rows for all pairs of a real query and a key, keys
            being the real tokens and then the padded slots, shape (queries * window_size^2,).
    """

    def __init__(self, height: int, width: int, window_size: int, index: Tensor) -> None:
        if isinstance(height, Tensor):  # while TorchScript traces for this size
            height, width = int(height), int(width)
        (rows, rest_rows), (cols, rest_cols) = (divmod(n, window_size) for n in (height, width))
        top, left = height - rest_rows, width - rest_cols
        regions = [
            Region(0, 0, rows, cols, window_size, window_size),
            Region(0, left, rows, 1, window_size, rest_cols),
            Region(top, 0, 1, cols, rest_rows, window_size),
            Region(top, left, 1, 1, rest_rows, rest_cols),
        ]
        self.window_size = window_size
        self.has_padding = bool(rest_rows or rest_cols)
        self.regions = [region for region in regions if 0 not in region[2:]]
        self.sizes = [r.num_rows * r.num_cols * r.height * r.width for r in self.regions]
        self.indices = [self._select(index, r.height, r.width) for r in self.regions]

    def _select(self, index: Tensor, height: int, width: int) -> Tensor:
        size = self.window_size
        if height == width == size:
            return index
        pairs = index.view(size, size, size, size)[:height, :width]
        real, right = pairs[:, :, :height, :width], pairs[:, :, :height, width:]
        keys = [part.flatten(2) for part in (real, right, pairs[:, :, height:])]
        return torch.cat(keys, dim=2).flatten()

    def to_windows(self, x: Tensor) -> Tensor:
        """Bring the tokens of a map (B, H, W, C) into window order, shape (B, H * W, C)."""
        parts = []
        for top, left, rows, cols, height, width in self.regions:
            part = x[:, top : top + rows * height, left : left + cols * width]
            part = part.unflatten(2, (cols, width)).unflatten(1, (rows, height))
            parts.append(part.transpose(2, 3).flatten(1, 4))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def to_map(self, x: Tensor) -> Tensor:
        """Bring tokens in window order, shape (B, H * W, C), back into a map (B, H, W, C)."""
        bands: dict[int, list[Tensor]] = {}
        for region, part in zip(self.regions, x.split(self.sizes, dim=1), strict=True):
            top, _, rows, cols, height, width = region
            part = part.unflatten(1, (rows, cols, height, width)).transpose(2, 3)
            bands.setdefault(top, []).append(part.flatten(3, 4).flatten(1, 2))
        rows = [torch.cat(band, dim=2) if len(band) > 1 else band[0] for band in bands.values()]
        return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]


class Stem(nn.Sequential):
    """Convolutions to stride 4, each with BatchNorm and GELU (docs/specs/lightvit.md#21-stem).

    Args:
        in_channels: Channels of the image.
        channels: Channels of all convolutions.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for stride in (2, 1, 1, 2):
            groups = channels if layers else 1
            conv = Conv2d(in_channels, channels, 3, stride, 1, groups=groups, bias=False)
            layers += [conv, nn.BatchNorm2d(channels), nn.GELU()]
            in_channels = channels
        super().__init__(*layers)


class PatchEmbed(nn.Module):
    """Makes image tokens of stride 8 and the global tokens.

    See docs/specs/lightvit.md#21-stem, #22-global-tokens.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the tokens; even.
        num_global_tokens: Number of global tokens.
        takes_any_number: Whether loaded weights decide about the number of global tokens.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, num_global_tokens: int, takes_any_number: bool
    ) -> None:
        super().__init__()
        self.takes_any_number = takes_any_number
        self.stem = Stem(in_channels, embed_dims // 2)
        self.proj = nn.Conv2d(embed_dims // 2, embed_dims, 3, 2, 1)
        self.norm = nn.LayerNorm(embed_dims)
        # Never zeros: equal tokens get equal gradients and stay copies of each other.
        self.global_token = nn.Parameter(torch.empty(1, num_global_tokens, embed_dims))
        nn.init.trunc_normal_(self.global_token, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Make the tokens of images (B, in_channels, H, W).

        Returns:
            Image tokens (B, ceil(H / 8), ceil(W / 8), C), global tokens (B, T, C).
        """
        x = self.proj(self.stem(convolution_format(x)))
        tokens = self.norm(x.permute(0, 2, 3, 1))
        # A copy: a view of a parameter requires a gradient even where none is recorded.
        return tokens, self.global_token.repeat(x.shape[0], 1, 1)

    def accepts_tokens(self, shape: Sequence[int]) -> bool:
        """Return whether global tokens of this shape can be loaded."""
        own = self.global_token.shape
        return self.takes_any_number and len(shape) == 3 and (shape[0], shape[2]) == own[::2]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        tokens = state_dict.get(f"{prefix}global_token")
        if tokens is not None and self.accepts_tokens(tokens.shape):
            # In place: an optimizer may hold the parameter already.
            self.global_token.data = self.global_token.data.new_empty(tokens.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Tokens(NamedTuple):
    """How the rows of a matrix are the tokens of a batch: all image tokens, then all global ones.

    Layers that treat every token alike run once, on the matrix; its two parts are views.

    Args:
        batch: Images B.
        num_image: Image tokens N of each image.
        num_global: Global tokens T of each image; 0 after they were dropped.
    """

    batch: int
    num_image: int
    num_global: int

    def split(self, rows: Tensor, *dims: int) -> list[Tensor]:
        """Split a matrix into its two parts.

        Args:
            rows: Shape (B * N + B * T, C).
            dims: What the C channels are; (C,) is not to be given.

        Returns:
            Image tokens (B, N, *dims) and, if there are any, global tokens (B, T, *dims).
        """
        dims = dims or rows.shape[1:]
        if not self.num_global:
            return [rows.view(self.batch, self.num_image, *dims)]
        counts = [self.batch * self.num_image, self.batch * self.num_global]
        x, g = rows.split_with_sizes(counts)
        return [
            x.view(self.batch, self.num_image, *dims),
            g.view(self.batch, self.num_global, *dims),
        ]

    def expand(self, x: Tensor) -> Tensor:
        """Repeat a value of each image, shape (B, 1, 1), for each row."""
        counts = (self.num_image, self.num_global)
        return torch.cat([x.expand(-1, count, -1).flatten(0, 1) for count in counts])


class Attention(nn.Module):
    """Local windows, aggregation into global tokens, and their broadcast.

    See docs/specs/lightvit.md#24-attention.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        window_size: Side of the windows.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # The original's `qkv`, whose k and v of global tokens nobody reads.
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.kv_global = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        nn.init.trunc_normal_(table, std=0.02)

    def forward(
        self,
        rows: Tensor,
        tokens: Tokens,
        grid: WindowGrid,
        drop_globals: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            rows: All tokens, image tokens in window order, shape (B * N + B * T, C).
            tokens: What the rows are.
            grid: The image tokens' grid.
            drop_globals: Give the image tokens only, shape (B * N, C).

        Returns:
            Tensor of the shape of ``rows``.
        """
        heads = (self.num_heads, rows.shape[1] // self.num_heads)
        q, g_q = tokens.split(self.q(rows), *heads)
        image_rows = rows.split_with_sizes([tokens.batch * n for n in tokens[1:]])[0]
        kv = self.kv(image_rows).view(tokens.batch, tokens.num_image, 2, *heads)
        gathered = attention(g_q, *kv.unbind(2)).flatten(2)
        global_kv = self.kv_global(gathered).unflatten(2, (2, *heads))
        out = attention(q, *global_kv.unbind(2)) + self._attend_locally(q, kv, grid)
        out = out.reshape(image_rows.shape)
        return self.proj(out if drop_globals else torch.cat([out, gathered.flatten(0, 1)]))

    def _attend_locally(self, q: Tensor, kv: Tensor, grid: WindowGrid) -> Tensor:
        """Attend inside windows: q (B, N, heads, d), kv (B, N, 2, heads, d)."""
        table = self.relative_position_bias_table.t()
        biases = [
            table.index_select(1, index).view(self.num_heads, region.height * region.width, -1)
            for region, index in zip(grid.regions, grid.indices, strict=True)
        ]
        pad = None
        if grid.has_padding:  # the original pads after the norm: a padded slot is a row of zeros
            pad = self.kv(q.new_zeros(1, q.shape[2] * q.shape[3])).view(kv.shape[2:])
        return window_attention(q, kv, pad, biases, grid.sizes)


class FeedForward(nn.Module):
    """Two linear layers, then a gate over channels and one over tokens.

    See docs/specs/lightvit.md#25-feed-forward-network.

    Args:
        embed_dims: Channels C.
        hidden_dims: Width between the linear layers.
        reduced_dims: Width of the gates' bottlenecks.
        drop_rate: Dropout after the activation and after the gates.
    """

    def __init__(
        self, embed_dims: int, hidden_dims: int, reduced_dims: int, drop_rate: float
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.norm = nn.LayerNorm(embed_dims)
        self.global_reduce = nn.Linear(embed_dims, reduced_dims)
        self.local_reduce = nn.Linear(embed_dims, reduced_dims)
        self.channel_select = nn.Linear(reduced_dims, embed_dims)
        # The original's one layer for [local; context], split so that nothing is concatenated.
        self.spatial_select = nn.Linear(reduced_dims, 1, bias=False)
        self.spatial_context = nn.Linear(reduced_dims, 1)

    def forward(
        self, rows: Tensor, tokens: Tokens, residual: Tensor, kept: Tensor | None = None
    ) -> list[Tensor]:
        """Transform all tokens and add them to the residual stream.

        Args:
            rows: Normed tokens, shape (B * N + B * T, C).
            tokens: What the rows are.
            residual: What is added, same shape as ``rows``.
            kept: Factor for each image, shape (B, 1, 1), or None.

        Returns:
            Image tokens (B, N, C) and, if there are any, global tokens (B, T, C).
        """
        values = self.fc2(self.drop(F.gelu(self.fc1(rows))))
        normed = self.norm(values)
        parts = tokens.split(normed)
        total = tokens.num_image + tokens.num_global  # not a sum of all: float16 would overflow
        means = [part.mean(1, keepdim=True) * (part.shape[1] / total) for part in parts]
        mean = reduce(torch.add, means)
        context = F.gelu(self.global_reduce(mean))
        channel_gate = self.channel_select(context).sigmoid()
        if kept is not None:
            channel_gate = channel_gate * kept
        local = self.spatial_select(F.gelu(self.local_reduce(normed)))
        offset = self.spatial_context(context)
        parts = zip(*map(tokens.split, (residual, values, local)), strict=True)
        return [
            multiply_add(
                x,
                self.drop(value * channel_gate).to(x.dtype),
                (score + offset).sigmoid().to(x.dtype),
            )
            for x, value, score in parts
        ]


class Block(nn.Module):
    """Pre-norm attention and feed-forward network with residual connections.

    See docs/specs/lightvit.md#23-block.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        mlp_ratio: Hidden width of the feed-forward network over C.
        arch: The other sizes.
        drop_rate: Dropout in the feed-forward network.
        drop_path_rate: Chance that an image skips the attention, or the network, while training.
        drop_globals: Drop the global tokens after the attention, as the original detection code
            does in its last block.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        arch: LightViTArch,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_globals: bool = False,
    ) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.drop_globals = drop_globals
        self.norm1 = nn.LayerNorm(embed_dims, eps=_EPS)
        self.attn = Attention(embed_dims, num_heads, arch.window_size)
        self.norm2 = nn.LayerNorm(embed_dims, eps=_EPS)
        self.ffn = FeedForward(
            embed_dims,
            int(embed_dims * mlp_ratio),
            int(embed_dims * arch.reduction_ratio),
            drop_rate,
        )

    def forward(self, x: Tensor, g: Tensor, grid: WindowGrid) -> tuple[Tensor, Tensor | None]:
        """Transform image tokens (B, N, C) in window order and global tokens (B, T, C)."""
        tokens = Tokens(x.shape[0], x.shape[1], g.shape[1])
        rows = torch.cat([x.flatten(0, 1), g.flatten(0, 1)])
        attended = self.attn(self.norm1(rows), tokens, grid, self.drop_globals)
        if self.drop_globals:
            tokens, rows = tokens._replace(num_global=0), x.flatten(0, 1)
        kept = None  # all tokens of an image share their fate
        if self.training and self.drop_path_rate > 0:
            kept = draw_kept(x, self.drop_path_rate)
            rows = multiply_add(rows, attended.to(rows.dtype), tokens.expand(kept))
            kept = draw_kept(x, self.drop_path_rate)
        else:
            rows = rows + attended
        outs = self.ffn(self.norm2(rows), tokens, rows, kept)
        return outs[0], outs[1] if tokens.num_global else None


class Merge(nn.Module):
    """Halves the grid: linear embedding of 2x2 tokens plus that of their maximum.

    See docs/specs/lightvit.md#26-residual-merge.

    Args:
        in_dims: Channels before.
        embed_dims: Channels after.
    """

    def __init__(self, in_dims: int, embed_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dims)
        self.reduction = nn.Linear(4 * in_dims, embed_dims, bias=False)
        self.res_proj = nn.Linear(in_dims, embed_dims, bias=False)
        self.norm2 = nn.LayerNorm(in_dims)
        self.proj = nn.Linear(in_dims, embed_dims, bias=False)

    def forward(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Merge image tokens (B, H, W, C) and project global tokens (B, T, C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        slices = [x[:, row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
        largest = reduce(torch.maximum, slices)
        x = self.reduction(self.norm(torch.cat(slices, dim=-1))) + self.res_proj(largest)
        return x, self.proj(self.norm2(g))


@MODELS.register_module()
class LightViT(PositionIndex, PyramidBackbone):
    """LightViT backbone (arXiv:2207.05557), strides 8, 16 and 32.

    The original classification and detection codes differ; ``out_type`` chooses between their
    rules. Both take images of any size here: grids are padded as the original detection code does
    it, and padded slots take part in the windows' attention. Global tokens see the whole map, so
    features depend on padding.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of :class:`LightViTArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        num_global_tokens: Number of global tokens, at least 1. None means that of the weights that
            are loaded, and the architecture's without weights.
        out_type: ``'featmap'`` gives normed maps (B, C_i, H_i, W_i) and drops the global tokens
            before the last feed-forward network, as the original detection code. ``'raw'`` gives
            normed tokens (B, T + H_i * W_i, C_i), the global ones first and the others row by row,
            as the original classification code pools them.
        drop_rate: Dropout in the feed-forward networks, in [0, 1).
        **options: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg``, see
            :class:`~mmvitconv.models.base.Backbone`. The stem, which has the only BatchNorms, and
            the global tokens belong to stage 0.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = LightViT("tiny", num_global_tokens=8)
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 128, 4, 6), (1, 256, 2, 3)]
    """

    stem_names = ("patch_embed",)
    embedding = "merges.{before}"
    grid = WindowGrid  # how a stage orders its tokens

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2),
        drop_path_rate: float = 0.0,
        num_global_tokens: int | None = None,
        out_type: Literal["featmap", "raw"] = "featmap",
        drop_rate: float = 0.0,
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, LightViTArch)
        super().__init__(
            depths=sizes.depths,
            channels=sizes.embed_dims,
            strides=[8 * 2**stage for stage in range(len(sizes.depths))],
            in_channels=in_channels,
            out_indices=out_indices,
            **options,
        )
        check_rate("drop_path_rate", drop_path_rate)
        check_rate("drop_rate", drop_rate)
        if num_global_tokens is not None and num_global_tokens < 1:
            raise ValueError(
                "num_global_tokens must be at least 1, or None for the number that the weights "
                f"have, got {num_global_tokens}"
            )
        if out_type not in ("featmap", "raw"):
            raise ValueError(f"out_type must be 'featmap' or 'raw', got {out_type!r}")
        self.arch = sizes
        self.out_type = out_type
        self.patch_embed = PatchEmbed(
            in_channels,
            sizes.embed_dims[0],
            num_global_tokens or sizes.num_global_tokens,
            takes_any_number=num_global_tokens is None,
        )
        self.set_index(sizes.window_size)
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.merges = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage in range(self.num_stages):
            dims = sizes.embed_dims[stage]
            if stage:
                self.merges.append(Merge(sizes.embed_dims[stage - 1], dims))
            self.stages.append(
                nn.ModuleList(
                    Block(
                        dims,
                        sizes.num_heads[stage],
                        sizes.mlp_ratios[stage],
                        sizes,
                        drop_rate,
                        rate,
                    )
                    for rate in rates[stage]
                )
            )
            if stage in self.out_indices:
                self.add_module(f"norm{stage}", nn.LayerNorm(dims, eps=_EPS))
        if out_type == "featmap" and self.num_stages == len(sizes.depths):
            self.stages[-1][-1].drop_globals = True
        self.apply(_init_linear)
        self.train()

    def embed(self, stage: int, x: Any) -> tuple[Tensor, Tensor]:
        """Make image tokens (B, H, W, C) and global tokens (B, T, C)."""
        return self.merges[stage - 1](*x) if stage else self.patch_embed(x)

    def run_stage(self, stage: int, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the blocks on image tokens in window order."""
        x, g = x
        size = self.arch.window_size
        grid = self.grid(x.shape[1], x.shape[2], size, self.relative_position_index)
        x = grid.to_windows(x)
        for block in self.stages[stage]:
            x, g = self.run_block(block, x, g, grid)
        return grid.to_map(x), g

    def output(self, stage: int, x: tuple[Tensor, Tensor]) -> Tensor:
        """Norm the image tokens as a map or, for ``out_type='raw'``, all tokens."""
        if self.out_type == "featmap":
            return super().output(stage, x)
        x, norm = torch.cat([x[1], x[0].flatten(1, 2)], dim=1), self.norm_of(stage)
        return x if norm is None else norm(x)

    def to_map(self, x: tuple[Tensor, Tensor], norm: nn.Module | None = None) -> Tensor:
        """Return the image tokens as a map."""
        return super().to_map(x[0], norm).permute(0, 3, 1, 2)

    def pool(self, features: Tensor) -> Tensor:
        """Take the mean of all tokens, or of the map."""
        return features.mean(1) if self.out_type == "raw" else super().pool(features)

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """Accept any number of global tokens, unless one was asked for."""
        return key == "patch_embed.global_token" and self.patch_embed.accepts_tokens(shape)


def _init_linear(module: nn.Module) -> None:
    """Initialisation of the classification code; other layers keep torch's.

    See docs/specs/lightvit.md#7-state-dict.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
