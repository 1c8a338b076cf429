"""Kernels made from pairs of a query and keys: attention, read as a dynamic convolution.

For one image and head, the keys are the weights of a 1x1 convolution from d to N channels, whose
output at a position are the scores of that query; the values are the weights of a second one back
from N to d channels. Between them is an activation: softmax, or ReLU after a LayerNorm over the
keys. :func:`mmvitconv.ops.dynamic_attention.dynamic_attention` computes this; the classes here
differ in which keys a query sees (docs/specs/dynconv.md#1-interpretation, #2-table,
#4-norm-and-relu).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.layers.mixers.base import (
    Mixer,
    check_choice,
    check_divides,
    check_neighbourhood,
)
from mmvitconv.models.layers.window import PositionIndex, from_windows, to_windows
from mmvitconv.ops.dynamic_attention import (
    Activation,
    activate,
    depthwise_head_attention,
    dynamic_attention,
    norm_heads,
    token_norm_attention,
)

__all__ = [
    "Attention",
    "DepthwiseHeads",
    "GlobalAttention",
    "GlobalMixer",
    "NeighbourhoodAttention",
    "PairwiseMixer",
    "TokenNormAttention",
    "WindowAttention",
]

SOFTMAX = Activation()


class PairwiseMixer(Mixer):
    """Projections to queries, keys and values, and of the result.

    Args:
        dim: Channels C of input and output.
        num_heads: Heads; they divide ``dim``.
        qkv_bias: Whether q, k and v have a bias.
        proj_drop: Dropout of the output, in [0, 1).
    """

    kernel = "pairwise"

    def __init__(
        self, dim: int, num_heads: int, *, qkv_bias: bool = True, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, proj_drop=proj_drop)
        check_divides("heads", num_heads, dim)
        self.heads = num_heads
        self.num_keys: int | None = None  # that a query is multiplied with; None for all
        if num_heads != dim:
            self.columns["groups"] = f"{num_heads} heads"
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def split_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens (B, N, C) to q, k and v of shape (B, h, N, d)."""
        return self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def join_heads(self, y: Tensor) -> Tensor:
        """Project heads (B, h, N, d) to tokens (B, N, C)."""
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    def macs(self, height: int, width: int) -> int:
        """Return one image's multiply-adds."""
        n, c = height * width, self.dim
        return 4 * n * c * c + 2 * n * (self.num_keys or n) * c


class GlobalMixer(PairwiseMixer):
    """A pairwise mixer of the whole map, in which other tokens may take part."""

    reach = "global"

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map whose channels come last, shape (B, H, W, C)."""
        grid = x.shape[1:3]
        return self.mix_tokens(x.flatten(1, 2), grid, key_padding_mask).unflatten(1, grid)

    def mix_tokens(
        self, tokens: Tensor, grid: tuple[int, int], key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Mix all tokens, shape (B, P + H * W, C), with each other."""
        valid = None
        if key_padding_mask is not None:
            number = tokens.shape[1] - grid[0] * grid[1]
            valid = F.pad(~key_padding_mask.flatten(1), (number, 0), value=True)
        q, k, v = self.split_heads(tokens)
        return self.join_heads(self.compare(q, k, v, valid))


class Attention(PairwiseMixer):
    """Scores of all pairs, activated, times the values.

    Args:
        dim: Channels C of input and output.
        num_heads: Heads; they divide ``dim``.
        rule: What happens to the scores.
        attn_drop: Dropout of the activated scores, in [0, 1).
        query_chunk: See :func:`mmvitconv.ops.dynamic_attention.dynamic_attention`.
        options: Those of :class:`PairwiseMixer`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rule: Activation = SOFTMAX,
        *,
        attn_drop: float = 0.0,
        query_chunk: int | str | None = "auto",
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if not 0 <= attn_drop < 1:
            raise ValueError(f"attn_drop must be in [0, 1), got {attn_drop}")
        is_number = isinstance(query_chunk, int) and query_chunk >= 1
        if query_chunk not in ("auto", None) and not is_number:
            raise ValueError(
                f"query_chunk must be 'auto', None or a positive integer, got {query_chunk!r}"
            )
        self.rule, self.attn_drop, self.query_chunk = rule, attn_drop, query_chunk
        self.columns["activation"] = _in_words(rule)
        self.gamma = self.beta = None
        if rule.norm:
            self.make_affine(num_heads)

    def make_affine(self, *shape: int) -> None:
        """Make the norm's factor and bias of this shape."""
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))

    def affine(self) -> tuple[Tensor | None, Tensor | None]:
        """Return gamma and beta of shape (h, 1, 1) or (h, 1, keys), or None."""
        return tuple(t if t is None else t.view(self.heads, 1, -1) for t in (self.gamma, self.beta))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        """Compute ``rule(q k^T / sqrt(d) + bias) v`` for the keys that count."""
        drop_rate = self.attn_drop if self.training else 0.0
        affine = self.affine()
        return dynamic_attention(
            q, k, v, self.rule, *affine, bias, valid, drop_rate, self.query_chunk
        )


