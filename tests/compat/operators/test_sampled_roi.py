"""Rotated RoIAlign and deformable RoI pooling against loops, through mmcv.ops."""

import math

import numpy as np
import pytest
import torch
from mmcv import ops
from operator_inputs import bilinear, features, generator, random_rois

from mmvitconv.compat.operators import shared
from mmvitconv.errors import UserError


def rotated_rois(count: int, images: int, size: float, seed: int, dtype=torch.float64):
    image = torch.randint(images, (count, 1), generator=generator(seed)).to(dtype)
    numbers = torch.rand(count, 5, generator=generator(seed + 1), dtype=dtype)
    return torch.cat((image, numbers * torch.tensor([size, size, size, size, 7.0])), dim=1)


def loop_pool(source, rois, size, bins, ratio, place):
    """Average the samples of each bin; place(r, p, q, y, x) says where one lies."""
    out = np.zeros((len(rois), source.shape[1], *bins))
    for r, c, p, q in np.ndindex(out.shape):
        high, wide = size[r]
        rows = ratio or math.ceil(high / bins[0])
        columns = ratio or math.ceil(wide / bins[1])
        values = []
        for i in range(rows):
            for j in range(columns):
                y = (p + (i + 0.5) / rows) * high / bins[0]
                x = (q + (j + 0.5) / columns) * wide / bins[1]
                values.append(bilinear(source[int(rois[r][0]), c], *place(r, p, q, y, x)))
        out[r, c, p, q] = sum(values) / max(len(values), 1)
    return out


def loop_rotated(source, rois, bins, scale, ratio, aligned, clockwise):
    shift = 0.5 if aligned else 0.0
    size = [(roi[4] * scale, roi[3] * scale) for roi in rois]
    if not aligned:
        size = [(max(high, 1.0), max(wide, 1.0)) for high, wide in size]

    def place(r, p, q, y, x):
        y, x = y - size[r][0] / 2, x - size[r][1] / 2
        angle = -rois[r][5] if clockwise else rois[r][5]
        point = complex(x, -y) * complex(math.cos(angle), math.sin(angle))  # y points down
        return rois[r][2] * scale - shift - point.imag, rois[r][1] * scale - shift + point.real

    return loop_pool(source, rois, size, bins, ratio, place)


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("bins", "scale", "ratio"), [((3, 2), 1.0, 0), ((1, 4), 0.37, 2)])
def test_rotated_roi_align_is_the_loop(bins, scale, ratio, aligned, clockwise):
    source = features(3, 2, 7, 11, dtype=torch.float64)
    rois = rotated_rois(8, 3, 15, seed=1)
    rois[0, 3] = 0  # no width
    layer = ops.RoIAlignRotated(bins, scale, ratio, aligned, clockwise)
    arguments = (source.numpy(), rois.tolist(), bins, scale, ratio, aligned, clockwise)
    assert layer(source, rois).numpy() == pytest.approx(loop_rotated(*arguments), abs=1e-12)


def test_upright_rotated_roi_align_is_roi_align():
    source, rois = features(2, 3, 9, 9, dtype=torch.float64), random_rois(6, 2, 20, 3).double()
    centre, size = (rois[:, 1:3] + rois[:, 3:]) / 2, rois[:, 3:] - rois[:, 1:3]
    rotated = torch.cat((rois[:, :1], centre, size, torch.zeros(6, 1)), dim=1)
    expected = ops.RoIAlign(3, 0.5, 2)(source, rois)
    out = ops.RoIAlignRotated(3, 0.5, 2)(source, rotated)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def loop_deformable(source, rois, offset, bins, scale, ratio, gamma):
    size = [((roi[4] - roi[2]) * scale, (roi[3] - roi[1]) * scale) for roi in rois]

    def place(r, p, q, y, x):
        y, x = rois[r][2] * scale - 0.5 + y, rois[r][1] * scale - 0.5 + x
        if offset is None:
            return y, x
        return (
            y + gamma * size[r][0] * offset[r, 1, p, q],
            x + gamma * size[r][1] * offset[r, 0, p, q],
        )

    return loop_pool(source, rois, size, bins, ratio, place)


