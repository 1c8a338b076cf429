"""Deformable convolution and attention against loops."""

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
from operator_inputs import features, generator, random_rois
from torch.nn import functional as F

from mmvitconv.errors import UserError


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


def test_modulated_offsets_of_a_finer_level():
    """Any size is read as mmcv's kernels do: the first numbers of each image, output by output."""
    geometry = ((1, 1), (1, 1), (1, 1), 1, 2)
    x, offset, mask, weight, bias = deform_inputs(geometry)
    finer = features(2, 24, 11, 12, seed=8, dtype=torch.float64)
    finer_mask = torch.rand(2, 15, 9, 9, generator=generator(9), dtype=torch.float64)
    for image in range(2):
        offset[image] = finer[image].flatten()[: offset[0].numel()].view(offset.shape[1:])
        mask[image] = finer_mask[image].flatten()[: mask[0].numel()].view(mask.shape[1:])
    results = []
    for shifts, factors in ((offset, mask), (finer, finer_mask)):
        leaves = [tensor.requires_grad_() for tensor in (x, shifts, factors, weight, bias)]
        out = ops.modulated_deform_conv2d(*leaves, *geometry)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for index, (plain, read) in enumerate(zip(*results, strict=True)):
        if index in (2, 3):  # offsets and masks: what is not read has no gradient
            wanted = plain.flatten(1)
            assert not read.flatten(1)[:, wanted.shape[1] :].any()
            plain, read = wanted, read.flatten(1)[:, : wanted.shape[1]]
        assert torch.equal(plain, read)


def test_modulated_offsets_that_are_too_few_are_named():
    x, weight = features(1, 2, 6, 6), features(2, 2, 3, 3)
    mask = torch.ones(1, 9, 3, 3)
    with pytest.raises(UserError, match=r"offsets of shape \(1, 18, 3, 3\).*1 x 18 x 4 x 4"):
        ops.modulated_deform_conv2d(x, features(1, 18, 3, 3), mask, weight)
    with pytest.raises(UserError, match=r"masks of shape \(1, 9, 3, 3\).*1 x 9 x 4 x 4"):
        ops.modulated_deform_conv2d(x, features(1, 18, 4, 4), mask, weight)


def loop_offset_gradient(x, offset, mask, weight, stride, padding, dilation, dgroups):
    """Gradient of the output's sum: the slope of the cell that a sample lies in, 0 outside."""
    kernel_h, kernel_w = weight.shape[2:]
    grad = np.zeros(offset.shape)
    total = weight.sum(0)  # of all output channels
    for b, c, u, v, i, j in np.ndindex(*x.shape[:2], kernel_h, kernel_w, *offset.shape[2:]):
        at = (c // (x.shape[1] // dgroups) * kernel_h + u) * kernel_w + v
        y = i * stride[0] - padding[0] + u * dilation[0] + offset[b, 2 * at, i, j]
        z = j * stride[1] - padding[1] + v * dilation[1] + offset[b, 2 * at + 1, i, j]
        if not (-1 < y < x.shape[2] and -1 < z < x.shape[3]):
            continue
        top, left = math.floor(y), math.floor(z)
        plane = np.pad(x[b, c], 1)
        cell = plane[top + 1 : top + 3, left + 1 : left + 3]
        factor = total[c, u, v] * mask[b, at, i, j]
        over, down = z - left, y - top
        grad[b, 2 * at, i, j] += factor * ((cell[1] - cell[0]) @ (1 - over, over))
        grad[b, 2 * at + 1, i, j] += factor * ((1 - down, down) @ (cell[:, 1] - cell[:, 0]))
    return grad


@pytest.mark.parametrize("geometry", [GEOMETRIES[0], GEOMETRIES[2]])
def test_gradient_of_offsets_on_the_grid(geometry):
    """Samples on pixels and on the border -1, where mmcv's gradient is 0."""
    x, offset, mask, weight, _ = deform_inputs(geometry)
    stride, padding, dilation, _, dgroups = geometry
    offset = offset.round().requires_grad_()
    ones = torch.ones_like(mask)
    for factors in (mask, None):
        if factors is None:
            out, factors = ops.deform_conv2d(x, offset, weight, *geometry), ones
        else:
            out = ops.modulated_deform_conv2d(x, offset, factors, weight, None, *geometry)
        (grad,) = torch.autograd.grad(out.sum(), offset)
        arrays = [t.detach().numpy() for t in (x, offset, factors, weight)]
        expected = loop_offset_gradient(*arrays, stride, padding, dilation, dgroups)
        assert grad.numpy() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_without_a_place_are_zero(value):
    x, offset, mask, weight, bias = deform_inputs(GEOMETRIES[0])
    offset[0] = value
    offset.requires_grad_()
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *GEOMETRIES[0])
    assert torch.equal(out[0], bias[:, None, None].expand_as(out[0]))
    assert not torch.autograd.grad(out.sum(), offset)[0][0].any()


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
