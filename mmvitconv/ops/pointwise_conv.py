"""1x1 convolution: torch's values; on CPUs a plain matrix product where that is faster."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.traced import is_traced

# Up to so many positions the product wins: a convolution first reorders its weights at each call.
_MAX_TOKENS = 512


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 1x1 kernel.

    Args:
        x: Input, shape (B, C, H, W).
        weight: Shape (D, C, 1, 1).
        bias: Shape (D,), or None.

    Returns:
        Tensor of shape (B, D, H, W); equal to ``F.conv2d(x, weight, bias)``.
    """
    batch, channels, height, width = x.shape
    if (
        x.device.type != "cpu"
        or is_traced()
        or batch * height * width > _MAX_TOKENS
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return F.conv2d(x, weight, bias)
    tokens = x.permute(0, 2, 3, 1).reshape(-1, channels)
    tokens = F.linear(tokens, weight.reshape(-1, channels), bias)
    return tokens.view(batch, height, width, -1).permute(0, 3, 1, 2)
