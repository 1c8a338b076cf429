"""Attention weights as models use them, read while the models run as they are.

The weights are computed again from what the layers get. Layers are LightViT's three kinds of
attention, the dynamic convolutions that compare pairs of tokens
(:class:`mmvitconv.models.layers.mixers.Attention`), and timm's attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmvitconv.analysis.pictures import draw_rows
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.lightvit import Attention, Tokens, WindowGrid
from mmvitconv.models.layers.mixers import Attention as PairAttention
from mmvitconv.models.layers.mixers import GlobalAttention, WindowAttention
from mmvitconv.ops.dynamic_attention import activate

__all__ = [
    "AttentionMap",
    "capture_attention",
    "choose_layers",
    "draw_queries",
    "draw_tokens",
    "lightvit_attention",
    "query_map",
    "token_maps",
]

_TOKENS = 8  # maps in a row
LABEL = "weight x keys (1: average)"  # of the colours


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one layer.

    A layer of kind ``'global'`` lets every token read all, of kind ``'window'`` those of its
    window; ``'gather'``: global tokens read all tokens; ``'read'``: all tokens read global ones.
    """

    layer: str  # name of the module
    kind: str
    weights: Tensor  # shape (B, heads, queries, keys); for windows B counts them too
    grid: tuple[int, int] | None = None  # of the map of tokens, row by row; None for windows
    prefix: int = 0  # tokens before those of the map, such as a class token
    masked: Tensor | None = None  # shape (B,), True for windows in which a mask hides keys


def capture_attention(
    model: nn.Module, image: Tensor, keep: Callable[[AttentionMap], Any] = lambda found: found
) -> list[Any]:
    """Run a model and read all attention weights.

    Args:
        model: In evaluation mode.
        image: Its input, shape (B, in_channels, H, W).
        keep: What is kept of each layer, such as statistics, as the weights may be large.

    Returns:
        What is kept, in the order in which the layers run.

    Raises:
        UserError: The model has no attention that can be read.
    """
    found: list[Any] = []

    def add(attention: AttentionMap) -> None:
        found.append(keep(attention))

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Attention):
                stack.callback(module.register_forward_pre_hook(_lightvit_hook(name, add)).remove)
            elif isinstance(module, (GlobalAttention, WindowAttention)):
                grids: list[tuple[int, int]] = []
                _shadow(stack, module, "mix_tokens", _remember_grid(module, grids))
                _shadow(stack, module, "attend", _mixer_call(name, module, grids, add))
            elif isinstance(getattr(module, "attn_drop", None), nn.Dropout) and hasattr(
                module, "fused_attn"
            ):  # timm's; the plain path shows its weights to the dropout
                stack.callback(setattr, module, "fused_attn", module.fused_attn)
                module.fused_attn = False
                masks: list[Tensor | None] = [None]
                listen = module.register_forward_pre_hook
                stack.callback(listen(_remember_mask(masks), with_kwargs=True).remove)
                read = _timm_hook(name, model, len(image), masks, add)
                stack.callback(module.attn_drop.register_forward_pre_hook(read).remove)
        model(image)
    if not found:
        raise UserError(
            f"{type(model).__name__} has no attention weights that can be read; give a LightViT, a "
            "DynConvViT or DynConvSwin whose mixer compares pairs of tokens ('deit', 'swin', "
            "'ln_relu' ...), or one of timm's Transformers ('timm:deit_tiny_patch16_224')"
        )
    return found


def _shadow(stack: ExitStack, module: nn.Module, method: str, function: Callable) -> None:
    """Put a function before a method of one object, which a hook cannot hear."""
    object.__setattr__(module, method, function)
    stack.callback(object.__delattr__, module, method)


def _lightvit_hook(name: str, add: Callable[[AttentionMap], None]) -> Callable:
    def read(module: Attention, inputs: tuple[Any, ...]) -> None:
        for attention in lightvit_attention(module, *inputs[:3], name=name):
            add(attention)

    return read


