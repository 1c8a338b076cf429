"""Depth-wise convolution with a large kernel: torch's values, at several times the speed on CPUs.

oneDNN lacks two kernels there. The weight gradient of 11x11 on maps of 64x56x56 takes 14 times as
long as the input gradient; but it is itself a depth-wise convolution, of the input with the
output's gradient as the kernel, and as such runs at forward speed. And bfloat16 takes twice as long
as float32, so reduced precision is computed in float32. docs/performance.md has the measurements.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.conv_gelu import can_fuse_gelu, conv2d_gelu

# Below this size torch's own backward is as fast.
_MIN_KERNEL_SIZE = 5


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depth-wise convolution with stride 1 and zero padding that keeps the size.

    Args:
        x: Input, shape (B, C, H, W).
        weight: One odd and square kernel for each channel, shape (C, 1, K, K).
        bias: Shape (C,), or None.

    Returns:
        Tensor of x's shape; equal to ``F.conv2d(x, weight, bias, padding=K // 2, groups=C)``.
    """
    kernel_size = weight.shape[-1]
    if x.device.type != "cpu" or kernel_size < _MIN_KERNEL_SIZE:
        return _conv(x, weight, bias)
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if dtype in (torch.float32, torch.float64):
        return _DepthwiseConv2d.apply(x, weight, bias) if needs_grad else _conv(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        if needs_grad:
            return _DepthwiseConv2d.apply(x.to(dtype), weight, bias)
        return _conv(x.float(), weight.float(), _float(bias)).to(dtype)


def depthwise_conv2d_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Exact GELU of :func:`depthwise_conv2d`; one pass where oneDNN has it.

    It has it for inference in float32, and it pays for small kernels.

    Args:
        x: Input, shape (B, C, H, W).
        weight: One odd and square kernel for each channel, shape (C, 1, K, K).
        bias: Shape (C,).

    Returns:
        Tensor of x's shape.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(depthwise_conv2d(x, weight, bias))
    kernel_size = weight.shape[-1]
    if kernel_size < _MIN_KERNEL_SIZE and can_fuse_gelu(x):
        return conv2d_gelu(x, weight, bias, padding=kernel_size // 2, groups=x.shape[1])
    return torch.ops.aten.gelu_(depthwise_conv2d(x, weight, bias))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _float(x: Tensor | None) -> Tensor | None:
    """At least float32."""
    return x if x is None or x.dtype in (torch.float32, torch.float64) else x.float()


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _conv(_float(x), _float(weight), _float(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = _float(grad)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _conv(grad, _float(weight).flip(2, 3), None).to(x.dtype)
        if ctx.needs_input_grad[1]:
            batch, channels, height, width = x.shape
            # Every image and channel is a group of its own; the gradient is the kernel.
            grad_weight = F.conv2d(
                _float(x).reshape(1, batch * channels, height, width),
                grad.reshape(batch * channels, 1, height, width),
                padding=weight.shape[-1] // 2,
                groups=batch * channels,
            )
            grad_weight = grad_weight.view(batch, *weight.shape).sum(dim=0).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3)).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias
