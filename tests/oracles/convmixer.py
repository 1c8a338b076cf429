"""ConvMixer written down literally from the specification, with the ORIGINAL state-dict keys.

It shares no code with mmvitconv: torch's own layers in one Sequential, padding made explicit.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SamePadded(nn.Conv2d):
    """Depth-wise convolution: floor((k - 1) / 2) zeros before, the rest after."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        before = (self.kernel_size[0] - 1) // 2
        after = self.kernel_size[0] - 1 - before
        return super().forward(F.pad(x, (before, after, before, after)))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


def oracle(
    dim: int, depth: int, kernel_size: int, patch_size: int, act: str = "gelu", num_classes: int = 0
) -> nn.Sequential:
    """The trunk, with pooling and classifier if there are classes."""
    activation = {"gelu": nn.GELU, "relu": nn.ReLU}[act]

    def block() -> nn.Sequential:
        spatial = nn.Sequential(SamePadded(dim, kernel_size), activation(), nn.BatchNorm2d(dim))
        return nn.Sequential(
            Residual(spatial), nn.Conv2d(dim, dim, 1), activation(), nn.BatchNorm2d(dim)
        )

    stem = [nn.Conv2d(3, dim, patch_size, patch_size), activation(), nn.BatchNorm2d(dim)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, num_classes or 1)]
    return nn.Sequential(*stem, *[block() for _ in range(depth)], *(head if num_classes else []))
