"""Stand-in operators against plain formulas, written as loops, and gradcheck through mmcv.ops."""

import math

import numpy as np
import pytest
import torch
import torchvision
from mmcv import _ext, ops
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from torch.nn import functional as F

if "mmvitconv" not in (_ext.__file__ or ""):
    pytest.fail("these tests are about the stand-in, but a compiled mmcv is installed")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, size: float, seed: int, dtype=torch.float32) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=generator(seed), dtype=dtype) * size
    return torch.cat((corners.min(1).values, corners.max(1).values), dim=1)


def random_rois(count: int, images: int, size: float, seed: int, dtype=torch.float32):
    image = torch.randint(images, (count, 1), generator=generator(seed)).to(dtype)
    return torch.cat((image, random_boxes(count, size, seed + 1, dtype)), dim=1)


def features(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------ boxes


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


# ---------------------------------------------------------------------------------------- RoIAlign


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    y, x = (y if top < height - 1 else top), (x if left < width - 1 else left)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, over = y - top, x - left
    return float(
        plane[top, left] * (1 - down) * (1 - over)
        + plane[top, right] * (1 - down) * over
        + plane[bottom, left] * down * (1 - over)
        + plane[bottom, right] * down * over
    )


def loop_roi_align(source, rois, size, scale, ratio, mode, aligned):
    out = np.zeros((len(rois), source.shape[1], *size))
    shift = 0.5 if aligned else 0.0
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        start_y, start_x = y1 * scale - shift, x1 * scale - shift
        high, wide = (y2 - y1) * scale, (x2 - x1) * scale
        if not aligned:
            high, wide = max(high, 1.0), max(wide, 1.0)
        rows = ratio or math.ceil(high / size[0])
        columns = ratio or math.ceil(wide / size[1])
        for c in range(source.shape[1]):
            plane = source[int(image), c]
            for p in range(size[0]):
                for q in range(size[1]):
                    values = [
                        bilinear(
                            plane,
                            start_y + (p + (i + 0.5) / rows) * high / size[0],
                            start_x + (q + (j + 0.5) / columns) * wide / size[1],
                        )
                        for i in range(rows)
                        for j in range(columns)
                    ]
                    if values:
                        pooled = max(values) if mode == "max" else sum(values) / len(values)
                        out[r, c, p, q] = pooled
    return out


ROI_ALIGN_CASES = [
    (size, scale, ratio, aligned)
    for size, scale in [((3, 2), 1.0), ((1, 5), 0.37)]
    for ratio in (0, 2)
    for aligned in (True, False)
]


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("size", "scale", "ratio", "aligned"), ROI_ALIGN_CASES)
def test_roi_align_is_the_loop(size, scale, ratio, aligned, mode):
    source = features(3, 2, 7, 11, dtype=torch.float64)
    rois = random_rois(9, 3, 20, seed=4, dtype=torch.float64)
    rois[0, 3] = rois[0, 1]  # no width
    layer = ops.RoIAlign(size, scale, ratio, mode, aligned)
    expected = loop_roi_align(source.numpy(), rois.numpy(), size, scale, ratio, mode, aligned)
    assert layer(source, rois).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_average_is_torchvisions_bit_for_bit(ratio, aligned):
    source, rois = features(2, 3, 17, 13), random_rois(20, 2, 60, 8)
    results = []
    for function in (ops.RoIAlign((7, 7), 0.25, ratio, "avg", aligned), None):
        leaf = source.clone().requires_grad_()
        if function is None:
            out = torchvision.ops.roi_align(leaf, rois, (7, 7), 0.25, ratio, aligned)
        else:
            out = function(leaf, rois)
        out.square().sum().backward()
        results.append((out.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    "layer",
    [
        *(
            ops.RoIAlign(size, scale, ratio, mode, aligned)
            for mode in ("avg", "max")
            for size, scale, ratio, aligned in ROI_ALIGN_CASES
        ),
        ops.RoIPool((3, 2), 0.5),
    ],
)
def test_gradient_of_roi_layers(layer):
    source = features(2, 2, 5, 7, seed=3, dtype=torch.float64).requires_grad_()
    rois = random_rois(4, 2, 12, seed=6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), (source,))


