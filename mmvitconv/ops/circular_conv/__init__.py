"""Circular convolution along one axis with a kernel as long as the axis (ParC, arXiv:2203.03952).

``y[i] = b + sum_k w[k] x[(i + k) mod n]``: a correlation whose first tap sits on the output
position. Written out it costs n products for each output; by the Fourier transform log n
(Fast-ParC, arXiv:2210.04020). Four exact forms, none of which is best everywhere, a module each:

========== =====================================================================================
concat     append all rows but the last to the map, then torch's convolution
circulant  a product with the n x n matrix of shifted kernels, which all images share
fft        real FFT, product with the conjugate spectrum, inverse FFT; in float32 or better
dft        the same transform as two matrix products: any precision, exports everywhere
========== =====================================================================================
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmvitconv.ops.circular_conv import circulant, concat, dft, fft
from mmvitconv.ops.circular_conv.circulant import circulant_matrix
from mmvitconv.ops.circular_conv.rules import FORMS, RULES, Rule, choose_form
from mmvitconv.ops.precision import compute_dtype, without_autocast
from mmvitconv.ops.traced import as_one_node, is_exported, is_traced

__all__ = [
    "ALGORITHMS",
    "RULES",
    "Rule",
    "check_algorithm",
    "circulant_matrix",
    "circular_conv",
    "circular_conv_pair",
]


ALGORITHMS = FORMS
_MODULES = dict(zip(FORMS, (concat, circulant, fft, dft), strict=True))
_ENVIRONMENT = "MMVITCONV_CIRCULAR_CONV"
_AXES = {"H": 2, "W": 3, 2: 2, 3: 3, -2: 2, -1: 3}
_HALF = (torch.float16, torch.bfloat16)


@as_one_node
def circular_conv(
    x: Tensor, weight: Tensor, dim: int | str, bias: Tensor | None = None, algorithm: str = "auto"
) -> Tensor:
    """Convolve a map circularly along its height or its width.

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
    axis = _axis(dim)
    taps, dense = _taps(weight, axis, x.shape)
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    dtype = compute_dtype(x)
    use = "training" if needs_grad else "inference"
    form = _MODULES[_choose(x, taps.shape, axis, dense, use, algorithm)]
    with without_autocast(x):
        x, taps, bias = x.to(dtype), taps.to(dtype), None if bias is None else bias.to(dtype)
        # Compilers, exporters and torch.func see the formula; so does autograd where the form has
        # no backward pass of its own.
        if needs_grad and form in (circulant, fft) and not (dense or x.is_meta or is_traced()):
            out = _DepthwiseFunction.apply(x, taps, axis, form)
        elif form is concat:
            return concat.multiply(x, concat.prepare(taps, axis, dense), axis, dense, bias)
        else:
            out = form.multiply(x, form.prepare(taps, axis, dense), axis, dense)
        return out if bias is None else out + bias.view(-1, 1, 1)


