"""Convolution and exact GELU in one pass, where oneDNN has it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from mmvitconv.ops.traced import is_traced


def can_fuse_gelu(x: Tensor) -> bool:
    """Whether oneDNN applies a GELU while it writes a convolution's output.

    It does for inference in float32 on CPUs, in channels_last. A compiler fuses by itself.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not is_traced()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")  # what Inductor calls
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def conv2d_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Exact GELU of a convolution; one pass where :func:`can_fuse_gelu` says so.

    Args:
        x: Input, shape (B, C, H, W).
        weight: Shape (D, C / groups, K, L).
        bias: Shape (D,), or None.
        stride: Stride in both directions.
        padding: Zero padding on all sides.
        groups: Groups of channels.

    Returns:
        Tensor of shape (B, D, H', W'); equal to ``F.gelu(F.conv2d(...))``.
    """
    if not can_fuse_gelu(x):
        return F.gelu(F.conv2d(x, weight, bias, stride, padding, groups=groups))
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, "gelu", [], "none"
    )


if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def _count_convolution(
        x_shape: list[int],
        weight_shape: list[int],
        *_args: Any,
        out_shape: list[int],
        **_kwargs: Any,
    ) -> int:
        """Twice the multiply-adds, which torch's counter does not know of oneDNN's operators."""
        return conv_flop_count(x_shape, weight_shape, out_shape)
