"""What norms do in evaluation, as a scale and a shift of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Affine", "batch_norm_affine", "exact"]

Affine = tuple[Tensor, Tensor]
"""Scale and shift of each channel, shape (C,), float64 on the CPU."""


def exact(values: Tensor) -> Tensor:
    """Return a copy without gradients in float64 on the CPU, where products are folded."""
    return values.detach().to("cpu", torch.float64)


def batch_norm_affine(norm: nn.Module | None) -> Affine | None:
    """Return what a BatchNorm does in evaluation mode.

    Args:
        norm: Any module.

    Returns:
        Its scale and shift; None for other modules, and for norms that take statistics of the
        batch in evaluation, too.
    """
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return None
    scale = (exact(norm.running_var) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * exact(norm.weight)
    shift = -exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + exact(norm.bias)
