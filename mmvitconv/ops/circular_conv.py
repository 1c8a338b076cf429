"""Circular convolution along one axis with a kernel as long as the axis (ParC, arXiv:2203.03952).

``y[i] = b + sum_k w[k] x[(i + k) mod n]``: a correlation whose first tap sits on the output
position. Written out it costs n products for each output; by the Fourier transform log n
(Fast-ParC, arXiv:2210.04020). Four exact forms, none of which is best everywhere:

========== =====================================================================================
concat     the map with all but its last row appended, then torch's convolution
circulant  a product with the n x n matrix of shifted kernels, made once for all images
fft        real FFT, product with the conjugate spectrum, inverse FFT; at least float32
dft        the same transform as two matrix products: any precision, exports everywhere
========== =====================================================================================
"""

import math
import os
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rule(NamedTuple):
    """Which algorithm a circular convolution takes.

    Args:
        device: Device type, or ``'*'`` for any.
        dense: Whether the kernel mixes channels.
        training: Whether a gradient is needed.
        max_length: Longest axis that the rule is for.
        algorithm: One of ``ALGORITHMS``.
    """

    device: str
    dense: bool
    training: bool
    max_length: float
    algorithm: str


# The first rule that fits decides. CPU: one thread of an AVX-512 machine, float32, batch 2, lengths
# 7 to 224 and 64 to 384 channels (section 8 of the specification). Nothing was measured on GPUs.
RULES = (
    Rule("*", False, False, 56, "circulant"),
    Rule("*", False, True, 56, "circulant"),
    Rule("*", False, False, math.inf, "fft"),
    Rule("*", False, True, math.inf, "fft"),
    Rule("*", True, False, 10, "concat"),
    Rule("*", True, True, 10, "concat"),
    Rule("*", True, False, math.inf, "fft"),
    Rule("*", True, True, math.inf, "fft"),
)
ALGORITHMS = ("concat", "circulant", "fft", "dft")
_ENVIRONMENT = "MMVITCONV_CIRCULAR_CONV"
_AXES = {"H": 2, "W": 3, 2: 2, 3: 3, -2: 2, -1: 3}


def circular_conv(
    x: Tensor, weight: Tensor, dim: int | str, bias: Tensor | None = None, algorithm: str = "auto"
) -> Tensor:
    """Circular convolution along the height or the width of a map.

    Args:
        x: Input, shape (B, C, H, W).
        weight: Kernel as long as the axis, n. Depth-wise: (C, n), (C, 1, n, 1) along the height,
            or (C, 1, 1, n) along the width. Dense: (D, C, n, 1) or (D, C, 1, n).
        dim: ``'H'`` (2 or -2) or ``'W'`` (3 or -1).
        bias: Shape (C,) or (D,), or None.
        algorithm: ``'concat'``, ``'circulant'``, ``'fft'`` or ``'dft'``; ``'auto'`` for the
            environment variable MMVITCONV_CIRCULAR_CONV, and without it for ``RULES``.

    Returns:
        Tensor of shape (B, C or D, H, W) in x's dtype; under autocast in autocast's.

    Raises:
        ValueError: Unknown ``dim`` or ``algorithm``, or a kernel of another length than the axis.
    """
    if dim not in _AXES:
        raise ValueError(f"dim={dim!r} is illegal; give 'H' (2, -2) or 'W' (3, -1)")
    axis = _AXES[dim]
    length = x.shape[axis]
    taps, dense = _taps(weight, axis)
    channels = taps.shape[1] if dense else taps.shape[0]
    if taps.shape[-1] != length or channels != x.shape[1]:
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} does not fit an input of shape "
            f"{tuple(x.shape)} along {'HW'[axis - 2]}; it must have {x.shape[1]} channels and "
            f"{length} taps, so interpolate it first"
        )
    compute = _FORMS[_choose(x, weight, length, dense, algorithm)]
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    with torch.autocast(x.device.type, enabled=False):
        out = compute(x.to(dtype), taps.to(dtype), axis, dense).to(dtype)
    return out if bias is None else out + bias.to(dtype).view(-1, 1, 1)


def _taps(weight: Tensor, axis: int) -> tuple[Tensor, bool]:
    """Kernel of shape (C, n) or (D, C, n), and whether it is dense."""
    if weight.dim() == 2:
        return weight, False
    if weight.dim() != 4 or weight.shape[5 - axis] != 1:
        kernel = "(C, 1, n, 1) or (D, C, n, 1)" if axis == 2 else "(C, 1, 1, n) or (D, C, 1, n)"
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} is illegal along {'HW'[axis - 2]}; give "
            f"(C, n), {kernel}"
        )
    taps = weight.squeeze(5 - axis)
    return (taps.squeeze(1), False) if weight.shape[1] == 1 else (taps, True)


