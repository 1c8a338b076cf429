"""Stand-in for ``mmcv._ext``: mmcv's compiled operators on torchvision's operators and torch.

Python loads this file under the name ``mmcv._ext`` when mmcv has no compiled module (see
:mod:`mmvitconv.compat`). Names and order of the arguments are those with which ``mmcv/ops/*.py``
calls the compiled module: tensors by position, numbers by name. Like it, most functions fill
tensors that mmcv has allocated. They run where their inputs are: on CUDA wherever torchvision has
a CUDA kernel.

Half precision is computed in float32 and rounded once at the end, because torchvision's CPU
kernels lack bfloat16 (and some float16); float64 stays float64. mmcv's half-precision CUDA kernels
round more often, so results differ from a compiled mmcv by float16 rounding.

An operator without a stand-in can be looked up (``mmcv.ops`` needs that to be imported) but not
called: it raises :class:`mmvitconv.compat.MissingOperatorError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from mmvitconv.compat import MissingOperatorError

_OPERATORS = getattr(torch.ops, torchvision.__name__)  # its import registers them
_MAX_POOLING = 0  # mmcv's number for pool_mode='max' (1 is 'avg')
_SOFT_NMS_NAIVE, _SOFT_NMS_LINEAR, _SOFT_NMS_GAUSSIAN = range(3)
_SAMPLES_AT_ONCE = 2**25  # bounds the memory of max-RoIAlign: 128 MiB of float32


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Give any operator without a stand-in a function that says so when it is called."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing_operator(*args: object, **kwargs: object) -> NoReturn:
        raise MissingOperatorError(name)

    missing_operator.__name__ = missing_operator.__qualname__ = name
    return missing_operator


def get_compiler_version() -> str:
    """Answer mmcv's question for the compiler; mmcv prints it in every log."""
    return "none (operators by mmvitconv on torchvision)"


