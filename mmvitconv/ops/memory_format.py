"""The memory format of feature maps: which one convolutions are fastest in, and which one is kept.

All functions return the same values in another order in memory. Under ``torch.compile``, tracing
and ``torch.func`` the order is not theirs to choose, and they leave it alone.
"""

import torch
from torch import Tensor

from mmvitconv.ops.traced import as_one_node, is_traced, is_transformed


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map is contiguous in channels_last, and in no other format.

    Args:
        x: Shape (B, C, H, W).
    """
    if is_transformed():  # torch cannot tell under vmap
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def cpu_memory_format(kernel_size: int) -> torch.memory_format:
    """Return the format in which depth-wise and 1x1 convolutions in turn are fastest on CPUs.

    The weight gradient wants the default format, whatever the kernel; without gradients
    channels_last is faster for kernels up to 8x8 and beyond 13x13.

    Args:
        kernel_size: Of the depth-wise convolutions.
    """
    if torch.is_grad_enabled() or 9 <= kernel_size <= 13:
        return torch.contiguous_format
    return torch.channels_last


@as_one_node
def convolution_format(x: Tensor, kernel_size: int | None = None) -> Tensor:
    """Bring images into the memory format in which a network of convolutions is fastest on CPUs.

    Images on other devices pass unchanged: there the format is the user's choice.

    Args:
        x: Shape (B, C, H, W).
        kernel_size: Of the depth-wise convolutions that take most of the time, see
            :func:`cpu_memory_format`; None where other layers do, which want channels_last.

    Returns:
        The same values.
    """
    if x.device.type != "cpu" or is_traced():
        return x
    layout = torch.channels_last if kernel_size is None else cpu_memory_format(kernel_size)
    return x.contiguous(memory_format=layout)


@as_one_node
def group_norm_format(x: Tensor) -> Tensor:
    """Bring a map into the memory format that torch's group norm computes in.

    On CPUs that is the map's own. GPU kernels know the default format alone and copy any other, as
    :func:`depthwise_conv2d` does for large kernels.

    Args:
        x: Shape (B, C, H, W).

    Returns:
        The same values.
    """
    return x if x.device.type == "cpu" or is_traced() else x.contiguous()


@as_one_node
def keep_gradient_strides(weight: Tensor) -> Tensor:
    """Return a convolution's weight, whose gradient will have its strides.

    torch's backward pass in channels_last gives sides of 1, as of depth-wise and 1x1 kernels, other
    strides, which is the same order in memory, but not what DistributedDataParallel wants to see.

    Args:
        weight: Shape (D, C, K_h, K_w).
    """
    if 1 not in weight.shape or not torch.is_grad_enabled() or is_traced():
        return weight
    return weight.flatten().view(weight.shape) if weight.is_contiguous() else weight


@as_one_node
def keep_memory_format(y: Tensor, like: Tensor) -> Tensor:
    """Return ``y``, contiguous in channels_last when ``like`` is, else in the default format.

    Args:
        y: A map (B, C, H, W), or any other tensor, which becomes contiguous.
        like: Shape (B, C', H', W').
    """
    if y.dim() == 4 and is_channels_last(like):
        return y.contiguous(memory_format=torch.channels_last)
    return y.contiguous()


@as_one_node
def keep_cpu_format(y: Tensor, like: Tensor) -> Tensor:
    """Do what :func:`keep_memory_format` does on CPUs, and nothing on other devices.

    Args:
        y: A map (B, C, H, W), or any other tensor.
        like: Shape (B, C', H', W').
    """
    return keep_memory_format(y, like) if like.device.type == "cpu" else y