def test_roi_align_max_in_parts_gives_the_same(monkeypatch):
    source, rois = features(2, 3, 9, 9), random_rois(12, 2, 9, 5)
    layer = ops.RoIAlign(3, 1.0, 0, "max")
    results = []
    for at_once in (_ext._SAMPLES_AT_ONCE, 1):
        monkeypatch.setattr(_ext, "_SAMPLES_AT_ONCE", at_once)
        leaf = source.clone().requires_grad_()
        out = layer(leaf, rois)
        out.square().sum().backward()
        results.append((out.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


ROI_LAYERS = (ops.RoIAlign(3), ops.RoIAlign(3, 1.0, 0, "max"), ops.RoIPool(3))


@pytest.mark.parametrize("layer", ROI_LAYERS)
def test_roi_layers_without_rois(layer):
    source = features(2, 3, 5, 5).requires_grad_()
    out = layer(source, torch.zeros(0, 5))
    assert out.shape == (0, 3, 3, 3)
    out.sum().backward()
    assert torch.equal(source.grad, torch.zeros_like(source))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", ROI_LAYERS)
def test_roi_layers_in_half_precision(layer, dtype):
    source = features(2, 3, 8, 8).to(dtype)
    rois = torch.tensor([[0, 1.0, 1, 5, 6], [1, 0, 2, 7, 4]])
    grads = []
    for leaf, region in ((source.clone(), rois.to(dtype)), (source.float(), rois)):
        leaf.requires_grad_()
        out = layer(leaf, region)
        assert out.dtype == leaf.dtype
        out.sum().backward()
        grads.append((out.detach().float(), leaf.grad.float()))
    tolerance = {"rtol": 2**-7, "atol": 2**-7}
    torch.testing.assert_close(*(pair[0] for pair in zip(grads, strict=True)), **tolerance)


def test_roi_align_channels_last_and_autocast():
    source, rois = features(2, 4, 8, 8), random_rois(5, 2, 8, 2)
    layer = ops.RoIAlign(3)
    last = source.to(memory_format=torch.channels_last)
    assert torch.equal(layer(last, rois), layer(source, rois))
    with torch.autocast("cpu", torch.bfloat16):
        leaf = source.bfloat16().requires_grad_()
        out = layer(leaf, rois.bfloat16())
        out.float().sum().backward()
    assert out.dtype == leaf.grad.dtype == torch.bfloat16


# ----------------------------------------------------------------------------------------- RoIPool


def loop_roi_pool(source, rois, size, scale):
    height, width = source.shape[2:]
    out = np.zeros((len(rois), source.shape[1], *size))
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for p in range(size[0]):
            top = max(math.floor(y1 + p * (y2 - y1) / size[0]), 0)
            bottom = min(math.ceil(y1 + (p + 1) * (y2 - y1) / size[0]), height)
            for q in range(size[1]):
                left = max(math.floor(x1 + q * (x2 - x1) / size[1]), 0)
                right = min(math.ceil(x1 + (q + 1) * (x2 - x1) / size[1]), width)
                if top < bottom and left < right:
                    region = source[int(image), :, top:bottom, left:right]
                    out[r, :, p, q] = region.max(axis=(1, 2))
    return out


@pytest.mark.parametrize(("size", "scale"), [((2, 3), 1.0), ((4, 1), 0.37), ((7, 7), 0.5)])
def test_roi_pool_is_the_loop(size, scale):
    source = features(3, 2, 7, 11, dtype=torch.float64)
    rois = random_rois(9, 3, 25, seed=4, dtype=torch.float64)
    rois[1, 3:] = rois[1, 1:3] - 5  # turned inside out
    expected = loop_roi_pool(source.numpy(), rois.numpy(), size, scale)
    assert ops.RoIPool(size, scale)(source, rois).numpy() == pytest.approx(expected, abs=0)


def test_roi_pool_gives_ties_to_the_first_in_reading_order():
    source = torch.zeros(1, 1, 3, 3)
    source[0, 0, 2, 0] = source[0, 0, 1, 2] = source[0, 0, 1, 1] = 1
    source.requires_grad_()
    ops.RoIPool(1)(source, torch.tensor([[0.0, 0, 0, 2, 2]])).sum().backward()
    assert source.grad.nonzero().tolist() == [[0, 0, 1, 1]]


# -------------------------------------------------------------------------------------- focal loss


def loop_sigmoid_focal_loss(logits, target, gamma, alpha, weight):
    out = np.zeros(logits.shape)
    for n, row in enumerate(logits):
        for c, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            if target[n] == c:
                out[n, c] = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                out[n, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
            if weight is not None and 0 <= target[n] < logits.shape[1]:
                out[n, c] *= weight[target[n]]
    return out


TARGETS = torch.tensor([0, 3, 4, 2, -1])  # 4 classes: 4 and -1 are background


def loop_softmax_focal_loss(logits, target, gamma, alpha, weight):
    out = np.zeros(len(target))
    for n, (row, label) in enumerate(zip(logits, target, strict=True)):
        if label >= 0:
            p = math.exp(row[label]) / sum(math.exp(x) for x in row)
            factor = 1 if weight is None else weight[label]
            out[n] = -alpha * factor * (1 - p) ** gamma * math.log(p)
    return out


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9), (1.0, 1.0)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("function", "loop", "target"),
    [
        (ops.sigmoid_focal_loss, loop_sigmoid_focal_loss, TARGETS),
        (ops.softmax_focal_loss, loop_softmax_focal_loss, torch.tensor([0, 3, 1, 2, -1])),
    ],
    ids=["sigmoid", "softmax"],
)
def test_focal_loss(function, loop, target, gamma, alpha, weighted):
    logits = features(5, 4, dtype=torch.float64).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    out = function(logits, target, gamma, alpha, weight, "none")
    expected = loop(logits.detach().numpy(), target.tolist(), gamma, alpha, weight)
    assert out.detach().numpy() == pytest.approx(expected, abs=1e-12)
    # mmcv's softmax_focal_loss has a gradient for sums only.
    alone = ("none",) if function is ops.sigmoid_focal_loss else ()
    for reduction in (*alone, "mean", "sum"):
        arguments = (target, gamma, alpha, weight, reduction)
        assert torch.autograd.gradcheck(lambda x, rest=arguments: function(x, *rest), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sigmoid_focal_loss_stays_finite(dtype):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], dtype=dtype).requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1, 2]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.dtype == dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_focal_losses_without_rows():
    for function in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        logits = torch.zeros(0, 4, requires_grad=True)
        function(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum").backward()
        assert logits.grad.shape == (0, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_focal_loss_of_a_certain_class_is_finite(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = ops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 1.0, None, "sum")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# --------------------------------------------------------------------------- deformable convolution


def deform_sample(plane: np.ndarray, y: float, x: float) -> float:
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            total += plane[row, column] * share
    return total


def loop_deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, dgroups):
    batch, channels = x.shape[:2]
    out_channels, per_group, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    out = np.zeros((batch, out_channels, out_h, out_w))
    for b, o, i, j in np.ndindex(out.shape):
        total = 0.0 if bias is None else bias[o]
        for c in range(per_group):
            channel = o // (out_channels // groups) * per_group + c
            group = channel // (channels // dgroups)
            for k, (u, v) in enumerate(np.ndindex(kernel_h, kernel_w)):
                at = group * kernel_h * kernel_w + k
                y = i * stride[0] - padding[0] + u * dilation[0] + offset[b, 2 * at, i, j]
                z = j * stride[1] - padding[1] + v * dilation[1] + offset[b, 2 * at + 1, i, j]
                factor = 1.0 if mask is None else mask[b, at, i, j]
                total += weight[o, c, u, v] * factor * deform_sample(x[b, channel], y, z)
        out[b, o, i, j] = total
    return out


GEOMETRIES = [
    # stride, padding, dilation, groups, deformable groups
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (0, 2), (1, 2), 2, 1),
    ((1, 2), (2, 1), (2, 1), 1, 2),
]