@pytest.mark.parametrize("with_offset", [True, False])
@pytest.mark.parametrize(("bins", "scale", "ratio"), [((3, 2), 1.0, 0), ((1, 4), 0.37, 2)])
def test_deformable_roi_pool_is_the_loop(bins, scale, ratio, with_offset):
    source = features(3, 2, 7, 11, dtype=torch.float64)
    rois = random_rois(8, 3, 20, seed=2, dtype=torch.float64)
    rois[0, 3] = rois[0, 1]  # no width
    offset = features(8, 2, *bins, seed=3, dtype=torch.float64) if with_offset else None
    out = ops.deform_roi_pool(source, rois, offset, bins, scale, ratio, 0.4)
    shifts = None if offset is None else offset.numpy()
    expected = loop_deformable(source.numpy(), rois.tolist(), shifts, bins, scale, ratio, 0.4)
    assert out.numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients(ratio):
    source = features(2, 2, 6, 7, seed=3, dtype=torch.float64).requires_grad_()
    rotated = ops.RoIAlignRotated((3, 2), 0.7, ratio, True, True)
    rois = rotated_rois(5, 2, 9, seed=4)
    assert torch.autograd.gradcheck(lambda x: rotated(x, rois), (source,))
    rois = random_rois(5, 2, 9, seed=5, dtype=torch.float64)
    offset = features(5, 2, 3, 2, seed=6, dtype=torch.float64).requires_grad_()
    for leaves in ((source, offset), (source,)):
        assert torch.autograd.gradcheck(
            lambda x, o=None: ops.deform_roi_pool(x, rois, o, (3, 2), 0.7, ratio, 0.1), leaves
        )


def test_parts_give_the_same(monkeypatch):
    rois, offset = random_rois(12, 2, 9, 5), features(12, 2, 3, 3, seed=1)
    results = []
    for at_once in (shared.SAMPLES_AT_ONCE, 1):
        monkeypatch.setattr(shared, "SAMPLES_AT_ONCE", at_once)
        leaves = features(2, 3, 9, 9).requires_grad_(), offset.clone().requires_grad_()
        out = ops.deform_roi_pool(leaves[0], rois, leaves[1], (3, 3))
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_no_rois(dtype):
    source = features(2, 3, 8, 8).to(dtype).requires_grad_()
    rois = torch.tensor([[0, 4, 4, 5, 6, 1], [1, 2, 2, 3, 4, 2]], dtype=dtype)
    for layer, regions in (
        (ops.RoIAlignRotated(3, 1.0), rois),
        (ops.DeformRoIPoolPack((3, 3), 3, 8).to(dtype), rois[:, :5]),
    ):
        out = layer(source, regions)
        assert out.dtype == dtype
        assert torch.autograd.grad(out.float().sum(), source)[0].isfinite().all()
    empty = ops.RoIAlignRotated(3, 1.0)(source, rois[:0])
    assert empty.shape == (0, 3, 3, 3)
    assert not torch.autograd.grad(empty.sum(), source)[0].any()


def test_impossible_rois_are_named():
    source = features(1, 2, 5, 5)
    with pytest.raises(UserError, match="'deform_roi_pool' was given 1 impossible"):
        ops.deform_roi_pool(source, torch.tensor([[0, 1, 1, math.nan, 4]]), None, (2, 2))
    with pytest.raises(UserError, match="'roi_align_rotated' was given 1 impossible"):
        ops.RoIAlignRotated(2, 1.0)(source, torch.tensor([[1.0, 1, 1, 3, 4, 0]]))


def test_regions_of_negative_size_are_zero():
    source = features(1, 2, 6, 6).requires_grad_()
    for roi in ([0.0, 3, 3, -3, 4, 1], [0.0, 3, 3, 3, -4, 1], [0.0, 3, 3, -3, -4, 1]):
        out = ops.RoIAlignRotated(2, 1.0)(source, torch.tensor([roi]))
        assert not out.any()
        assert not torch.autograd.grad(out.sum(), source)[0].any()
