"""ParCNetV2's oversize convolution: the plain convolution in all its forms."""

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_same_gradients

from mmvitconv.ops import oversize_conv
from mmvitconv.ops.oversize_conv import ALGORITHMS


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("dim", ["H", "W"])
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (3, 12), (40, 33)])
@pytest.mark.parametrize("length", [1, 5, 14])
def test_equals_the_padded_convolution(length: int, size, dim: str, algorithm: str):
    torch.manual_seed(0)
    taps = 2 * length - 1
    shape = (4, 1, taps, 1) if dim == "H" else (4, 1, 1, taps)
    leaves = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, *size), shape, 4)
    ]
    padding = (length - 1, 0) if dim == "H" else (0, length - 1)
    expected = F.conv2d(*leaves, padding=padding, groups=4)
    out = oversize_conv(leaves[0], leaves[1], dim, leaves[2], algorithm)
    assert_same_gradients(out, expected, leaves)
    with torch.no_grad():
        out = oversize_conv(leaves[0], leaves[1], dim, leaves[2], algorithm)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, algorithm: str):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(4, 1, 11, 1) / 3
    expected = oversize_conv(x, weight, "H")
    with torch.autocast("cpu", dtype):
        out = oversize_conv(x, weight, "H", algorithm=algorithm)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("shape", "dim", "algorithm", "message"),
    [
        ((4, 1, 7, 1), "D", "auto", "dim must be 'H' or 'W', got 'D'"),
        (
            (4, 1, 7, 1),
            "W",
            "auto",
            r"does not fit .* along W; it must have shape \(4, 1, 1, 2n - 1\)",
        ),
        ((4, 1, 6, 1), "H", "auto", r"must have shape \(4, 1, 2n - 1, 1\)"),
        ((3, 1, 7, 1), "H", "auto", "does not fit"),
        ((4, 1, 7, 1), "H", "ntt", "algorithm='ntt' is unknown; give one of direct"),
    ],
)
def test_wrong_arguments(shape, dim: str, algorithm: str, message: str):
    with pytest.raises(ValueError, match=message):
        oversize_conv(torch.randn(1, 4, 5, 5), torch.randn(shape), dim, algorithm=algorithm)
