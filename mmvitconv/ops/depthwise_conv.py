"""Depth-wise convolution with a large kernel: torch's values, with the algorithm that is fastest.

Which one that is depends on the kernel size, the memory layout and the device, never on one switch
for a whole model: oneDNN's kernels for the default layout stop at 13x13 (15x15 takes 20 times as
long as in channels_last), its kernels for channels_last are slow at 12x12 and 13x13, and cuDNN
slows down at 9x9 in channels_last (timm's published throughput of ConvMixer-1536/20 and -1024/20).
``RULES`` has the decisions. Those for CPUs were measured by
``tools/analysis_tools/benchmark_ops.py --op depthwise_conv``, that for GPUs only follows timm.

oneDNN also lacks a fast weight gradient. That of 11x11 on maps of 64x56x56 takes 14 times as long
as the input gradient; but it is itself a depth-wise convolution, of the input with the output's
gradient as the kernel, and as such runs at forward speed. And bfloat16 takes twice as long as
float32 on CPUs without units for it, so reduced precision is computed in float32 there.
docs/performance.md has the measurements.
"""

import os
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.machine import HAS_BFLOAT16
from mmvitconv.ops.memory_format import is_channels_last, keep_gradient_strides
from mmvitconv.ops.traced import as_one_node, is_transformed

# Below this size torch's own backward is as fast.
_MIN_KERNEL_SIZE = 5
_EXACT = (torch.float32, torch.float64)


class Rule(NamedTuple):
    """Which algorithm a convolution takes.

    Args:
        device: Device type.
        channels_last: Layout of the input.
        min_kernel_size: Smallest kernel that the rule is for.
        max_kernel_size: Largest one.
        algorithm: One of ``ALGORITHMS``.
    """

    device: str
    channels_last: bool
    min_kernel_size: int
    max_kernel_size: int
    algorithm: str


# The first rule that fits decides; without one the convolution runs in the input's own layout.
RULES = (
    Rule("cpu", False, 14, 10_000, "direct_nhwc"),
    Rule("cpu", True, 12, 13, "direct_nchw"),
    Rule("cuda", True, 9, 10_000, "direct_nchw"),
)
ALGORITHMS = ("direct", "direct_nchw", "direct_nhwc", "fft", "unfold")
_ENVIRONMENT = "MMVITCONV_DEPTHWISE_CONV"


@as_one_node
def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, algorithm: str | None = None
) -> Tensor:
    """Convolve depth-wise with stride 1 and zero padding that keeps the size.

    Args:
        x: Input, shape (B, C, H, W).
        weight: One square kernel for each channel, shape (C, 1, K, K). An even kernel gets one row
            and column of padding less before than after the map, as ``padding='same'`` has it.
        bias: Shape (C,), or None.
        algorithm: ``'direct'`` in the input's layout, ``'direct_nchw'``, ``'direct_nhwc'``,
            ``'fft'`` or ``'unfold'`` (a matrix product); None for the environment variable
            MMVITCONV_DEPTHWISE_CONV, and without it for ``RULES``. All are exact.

    Returns:
        Tensor of x's shape and layout; equal to ``F.conv2d(x, weight, bias, padding='same',
        groups=C)``.

    Raises:
        ValueError: Unknown ``algorithm``.
    """
    kernel_size = weight.shape[-1]
    algorithm = _choose(x, kernel_size, algorithm)
    plain = algorithm == "direct" and (x.device.type != "cpu" or kernel_size < _MIN_KERNEL_SIZE)
    if plain or is_transformed() or torch.jit.is_tracing():
        return _direct(x, keep_gradient_strides(weight), bias)
    dtype = x.dtype
    device = x.device.type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if algorithm == "direct" and not needs_grad and dtype == x.dtype and dtype in _EXACT:
        return _direct(x, weight, bias)  # what is below, without its questions
    with torch.autocast(device, enabled=False):
        if needs_grad:
            return _DepthwiseConv2d.apply(x.to(dtype), weight, bias, algorithm)
        return _compute(x.to(dtype), weight, bias, algorithm)


