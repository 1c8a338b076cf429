"""Rotated boxes against polygon clipping, through mmcv.ops."""

import math

import pytest
import torch
from mmcv import ops
from operator_inputs import generator


def rotated_boxes(count: int, size: float, seed: int, dtype=torch.float64) -> torch.Tensor:
    numbers = torch.rand(count, 5, generator=generator(seed), dtype=dtype)
    return numbers * torch.tensor([size, size, size, size, 7.0], dtype=dtype)


def corners(box) -> list[complex]:
    turn = complex(math.cos(box[4]), math.sin(box[4]))
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [complex(box[0], box[1]) + turn * complex(u * box[2], v * box[3]) / 2 for u, v in signs]


def cross(a: complex, b: complex) -> float:
    return (a.conjugate() * b).imag


def clipped_area(first, second) -> float:
    """Cut the first box along each edge of the second (Sutherland and Hodgman)."""
    polygon, edges = corners(first), corners(second)
    for start, end in zip(edges, edges[1:] + edges[:1], strict=True):
        left = [cross(end - start, point - start) for point in polygon]
        kept = []
        for i, point in enumerate(polygon):
            j = (i + 1) % len(polygon)
            if left[i] >= 0:
                kept.append(point)
            if left[i] * left[j] < 0:
                kept.append(point + (polygon[j] - point) * left[i] / (left[i] - left[j]))
        polygon = kept
        if not polygon:
            return 0.0
    return sum(cross(a, b) for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True)) / 2


def overlap(first, second, mode: str = "iou") -> float:
    common = clipped_area(first, second)
    own = first[2] * first[3]
    return common / (own if mode == "iof" else own + second[2] * second[3] - common)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("clockwise", [True, False])
def test_box_iou_rotated(mode, clockwise):
    first, second = rotated_boxes(20, 10, 1), rotated_boxes(15, 10, 2)
    sign = torch.tensor([1, 1, 1, 1, 1 if clockwise else -1])
    out = ops.box_iou_rotated(first, second, mode, clockwise=clockwise)
    pairs = [(a, b) for a in (first * sign).tolist() for b in (second * sign).tolist()]
    expected = [overlap(a, b, mode) for a, b in pairs]
    assert out.shape == (20, 15)
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-9)
    assert sum(value > 0 for value in expected) > 50
    aligned = ops.box_iou_rotated(first[:15], second, mode, aligned=True, clockwise=clockwise)
    assert torch.equal(aligned, out[:15].diagonal())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([5, 5, 4, 2, 0.3], [5, 5, 4, 2, 0.3], 1),
        ([5, 5, 4, 2, 0.3], [5, 5, 2, 4, 0.3 + math.pi / 2], 1),  # the same box
        ([0, 0, 2, 2, 0], [2, 0, 2, 2, 0], 0),  # a common edge
        ([0, 0, 2, 2, 0], [1, 0, 2, 2, 0], 1 / 3),
        ([0, 0, 4, 4, 1.1], [0, 0, 2, 2, 1.1], 1 / 4),  # one in the other
        ([0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], (8 * 2**0.5 - 8) / (16 - 8 * 2**0.5)),
        ([0, 0, 0, 2, 0], [0, 0, 2, 2, 0], 0),  # no area
        ([1000, 1000, 1e3, 1e-3, 0.5], [1000, 1000, 1e3, 1e-3, 0.5], 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_overlaps(first, second, expected, dtype):
    boxes = [torch.tensor([box], dtype=dtype) for box in (first, second)]
    # Angles and sizes are rounded to the dtype before anything is computed.
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-8}[dtype]
    assert ops.box_iou_rotated(*boxes).item() == pytest.approx(expected, abs=tolerance)


def test_equal_boxes_overlap_wholly_whatever_their_angle():
    boxes = rotated_boxes(2000, 100, 5, torch.float32) + 1
    torch.testing.assert_close(
        ops.box_iou_rotated(boxes, boxes, aligned=True), torch.ones(2000), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_box_in_another_with_three_edges_in_common(share):
    """Whether its corners lie inside is decided by rounding; they count as inside."""
    boxes = rotated_boxes(2000, 100, 6) + 0.1
    parts = boxes.clone()
    parts[:, 2] *= share
    shift = (parts[:, 2] - boxes[:, 2]) / 2
    parts[:, 0] += shift * boxes[:, 4].cos()
    parts[:, 1] += shift * boxes[:, 4].sin()
    found = ops.box_iou_rotated(boxes, parts, aligned=True)
    # an edge is found within 1e-9 of its length
    torch.testing.assert_close(found, torch.full_like(found, share), rtol=0, atol=1e-8)


def test_no_boxes():
    boxes = rotated_boxes(3, 9, 1)
    assert ops.box_iou_rotated(boxes[:0], boxes).shape == (0, 3)
    assert ops.box_iou_rotated(boxes, boxes[:0]).shape == (3, 0)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("labelled", [True, False])
def test_nms_rotated(threshold, labelled):
    boxes = rotated_boxes(60, 20, 3)
    scores = torch.rand(60, generator=generator(4), dtype=torch.float64)
    labels = torch.arange(60).to(boxes) % 3 if labelled else None
    dets, kept = ops.nms_rotated(boxes, scores, threshold, labels)
    expected = []
    for index in scores.argsort(descending=True).tolist():
        others = (overlap(boxes[k].tolist(), boxes[index].tolist()) for k in expected)
        if all(value <= threshold for value in others):
            expected.append(index)
    assert kept.tolist() == expected
    assert torch.equal(dets, torch.cat((boxes[kept], scores[kept, None]), dim=1))
    assert 1 < len(expected) < 60


def test_batched_nms_keeps_classes_apart():
    boxes = torch.tensor([[5.0, 5, 4, 2, 0.3]] * 3)
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    config = {"type": "nms_rotated", "iou_threshold": 0.5}
    assert ops.batched_nms(boxes, scores, classes, config)[1].tolist() == [0, 1]