def deform_inputs(geometry, dtype=torch.float64):
    stride, padding, dilation, groups, dgroups = geometry
    x = features(2, 4, 6, 7, seed=1, dtype=dtype)
    weight = features(6, 4 // groups, 3, 2, seed=2, dtype=dtype)
    reach = (dilation[0] * 2 + 1, dilation[1] + 1)
    size = [(x.shape[2 + d] + 2 * padding[d] - reach[d]) // stride[d] + 1 for d in (0, 1)]
    offset = features(2, dgroups * 12, *size, seed=3, dtype=dtype) * 1.3
    mask = torch.rand(2, dgroups * 6, *size, generator=generator(4), dtype=dtype)
    return x, offset, mask, weight, features(6, seed=5, dtype=dtype)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv(geometry):
    x, offset, _, weight, _ = deform_inputs(geometry)
    out = ops.deform_conv2d(x, offset, weight, *geometry)
    arrays = (x.numpy(), offset.numpy(), None, weight.numpy(), None)
    assert out.numpy() == pytest.approx(loop_deform_conv(*arrays, *geometry), abs=1e-10)
    stride, padding, dilation, _, _ = geometry
    expected = torchvision.ops.deform_conv2d(
        x, offset, weight, stride=stride, padding=padding, dilation=dilation
    )
    assert torch.equal(out, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv(geometry, with_bias):
    x, offset, mask, weight, bias = deform_inputs(geometry)
    bias = bias if with_bias else None
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)
    arrays = [None if tensor is None else tensor.numpy() for tensor in (mask, weight, bias)]
    expected = loop_deform_conv(x.numpy(), offset.numpy(), *arrays, *geometry)
    assert out.numpy() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_gradients(geometry):
    x, offset, mask, weight, bias = (t.requires_grad_() for t in deform_inputs(geometry))
    for function, *tensors in (
        (lambda *args: ops.deform_conv2d(*args, *geometry), x, offset, weight),
        (
            lambda *args: ops.modulated_deform_conv2d(*args, *geometry),
            *(x, offset, mask, weight, bias),
        ),
        (
            lambda *args: ops.modulated_deform_conv2d(*args, None, *geometry),
            *(x, offset, mask, weight),
        ),
    ):
        assert torch.autograd.gradcheck(function, tensors, fast_mode=True, nondet_tol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_deform_conv_layers_in_half_precision(dtype):
    torch.manual_seed(0)
    for name in ("DeformConv2dPack", "ModulatedDeformConv2dPack"):
        layer = getattr(ops, name)(4, 4, 3, padding=1).to(dtype)
        x = features(2, 4, 9, 5).to(dtype).requires_grad_()
        out = layer(x)
        out.float().square().sum().backward()
        assert out.dtype == x.grad.dtype == dtype
        with torch.no_grad():
            expected = layer.float()(x.float())
        torch.testing.assert_close(out.float(), expected, rtol=2**-5, atol=2**-5)


# ----------------------------------------------------------------------------- deformable attention


def attention_inputs(dtype=torch.float64):
    shapes = torch.tensor([[4, 5], [2, 3]])
    value = features(2, 26, 2, 3, seed=1, dtype=dtype)
    points = torch.rand(2, 4, 2, 2, 3, 2, generator=generator(2), dtype=dtype)
    weights = features(2, 4, 2, 6, seed=3, dtype=dtype).softmax(-1).view(2, 4, 2, 2, 3)
    return value, shapes, torch.tensor([0, 20]), points, weights


def test_deformable_attention():
    value, shapes, starts, points, weights = attention_inputs()
    out = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, points, weights, 64)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, points, weights)
    assert torch.equal(out, expected)
    leaves = [tensor.requires_grad_() for tensor in (value, points, weights)]
    assert torch.autograd.gradcheck(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, w, 64),
        leaves,
        fast_mode=True,
        nondet_tol=1e-9,
    )


