"""Activation layers that overwrite their input where no gradient is recorded."""

from torch import Tensor, nn

from mmvitconv.ops.activation import activate


class SiLU(nn.SiLU):
    """torch's SiLU, for the fresh output of a norm or a convolution."""

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return activate(x, "silu")


class Hardswish(nn.Hardswish):
    """torch's Hardswish, for the fresh output of a norm or a convolution."""

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return activate(x, "hardswish")


class ReLU6(nn.ReLU6):
    """torch's ReLU6, for the fresh output of a norm or a convolution."""

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return activate(x, "relu6")
