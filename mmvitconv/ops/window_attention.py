"""Attention inside windows, with a bias and padded slots."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmvitconv.ops.attention import attention


def window_attention(
    q: Tensor, kv: Tensor, pad: Tensor | None, biases: Sequence[Tensor], sizes: Sequence[int]
) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d) + bias) v`` for each window and head.

    The tokens of a window follow each other, and windows of one size form a region. A window with
    fewer tokens than its bias has columns is filled with copies of one padded key and value.

    Args:
        q: Queries, shape (B, N, heads, d).
        kv: Keys and values, shape (B, N, 2, heads, d).
        pad: Key and value of padded slots, shape (2, heads, d); None if there are none.
        biases: For each region what is added to its scores, shape (heads, L, S): L tokens in each
            window, S >= L slots, tokens first.
        sizes: Number of tokens of each region, multiples of its L; their sum is N.

    Returns:
        Tensor of shape (B, N, heads, d).
    """
    regions = [(q, kv)]
    if len(sizes) > 1:
        regions = zip(*(x.split_with_sizes(list(sizes), dim=1) for x in (q, kv)), strict=True)
    outs = []
    for bias, (queries, slots) in zip(biases, regions, strict=True):
        _, length, num_slots = bias.shape
        shape = queries.shape
        queries = queries.reshape(-1, length, *q.shape[2:])
        slots = slots.reshape(-1, length, *kv.shape[2:])
        if num_slots > length:
            pads = pad.expand(slots.shape[0], num_slots - length, *pad.shape)
            slots = torch.cat([slots, pads.to(slots.dtype)], dim=1)
        outs.append(attention(queries, *slots.unbind(2), bias).reshape(shape))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
