"""Functional operators that have a faster exact form than torch's own."""

from mmvitconv.ops.attention import attention
from mmvitconv.ops.circular_conv import (
    circulant_matrix,
    circular_conv,
    circular_conv_pair,
)
from mmvitconv.ops.conv_gelu import conv2d_gelu
from mmvitconv.ops.depthwise_conv import (
    cpu_memory_format,
    depthwise_conv2d,
    depthwise_conv2d_gelu,
)
from mmvitconv.ops.linear_gelu import linear_gelu
from mmvitconv.ops.memory_format import convolution_format, is_channels_last, keep_memory_format
from mmvitconv.ops.oversize_conv import oversize_conv
from mmvitconv.ops.pointwise_conv import pointwise_conv2d
from mmvitconv.ops.precision import compute_dtype
from mmvitconv.ops.recompute import recompute
from mmvitconv.ops.window_attention import window_attention

__all__ = [
    "attention",
    "circulant_matrix",
    "circular_conv",
    "circular_conv_pair",
    "compute_dtype",
    "conv2d_gelu",
    "convolution_format",
    "cpu_memory_format",
    "depthwise_conv2d",
    "depthwise_conv2d_gelu",
    "is_channels_last",
    "keep_memory_format",
    "linear_gelu",
    "oversize_conv",
    "pointwise_conv2d",
    "recompute",
    "window_attention",
]
