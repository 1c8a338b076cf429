"""Scaled dot-product attention with the heads where linear layers leave them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` for each head.

    Args:
        q: Queries, shape (B, L, heads, d).
        k: Keys, shape (B, S, heads, d).
        v: Values, shape (B, S, heads, d).
        bias: Added to the scores, shape (heads, L, S), or None.

    Returns:
        Tensor of shape (B, L, heads, d).
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if bias is None:
        out = F.scaled_dot_product_attention(q, k, v)
    elif q.device.type == "cpu" and bias.requires_grad and torch.is_grad_enabled():
        # torch's CPU kernel has no gradient for the bias; its substitute is slower than this.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + bias.to(q.dtype)
        out = scores.softmax(dim=-1) @ v
    else:
        # Detached when possible: which kernel torch takes, and so the layout that an exported graph
        # relies on, must not change when gradients are switched on between export and lowering.
        bias = bias if torch.is_grad_enabled() else bias.detach()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).unsqueeze(0))
    return out.transpose(1, 2)
