"""Linear layer and exact GELU."""

import torch.nn.functional as F
from torch import Tensor


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute the exact GELU of a linear layer.

    Args:
        x: Input, shape (..., C).
        weight: Shape (D, C).
        bias: Shape (D,), or None.

    Returns:
        Tensor of shape (..., D).
    """
    return F.gelu(F.linear(x, weight, bias))
