"""Overlaps and suppression of upright boxes against loops."""

import math

import numpy as np
import pytest
import torch
import torchvision
from mmcv import ops
from operator_inputs import generator, random_boxes


def loop_overlap(a, b, offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    inside = width * height
    union = (
        (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
        + (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
        - inside
    )
    return inside / union if inside > 0 else 0.0


def loop_nms(boxes, scores, threshold: float, offset: int) -> list[int]:
    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(loop_overlap(boxes[index], boxes[k], offset) <= threshold for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_nms(count, threshold, offset):
    boxes = random_boxes(count, 20, seed=count, dtype=torch.float64)
    scores = torch.rand(count, generator=generator(3), dtype=torch.float64)
    dets, kept = ops.nms(boxes, scores, threshold, offset=offset)
    expected = loop_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert kept.dtype == torch.int64
    assert kept.tolist() == expected
    assert torch.equal(dets, torch.cat((boxes[kept], scores[kept, None]), 1))


def test_nms_offset_matters():
    boxes = torch.tensor([[0.0, 0, 1, 1], [1, 1, 2, 2]])
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.1, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.1, offset=1)[1]) == 1  # one pixel of seven is shared


def test_nms_is_torchvisions_bit_for_bit():
    boxes, scores = random_boxes(300, 50, 1), torch.rand(300, generator=generator(2))
    expected = torchvision.ops.nms(boxes, scores, 0.5)
    assert torch.equal(ops.nms(boxes, scores, 0.5)[1], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_half_numpy_and_limits(dtype):
    boxes = random_boxes(40, 20, 5).to(dtype)
    scores = torch.rand(40, generator=generator(6)).to(dtype)
    kept = ops.nms(boxes, scores, 0.5)[1]
    assert torch.equal(kept, ops.nms(boxes.float(), scores.float(), 0.5)[1])
    assert torch.equal(ops.nms(boxes, scores, 0.5, max_num=3)[1], kept[:3])
    above = ops.nms(boxes.float(), scores.float(), 0.5, score_threshold=0.4)[1]
    assert (scores[above] > 0.4).all()
    dets, kept_numpy = ops.nms(boxes.float().numpy(), scores.float().numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert kept_numpy.tolist() == kept.tolist()


@pytest.mark.parametrize("nms_type", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(nms_type):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    config = {"type": nms_type, "iou_threshold": 0.5}
    config |= {"min_score": 0.5} if nms_type == "soft_nms" else {}
    assert ops.batched_nms(boxes, scores, classes, config)[1].tolist() == [0, 1]


def loop_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    scores, left, kept = list(scores), list(range(len(scores))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        kept.append(best)
        for index in list(left):
            overlap = loop_overlap(boxes[best], boxes[index], offset)
            if method == "gaussian":
                scores[index] *= math.exp(-overlap * overlap / sigma)
            elif overlap >= threshold:
                scores[index] *= 0 if method == "naive" else 1 - overlap
            if scores[index] < min_score:
                left.remove(index)
    return kept, scores


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize(("count", "min_score"), [(0, 1e-3), (1, 0.99), (50, 1e-3), (50, 0.3)])
def test_soft_nms(count, min_score, method, offset):
    boxes = random_boxes(count, 12, seed=count + 7, dtype=torch.float64)
    scores = torch.rand(count, generator=generator(9), dtype=torch.float64)
    before = scores.clone()
    dets, kept = ops.soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
    expected, new_scores = loop_soft_nms(
        boxes.tolist(), scores.tolist(), 0.3, 0.5, min_score, method, offset
    )
    assert kept.tolist() == expected
    assert dets.shape == (len(expected), 5)
    assert torch.equal(dets[:, :4], boxes[kept])
    assert dets[:, 4].tolist() == pytest.approx([new_scores[i] for i in expected], abs=1e-12)
    assert torch.equal(scores, before)


def test_soft_nms_half_and_boxes_without_area():
    boxes = torch.tensor([[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1]])
    scores = torch.tensor([0.9, 0.8, 0.5, 0.25])
    dets, kept = ops.soft_nms(boxes.half(), scores.half(), method="gaussian")
    assert dets.dtype == torch.float16
    assert kept.tolist() == [0, 1, 2, 3]
    assert dets[:, 4].tolist() == pytest.approx(scores.tolist(), abs=1e-3)


def loop_nms_match(dets, threshold):
    order = sorted(range(len(dets)), key=lambda i: -dets[i][4])
    groups = []
    while order:
        best, rest = order[0], order[1:]
        hit = [i for i in rest if loop_overlap(dets[best], dets[i], 0) >= threshold]
        groups.append([best, *hit])
        order = [i for i in rest if i not in hit]
    return groups


@pytest.mark.parametrize("count", [0, 1, 40])
def test_nms_match(count):
    scores = torch.rand(count, 1, generator=generator(1), dtype=torch.float64)
    dets = torch.cat((random_boxes(count, 12, 2, torch.float64), scores), 1)
    groups = [group.tolist() for group in ops.nms_match(dets, 0.3)]
    assert groups == loop_nms_match(dets.tolist(), 0.3)


def test_nms_match_keeps_boxes_without_area():
    groups = ops.nms_match(torch.tensor([[1.0, 1, 1, 1, 0.5], [1, 1, 1, 1, 0.4]]), 0.5)
    assert [group.tolist() for group in groups] == [[0], [1]]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps(mode, offset):
    first, second = random_boxes(7, 9, 1, torch.float64), random_boxes(5, 9, 2, torch.float64)
    pairs = ops.bbox_overlaps(first, second, mode, offset=offset)
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            value = loop_overlap(a, b, offset)
            if mode == "iof":
                area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
                area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
                value = value * (area_a + area_b) / (1 + value) / area_a
            assert pairs[i, j].item() == pytest.approx(value, abs=1e-12)
    aligned = ops.bbox_overlaps(first[:5], second, mode, aligned=True, offset=offset)
    assert torch.equal(aligned, pairs[:5].diagonal())
