"""Stand-in for ``mmcv._ext``: mmcv's compiled operators on torchvision's operators and torch.

Python loads this file under the name ``mmcv._ext`` when mmcv has no compiled module (see
:mod:`mmvitconv.compat`). Names, argument names and argument order are those with which
``mmcv/ops/*.py`` calls the compiled module; like it, most functions fill tensors that mmcv has
allocated. They run where their inputs are: on CUDA wherever torchvision has a CUDA kernel.

Half precision is computed in float32 and rounded once at the end, because torchvision's CPU
kernels lack bfloat16 (and some float16); float64 stays float64. mmcv's half-precision CUDA kernels
round more often, so results differ from a compiled mmcv by float16 rounding.

An operator without a stand-in can be looked up (``mmcv.ops`` needs that to be imported) but not
called: it raises :class:`mmvitconv.compat.MissingOperatorError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
import torchvision  # noqa: F401  (registers the operators of torch.ops.torchvision)
from torch import Tensor
from torch.nn import functional as F

from mmvitconv.compat import MissingOperatorError

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


def get_compiling_cuda_version() -> str:
    """Answer mmcv's question for the CUDA compiler; mmcv prints it in every log."""
    return "none (operators by mmvitconv on torchvision)"


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float64 stays, everything else is float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------------------------------ boxes


