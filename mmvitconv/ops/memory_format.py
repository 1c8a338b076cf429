"""The memory format of feature maps: which one convolutions are fastest in, and which one is kept.

All functions return the same values in another order in memory. Under ``torch.compile``, tracing
and ``torch.func`` the order is not theirs to choose, and they leave it alone.
"""

import torch
from torch import Tensor

from mmvitconv.ops.traced import is_traced


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map is contiguous in channels_last, and in no other format.

    Args:
        x: Shape (B, C, H, W).
    """
    if torch._C._functorch.is_batchedtensor(x):  # torch cannot tell under vmap
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def convolution_format(x: Tensor, kernel_size: int | None = None) -> Tensor:
    """Bring images into the memory format in which a network of convolutions is fastest on CPUs.

    Images on other devices pass unchanged: there the format is the user's choice.

    Args:
        x: Shape (B, C, H, W).
        kernel_size: Of the depth-wise convolutions that take most of the time. Their weight
            gradient wants the default format, whatever the kernel; without gradients channels_last
            is faster for kernels up to 8x8 and beyond 13x13. None where other layers dominate,
            which want channels_last.

    Returns:
        The same values.
    """
    if x.device.type != "cpu" or is_traced():
        return x
    if kernel_size is not None and (torch.is_grad_enabled() or 9 <= kernel_size <= 13):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def keep_memory_format(y: Tensor, like: Tensor) -> Tensor:
    """Return ``y``, contiguous in channels_last when ``like`` is, else in the default format.

    Args:
        y: A map (B, C, H, W), or any other tensor, which becomes contiguous.
        like: Shape (B, C', H', W').
    """
    if y.dim() == 4 and is_channels_last(like):
        return y.contiguous(memory_format=torch.channels_last)
    return y.contiguous()