def _in_words(rule: Activation) -> str:
    parts = ["LN over keys" if rule.norm else "", "" if rule.act == "identity" else rule.act]
    if rule.norm == "post":
        parts.reverse()
    parts.append(f"{rule.out_norm.upper()} of the output" if rule.out_norm else "")
    return ", ".join(filter(None, parts)) or "none"


class GlobalAttention(GlobalMixer, Attention):
    """Attention to all tokens; its arguments are those of :class:`Attention`.

    Examples:
        >>> GlobalAttention(64, 2, Activation("relu", norm="pre"))(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    def compare(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """Attend to the valid keys, shape (B, N)."""
        return self.attend(q, k, v, None, None if valid is None else valid[:, None, None, :])


class TokenNormAttention(GlobalMixer):
    """SimA: no activation; q and k are divided by their norm over the tokens.

    Args:
        dim: Channels C of input and output.
        num_heads: Heads; they divide ``dim``.
        norm: ``'l1_token'``, or ``'l2_token'`` as in XCiT.
        options: Those of :class:`PairwiseMixer`.

    Examples:
        >>> TokenNormAttention(64, 2)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    def __init__(self, dim: int, num_heads: int, *, norm: str = "l1_token", **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        check_choice("norm", norm, ("l1_token", "l2_token"))
        self.order = 1 if norm == "l1_token" else 2
        self.columns["activation"] = f"L{self.order} over tokens"

    def compare(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """Multiply the normalised queries and keys with the values."""
        return token_norm_attention(q, k, v, self.order, valid)

    def macs(self, height: int, width: int) -> int:
        """Return one image's multiply-adds, in the cheaper order."""
        n, c = height * width, self.dim
        return 4 * n * c * c + 2 * n * min(n, c // self.heads) * c


class DepthwiseHeads(GlobalMixer):
    """The limit of one head per channel: each channel is gated by means over the map.

    Args:
        dim: Channels C of input and output.
        act: ``'relu'`` or ``'identity'``, with which a map of C * N * N scores factorises.
        options: Those of :class:`PairwiseMixer`.

    Examples:
        >>> DepthwiseHeads(64)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    def __init__(self, dim: int, *, act: str = "relu", **options: Any) -> None:
        super().__init__(dim, dim, **options)
        if act not in ("relu", "identity"):
            raise ValueError(
                f"a map of scores for each channel would have C * N * N numbers, and act={act!r} "
                "does not factorise: give 'relu' or 'identity', or reach='window'"
            )
        self.act, self.num_keys = act, 2 if act == "relu" else 1
        self.columns["activation"] = "none" if act == "identity" else act

    def compare(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """Gate the channels; heads of one channel, shape (B, C, N, 1)."""
        q, k, v = (t.squeeze(3).transpose(1, 2) for t in (q, k, v))
        out = depthwise_head_attention(q, k, v, self.act, valid)
        return out.transpose(1, 2).unsqueeze(3)


class WindowAttention(PositionIndex, Attention):
    """Attention in windows, which may be shifted.

    Args:
        dim: Channels C of input and output.
        num_heads: Heads; they divide ``dim``. As many as channels are one per channel.
        rule: What happens to the scores.
        size: Side M of the windows.
        shift: Cyclic shift of the windows with masking, as in Swin; less than ``size``.
        bias: ``'rel_table'`` for a relative position bias, or None.
        affine: ``'head'``: the norm over the keys has a factor and a bias for each head; ``'key'``:
            for each key of a window too.
        options: Those of :class:`Attention`.

    Examples:
        >>> WindowAttention(64, 2, shift=3, bias="rel_table")(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    reach = "window"

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rule: Activation = SOFTMAX,
        *,
        size: int = 7,
        shift: int = 0,
        bias: str | None = None,
        affine: str = "head",
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, rule, **options)
        if size < 1:
            raise ValueError(f"size of a window must be a positive integer, got {size}")
        if not 0 <= shift < size:
            raise ValueError(f"shift of a window must be at least 0 and less than {size=}: {shift}")
        check_choice("affine", affine, ("head", "key"))
        check_choice("bias", bias, (None, "rel_table"))
        self.size, self.shift, self.num_keys = size, shift, size**2
        self.columns["reach"] = f"window {size}" + (f", shift {shift}" if shift else "")
        if affine == "key":
            if not rule.norm:
                raise ValueError("affine='key' belongs to a norm over the keys: give norm='ln_key'")
            self.make_affine(num_heads, size * size)
        self.relative_position_bias_table = None
        if bias:
            self.columns["static_term"] = "relative position"
            table = torch.zeros((2 * size - 1) ** 2, self.heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            self.set_index(size)

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map; where its borders meet by the shift, they do not see each other.

        Softmax follows timm's Swin, as checkpoints depend on it: the map is shifted, then filled
        up to whole windows with zeros, which are seen; on a map that is no multiple of the window,
        a few rows and columns of opposite borders then see each other. Other activations, and maps
        with padding, are filled first, and see neither.
        """
        _, height, width, _ = x.shape
        size = self.size
        # A map that fits one window needs no shift, for each side by itself.
        shifts = [self.shift if length > size else 0 for length in (height, width)]
        valid = None if key_padding_mask is None else ~key_padding_mask
        follows_swin = self.rule.act == "softmax" and valid is None
        if not follows_swin and (height % size or width % size):
            filling = (0, -width % size, 0, -height % size)
            if valid is None:
                valid = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
            x, valid = F.pad(x, (0, 0, *filling)), F.pad(valid, filling)
        if any(shifts):
            back = (-shifts[0], -shifts[1])
            x = x.roll(back, dims=(1, 2))
            valid = None if valid is None else valid.roll(back, dims=(1, 2))
        windows = to_windows(x, size)
        q, k, v = self.split_heads(windows)
        bias = None
        if self.relative_position_bias_table is not None:
            bias = self.relative_position_bias_table[self.relative_position_index]
            bias = bias.view(size * size, size * size, -1).permute(2, 0, 1)
        seen = self._seen(x, shifts, valid)
        if seen is not None and follows_swin:  # as a bias: a fused kernel takes one mask
            # 0 or minus infinity; torch.where takes ten times as long as this sum
            hidden = seen.to((q if bias is None else bias).dtype).log()
            bias, seen = hidden if bias is None else bias + hidden, None
        out = self.attend(q, k, v, bias, seen).transpose(1, 2).flatten(2)
        out = from_windows(out, size, *x.shape[1:3])
        out = out.roll(tuple(shifts), dims=(1, 2)) if any(shifts) else out
        return self.proj_drop(self.proj(out[:, :height, :width]))  # not of what was filled up

    def _seen(self, x: Tensor, shifts: list[int], valid: Tensor | None) -> Tensor | None:
        """Which keys a query sees, shape (windows, 1, M * M, M * M): valid ones of its region."""
        if valid is None and not any(shifts):
            return None
        rows, columns = (
            torch.arange(length, device=x.device) >= length - shift
            for length, shift in zip(
                [-(-side // self.size) * self.size for side in x.shape[1:3]], shifts, strict=True
            )
        )
        region = (2 * rows[:, None] + columns.int()).expand(x.shape[0], -1, -1)
        region = region if valid is None else torch.where(valid, region, -1)
        region = to_windows(region.unsqueeze(-1), self.size).squeeze(-1)
        seen = (region.unsqueeze(1) == region.unsqueeze(2)) & (region >= 0).unsqueeze(1)
        return seen.unsqueeze(1)


class NeighbourhoodAttention(Attention):
    """Attention to the k x k positions around each one.

    Args:
        dim: Channels C of input and output.
        num_heads: Heads; they divide ``dim``.
        rule: What happens to the scores.
        size: Side k of the neighbourhood, odd.
        bias: ``'static_kernel'`` for a learnt k x k kernel that is added to the scores, or None.
        options: Those of :class:`Attention`, except ``query_chunk``, which has no effect.

    Examples:
        >>> NeighbourhoodAttention(64, 2, size=3)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rule: Activation = SOFTMAX,
        *,
        size: int = 7,
        bias: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, rule, **options)
        check_neighbourhood(size)
        check_choice("bias", bias, (None, "static_kernel"))
        self.size, self.num_keys = size, size**2
        self.columns["reach"] = f"{size} x {size}"
        self.static_kernel = None
        if bias:
            self.columns["static_term"] = "static kernel"
            self.static_kernel = nn.Parameter(0.02 * torch.randn(self.heads, size, size))

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map whose channels come last, shape (B, H, W, C)."""
        grid = x.shape[1:3]
        q, k, v = self.split_heads(x.flatten(1, 2))
        k, v = self._around(k, grid), self._around(v, grid)
        inside = torch.ones(1, 1, *grid, device=x.device, dtype=x.dtype)
        if key_padding_mask is not None:
            inside = (~key_padding_mask).unsqueeze(1).to(x.dtype)
        seen = F.unfold(inside, self.size, padding=self.size // 2).transpose(1, 2) > 0.5
        scores = (q.unsqueeze(3) * q.shape[-1] ** -0.5 * k).sum(dim=-1)
        if self.static_kernel is not None:
            scores = scores + self.static_kernel.flatten(1).unsqueeze(1)
        drop_rate = self.attn_drop if self.training else 0.0
        affine = self.affine()
        weights = activate(scores, self.rule, *affine, seen.unsqueeze(1), drop_rate=drop_rate)
        y = (weights.to(v.dtype).unsqueeze(-1) * v).sum(dim=3)
        return self.join_heads(norm_heads(y, self.rule)).unflatten(1, grid)

    def _around(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The neighbourhoods of tokens (B, h, N, d), shape (B, h, N, k * k, d); zeros outside."""
        maps = tokens.transpose(2, 3).flatten(1, 2).unflatten(2, grid)
        patches = F.unfold(maps, self.size, padding=self.size // 2)
        return patches.unflatten(1, (self.heads, -1, self.size**2)).permute(0, 1, 4, 3, 2)
