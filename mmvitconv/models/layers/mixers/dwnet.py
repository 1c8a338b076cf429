"""DWNet's mixers: a depth-wise kernel that is stored, or made for each image or position.

``BN(W2 relu(BN(conv(relu(BN(W1 x))))))`` with 1x1 convolutions W1 and W2 (arXiv:2106.04263,
docs/specs/dynconv.md#6-mixer). Their blocks have no norm in front.
"""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.layers.conv import DepthwiseConv2d
from mmvitconv.models.layers.mixers.base import (
    Mixer,
    check_choice,
    check_divides,
    check_neighbourhood,
)
from mmvitconv.ops.dynamic_conv import IMPLEMENTATIONS, dynamic_depthwise_conv2d, involution

__all__ = ["DWNetMixer", "PositionMixer", "SampleMixer", "StaticMixer"]


class DWNetMixer(Mixer):
    """Two 1x1 convolutions around the one that mixes positions, each with a BatchNorm.

    Args:
        dim: Channels C of input and output.
        size: Side k of the kernels, odd.
        proj_drop: Dropout of the output, in [0, 1).
    """

    has_norms = True

    def __init__(self, dim: int, *, size: int = 7, proj_drop: float = 0.0) -> None:
        super().__init__(dim, proj_drop=proj_drop)
        check_neighbourhood(size)
        self.size = size
        self.macs_once = self.macs_each = 0  # that make the kernels, for an image and a position
        self.columns |= {"reach": f"{size} x {size}", "per_position": "no"}
        self.conv1 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.make_kernel()
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(dim)

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map whose channels come last, shape (B, H, W, C)."""
        seen = None if key_padding_mask is None else ~key_padding_mask.unsqueeze(1)
        x = F.relu(self.bn1(self.conv1(x.permute(0, 3, 1, 2))))
        x = self.convolve(x if seen is None else x * seen, seen)
        x = self.bn3(self.conv2(F.relu(self.bn2(x))))
        return self.proj_drop(x.permute(0, 2, 3, 1))

    @abstractmethod
    def make_kernel(self) -> None:
        """Make the kernel, or the layers that generate it."""

    @abstractmethod
    def convolve(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Convolve a map (B, C, H, W); ``seen``, shape (B, 1, H, W), is False in the padding."""

    def macs(self, height: int, width: int) -> int:
        """Return one image's multiply-adds."""
        n, c = height * width, self.dim
        taps = self.size**2
        return 2 * n * c * c + n * taps * c + self.macs_once + n * self.macs_each


class StaticMixer(DWNetMixer):
    """DWNet's plain form, with a stored kernel.

    Args:
        dim: Channels C of input and output.
        dense: Whether the convolution also mixes channels.
        options: Those of :class:`DWNetMixer`.

    Examples:
        >>> StaticMixer(64)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    kernel = "static"

    def __init__(self, dim: int, *, dense: bool = False, **options: Any) -> None:
        self.dense = dense
        super().__init__(dim, **options)

    def make_kernel(self) -> None:
        """Make the convolution."""
        self.columns |= {"groups": "dense" if self.dense else "C", "static_term": "all"}
        if self.dense:  # what it has beyond a depth-wise one
            self.macs_each = self.size**2 * self.dim * (self.dim - 1)
            self.dwconv = nn.Conv2d(self.dim, self.dim, self.size, padding=self.size // 2)
        else:
            self.dwconv = DepthwiseConv2d(self.dim, self.size)

    def convolve(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Convolve a map (B, C, H, W)."""
        return self.dwconv(x)


class SampleMixer(DWNetMixer):
    """DWNet's dynamic form: a kernel for each image, made from the map's mean.

    Args:
        dim: Channels C of input and output.
        reduction: C over the hidden channels of the generator.
        impl: See :func:`mmvitconv.ops.dynamic_conv.dynamic_depthwise_conv2d`.
        options: Those of :class:`DWNetMixer`.

    Examples:
        >>> SampleMixer(64)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    kernel = "sample"

    def __init__(self, dim: int, *, reduction: int = 4, impl: str = "auto", **options: Any) -> None:
        check_choice("impl", impl, IMPLEMENTATIONS)
        self.hidden, self.impl = max(dim // reduction, 1), impl
        super().__init__(dim, **options)

    def make_kernel(self) -> None:
        """Make the generator and the bias of its convolution."""
        made = self.dim * self.size**2
        self.macs_once = self.hidden * (self.dim + made)
        self.gen = _generator(self.dim, self.hidden, made, bias=False)
        self.out_bias = nn.Parameter(torch.zeros(self.dim))

    def convolve(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Convolve a map (B, C, H, W) with kernels made from its mean."""
        count = x.shape[2] * x.shape[3]
        if seen is not None:
            count = seen.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = x.sum(dim=(2, 3), keepdim=True) / count
        kernels = self.gen(mean).view(-1, self.dim, self.size, self.size)
        x = dynamic_depthwise_conv2d(x, kernels, self.impl)
        return x + self.out_bias.to(x.dtype).view(-1, 1, 1)


class PositionMixer(DWNetMixer):
    """DWNet's other form: a kernel for each position and group of channels, an involution.

    Args:
        dim: Channels C of input and output.
        group_channels: Channels that share a kernel; they divide ``dim``.
        reduction: C over the hidden channels of the generator.
        options: Those of :class:`DWNetMixer`.

    Examples:
        >>> PositionMixer(64, 2)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    kernel = "position"

    def __init__(
        self, dim: int, group_channels: int, *, reduction: int = 4, **options: Any
    ) -> None:
        check_divides("group_channels", group_channels, dim)
        self.group_channels, self.hidden = group_channels, max(dim // reduction, 1)
        super().__init__(dim, **options)

    def make_kernel(self) -> None:
        """Make the generator."""
        groups = self.dim // self.group_channels
        text = f"{groups} of {self.group_channels} channels"
        self.columns |= {"per_position": "yes", "groups": text}
        made = self.size**2 * groups
        self.macs_each = self.hidden * (self.dim + made)
        self.gen = _generator(self.dim, self.hidden, made, bias=True)

    def convolve(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Convolve a map (B, C, H, W) with kernels made from their centres."""
        return involution(x, self.gen(x), self.size)


def _generator(dim: int, hidden: int, made: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim, hidden, 1, bias=bias),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, made, 1),
    )