def _pairwise_overlaps(
    first: Tensor, second: Tensor, offset: int = 0, of_first: bool = False
) -> Tensor:
    """Return overlaps of boxes; two boxes without any area overlap by 0.

    Args:
        first: Boxes (..., 4) as x1, y1, x2, y2.
        second: Boxes (..., 4), broadcastable against ``first``.
        offset: 0, or 1 when x2 and y2 are the last pixels inside.
        of_first: Divide the intersection by the area of ``first`` instead of the union.

    Returns:
        Overlaps (...) between 0 and 1.
    """
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
    dtype = _compute_dtype(bboxes1)
    first = bboxes1.to(dtype) if aligned else bboxes1.to(dtype)[:, None]
    ious.copy_(_pairwise_overlaps(first, bboxes2.to(dtype), offset, of_first=mode == 1))


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
    dtype = _compute_dtype(boxes)
    boxes = boxes.to(dtype)
    if offset:
        # A width of x2 - x1 + 1 is the plain width of the box whose far corner is moved by one.
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(boxes, scores.to(dtype), iou_threshold)


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
    dtype = _compute_dtype(boxes)
    all_boxes = boxes.detach().to(dtype)
    current = scores.detach().to(dtype).clone()
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
    if not kept:
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    order = torch.stack(kept)
    dets[: len(order), :4].copy_(all_boxes[order])
    dets[: len(order), 4].copy_(current[order])
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes with the better box that suppresses them.

    Args:
        dets: Boxes with scores (N, 5), on the CPU.
        iou_threshold: A box that overlaps a better one by at least this, 0 to 1, joins its group.

    Returns:
        One list of indices per surviving box: itself, then what it suppressed, best score first.
    """
    dets = dets.detach().to(_compute_dtype(dets))
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


def _samples_per_bin(
    rois: Tensor, spatial_scale: float, bins: tuple[int, int], sampling_ratio: int, aligned: bool
) -> Tensor:
    """Return how many sampling points (R, 2) RoIAlign takes per bin: rows and columns."""
    if sampling_ratio > 0:
        return rois.new_full((len(rois), 2), sampling_ratio, dtype=torch.long)
    size = rois[:, [4, 3]] * spatial_scale - rois[:, [2, 1]] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    return (size / size.new_tensor(bins)).ceil().clamp(min=0).long()


def _groups_of_equal_sampling(
    samples: Tensor, elements_per_sample: int
) -> list[tuple[int, int, Tensor]]:
    """Split RoIs into groups (rows, columns, RoI indices) that one batched call can sample."""
    groups = []
    for rows, columns in samples.unique(dim=0).tolist():
        if rows == 0 or columns == 0:
            continue  # a RoI without area has no sampling point: it stays 0 and has no gradient
        chosen = ((samples[:, 0] == rows) & (samples[:, 1] == columns)).nonzero().squeeze(1)
        at_once = max(1, _SAMPLES_AT_ONCE // (elements_per_sample * rows * columns))
        groups.extend((rows, columns, part) for part in chosen.split(at_once))
    return groups


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` with RoIAlign features.

    Average pooling is torchvision's operator. Maximum pooling, which torchvision lacks, samples
    the same points with it (one per bin on a finer raster) and takes the largest of each bin.

    Args:
        input: Feature maps (B, C, H, W).
        rois: Regions (R, 5) as image index, x1, y1, x2, y2 in image pixels.
        output: Filled: (R, C, aligned_height, aligned_width).
        argmax_y: Maximum pooling only, filled: row of the largest sampling point within its bin.
        argmax_x: Maximum pooling only, filled: column of the largest point within its bin.
        aligned_height: Rows of the output.
        aligned_width: Columns of the output.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Sampling points per bin and direction, 0 for as many as feature pixels.
        pool_mode: 0 for maximum, 1 for average.
        aligned: Shift by half a pixel (True), or mmdetection 1.x behaviour (False).
    """
    dtype = _compute_dtype(input)
    source, rois = input.to(dtype), rois.to(dtype)
    align = torch.ops.torchvision.roi_align
    height, width = aligned_height, aligned_width
    if pool_mode != _MAX_POOLING:
        output.copy_(
            align(source, rois, spatial_scale, height, width, sampling_ratio, bool(aligned))
        )
        return
    output.zero_()
    samples = _samples_per_bin(rois, spatial_scale, (height, width), sampling_ratio, aligned)
    per_sample = source.shape[1] * height * width
    for rows, columns, chosen in _groups_of_equal_sampling(samples, per_sample):
        points = align(
            source, rois[chosen], spatial_scale, height * rows, width * columns, 1, bool(aligned)
        )
        points = points.unflatten(3, (width, columns)).unflatten(2, (height, rows))
        largest, where = points.transpose(3, 4).flatten(4).max(dim=-1)
        output[chosen] = largest.to(output.dtype)
        # Small whole numbers: exact in every dtype that mmcv gives these buffers.
        argmax_y[chosen] = where.div(columns, rounding_mode="floor").to(argmax_y.dtype)
        argmax_x[chosen] = where.remainder(columns).to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``grad_input`` (B, C, H, W); the arguments are those of :func:`roi_align_forward`."""
    dtype = _compute_dtype(grad_output)
    grad, rois = grad_output.to(dtype), rois.to(dtype)
    backward = torch.ops.torchvision._roi_align_backward
    height, width = aligned_height, aligned_width
    shape = tuple(grad_input.shape)
    if pool_mode != _MAX_POOLING:
        grad_input.copy_(
            backward(
                grad, rois, spatial_scale, height, width, *shape, sampling_ratio, bool(aligned)
            )
        )
        return
    total = torch.zeros(shape, dtype=dtype, device=grad.device)
    samples = _samples_per_bin(rois, spatial_scale, (height, width), sampling_ratio, aligned)
    per_sample = shape[1] * height * width
    for rows, columns, chosen in _groups_of_equal_sampling(samples, per_sample):
        where = argmax_y[chosen].long() * columns + argmax_x[chosen].long()
        points = grad.new_zeros((*where.shape, rows * columns))
        points.scatter_(-1, where[..., None], grad[chosen][..., None])
        points = points.unflatten(-1, (rows, columns)).transpose(3, 4)
        points = points.reshape(len(chosen), shape[1], height * rows, width * columns)
        total += backward(
            points,
            rois[chosen],
            spatial_scale,
            height * rows,
            width * columns,
            *shape,
            1,
            bool(aligned),
        )
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
    regions = rois.to(_compute_dtype(rois))
    start = regions[:, 1:3] * spatial_scale
    end = (regions[:, 3:5] + 1) * spatial_scale
    lefts, rights = _bin_borders(start[:, 0], end[:, 0], pooled_width, width)
    tops, bottoms = _bin_borders(start[:, 1], end[:, 1], pooled_height, height)
    images = rois[:, 0].long().tolist()
    has_area = (end > start).all(dim=1).tolist()
    for region in range(len(images)):
        if not has_area[region]:
            continue
        features = input[images[region]]
        # Columns first, then rows: among equal values the first in reading order wins.
        for column in range(pooled_width):
            left, right = lefts[region][column], rights[region][column]
            if right <= left:
                continue
            by_row, at_column = features[:, :, left:right].max(dim=2)
            for row in range(pooled_height):
                top, bottom = tops[region][row], bottoms[region][row]
                if bottom <= top:
                    continue
                largest, at_row = by_row[:, top:bottom].max(dim=1)
                at_row = at_row + top
                at = at_row * width + left + at_column.gather(1, at_row[:, None]).squeeze(1)
                output[region, :, row, column] = largest
                argmax[region, :, row, column] = at.to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``grad_input`` (B, C, H, W); the arguments are those of :func:`roi_pool_forward`."""
    dtype = _compute_dtype(grad_output)
    batch, channels, height, width = grad_input.shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    flat = plane[:, :, None, None] * (height * width) + argmax.long().clamp(min=0)
    grad = torch.where(argmax >= 0, grad_output.to(dtype), 0)
    total = torch.zeros(batch * channels * height * width, dtype=dtype, device=grad_output.device)
    total.index_add_(0, flat.flatten(), grad.flatten())
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
    dtype = _compute_dtype(input)
    logits = input.to(dtype)
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability).pow(gamma) * F.logsigmoid(logits)
    negative = -(1 - alpha) * probability.pow(gamma) * F.logsigmoid(-logits)
    loss = torch.where(_is_target(target, input.shape[1]), positive, negative)
    output.copy_(loss * _class_weights(weight, target, dtype)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of :func:`sigmoid_focal_loss_forward`."""
    dtype = _compute_dtype(input)
    logits = input.to(dtype)
    probability = logits.sigmoid()
    other = 1 - probability
    positive = -alpha * other.pow(gamma) * (other - gamma * probability * F.logsigmoid(logits))
    negative = (
        (1 - alpha) * probability.pow(gamma) * (probability - gamma * other * F.logsigmoid(-logits))
    )
    grad = torch.where(_is_target(target, input.shape[1]), positive, negative)
    grad_input.copy_(grad * _class_weights(weight, target, dtype)[:, None])


def _target_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target's probability (N,), above 0, and the mask (N,) of valid targets."""
    dtype = _compute_dtype(softmax)
    chosen = softmax.to(dtype).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return chosen.clamp(min=torch.finfo(dtype).tiny), target >= 0


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with the focal loss of exclusive classes.

    Args:
        input: Probabilities (N, C): mmcv has applied the softmax.
        target: Class (N,) from 0 to C - 1, negative to ignore the row. int64.
        weight: Class weights (C,), or empty.
        output: Filled: (N,).
        gamma: Focusing exponent, 0 or more.
        alpha: Factor of every loss.
    """
    chosen, valid = _target_probability(input, target)
    loss = -alpha * (1 - chosen).pow(gamma) * chosen.log()
    output.copy_(torch.where(valid, loss * _class_weights(weight, target, loss.dtype), 0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative with respect to the logits.

    Args:
        input: Probabilities (N, C).
        target: Class (N,) from 0 to C - 1, negative to ignore the row. int64.
        weight: Class weights (C,), or empty.
        buff: Filled: (N,), derivative times probability of the target class.
        grad_input: Filled: (N, C).
        gamma: Focusing exponent, 0 or more.
        alpha: Factor of every loss.
    """
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


def _deform_conv_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight, offset, mask and bias, in the dtype to compute in."""
    dtype = _compute_dtype(input)
    # As in torchvision: a mask that is not used is never read.
    used_mask = input.new_zeros((len(input), 1), dtype=dtype) if mask is None else mask.to(dtype)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(dtype).contiguous(),
        input.to(dtype),
        weight.to(dtype),
        offset.to(dtype),
        used_mask,
        weight.new_zeros(len(weight), dtype=dtype),
        *geometry,
        mask is not None,
    )


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    """Run torchvision's operator; ``geometry`` is its list of integers, in its order."""
    dtype = _compute_dtype(input)
    used_mask = input.new_zeros((len(input), 1), dtype=dtype) if mask is None else mask.to(dtype)
    used_bias = weight.new_zeros(len(weight), dtype=dtype) if bias is None else bias.to(dtype)
    return torch.ops.torchvision.deform_conv2d(
        input.to(dtype),
        weight.to(dtype),
        offset.to(dtype),
        used_mask,
        used_bias,
        *geometry,
        mask is not None,
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803  (these names are mmcv's)
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``output`` with a deformable convolution (version 1, without mask).

    Args:
        input: Feature maps (B, C, H, W).
        weight: Kernel (O, C / group, kH, kW).
        offset: Shifts (B, deformable_group * kH * kW * 2, OH, OW) in pixels, row before column.
        output: Filled: (B, O, OH, OW).
        columns: Not needed.
        ones: Not needed.
        kW: Not needed: the kernel says it.
        kH: Not needed: the kernel says it.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Padding left and right.
        padH: Padding above and below.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Groups of the convolution.
        deformable_group: Groups of channels with shifts of their own.
        im2col_step: Not needed: torchvision chooses it.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_deform_conv(input, weight, None, offset, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``grad_input`` and ``grad_offset``; arguments as in :func:`deform_conv_forward`."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _deform_conv_gradients(grad_output, input, weight, offset, None, geometry)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient to ``grad_weight`` (see :func:`deform_conv_forward`)."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of the kernel depends on its shape alone, which is that of its gradient.
    grads = _deform_conv_gradients(grad_output, input, grad_weight, offset, None, geometry)
    grad_weight.add_(grads[1].to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill ``output`` with a modulated deformable convolution (version 2).

    Args:
        input: Feature maps (B, C, H, W).
        weight: Kernel (O, C / group, kernel_h, kernel_w).
        bias: Bias (O,), read only ``with_bias``.
        ones: Not needed.
        offset: Shifts (B, deformable_group * kernel_h * kernel_w * 2, OH, OW) in pixels, row
            before column.
        mask: Factors (B, deformable_group * kernel_h * kernel_w, OH, OW) of the samples.
        output: Filled: (B, O, OH, OW).
        columns: Not needed.
        kernel_h: Not needed: the kernel says it.
        kernel_w: Not needed: the kernel says it.
        stride_h: Vertical stride.
        stride_w: Horizontal stride.
        pad_h: Padding above and below.
        pad_w: Padding left and right.
        dilation_h: Vertical dilation.
        dilation_w: Horizontal dilation.
        group: Groups of the convolution.
        deformable_group: Groups of channels with shifts of their own.
        with_bias: Add ``bias``.
    """
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, deformable_group),
    )
    used_bias = bias if with_bias else None
    output.copy_(_deform_conv(input, weight, used_bias, offset, mask, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill the five gradients; arguments as in :func:`modulated_deform_conv_forward`."""
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, deformable_group),
    )
    grads = _deform_conv_gradients(grad_output, input, weight, offset, mask, geometry)
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias.copy_(grads[4])


# ----------------------------------------------------------------------------- deformable attention


def _ms_deform_attn(
    value: Tensor, spatial_shapes: Tensor, sampling_loc: Tensor, attn_weight: Tensor
) -> Tensor:
    """Run mmcv's own formula in plain torch, which mmcv itself uses on the CPU."""
    # Imported late: mmcv.ops imports this file.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, spatial_shapes, sampling_loc, attn_weight)


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return multi-scale deformable attention (Deformable DETR).

    Args:
        value: Values (B, sum of H * W over levels, heads, channels).
        spatial_shapes: Height and width of every level (L, 2).
        level_start_index: Not needed: the shapes say it.
        sampling_loc: Sampling points (B, Q, heads, L, P, 2) as x, y from 0 to 1.
        attn_weight: Their weights (B, Q, heads, L, P).
        im2col_step: Not needed.

    Returns:
        Attention output (B, Q, heads * channels), dtype of ``value``.
    """
    dtype = _compute_dtype(value)
    points, weights = sampling_loc.to(dtype), attn_weight.to(dtype)
    return _ms_deform_attn(value.to(dtype), spatial_shapes, points, weights).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients, by running the forward again with gradients recorded."""
    dtype = _compute_dtype(value)
    leaves = [
        tensor.detach().to(dtype).requires_grad_() for tensor in (value, sampling_loc, attn_weight)
    ]
    with torch.enable_grad():
        output = _ms_deform_attn(leaves[0], spatial_shapes, leaves[1], leaves[2])
    grads = torch.autograd.grad(output, leaves, grad_output.to(dtype))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