def _choose(x: Tensor, weight: Tensor, length: int, dense: bool, algorithm: str) -> str:
    if algorithm == "auto":
        algorithm = os.environ.get(_ENVIRONMENT) or "auto"
    if algorithm != "auto":
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)} as "
                f"argument or in {_ENVIRONMENT}, or 'auto' for the measured rules"
            )
        return algorithm
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return next(
        rule.algorithm
        for rule in RULES
        if rule.device in ("*", x.device.type)
        and (rule.dense, rule.training) == (dense, training)
        and length <= rule.max_length
    )


def _concat(x: Tensor, taps: Tensor, axis: int, dense: bool) -> Tensor:
    length = x.shape[axis]
    x = torch.cat([x, x.narrow(axis, 0, length - 1)], dim=axis)
    weight = (taps if dense else taps.unsqueeze(1)).unsqueeze(5 - axis)
    return F.conv2d(x, weight, groups=1 if dense else x.shape[1])


def circulant_matrix(taps: Tensor) -> Tensor:
    """The matrix whose product with a signal is its circular convolution.

    Args:
        taps: Kernel, shape (..., n).

    Returns:
        Shape (..., n, n); row i, column m holds ``taps[(m - i) mod n]``.
    """
    length = taps.shape[-1]
    # Row i is a window of the doubled kernel that starts n - i places in: no scattered gradient.
    doubled = torch.cat([taps, taps], dim=-1)[..., 1:]
    return doubled.unfold(-1, length, 1).flip(-2)


def _circulant(x: Tensor, taps: Tensor, axis: int, dense: bool) -> Tensor:
    matrix = circulant_matrix(taps)
    if dense:
        equation = "dcim,bcmj->bdij" if axis == 2 else "dcim,bcjm->bdji"
        return torch.einsum(equation, matrix, x)
    return matrix @ x if axis == 2 else x @ matrix.transpose(-2, -1)


def _fft(x: Tensor, taps: Tensor, axis: int, dense: bool) -> Tensor:
    length = x.shape[axis]
    if x.dtype not in (torch.float32, torch.float64):  # no FFT has them at every length
        x, taps = x.float(), taps.float()
    spectrum = torch.fft.rfft(x, dim=axis)
    if dense:
        kernel = torch.fft.rfft(taps).conj()
        equation = "dcf,bcfj->bdfj" if axis == 2 else "dcf,bcjf->bdjf"
        spectrum = torch.einsum(equation, kernel, spectrum)
    else:  # axes are added to the real taps: exporters do not reshape complex tensors
        spectrum = spectrum * torch.fft.rfft(taps.unsqueeze(5 - axis - 1), dim=axis - 1).conj()
    return torch.fft.irfft(spectrum, n=length, dim=axis)


def _dft(x: Tensor, taps: Tensor, axis: int, dense: bool) -> Tensor:
    dtype = x.dtype
    forward, backward = _dft_matrices(x.shape[axis], x)
    x = x.movedim(axis, -1)
    real, imag = (x @ forward).chunk(2, dim=-1)
    kernel_real, kernel_imag = (taps @ forward).chunk(2, dim=-1)
    if dense:
        equation = "dcf,bcjf->bdjf"
        product = (
            torch.einsum(equation, kernel_real, real) + torch.einsum(equation, kernel_imag, imag),
            torch.einsum(equation, kernel_real, imag) - torch.einsum(equation, kernel_imag, real),
        )
    else:
        kernel_real, kernel_imag = kernel_real.unsqueeze(1), kernel_imag.unsqueeze(1)
        product = (
            real * kernel_real + imag * kernel_imag,
            imag * kernel_real - real * kernel_imag,
        )
    return (torch.cat(product, dim=-1) @ backward).to(dtype).movedim(-1, axis)


def _dft_matrices(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Real DFT (n, 2m) with m = n // 2 + 1: cosines, then minus sines; and its inverse (2m, n)."""
    position = torch.arange(length, device=like.device, dtype=torch.float64)
    frequency = torch.arange(length // 2 + 1, device=like.device, dtype=torch.float64)
    # The product modulo n keeps the angle exact for long axes.
    angle = torch.outer(position, frequency).remainder(length) * (2 * math.pi / length)
    forward = torch.cat([angle.cos(), -angle.sin()], dim=1)
    # Frequencies 0 and n / 2 stand for themselves, the others for their conjugates too.
    counts = torch.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0).double() / length
    backward = forward.t() * torch.cat([counts, counts]).unsqueeze(1)
    return forward.to(like.dtype), backward.to(like.dtype)


_FORMS = {"concat": _concat, "circulant": _circulant, "fft": _fft, "dft": _dft}
