"""Deformable convolution and deformable attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvitconv.compat.operators.shared import OPERATORS, gradients, widen
from mmvitconv.errors import UserError

# mmcv's names in torchvision's order; what else mmcv says (kernel size, im2col_step) is not needed.
_GEOMETRY = ("dH", "dW", "padH", "padW", "dilationH", "dilationW")
_FAR = 2.0**30  # pixels: outside any map, and a whole number in every dtype
_MODULATED_GEOMETRY = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")


def _read_linearly(tensor: Tensor, channels: int, output: Tensor, what: str) -> Tensor:
    """Return an image's offsets or masks as (B, channels, height, width) of the output.

    mmcv's kernels find a number by the *output's* height and width, whatever the tensor's own are:
    they read the first numbers of each image. DyHead relies on it where it gives a level the
    offsets of the next finer one. Fewer numbers than that are read beyond the end by mmcv.
    """
    size = output.shape[2:]
    if tensor.shape[1:] == (channels, *size) and len(tensor) == len(output):
        return tensor
    flat = tensor.flatten(1)[: len(output)]
    needed = channels * size.numel()
    if len(flat) < len(output) or flat.shape[1] < needed:
        raise UserError(
            f"mmcv's operator 'modulated_deform_conv' was given {what} of shape "
            f"{tuple(tensor.shape)} for an output of shape {tuple(output.shape)}; it needs "
            f"{len(output)} x {channels} x {size[0]} x {size[1]} numbers: adapt the layer that "
            f"predicts the {what}"
        )
    return flat[:, :needed].reshape(len(output), channels, *size)


def _write_linearly(grad: Tensor, target: Tensor) -> None:
    """Fill a gradient so that it belongs to the numbers that :func:`_read_linearly` has read."""
    flat = grad.flatten(1).to(target.dtype)
    flat = F.pad(flat, (0, target[0].numel() - flat.shape[1], 0, len(target) - len(flat)))
    target.copy_(flat.view(target.shape))


def _deform_arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    numbers: dict[str, int],
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor | int, ...]:
    """Return the arguments of torchvision's deformable convolution."""
    # As in torchvision: a mask that is not used is never read.
    used_mask = input.new_zeros((len(input), 1)) if mask is None else mask
    used_bias = weight.new_zeros(len(weight)) if bias is None else bias
    input, weight, offset, used_mask, used_bias = widen(input, weight, offset, used_mask, used_bias)
    # A sample without a place is outside, hence 0; torchvision would read whatever lies in memory.
    offset = offset.nan_to_num(nan=_FAR, posinf=_FAR, neginf=-_FAR)
    names = _GEOMETRY if mask is None else _MODULATED_GEOMETRY
    geometry = (numbers[name] for name in (*names, "group", "deformable_group"))
    return (input, weight, offset, used_mask, used_bias, *geometry, mask is not None)


def _is_on_border(
    offset: Tensor, kernel: Sequence[int], geometry: Sequence[int], groups: int
) -> Tensor:
    """Return where a sample's row or column is -1 or less: (B, groups, points, 1, OH, OW)."""
    result = torch.zeros((), dtype=torch.bool, device=offset.device)
    for axis, moves in enumerate(offset.unflatten(1, (groups, *kernel, 2)).unbind(4)):
        stride, padding, dilation = geometry[axis::2]
        shape = [1, 1, 1, 1, 1, 1]  # image, group, row and column in the kernel and of the output
        shape[2 + axis], shape[4 + axis] = kernel[axis], moves.shape[4 + axis]
        within = torch.arange(shape[2 + axis], device=offset.device) * dilation
        output = torch.arange(shape[4 + axis], device=offset.device) * stride - padding
        begin = (within[:, None] + output).view(shape)
        result = result | (begin + moves <= -1)
    return result.flatten(2, 3).unsqueeze(3)


def _deform_gradients(grad_output: Tensor, arguments: tuple[Tensor | int, ...]) -> list[Tensor]:
    """Return the gradients of input, weight, offset, mask and bias.

    A sample exactly on row or column -1 is where its value becomes 0. There mmcv gives its offset
    the gradient 0, from outside; torchvision's operator takes the slope from inside.
    """
    (grad,) = widen(grad_output.contiguous())
    grads = list(OPERATORS._deform_conv2d_backward(grad.to(arguments[0].dtype), *arguments))
    _, weight, offset, _, _, *geometry, _, groups, _ = arguments
    on_border = _is_on_border(offset, weight.shape[2:], geometry, groups)
    split = grads[2].unflatten(1, (groups, -1, 2))
    grads[2] = split.masked_fill(on_border, 0).view_as(offset)
    return grads


