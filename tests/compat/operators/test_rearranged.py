"""CARAFE, masked convolution and PSANet's masks against loops, through mmcv.ops."""

import numpy as np
import pytest
import torch
from mmcv import _ext, ops
from operator_inputs import features, generator
from torch.nn import functional as F


def loop_carafe(source, masks, kernel, groups, scale):
    batch, channels, height, width = source.shape
    out = np.zeros((batch, channels, height * scale, width * scale))
    for b, c, y, x in np.ndindex(out.shape):
        for i in range(kernel):
            for j in range(kernel):
                row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
                if 0 <= row < height and 0 <= column < width:
                    group = c // (channels // groups)
                    weight = masks[b, (group * kernel + i) * kernel + j, y, x]
                    out[b, c, y, x] += source[b, c, row, column] * weight
    return out


CARAFES = [(3, 1, 2), (5, 2, 1), (1, 4, 3), (3, 2, 2)]  # kernel, groups, scale


@pytest.mark.parametrize("settings", CARAFES)
@pytest.mark.parametrize("function", [ops.carafe, ops.carafe_naive])
def test_carafe(function, settings):
    kernel, groups, scale = settings
    source = features(2, 4, 3, 5, seed=1, dtype=torch.float64)
    masks = features(2, kernel**2 * groups, 3 * scale, 5 * scale, seed=2, dtype=torch.float64)
    out = function(source, masks, *settings)
    expected = loop_carafe(source.numpy(), masks.numpy(), *settings)
    assert out.numpy() == pytest.approx(expected, abs=1e-12)
    leaves = (source.requires_grad_(), masks.requires_grad_())
    if function is ops.carafe:  # mmcv.ops asks for a GPU where it differentiates the naive one
        assert torch.autograd.gradcheck(lambda *x: function(*x, *settings), leaves)


def test_backward_of_naive_carafe_is_that_of_carafe():
    source, masks = features(1, 2, 3, 3, seed=1), features(1, 9, 6, 6, seed=2)
    leaves = (source.requires_grad_(), masks.requires_grad_())
    out = ops.carafe(*leaves, 3, 1, 2)
    grad = features(*out.shape, seed=3)
    targets = torch.zeros_like(source), torch.zeros_like(masks)
    settings = {"kernel_size": 3, "group_size": 1, "scale_factor": 2}
    _ext.carafe_naive_backward(grad, source, masks, *targets, **settings)
    for target, expected in zip(targets, torch.autograd.grad(out, leaves, grad), strict=True):
        assert torch.equal(target, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_carafe_layer_in_half_precision(dtype):
    torch.manual_seed(0)
    layer = ops.CARAFEPack(8, 2).to(dtype)
    source = features(2, 8, 4, 5).to(dtype).requires_grad_()
    out = layer(source)
    out.float().square().sum().backward()
    assert out.dtype == source.grad.dtype == dtype
    assert out.shape == (2, 8, 8, 10)
    assert source.grad.isfinite().all()


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), 1), ((1, 1), 0), ((3, 2), (1, 2))])
def test_masked_conv_is_a_convolution_where_the_mask_is(kernel, padding):
    source = features(1, 3, 6, 7, seed=1, dtype=torch.float64)
    weight = features(4, 3, *kernel, seed=2, dtype=torch.float64)
    bias = features(4, seed=3, dtype=torch.float64)
    mask = (torch.rand(1, 6, 7, generator=generator(4)) > 0.5).double()
    out = ops.masked_conv2d(source, mask, weight, bias, padding)
    whole = F.conv2d(source, weight, bias, padding=padding)
    positions = F.pad(mask, (0, whole.shape[3] - 7, 0, whole.shape[2] - 6))
    torch.testing.assert_close(out, whole * positions[:, None], rtol=0, atol=1e-12)


def test_masked_conv_without_padding_leaves_out_what_is_outside():
    source, weight = features(1, 2, 5, 5), features(3, 2, 3, 3, seed=1)
    out = ops.masked_conv2d(source, torch.ones(1, 5, 5), weight, torch.zeros(3))
    torch.testing.assert_close(out, F.conv2d(source, weight))
    assert not ops.masked_conv2d(source, torch.zeros(1, 5, 5), weight, torch.zeros(3)).any()


def loop_psa_mask(masks, collects, size):
    batch, _, height, width = masks.shape
    out = np.zeros((batch, height * width, height, width))
    for b, i, j, y, x in np.ndindex(batch, *size, height, width):
        row, column = y + i - (size[0] - 1) // 2, x + j - (size[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            value = masks[b, i * size[1] + j, y, x]
            if collects:
                out[b, row * width + column, y, x] = value
            else:
                out[b, y * width + x, row, column] = value
    return out


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 2), (9, 11), (15, 20)])
def test_psa_mask(kind, size):
    masks = features(2, size[0] * size[1], 4, 5, dtype=torch.float64).requires_grad_()
    layer = ops.PSAMask(kind, size)
    expected = loop_psa_mask(masks.detach().numpy(), kind == "collect", size)
    assert np.array_equal(layer(masks).detach().numpy(), expected)
    if size[0] < 9:
        assert torch.autograd.gradcheck(layer, (masks,))
    last = masks.detach().to(memory_format=torch.channels_last)
    assert torch.equal(layer(last), layer(masks))
