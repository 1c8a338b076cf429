"""Linear layer and exact GELU in one pass, where oneDNN has it and it pays."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmvitconv.ops.traced import is_traced

# Below so many rows the matrix product alone is faster than oneDNN's reordering of the weights.
_MIN_ROWS = 512


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Exact GELU of a linear layer.

    Args:
        x: Input, shape (..., C).
        weight: Shape (D, C).
        bias: Shape (D,), or None.

    Returns:
        Tensor of shape (..., D); equal to ``F.gelu(F.linear(x, weight, bias))``.
    """
    if torch.is_grad_enabled() or is_traced():
        return F.gelu(F.linear(x, weight, bias))
    if (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() >= _MIN_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # what Inductor calls
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return torch.ops.aten.gelu_(F.linear(x, weight, bias))


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count_linear(x_shape: tuple, weight_shape: tuple, *_args: Any, **_kwargs: Any) -> int:
        """Twice the multiply-adds, which torch's counter does not know of oneDNN's operators."""
        return 2 * math.prod(x_shape) * weight_shape[0]