def deform_conv_forward(*tensors: Tensor, **numbers: int) -> None:
    """Fill ``output`` (B, O, OH, OW) with a deformable convolution (version 1, without mask)."""
    input, weight, offset, output, *_ = tensors
    output.copy_(OPERATORS.deform_conv2d(*_deform_arguments(input, weight, offset, numbers)))


def deform_conv_backward_input(*tensors: Tensor, **numbers: int) -> None:
    """Fill ``grad_input`` and ``grad_offset``."""
    input, offset, grad_output, grad_input, grad_offset, weight, *_ = tensors
    grads = _deform_gradients(grad_output, _deform_arguments(input, weight, offset, numbers))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(*tensors: Tensor, scale: float, **numbers: int) -> None:
    """Add ``scale`` times the gradient to ``grad_weight``."""
    input, offset, grad_output, grad_weight, *_ = tensors
    # The gradient of the kernel depends on its shape alone, which is that of its gradient.
    grads = _deform_gradients(grad_output, _deform_arguments(input, grad_weight, offset, numbers))
    grad_weight.add_(grads[1].to(grad_weight.dtype), alpha=scale)


def _modulated_arguments(
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    numbers: dict[str, int],
    bias: Tensor | None = None,
) -> tuple[Tensor | int, ...]:
    """Return the arguments of torchvision's operator for offsets and masks of any size."""
    points = numbers["deformable_group"] * weight.shape[2:].numel()
    offset = _read_linearly(offset, 2 * points, output, "offsets")
    mask = _read_linearly(mask, points, output, "masks")
    return _deform_arguments(input, weight, offset, numbers, mask, bias)


def modulated_deform_conv_forward(*tensors: Tensor, with_bias: bool, **numbers: int) -> None:
    """Fill ``output`` (B, O, OH, OW) with a modulated deformable convolution (version 2)."""
    input, weight, bias, _, offset, mask, output, *_ = tensors
    bias = bias if with_bias else None
    arguments = _modulated_arguments(output, input, weight, offset, mask, numbers, bias)
    output.copy_(OPERATORS.deform_conv2d(*arguments))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **numbers: int) -> None:
    """Fill the gradients of input, weight, bias (if there is one), offset and mask."""
    input, weight, _, _, offset, mask, _, *targets, grad_output = tensors
    arguments = _modulated_arguments(grad_output, input, weight, offset, mask, numbers)
    by_input, by_weight, by_offset, by_mask, by_bias = _deform_gradients(grad_output, arguments)
    to_input, to_weight, to_bias, to_offset, to_mask = targets
    to_input.copy_(by_input)
    to_weight.copy_(by_weight)
    if with_bias:
        to_bias.copy_(by_bias)
    _write_linearly(by_offset, to_offset)
    _write_linearly(by_mask, to_mask)


# ----------------------------------------------------------------------------- deformable attention


def _ms_deform_attn(
    value: Tensor, spatial_shapes: Tensor, sampling_loc: Tensor, attn_weight: Tensor
) -> Tensor:
    """Run mmcv's own formula in plain torch, which mmcv itself uses on the CPU."""
    # Imported late: mmcv.ops imports this file.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, spatial_shapes, sampling_loc, attn_weight)


def ms_deform_attn_forward(*tensors: Tensor, im2col_step: int) -> Tensor:
    """Return multi-scale deformable attention (Deformable DETR).

    Args:
        *tensors: Values (B, sum of H * W over levels, heads, channels); height and width of every
            level (L, 2); where each level starts, which the shapes say as well; sampling points
            (B, Q, heads, L, P, 2) as x, y from 0 to 1; their weights (B, Q, heads, L, P).
        im2col_step: Not needed.

    Returns:
        Attention output (B, Q, heads * channels), dtype of ``value``.
    """
    value, spatial_shapes, _, sampling_loc, attn_weight = tensors
    values, points, weights = widen(value, sampling_loc, attn_weight)
    return _ms_deform_attn(values, spatial_shapes, points, weights).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    """Fill the gradients of value, points and weights."""
    value, spatial_shapes, _, sampling_loc, attn_weight, grad_output, *targets = tensors
    inputs = widen(value, sampling_loc, attn_weight)
    grads = gradients(
        lambda values, points, weights: _ms_deform_attn(values, spatial_shapes, points, weights),
        inputs,
        grad_output,
    )
    for target, grad in zip(targets, grads, strict=True):
        target.copy_(grad)
