"""Overlaps and non-maximum suppression of upright boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvitconv.compat.operators.shared import OPERATORS, widen

_SOFT_NMS_NAIVE, _SOFT_NMS_LINEAR, _SOFT_NMS_GAUSSIAN = range(3)


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
    first, second = widen(bboxes1, bboxes2)
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
    boxes, scores = widen(boxes, scores)
    # A width of x2 - x1 + 1 is the plain width of the box whose far corner is moved by one.
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return OPERATORS.nms(boxes, scores, iou_threshold)


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
    all_boxes, current = widen(boxes.detach(), scores.detach().clone())
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
    (dets,) = widen(dets.detach())
    remaining = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while remaining.numel():
        overlaps = _pairwise_overlaps(dets[remaining[0], :4], dets[remaining, :4])
        member = overlaps >= iou_threshold
        member[0] = True  # a box without area does not overlap itself
        groups.append(remaining[member].tolist())
        remaining = remaining[~member]
    return groups