def lightvit_attention(
    module: Attention, rows: Tensor, tokens: Tokens, grid: WindowGrid, name: str = ""
) -> Iterator[AttentionMap]:
    """Compute the weights of LightViT's attention from its inputs.

    Args:
        module: The layer.
        rows: See :meth:`Attention.forward`, like the others.
        tokens: What the rows are.
        grid: The image tokens' grid.
        name: Of the layer.

    Yields:
        One of kind ``'window'`` for each region of windows, where padded slots come behind real
        keys, then ``'gather'`` and ``'read'``, whose image tokens are row by row.
    """
    heads = (module.num_heads, rows.shape[1] // module.num_heads)
    q, g_q = tokens.split(module.q(rows), *heads)
    image_rows = rows[: tokens.batch * tokens.num_image]
    kv = module.kv(image_rows).view(tokens.batch, tokens.num_image, 2, *heads)
    k, v = kv.unbind(2)

    table = module.relative_position_bias_table.t()
    pad = module.kv(rows.new_zeros(1, rows.shape[1])).view(2, *heads)[0]  # key of a padded slot
    for region, index, queries, keys in zip(
        grid.regions, grid.indices, q.split(grid.sizes, 1), k.split(grid.sizes, 1), strict=True
    ):
        length = region.height * region.width
        bias = table.index_select(1, index).view(module.num_heads, length, -1)
        queries, keys = (t.reshape(-1, length, *heads) for t in (queries, keys))
        slots = bias.shape[2] - length
        keys = torch.cat([keys, pad.expand(len(keys), slots, *heads)], dim=1)
        yield AttentionMap(name, "window", _softmax(queries, keys, bias))

    size = (sum({r.top: r.num_rows * r.height for r in grid.regions}.values()),
            sum({r.left: r.num_cols * r.width for r in grid.regions}.values()))  # fmt: skip
    gather = _softmax(g_q, k)
    gathered = (gather @ v.transpose(1, 2)).transpose(1, 2).flatten(2)
    read = _softmax(q, module.kv_global(gathered).unflatten(2, (2, *heads)).unbind(2)[0])
    in_rows = grid.to_map(torch.arange(tokens.num_image).view(1, -1, 1)).flatten()
    in_rows = in_rows.to(rows.device)
    yield AttentionMap(name, "gather", gather[..., in_rows], size)
    yield AttentionMap(name, "read", read[:, :, in_rows], size)


def _softmax(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return weights (B, heads, L, S) of queries (B, L, heads, d) for keys (B, S, heads, d)."""
    scores = (q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.permute(0, 2, 3, 1)
    return (scores if bias is None else scores + bias).softmax(dim=-1)


def _remember_grid(module: PairAttention, grids: list[tuple[int, int]]) -> Callable:
    original = module.mix_tokens

    def mix_tokens(tokens: Tensor, grid: tuple[int, int], *mask: Tensor | None) -> Tensor:
        grids[:] = [tuple(grid)]
        return original(tokens, grid, *mask)

    return mix_tokens


def _mixer_call(
    name: str, module: PairAttention, grids: list[tuple[int, int]], add: Callable
) -> Callable:
    original = module.attend

    def attend(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        scores = scores if bias is None else scores + bias
        weights = activate(scores, module.rule, *module.affine(), valid)
        if isinstance(module, WindowAttention):
            hidden = scores.isneginf() if valid is None else scores.isneginf() | ~valid
            add(AttentionMap(name, "window", weights, masked=hidden.flatten(1).any(dim=1)))
        else:
            height, width = grids[0]
            prefix = weights.shape[-1] - height * width
            add(AttentionMap(name, "global", weights, (height, width), prefix))
        return original(q, k, v, bias, valid)

    return attend


def _remember_mask(masks: list[Tensor | None]) -> Callable:
    def read(_layer: nn.Module, _inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        masks[0] = options.get("mask")

    return read


def _timm_hook(
    name: str, model: nn.Module, batch: int, masks: Sequence[Tensor | None], add: Callable
) -> Callable:
    def read(_drop: nn.Module, inputs: tuple[Tensor]) -> None:
        weights = inputs[0].detach()
        if weights.dim() != 4:
            return
        if len(weights) != batch:
            mask, masked = masks[0], None
            if mask is not None:  # Swin's summand, shape (windows of an image, queries, keys)
                masked = (mask != 0).flatten(1).any(dim=1).repeat(len(weights) // len(mask))
            add(AttentionMap(name, "window", weights, masked=masked))
            return
        prefix = getattr(model, "num_prefix_tokens", 0)
        number = weights.shape[-1] - prefix
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        if grid is None or grid[0] * grid[1] != number:
            side = isqrt(number)
            grid = (side, side) if side * side == number else None
        add(AttentionMap(name, "global", weights, None if grid is None else tuple(grid), prefix))

    return read


def token_maps(attention: AttentionMap, head: int | None = None) -> np.ndarray:
    """Return maps of LightViT's global tokens for the first image.

    Args:
        attention: Of kind ``'gather'`` or ``'read'``.
        head: Which; None for the mean of all.

    Returns:
        For each global token where it gathers from, or who reads it, shape (T, H, W).

    Raises:
        UserError: There is no such head.
    """
    weights = _choose_head(attention.weights[0], head)
    weights = weights if attention.kind == "gather" else weights.t()
    return weights.unflatten(1, attention.grid).float().cpu().numpy()


def query_map(
    attention: AttentionMap, position: tuple[float, float], head: int | None = None
) -> np.ndarray:
    """Return what a position of the first image reads.

    Args:
        attention: Of kind ``'global'``, with a grid.
        position: Height and width of the position over those of the image, in [0, 1).
        head: Which; None for the mean of all.

    Returns:
        The weights of the map's tokens, shape (H, W).

    Raises:
        UserError: There is no such head.
    """
    height, width = attention.grid
    row, column = int(position[0] * height), int(position[1] * width)
    weights = _choose_head(attention.weights[0], head)[attention.prefix + row * width + column]
    return weights[attention.prefix :].unflatten(0, attention.grid).float().cpu().numpy()


def _choose_head(weights: Tensor, head: int | None) -> Tensor:
    if head is None:
        return weights.mean(dim=0)
    if not 0 <= head < len(weights):
        raise UserError(f"head must be 0 to {len(weights) - 1} in this layer, got {head}")
    return weights[head]


def choose_layers(found: Sequence[AttentionMap], layer: str | None) -> list[AttentionMap]:
    """Return the maps of one layer; None for the last layer of each size of map."""
    if layer is None:
        last = {attention.grid: attention for attention in found}
        return list(last.values())
    chosen = [attention for attention in found if attention.layer == layer]
    if not chosen:
        names = ", ".join(dict.fromkeys(attention.layer for attention in found))
        raise UserError(f"there is no layer {layer!r} of this kind; give one of {names}")
    return chosen


def draw_tokens(
    found: Sequence[AttentionMap],
    source: np.ndarray,
    note: str,
    head: int | None = None,
) -> Figure:
    """Draw where LightViT's global tokens gather from, or who reads them.

    Args:
        found: Layers of one kind, ``'gather'`` or ``'read'``.
        source: The image, shape (H, W, 3), uint8.
        note: The model and the image, for the title.
        head: Which; None for the mean of all.
    """
    what = {
        "gather": "Where LightViT's global tokens gather from",
        "read": "Who reads LightViT's global tokens",
    }[found[0].kind]
    rows = []
    for attention in found:
        maps = token_maps(attention, head) * attention.weights.shape[-1]
        for start in range(0, len(maps), _TOKENS):
            part = maps[start : start + _TOKENS]
            titles = [f"token {start + index}" for index in range(len(part))]
            size = f"{attention.grid[0]} x {attention.grid[1]}"
            rows.append((f"{attention.layer}: {size}", titles, part))
    return draw_rows(rows, source, (f"{what} ({_heads(head)})", note), LABEL)


def draw_queries(
    found: Sequence[AttentionMap],
    position: tuple[float, float],
    source: np.ndarray,
    note: str,
    head: int | None = None,
) -> Figure:
    """Draw what one position reads in each layer.

    Args:
        found: Layers of kind ``'global'``.
        position: See :func:`query_map`.
        source: The image, shape (H, W, 3), uint8.
        note: The model and the image, for the title.
        head: Which; None for the mean of all.
    """
    maps = [
        (attention.layer, query_map(attention, position, head) * attention.weights.shape[-1])
        for attention in found
    ]
    rows = []
    for start in range(0, len(maps), 6):
        titles, part = zip(*maps[start : start + 6], strict=True)
        rows.append(("+: the position", titles, np.stack(part)))
    title = f"What one position reads ({_heads(head)})", note
    return draw_rows(rows, source, title, LABEL, position=position)


def _heads(head: int | None) -> str:
    return "mean of the heads" if head is None else f"head {head}"
