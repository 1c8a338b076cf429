"""Convolution along one axis with a kernel of 2n - 1 taps and zeros outside (ParCNetV2's).

``y[i] = b + sum_m w[m - i + n - 1] x[m]`` (arXiv:2211.07157): every pair of positions has a weight
of its own, so that no position embedding is needed.
"""

import os

import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.circular_conv import circular_conv
from mmvitconv.ops.circular_conv.circulant import multiply_axis, toeplitz_matrix
from mmvitconv.ops.precision import compute_dtype, without_autocast
from mmvitconv.ops.traced import as_one_node, is_traced

ALGORITHMS = ("direct", "toeplitz", "fft")
_ENVIRONMENT = "MMVITCONV_OVERSIZE_CONV"
# Longest axis for which the product with the n x n matrix is faster than the FFT (two cores of an
# AVX-512 machine, float32).
_TOEPLITZ_LENGTH = 256


@as_one_node
def oversize_conv(
    x: Tensor, weight: Tensor, dim: str, bias: Tensor | None = None, algorithm: str = "auto"
) -> Tensor:
    """Convolve depth-wise along the height or the width, with zeros outside the map.

    Args:
        x: Input, shape (B, C, H, W).
        weight: Kernel, shape (C, 1, 2n - 1, 1) for ``'H'`` or (C, 1, 1, 2n - 1) for ``'W'``; n need
            not be the map's: taps that reach outside meet zeros, and missing ones count as zero.
        dim: ``'H'`` or ``'W'``.
        bias: Shape (C,), or None.
        algorithm: ``'direct'`` (torch's convolution), ``'toeplitz'`` (a product with the matrix of
            shifted kernels), ``'fft'``, or ``'auto'`` for the environment variable
            MMVITCONV_OVERSIZE_CONV, and without it by length and device.

    Returns:
        Shape (B, C, H, W).

    Raises:
        ValueError: Unknown ``dim`` or ``algorithm``, or a kernel of an illegal shape.
    """
    if dim not in ("H", "W"):
        raise ValueError(f"dim must be 'H' or 'W', got {dim!r}")
    axis = 2 if dim == "H" else 3
    channels, length = x.shape[1], x.shape[axis]
    taps = weight.shape[axis] if weight.dim() == 4 else 0
    if weight.dim() != 4 or weight.numel() != channels * taps or taps % 2 == 0:
        kernel = f"({channels}, 1, 2n - 1, 1)" if dim == "H" else f"({channels}, 1, 1, 2n - 1)"
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} does not fit an input of shape "
            f"{tuple(x.shape)} along {dim}; it must have shape {kernel}"
        )
    algorithm = _choose(x, length, algorithm)
    if algorithm == "direct":
        padding = (taps // 2, 0) if dim == "H" else (0, taps // 2)
        return F.conv2d(x, weight, bias, padding=padding, groups=channels)
    # Exactly the 2 * length - 1 taps that can meet the map, missing ones as zeros.
    excess = length - 1 - taps // 2
    diagonals = F.pad(weight.flatten(1), (excess, excess))
    dtype = compute_dtype(x)
    with without_autocast(x):
        x, diagonals = x.to(dtype), diagonals.to(dtype)
        if algorithm == "toeplitz":
            out = multiply_axis(x, toeplitz_matrix(diagonals), axis)
        else:  # zeros in front of the map make the convolution circular
            front = (0, 0, length - 1, 0) if dim == "H" else (length - 1, 0)
            out = circular_conv(F.pad(x, front), diagonals, dim, algorithm="fft")
            out = out.narrow(axis, 0, length)
        return out if bias is None else out + bias.to(dtype).view(-1, 1, 1)


def _choose(x: Tensor, length: int, algorithm: str) -> str:
    if algorithm == "auto":
        algorithm = os.environ.get(_ENVIRONMENT) or "auto"
    if algorithm != "auto":
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)} as "
                f"argument or in {_ENVIRONMENT}, or 'auto' for the measured rule"
            )
        return algorithm
    if x.is_meta or is_traced() or x.shape[0] == 0:
        return "direct"
    return "toeplitz" if length <= _TOEPLITZ_LENGTH else "fft"
