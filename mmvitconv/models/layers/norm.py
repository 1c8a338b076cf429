"""Normalisation layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keep_memory_format(y: Tensor, like: Tensor) -> Tensor:
    """``y``, contiguous in channels_last when ``like`` is, else in the default format."""
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    if channels_last and not like.is_contiguous():
        return y.contiguous(memory_format=torch.channels_last)
    return y.contiguous()


class CanvasNorm(nn.GroupNorm):
    """GroupNorm of one group: statistics of a sample over channels and the whole canvas together.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map of shape (B, C, H, W), keeping its memory format."""
        # torch.compile believes that group_norm gives the default format; the CPU kernel keeps x's.
        return keep_memory_format(F.group_norm(x, 1, self.weight, self.bias, self.eps), x)

    def extra_repr(self) -> str:
        """What repr shows."""
        return f"{self.num_channels}"