class _DepthwiseFunction(torch.autograd.Function):
    """A depth-wise form that keeps the map and the kernel, and nothing in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, axis: int, form: ModuleType) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.axis, ctx.form = axis, form
        return form.multiply(x, form.prepare(taps, axis, False), axis, False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, taps = ctx.saved_tensors
        grad_x = grad_taps = None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:  # the same with the kernel running backwards
            backwards = taps.flip(-1).roll(1, -1)
            if torch.is_grad_enabled():  # for a second derivative
                grad_x = _DepthwiseFunction.apply(grad, backwards, ctx.axis, ctx.form)
            else:
                prepared = ctx.form.prepare(backwards, ctx.axis, False)
                grad_x = ctx.form.multiply(grad, prepared, ctx.axis, False)
        if ctx.needs_input_grad[1]:
            grad_taps = ctx.form.taps_gradient(grad, x, ctx.axis).to(taps.dtype)
        return grad_x, grad_taps, None, None


def circular_conv_pair(
    x: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    bias: Tensor | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolve depth-wise and circularly along the height, then along the width.

    Together a circular convolution of the plane with a kernel of rank one, whose spectrum is the
    product of the two spectra.

    Args:
        x: Input, shape (B, C, H, W).
        weight_h: Kernel, shape (C, H) or (C, 1, H, 1).
        weight_w: Kernel, shape (C, W) or (C, 1, 1, W).
        bias: Shape (C,), or None.
        algorithm: ``'fft2'`` for one Fourier transform of the plane; ``'auto'`` for it where both
            axes would take the FFT; otherwise that of the two passes, as in :func:`circular_conv`.

    Returns:
        Tensor of shape (B, C, H, W) in x's dtype; under autocast in autocast's.

    Raises:
        ValueError: As in :func:`circular_conv`.
    """
    if algorithm == "auto":
        use = "training" if torch.is_grad_enabled() and x.requires_grad else "inference"
        both = {
            _choose(x, (x.shape[1], x.shape[axis]), axis, False, use, algorithm) for axis in (2, 3)
        }
        is_fast = all(fft.transform_length(n) == n for n in x.shape[2:])
        algorithm = "fft2" if both == {"fft"} and is_fast else "auto"
    if algorithm != "fft2":
        x = circular_conv(x, weight_h, "H", None, algorithm)
        return circular_conv(x, weight_w, "W", bias, algorithm)
    taps_h, _ = _taps(weight_h, 2, x.shape)
    taps_w, _ = _taps(weight_w, 3, x.shape)
    dtype = compute_dtype(x)
    with without_autocast(x):
        x, taps_h, taps_w = (t.float() if dtype in _HALF else t.to(dtype) for t in
                             (x, taps_h, taps_w))  # fmt: skip
        # The real transform is along the width, so the height's spectrum has both halves.
        spectrum = torch.fft.fft(taps_h.unsqueeze(2), dim=1) * torch.fft.rfft(taps_w.unsqueeze(1))
        out = torch.fft.irfft2(torch.fft.rfft2(x) * spectrum.conj(), s=x.shape[2:]).to(dtype)
        return out if bias is None else out + bias.to(dtype).view(-1, 1, 1)


def _axis(dim: int | str) -> int:
    if dim not in _AXES:
        raise ValueError(f"dim must be 'H' (2, -2) or 'W' (3, -1), got {dim!r}")
    return _AXES[dim]


def _taps(weight: Tensor, axis: int, shape: tuple[int, ...]) -> tuple[Tensor, bool]:
    """Return the kernel as (C, n) or (D, C, n), and whether it is dense, for a map's shape."""
    taps = weight
    if weight.dim() == 4 and weight.shape[5 - axis] == 1:
        taps = weight.flatten(2)  # squeeze() becomes a decision in exported graphs
        if weight.shape[1] == 1 and weight.shape[0] == shape[1]:
            taps = taps.flatten(0, 1)
    elif weight.dim() != 2:
        kernel = "(C, 1, n, 1) or (D, C, n, 1)" if axis == 2 else "(C, 1, 1, n) or (D, C, 1, n)"
        raise ValueError(
            f"a kernel along {'HW'[axis - 2]} must have shape (C, n), {kernel}, got "
            f"{tuple(weight.shape)}"
        )
    if taps.shape[-1] != shape[axis] or taps.shape[-2] != shape[1]:
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} does not fit an input of shape "
            f"{tuple(shape)} along {'HW'[axis - 2]}; it must have {shape[1]} channels and "
            f"{shape[axis]} taps, so interpolate it first"
        )
    return taps, taps.dim() == 3


def check_algorithm(algorithm: str) -> None:
    """Raise a ValueError unless the algorithm is known."""
    if algorithm not in ("auto", *ALGORITHMS):
        raise ValueError(
            f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)} as the "
            f"argument or in {_ENVIRONMENT}, or 'auto' for the measured rules"
        )


def _choose(
    x: Tensor, taps_shape: tuple[int, ...], axis: int, dense: bool, use: str, algorithm: str
) -> str:
    """Return the algorithm for a map and a kernel of shape (C, n) or (D, C, n)."""
    use = "export" if is_exported() else use
    if algorithm == "auto" and use != "export":
        algorithm = os.environ.get(_ENVIRONMENT) or "auto"
    check_algorithm(algorithm)
    if use != "export" and x.shape[0] == 0:  # no FFT takes an empty batch
        return "concat"
    if algorithm != "auto":
        return algorithm
    # A compiler traces through the cache anyway, and says so at length.
    traced = is_traced()
    choose = choose_form.__wrapped__ if traced else choose_form
    # Half the channels of a map in channels_last are contiguous in no format.
    channels_last = not traced and x.stride(1) == 1 and x.stride(3) != 1
    facts = (axis, dense, use, channels_last)
    return choose(x.device.type, compute_dtype(x), x.shape[0], taps_shape, *facts)