def _choose(x: Tensor, kernel_size: int, algorithm: str | None) -> str:
    algorithm = algorithm or os.environ.get(_ENVIRONMENT)
    if algorithm:
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)} as "
                f"argument or in {_ENVIRONMENT}, or None for the measured rules"
            )
        return algorithm
    device, channels_last = x.device.type, is_channels_last(x)
    for rule in RULES:
        if (rule.device, rule.channels_last) == (device, channels_last) and (
            rule.min_kernel_size <= kernel_size <= rule.max_kernel_size
        ):
            return rule.algorithm
    return "direct"


def _before(kernel_size: int) -> int:
    """Rows of padding before the map; the rest of ``kernel_size - 1`` comes after it."""
    return (kernel_size - 1) // 2


def _pad(x: Tensor, kernel_size: int) -> Tensor:
    before = _before(kernel_size)
    after = kernel_size - 1 - before
    return F.pad(x, (before, after, before, after))


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    kernel_size = weight.shape[-1]
    if kernel_size % 2 == 0:  # what the convolution cannot pad: sides that differ
        x = F.pad(x, (0, 1, 0, 1))
    return F.conv2d(x, weight, bias, padding=_before(kernel_size), groups=weight.shape[0])


def _fft(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    kernel_size = weight.shape[-1]
    height, width = x.shape[-2:]
    size = tuple(_fast_length(n + kernel_size - 1) for n in (height, width))
    spectrum = torch.fft.rfft2(x.contiguous(), size)
    spectrum = spectrum * torch.fft.rfft2(weight.squeeze(1).flip(1, 2), size)
    start = kernel_size - 1 - _before(kernel_size)
    out = torch.fft.irfft2(spectrum, size)
    out = out[..., start : start + height, start : start + width]
    return out if bias is None else out + bias.view(-1, 1, 1)


def _fast_length(length: int) -> int:
    """The next number without prime factors above 5: other transforms are several times slower."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _unfold(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    kernel_size = weight.shape[-1]
    patches = _pad(x, kernel_size).unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
    out = torch.einsum("bchwij,cij->bchw", patches, weight.squeeze(1))
    return out if bias is None else out + bias.view(-1, 1, 1)


def _compute(x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> Tensor:
    """The convolution without autograd, in at least float32 where reduced precision is slower."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    dtype = x.dtype
    x = _float(x) if algorithm == "fft" else _fast(x)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if algorithm == "fft":
        out = _fft(x, weight, bias)
    elif algorithm == "unfold":
        out = _unfold(x, weight, bias)
    else:
        if algorithm == "direct_nchw":
            x = x.contiguous()
        elif algorithm == "direct_nhwc":
            x = x.contiguous(memory_format=torch.channels_last)
        out = _direct(x, weight, bias)
    return out.to(dtype).contiguous(memory_format=layout)


def _float(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _fast(x: Tensor) -> Tensor:
    """At least float32 on CPUs without units for the dtype."""
    has_units = x.device.type != "cpu" or (HAS_BFLOAT16 and x.dtype == torch.bfloat16)
    return x if has_units else _float(x)


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.algorithm = algorithm
        return _compute(x, weight, bias, algorithm)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kernel_size = weight.shape[-1]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            if kernel_size % 2:
                grad_x = _compute(grad, weight.flip(2, 3), None, ctx.algorithm).to(x.dtype)
            else:  # the padding changes sides: the larger kernel's additional row is zero
                flipped = F.pad(weight.flip(2, 3), (0, 1, 0, 1))
                grad_x = _compute(grad, flipped, None, ctx.algorithm).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, kernel_size).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = _float(grad).sum(dim=(0, 2, 3)).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None


def _weight_gradient(x: Tensor, grad: Tensor, kernel_size: int) -> Tensor:
    batch, channels, height, width = x.shape
    if x.device.type != "cpu":
        shape = (channels, 1, kernel_size, kernel_size)
        x = _pad(x, kernel_size)
        return torch.nn.grad.conv2d_weight(x, shape, grad.to(x.dtype), groups=channels)
    # Every image and channel is a group of its own; the gradient is the kernel.
    x, grad = _fast(x), _fast(grad)
    x = x.reshape(1, batch * channels, height, width)
    grad = grad.to(x.dtype).reshape(batch * channels, 1, height, width)
    if kernel_size % 2 == 0:
        x = F.pad(x, (0, 1, 0, 1))
    out = F.conv2d(x, grad, padding=_before(kernel_size), groups=batch * channels)
    return _float(out.view(batch, channels, 1, kernel_size, kernel_size)).sum(dim=0)
