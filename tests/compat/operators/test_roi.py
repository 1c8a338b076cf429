"""RoIAlign and RoIPool against loops, through mmcv.ops."""

import math

import numpy as np
import pytest
import torch
import torchvision
from mmcv import ops
from operator_inputs import bilinear, features, random_rois

from mmvitconv.compat.operators import shared
from mmvitconv.errors import UserError


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
    for at_once in (shared.SAMPLES_AT_ONCE, 1):
        monkeypatch.setattr(shared, "SAMPLES_AT_ONCE", at_once)
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


@pytest.mark.parametrize("layer", ROI_LAYERS)
@pytest.mark.parametrize(
    "roi", [[0, math.nan, 0, 4, 4], [0, 0, 0, math.inf, 4], [math.nan, 0, 0, 4, 4], [2, 0, 0, 4, 4]]
)
def test_impossible_rois_are_named(layer, roi):
    rois = torch.tensor([[1.0, 0, 0, 4, 4], roi])
    with pytest.raises(UserError, match=r"1 impossible RoI\(s\) of 2, the first is number 1: .*"):
        layer(features(2, 3, 5, 5), rois)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("roi", [[0.0, 5, 1, 1, 4], [0.0, 1, 5, 4, 1], [0.0, 5, 5, 1, 1]])
def test_regions_of_negative_size_are_zero(mode, roi):
    """mmcv's kernel takes no sample; torchvision's ends with an error about a vector."""
    source = features(1, 2, 6, 6).requires_grad_()
    out = ops.RoIAlign(2, 1.0, 0, mode)(source, torch.tensor([roi]))
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), source)[0].any()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_threads_change_nothing(mode, monkeypatch):
    """Neither a value nor a gradient, with a rest of regions that fills no thread's share."""
    source, rois = features(3, 2, 7, 11), random_rois(101, 3, 20, seed=4)
    layer = ops.RoIAlign((3, 2), 0.5, 0, mode)

    def run(threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        leaf = source.clone().requires_grad_()
        out = layer(leaf, rois)
        out.square().sum().backward()
        return out.detach(), leaf.grad

    alone, together = run(1), run(3)
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
