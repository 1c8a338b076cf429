"""The definition: append all rows but the last to the map, then convolve without padding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def prepare(taps: Tensor, axis: int, dense: bool) -> Tensor:
    """Return the taps (C, n) or (D, C, n) as a weight of ``conv2d``."""
    return (taps if dense else taps.unsqueeze(1)).unsqueeze(5 - axis)


def multiply(
    x: Tensor, weight: Tensor, axis: int, dense: bool, bias: Tensor | None = None
) -> Tensor:
    """Convolve a map of shape (B, C, H, W) with a prepared weight."""
    x = torch.cat([x, x.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    return F.conv2d(x, weight, bias, groups=1 if dense else x.shape[1])
