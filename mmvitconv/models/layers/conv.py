"""Convolution layers on the operators of :mod:`mmvitconv.ops`."""

from torch import Tensor, nn

from mmvitconv.ops import depthwise_conv2d, keep_gradient_strides
from mmvitconv.ops.depthwise_conv import ALGORITHMS


class Conv2d(nn.Conv2d):
    """torch's convolution, with the gradient's strides that DistributedDataParallel expects."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, keep_gradient_strides(weight), bias)


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution with bias that keeps the size.

    Args:
        channels: Channels of input and output.
        kernel_size: Kernel size; an even one pads one row and column less before than after.
        algorithm: See :func:`mmvitconv.ops.depthwise_conv2d`; None for the rules.
    """

    def __init__(self, channels: int, kernel_size: int, algorithm: str | None = None) -> None:
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)}, or None "
                "for the rules"
            )
        super().__init__(channels, channels, kernel_size, padding="same", groups=channels)
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map of shape (B, C, H, W)."""
        return depthwise_conv2d(x, self.weight, self.bias, self.algorithm)


class PointwiseConv2d(Conv2d):
    """1x1 convolution with bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