def test_deformable_attention_reads_the_right_level():
    value, shapes, starts, points, weights = attention_inputs(torch.float32)
    value = torch.cat((torch.full_like(value[:, :20], 2), torch.full_like(value[:, 20:], 7)), 1)
    points = points * 0.2 + 0.4  # inside, away from borders
    only_second = torch.zeros_like(weights)
    only_second[:, :, :, 1] = 1 / 3
    out = _ext.ms_deform_attn_forward(
        value.half(), shapes, starts, points.half(), only_second.half(), im2col_step=64
    )
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, torch.full_like(out, 7), rtol=1e-3, atol=1e-2)


def test_mask_rcnn_pieces_under_autocast():
    """RoI features, a deformable layer and a focal loss in one autocast training step."""
    torch.manual_seed(0)
    conv, deform = torch.nn.Conv2d(3, 4, 3, padding=1), ops.ModulatedDeformConv2dPack(4, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        maps = F.relu(deform(conv(features(2, 3, 16, 16))))
        pooled = ops.RoIAlign(2, 0.5)(maps, random_rois(6, 2, 30, 3).type_as(maps))
        logits = pooled.flatten(1)[:, :4]
        loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, 3, 4, 4]))
    loss.backward()
    assert torch.isfinite(conv.weight.grad).all()
    assert conv.weight.grad.abs().sum() > 0