get_compiling_cuda_version = get_compiler_version


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float64 stays, everything else is float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _widen(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Return tensors in the dtype to compute in, which is that of the first."""
    return [tensor.to(_compute_dtype(first)) for tensor in (first, *others)]


# ------------------------------------------------------------------------------------------ boxes


def _pairwise_overlaps(
    first: Tensor, second: Tensor, offset: int = 0, of_first: bool = False
) -> Tensor:
    """Return overlaps of boxes (..., 4); two boxes without any area overlap by 0."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    denominator = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if not of_first:
        second_area = (second[..., 2:] - second[..., :2] + offset).prod(-1)
        denominator = denominator + second_area - intersection
    return torch.where(intersection > 0, intersection / denominator, torch.zeros_like(intersection))


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ``ious`` with the overlaps of two sets of boxes.

    Args:
        bboxes1: Boxes (M, 4) as x1, y1, x2, y2.
        bboxes2: Boxes (N, 4); N = M when ``aligned``.
        ious: Filled: (M, N), or (M,) when ``aligned``.
        mode: 0 for intersection over union, 1 for intersection over the first area.
        aligned: Pair box i with box i instead of every box with every other.
        offset: 0, or 1 when x2 and y2 are the last pixels inside.
    """
    first, second = _widen(bboxes1, bboxes2)
    first = first if aligned else first[:, None]
    ious.copy_(_pairwise_overlaps(first, second, offset, of_first=mode == 1))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the boxes that survive non-maximum suppression.

    Args:
        boxes: Boxes (N, 4) as x1, y1, x2, y2.
        scores: Scores (N,).
        iou_threshold: A box that overlaps a better one by more than this, 0 to 1, is dropped.
        offset: 0, or 1 when x2 and y2 are the last pixels inside.

    Returns:
        Indices (K,) into ``boxes``, best score first, int64.
    """
    boxes, scores = _widen(boxes, scores)
    # A width of x2 - x1 + 1 is the plain width of the box whose far corner is moved by one.
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return _OPERATORS.nms(boxes, scores, iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap better ones, and drop those that get too low.

    Equal scores are taken in the order of the input (the compiled operator moves boxes about
    while it works, which makes its order among equals arbitrary).

    Args:
        boxes: Boxes (N, 4) as x1, y1, x2, y2, on the CPU.
        scores: Scores (N,), on the CPU.
        dets: Filled in its first K rows with box and new score: (N, 5).
        iou_threshold: Overlap, 0 to 1, from which ``naive`` and ``linear`` act.
        sigma: Width of the ``gaussian`` method, above 0.
        min_score: Boxes whose score falls below are dropped.
        method: 0 naive (drop), 1 linear (times 1 - overlap), 2 gaussian
            (times exp(-overlap**2 / sigma)).
        offset: 0, or 1 when x2 and y2 are the last pixels inside.

    Returns:
        Indices (K,) into ``boxes``, in the order in which they were chosen, int64.
    """
    all_boxes, current = _widen(boxes.detach(), scores.detach().clone())
    remaining = torch.arange(len(all_boxes), device=boxes.device)
    kept: list[Tensor] = []
    while remaining.numel():
        position = current[remaining].argmax()
        best = remaining[position]
        kept.append(best)
        remaining = torch.cat((remaining[:position], remaining[position + 1 :]))
        overlaps = _pairwise_overlaps(all_boxes[best], all_boxes[remaining], offset)
        if method == _SOFT_NMS_GAUSSIAN:
            factor = torch.exp(-overlaps.square() / sigma)
        else:
            reduced = 1 - overlaps if method == _SOFT_NMS_LINEAR else torch.zeros_like(overlaps)
            factor = torch.where(overlaps >= iou_threshold, reduced, torch.ones_like(overlaps))
        current[remaining] *= factor
        remaining = remaining[current[remaining] >= min_score]
    order = torch.stack(kept) if kept else remaining
    dets[: len(order)].copy_(torch.cat((all_boxes[order], current[order, None]), dim=1))
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes with the better box that suppresses them.

    Args:
        dets: Boxes with scores (N, 5), on the CPU.
        iou_threshold: A box that overlaps a better one by at least this, 0 to 1, joins its group.

    Returns:
        One list of indices per surviving box: itself, then what it suppressed, best score first.
    """
    (dets,) = _widen(dets.detach())
    remaining = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while remaining.numel():
        overlaps = _pairwise_overlaps(dets[remaining[0], :4], dets[remaining, :4])
        member = overlaps >= iou_threshold
        member[0] = True  # a box without area does not overlap itself
        groups.append(remaining[member].tolist())
        remaining = remaining[~member]
    return groups


# ---------------------------------------------------------------------------------------- RoIAlign


@dataclass
class _RoIAlign:
    """RoIAlign as mmcv describes it.

    Average pooling is torchvision's operator. Maximum pooling, which torchvision lacks, samples
    the same points with it (one per bin on a finer raster) and takes the largest of each bin.
    """

    aligned_height: int  # rows of the output
    aligned_width: int
    spatial_scale: float  # feature pixels per image pixel
    sampling_ratio: int  # sampling points per bin and direction, 0 for as many as feature pixels
    pool_mode: int
    aligned: bool | int  # shifted by half a pixel, or mmdetection 1.x behaviour

    def align(self, source: Tensor, rois: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
        """Sample features; with rows and columns of a bin, give each point by itself."""
        how, end = self._arguments(rows, columns)
        return _OPERATORS.roi_align(source, rois, *how, *end)

    def align_backward(
        self, grad: Tensor, rois: Tensor, shape: Sequence[int], rows: int = 0, columns: int = 0
    ) -> Tensor:
        """Return the gradient of :meth:`align` for features of this shape."""
        how, end = self._arguments(rows, columns)
        return _OPERATORS._roi_align_backward(grad, rois, *how, *shape, *end)

    def _arguments(self, rows: int, columns: int) -> tuple[tuple, tuple]:
        raster = (self.aligned_height * (rows or 1), self.aligned_width * (columns or 1))
        samples = 1 if rows else self.sampling_ratio
        return (self.spatial_scale, *raster), (samples, bool(self.aligned))

    def groups(self, rois: Tensor, channels: int) -> list[tuple[int, int, Tensor]]:
        """Split RoIs into groups (rows, columns, RoI indices) that one batched call can sample."""
        bins = (self.aligned_height, self.aligned_width)
        if self.sampling_ratio > 0:
            samples = rois.new_full((len(rois), 2), self.sampling_ratio, dtype=torch.long)
        else:
            corners = rois * self.spatial_scale  # first scaled, as torchvision does: it rounds
            size = corners[:, [4, 3]] - corners[:, [2, 1]]
            size = size if self.aligned else size.clamp(min=1)
            samples = (size / size.new_tensor(bins)).ceil().clamp(min=0).long()
        groups = []
        for rows, columns in samples.unique(dim=0).tolist():
            if rows == 0 or columns == 0:
                continue  # a RoI without area has no sampling point: it stays 0, without gradient
            chosen = ((samples[:, 0] == rows) & (samples[:, 1] == columns)).nonzero().squeeze(1)
            per_roi = channels * bins[0] * bins[1] * rows * columns
            at_once = max(1, _SAMPLES_AT_ONCE // per_roi)
            groups.extend((rows, columns, part) for part in chosen.split(at_once))
        return groups


def roi_align_forward(*tensors: Tensor, **settings: float) -> None:
    """Fill ``output`` with RoIAlign features.

    Args:
        *tensors: Feature maps (B, C, H, W); regions (R, 5) as image index, x1, y1, x2, y2 in image
            pixels; ``output`` (R, C, aligned_height, aligned_width); for maximum pooling, row and
            column of the largest sampling point within its bin, filled and shaped like it.
        **settings: Of :class:`_RoIAlign`.
    """
    input, rois, output, argmax_y, argmax_x = tensors
    operator = _RoIAlign(**settings)
    source, rois = _widen(input, rois)
    if operator.pool_mode != _MAX_POOLING:
        output.copy_(operator.align(source, rois))
        return
    output.zero_()
    for rows, columns, chosen in operator.groups(rois, source.shape[1]):
        points = operator.align(source, rois[chosen], rows, columns)
        points = points.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        largest, where = points.transpose(3, 4).flatten(4).max(dim=-1)
        output[chosen] = largest.to(output.dtype)
        # Small whole numbers: exact in every dtype that mmcv gives these buffers.
        argmax_y[chosen] = where.div(columns, rounding_mode="floor").to(argmax_y.dtype)
        argmax_x[chosen] = where.remainder(columns).to(argmax_x.dtype)


def roi_align_backward(*tensors: Tensor, **settings: float) -> None:
    """Fill ``grad_input`` (B, C, H, W), the last tensor; the others are as in the forward."""
    grad_output, rois, argmax_y, argmax_x, grad_input = tensors
    operator = _RoIAlign(**settings)
    grad, rois = _widen(grad_output, rois)
    shape = tuple(grad_input.shape)
    if operator.pool_mode != _MAX_POOLING:
        grad_input.copy_(operator.align_backward(grad, rois, shape))
        return
    total = grad.new_zeros(shape)
    for rows, columns, chosen in operator.groups(rois, shape[1]):
        where = argmax_y[chosen].long() * columns + argmax_x[chosen].long()
        points = grad.new_zeros((*where.shape, rows * columns))
        points.scatter_(-1, where[..., None], grad[chosen][..., None])
        points = points.unflatten(-1, (rows, columns)).transpose(3, 4).flatten(4).flatten(2, 3)
        total += operator.align_backward(points, rois[chosen], shape, rows, columns)
    grad_input.copy_(total)


# ----------------------------------------------------------------------------------------- RoIPool


def _bin_borders(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[list, list]:
    """Return first and one-past-last pixel of every RoIPool bin of every RoI, as nested lists."""
    step = ((end - start) / bins)[:, None]
    index = torch.arange(bins, dtype=start.dtype, device=start.device)
    first = (index * step + start[:, None]).floor().clamp(0, size).long()
    last = ((index + 1) * step + start[:, None]).ceil().clamp(0, size).long()
    return first.tolist(), last.tolist()


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the largest value of every bin.

    This is mmcv's definition, with unrounded region borders; torchvision's ``roi_pool`` rounds
    them first, so it is another operator. Runs region by region in Python.

    Args:
        input: Feature maps (B, C, H, W).
        rois: Regions (R, 5) as image index, x1, y1, x2, y2 in image pixels, x2 and y2 inside.
        output: Filled: (R, C, pooled_height, pooled_width); 0 where a bin has no pixel.
        argmax: Filled: position ``row * W + column`` of the largest value, -1 for an empty bin.
        pooled_height: Rows of the output.
        pooled_width: Columns of the output.
        spatial_scale: Feature pixels per image pixel.
    """
    output.zero_()
    argmax.fill_(-1)
    height, width = input.shape[2:]
    # Comparing values needs no wider dtype; coordinates do.
    (regions,) = _widen(rois)
    start, end = regions[:, 1:3] * spatial_scale, (regions[:, 3:5] + 1) * spatial_scale
    lefts, rights = _bin_borders(start[:, 0], end[:, 0], pooled_width, width)
    tops, bottoms = _bin_borders(start[:, 1], end[:, 1], pooled_height, height)
    images = rois[:, 0].long().tolist()
    for region in (end > start).all(dim=1).nonzero().flatten().tolist():
        features = input[images[region]]
        # Columns first, then rows: among equal values the first in reading order wins.
        for column, (left, right) in enumerate(zip(lefts[region], rights[region], strict=True)):
            if right <= left:
                continue
            by_row, at_column = features[:, :, left:right].max(dim=2)
            for row, (top, bottom) in enumerate(zip(tops[region], bottoms[region], strict=True)):
                if bottom <= top:
                    continue
                largest, at_row = by_row[:, top:bottom].max(dim=1)
                at_row = at_row + top
                at = at_row * width + left + at_column.gather(1, at_row[:, None]).squeeze(1)
                output[region, :, row, column] = largest
                argmax[region, :, row, column] = at.to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **settings: float
) -> None:
    """Fill ``grad_input`` (B, C, H, W); the arguments are those of :func:`roi_pool_forward`."""
    (grad,) = _widen(grad_output)
    batch, channels, height, width = grad_input.shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    flat = plane[:, :, None, None] * (height * width) + argmax.long().clamp(min=0)
    total = grad.new_zeros(batch * channels * height * width)
    total.index_add_(0, flat.flatten(), torch.where(argmax >= 0, grad, 0).flatten())
    grad_input.copy_(total.view_as(grad_input))


# -------------------------------------------------------------------------------------- focal loss


def _class_weights(weight: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the class weight (N,) of every target; 1 for background and where none are given."""
    if weight.numel() == 0:
        return torch.ones(len(target), dtype=dtype, device=target.device)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(dtype)[target.clamp(0, len(weight) - 1)], 1)


def _is_target(target: Tensor, classes: int) -> Tensor:
    """Return the one-hot mask (N, classes); background (any other number) has no True."""
    return target[:, None] == torch.arange(classes, device=target.device)


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign (1 for the target class, -1 for others), logit of being right, and factor."""
    (logits,) = _widen(input)
    one_hot = _is_target(target, input.shape[1]).to(logits.dtype)
    sign = 2 * one_hot - 1
    factor = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    return sign, sign * logits, factor * _class_weights(weight, target, logits.dtype)[:, None]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with the focal loss of independent classes.

    Args:
        input: Logits (N, C).
        target: Class (N,) from 0 to C - 1; every other number is background. int64.
        weight: Class weights (C,), or empty; background weighs 1.
        output: Filled: (N, C).
        gamma: Focusing exponent, 0 or more.
        alpha: Weight of the target class, 0 to 1; other classes weigh 1 - alpha.
    """
    _, right, factor = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-factor * right.neg().sigmoid().pow(gamma) * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of :func:`sigmoid_focal_loss_forward`."""
    sign, right, factor = _sigmoid_terms(input, target, weight, alpha)
    wrong = right.neg().sigmoid()
    slope = wrong - gamma * (1 - wrong) * F.logsigmoid(right)
    grad_input.copy_(-sign * factor * wrong.pow(gamma) * slope)


def _target_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target's probability (N,), above 0, and the mask (N,) of valid targets."""
    (softmax,) = _widen(softmax)
    chosen = softmax.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return chosen.clamp(min=torch.finfo(softmax.dtype).tiny), target >= 0


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N,) with the focal loss of exclusive classes.

    The arguments are those of :func:`sigmoid_focal_loss_forward`, except that the input holds
    probabilities, that a negative target ignores its row, and that alpha multiplies every loss.
    """
    chosen, valid = _target_probability(input, target)
    loss = -alpha * (1 - chosen).pow(gamma) * chosen.log()
    output.copy_(torch.where(valid, loss * _class_weights(weight, target, loss.dtype), 0))


def softmax_focal_loss_backward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` (N, C) with the derivative by the logits, and the buffer (N,)."""
    input, target, weight, buff, grad_input = tensors
    chosen, valid = _target_probability(input, target)
    other = 1 - chosen
    # For gamma < 1 the power of a probability of exactly 1 is infinite, but multiplied by log 1.
    slope = gamma * other.clamp(min=torch.finfo(other.dtype).tiny).pow(gamma - 1)
    scaled = alpha * (slope * chosen * chosen.log() - other.pow(gamma))
    scaled = torch.where(valid, scaled * _class_weights(weight, target, scaled.dtype), 0)
    buff.copy_(scaled)
    is_target = _is_target(target, input.shape[1]).to(scaled.dtype)
    grad_input.copy_(scaled[:, None] * (is_target - input.to(scaled.dtype)))


# --------------------------------------------------------------------------- deformable convolution

# mmcv's names in torchvision's order; what else mmcv says (kernel size, im2col_step) is not needed.
_GEOMETRY = ("dH", "dW", "padH", "padW", "dilationH", "dilationW")
_MODULATED_GEOMETRY = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")


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
    tensors = _widen(input, weight, offset, used_mask, used_bias)
    names = _GEOMETRY if mask is None else _MODULATED_GEOMETRY
    geometry = (numbers[name] for name in (*names, "group", "deformable_group"))
    return (*tensors, *geometry, mask is not None)


def _deform_gradients(grad_output: Tensor, arguments: tuple[Tensor | int, ...]) -> list[Tensor]:
    """Return the gradients of input, weight, offset, mask and bias."""
    (grad,) = _widen(grad_output.contiguous())
    return _OPERATORS._deform_conv2d_backward(grad.to(arguments[0].dtype), *arguments)


def deform_conv_forward(*tensors: Tensor, **numbers: int) -> None:
    """Fill ``output`` (B, O, OH, OW) with a deformable convolution (version 1, without mask)."""
    input, weight, offset, output, *_ = tensors
    output.copy_(_OPERATORS.deform_conv2d(*_deform_arguments(input, weight, offset, numbers)))


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


def modulated_deform_conv_forward(*tensors: Tensor, with_bias: bool, **numbers: int) -> None:
    """Fill ``output`` (B, O, OH, OW) with a modulated deformable convolution (version 2)."""
    input, weight, bias, _, offset, mask, output, *_ = tensors
    bias = bias if with_bias else None
    arguments = _deform_arguments(input, weight, offset, numbers, mask, bias)
    output.copy_(_OPERATORS.deform_conv2d(*arguments))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **numbers: int) -> None:
    """Fill the gradients of input, weight, bias (if there is one), offset and mask."""
    input, weight, _, _, offset, mask, _, *targets, grad_output = tensors
    arguments = _deform_arguments(input, weight, offset, numbers, mask)
    by_input, by_weight, by_offset, by_mask, by_bias = _deform_gradients(grad_output, arguments)
    grads = (by_input, by_weight, by_bias if with_bias else targets[2], by_offset, by_mask)
    for target, grad in zip(targets, grads, strict=True):
        target.copy_(grad)


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
    values, points, weights = _widen(value, sampling_loc, attn_weight)
    return _ms_deform_attn(values, spatial_shapes, points, weights).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    """Fill the gradients of value, points and weights, by running the forward once more."""
    value, spatial_shapes, _, sampling_loc, attn_weight, grad_output, *targets = tensors
    inputs = _widen(value, sampling_loc, attn_weight)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = _ms_deform_attn(leaves[0], spatial_shapes, leaves[1], leaves[2])
    grads = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    for target, grad in zip(targets, grads, strict=True):
        target.copy_(grad)
