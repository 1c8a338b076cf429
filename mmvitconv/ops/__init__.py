"""Functional operators that have a faster exact form than torch's own."""

from mmvitconv.ops.attention import attention
from mmvitconv.ops.circular_conv import (
    circulant_matrix,
    circular_conv,
    circular_conv_pair,
)
from mmvitconv.ops.depthwise_conv import depthwise_conv2d
from mmvitconv.ops.head_similarity import add_head_products, head_similarity, image_std_mean
from mmvitconv.ops.memory_format import (
    convolution_format,
    cpu_memory_format,
    group_norm_format,
    is_channels_last,
    keep_cpu_format,
    keep_gradient_strides,
    keep_memory_format,
)
from mmvitconv.ops.multiply_add import multiply_add
from mmvitconv.ops.oversize_conv import oversize_conv
from mmvitconv.ops.precision import compute_dtype
from mmvitconv.ops.recompute import recompute
from mmvitconv.ops.resize import resize_bicubic
from mmvitconv.ops.unused import with_zero_gradients
from mmvitconv.ops.window_attention import window_attention

__all__ = [
    "add_head_products",
    "attention",
    "circulant_matrix",
    "circular_conv",
    "circular_conv_pair",
    "compute_dtype",
    "convolution_format",
    "cpu_memory_format",
    "depthwise_conv2d",
    "group_norm_format",
    "head_similarity",
    "image_std_mean",
    "is_channels_last",
    "keep_cpu_format",
    "keep_gradient_strides",
    "keep_memory_format",
    "multiply_add",
    "oversize_conv",
    "recompute",
    "resize_bicubic",
    "window_attention",
    "with_zero_gradients",
]
