"""Attention with an additive bias: scaled_dot_product_attention wherever it is the faster form."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v``.

    Args:
        q: Queries, shape (B, heads, L, d).
        k: Keys, shape (B, heads, S, d).
        v: Values, shape (B, heads, S, d).
        bias: Added to the scores, shape (heads, L, S), or None.

    Returns:
        Tensor of shape (B, heads, L, d).
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    bias = bias.to(q.dtype)
    if q.device.type == "cpu" and bias.requires_grad and torch.is_grad_enabled():
        # torch's CPU kernel has no gradient for the bias; its substitute is slower than this.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return scores.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
