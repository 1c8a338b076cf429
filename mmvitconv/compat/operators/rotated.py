"""Overlaps and non-maximum suppression of rotated boxes.

Always in float64: the corners of boxes that share an edge are told apart by rounding alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 2**16  # 24 points each: about 100 MB
_TINY = 1e-9  # of an edge: how far outside a corner still counts as inside
_LEAST_AREA = 1e-14  # mmcv's: smaller boxes overlap nothing


def _corners(boxes: Tensor) -> Tensor:
    """Return the corners (P, 4, 2) in turn of boxes (P, 5): x and y of the centre, w, h, angle."""
    signs = boxes.new_tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    u, v = (signs * boxes[:, None, 2:4]).unbind(-1)
    cos, sin = boxes[:, 4:].cos(), boxes[:, 4:].sin()
    return boxes[:, None, :2] + torch.stack((u * cos - v * sin, u * sin + v * cos), dim=-1)


def _is_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Return which points (P, N, 2) lie inside their box (P, 5) or on its border."""
    x, y = (points - boxes[:, None, :2]).unbind(-1)
    cos, sin = boxes[:, 4:].cos(), boxes[:, 4:].sin()
    limit = boxes[:, None, 2:4] * (0.5 + _TINY)
    return ((x * cos + y * sin).abs() <= limit[..., 0]) & (
        (y * cos - x * sin).abs() <= limit[..., 1]
    )


def _cross(first: Tensor, second: Tensor) -> Tensor:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def _intersections(first: Tensor, second: Tensor) -> Tensor:
    """Return the areas (P,) that pairs of boxes (P, 5) share.

    The common polygon is convex. Its corners are among the crossings of edges and the boxes' own
    corners; in the order of their angles around their mean they give the area.
    """
    centre = (first[:, :2] + second[:, :2]) / 2
    first = torch.cat((first[:, :2] - centre, first[:, 2:]), dim=1)
    second = torch.cat((second[:, :2] - centre, second[:, 2:]), dim=1)
    of_first, of_second = _corners(first), _corners(second)
    edges = (of_first.roll(-1, 1) - of_first)[:, :, None]
    others = (of_second.roll(-1, 1) - of_second)[:, None]
    between = of_second[:, None] - of_first[:, :, None]
    determinant = _cross(edges, others)
    parallel = determinant.abs() <= _TINY * edges.norm(dim=-1) * others.norm(dim=-1)
    determinant = torch.where(parallel, 1, determinant)
    along, across = _cross(between, others) / determinant, _cross(between, edges) / determinant
    crosses = ~parallel & (along >= 0) & (along <= 1) & (across >= 0) & (across <= 1)
    crossings = of_first[:, :, None] + along[..., None] * edges

    points = torch.cat((crossings.flatten(1, 2), of_first, of_second), dim=1)
    known = (crosses.flatten(1), _is_inside(of_first, second), _is_inside(of_second, first))
    valid = torch.cat(known, dim=1)[..., None]
    middle = torch.where(valid, points, 0).sum(1) / valid.sum(1).clamp(min=1)
    # What is no corner moves into the middle, where it takes no area.
    points = torch.where(valid, points - middle[:, None], 0)
    angle = torch.atan2(points[..., 1], points[..., 0]).where(valid[..., 0], torch.inf)
    points = points.gather(1, angle.argsort(dim=1)[..., None].expand_as(points))
    count = valid.sum(1, keepdim=True)
    index = torch.arange(points.shape[1], device=points.device)[None, :, None]
    following = torch.where(index == count - 1, points[:, :1], points.roll(-1, 1))
    return _cross(points, following).sum(1).abs() / 2


def _overlaps(first: Tensor, second: Tensor, of_first: bool = False) -> Tensor:
    """Return the overlaps (P,) of pairs of boxes (P, 5)."""
    result = first.new_zeros(len(first))
    areas = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    reach = (first[:, 2:4].norm(dim=1) + second[:, 2:4].norm(dim=1)) / 2
    near = (first[:, :2] - second[:, :2]).norm(dim=1) <= reach
    near &= (areas[0] >= _LEAST_AREA) & (areas[1] >= _LEAST_AREA)
    for part in near.nonzero().squeeze(1).split(_PAIRS_AT_ONCE):
        shared = _intersections(first[part], second[part])
        union = areas[0][part] if of_first else areas[0][part] + areas[1][part] - shared
        result[part] = shared / union
    return result


def box_iou_rotated(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Fill ``ious`` with the overlaps of two sets of rotated boxes.

    Args:
        bboxes1: Boxes (M, 5) as x and y of the centre, width, height, angle in radians.
        bboxes2: Boxes (N, 5); N = M when ``aligned``.
        ious: Filled: (M * N,), or (M,) when ``aligned``.
        mode_flag: 0 for intersection over union, 1 for intersection over the first area.
        aligned: Pair box i with box i instead of every box with every other.
    """
    first, second = bboxes1.detach().double(), bboxes2.detach().double()
    if not aligned:
        count = len(first)
        first = first.repeat_interleave(len(second), dim=0)
        second = second.repeat(count, 1)
    ious.copy_(_overlaps(first, second, of_first=mode_flag == 1).view_as(ious))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Return the rotated boxes that survive non-maximum suppression.

    Labels do not matter, as in mmcv's kernels: ``batched_nms`` moves classes apart.

    Args:
        dets: Boxes (N, 5), or (N, 6) with labels, as in :func:`box_iou_rotated`.
        scores: Scores (N,).
        order: Their order, best first; not needed, nor are the next two.
        dets_sorted: Boxes in that order.
        labels: Classes of the boxes, or empty.
        iou_threshold: A box that overlaps a better one by more than this, 0 to 1, is dropped.
        multi_label: Whether there are labels; not needed.

    Returns:
        Indices (K,) into ``dets``, best score first, int64.
    """
    boxes = dets.detach()[:, :5].double()
    remaining = scores.sort(descending=True, stable=True).indices
    kept = []
    while remaining.numel():
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        better = boxes[best].expand(len(remaining), -1)
        remaining = remaining[_overlaps(better, boxes[remaining]) <= iou_threshold]
    return torch.stack(kept) if kept else remaining
