"""Scaled dot-product attention with the heads where linear layers leave them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.traced import is_transformed


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d) + bias) v`` for each head.

    Args:
        q: Queries, shape (B, L, heads, d).
        k: Keys, shape (B, S, heads, d).
        v: Values, shape (B, S, heads, d).
        bias: Added to the scores, shape (heads, L, S), or None.

    Returns:
        Tensor of shape (B, L, heads, d).
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if is_transformed() or (bias is not None and _needs_own_gradient(bias)):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        scores = scores if bias is None else scores + bias.to(q.dtype)
        out = scores.softmax(dim=-1) @ v
    elif bias is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        # Detached when possible: which kernel torch takes, and so the layout that an exported graph
        # relies on, must not change when gradients are switched on between export and lowering.
        # A trace, which torch repeats without gradients to check it, must not depend on them.
        keep = torch.is_grad_enabled() or torch.jit.is_tracing()
        mask = (bias if keep else bias.detach()).to(q.dtype).unsqueeze(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


def _needs_own_gradient(bias: Tensor) -> bool:
    """Whether torch's CPU kernel lacks the gradient; its substitute is slower than the formula."""
    has_gradient = bias.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing()
    return has_gradient and bias.device.type == "cpu"
