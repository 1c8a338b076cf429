"""Normalisation layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.ops import keep_cpu_format


class CanvasNorm(nn.GroupNorm):
    """GroupNorm of one group: a sample's statistics are those of its whole feature map.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map of shape (B, C, H, W); on CPUs in its memory format."""
        y = F.group_norm(x, 1, self.weight, self.bias, self.eps)
        # torch.compile believes that group_norm gives the default format; the CPU kernel keeps x's.
        return keep_cpu_format(y, x)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.num_channels}"


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, with the epsilon of ConvNeXt and ViT.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position of a map of shape (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
