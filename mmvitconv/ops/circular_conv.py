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

A kernel that serves many maps, as in inference, is transformed once: :class:`CircularKernel`.
"""

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmvitconv.ops.precision import compute_dtype, without_autocast
from mmvitconv.ops.traced import is_exported, is_traced


@dataclass(frozen=True)
class Rule:
    """When a circular convolution takes an algorithm; what is left out does not matter.

    Args:
        algorithm: One of ``ALGORITHMS``.
        device: Device type.
        use: ``'training'`` (a gradient is needed), ``'inference'``, ``'prepared'`` (inference by a
            :class:`CircularKernel`) or ``'export'`` (torch.export, ONNX, TorchScript).
        dense: Whether the kernel mixes channels.
        axis: 2 for the height, 3 for the width.
        is_half: Whether it computes in float16 or bfloat16.
        is_fast: Whether the length has small prime factors only, so that its FFT is fast.
        max_length: Longest axis.
        max_batch: Most images.
        max_matrix: Largest circulant in MiB.
    """

    algorithm: str
    device: str | None = None
    use: str | None = None
    dense: bool | None = None
    axis: int | None = None
    is_half: bool | None = None
    is_fast: bool | None = None
    max_length: float = math.inf
    max_batch: float = math.inf
    max_matrix: float = math.inf


# The first rule that fits decides. Measured by tools/analysis_tools/benchmark_ops.py on one and two
# cores with AVX-512 and AMX, float32 and bfloat16, batches of 2 and 16, 32 to 256 channels. Nothing
# was measured on GPUs.
RULES = (
    Rule("concat", device="meta"),  # what is counted is the formula
    Rule("concat", use="export"),  # neither complex numbers nor n x n constants
    Rule("circulant", dense=False, is_half=True, max_length=512, max_matrix=256),
    Rule("circulant", dense=False, axis=2, max_length=192, max_matrix=256),
    Rule("circulant", dense=False, axis=3, max_length=112, max_matrix=256),
    Rule("circulant", dense=False, is_fast=False, max_length=512, max_matrix=256),
    Rule("fft", dense=False),
    Rule("concat", dense=True, max_length=10),
    Rule("concat", dense=True, max_length=20, max_batch=4),
    Rule("fft", dense=True),
)
ALGORITHMS = ("concat", "circulant", "fft", "dft")
_ENVIRONMENT = "MMVITCONV_CIRCULAR_CONV"
_AXES = {"H": 2, "W": 3, 2: 2, 3: 3, -2: 2, -1: 3}
_HALF = (torch.float16, torch.bfloat16)
# Below this length a product for each image costs more than rearranging the batch into one.
_FOLDED_LENGTH = 10
# Spectra of larger maps are made for so many elements at a time: their memory is used again while
# it is in the cache, instead of being asked of the system. CPU only.
_FFT_CHUNK = 1 << 20
# Lengths with other prime factors make the FFT several times slower.
_FAST_FACTORS = (2, 3, 5, 7)


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
            environment variable MMVITCONV_CIRCULAR_CONV, and without it for ``RULES``. For second
            derivatives give ``'concat'`` or ``'dft'``; the others have a first one of their own.

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
    chosen = _choose(x, taps.shape, axis, dense, use, algorithm)
    # A compiler and an exporter see the formula; so does autograd where it has no form of ours.
    with without_autocast(x):
        x, taps = x.to(dtype), taps.to(dtype)
        if needs_grad and chosen in _FUNCTIONS and not (dense or x.is_meta or is_traced()):
            out = _FUNCTIONS[chosen].apply(x, taps, axis)
        else:
            prepare, multiply = _FORMS[chosen]
            out = multiply(x, prepare(taps, axis, dense), axis, dense, None)
        return out if bias is None else out + bias.to(dtype).view(-1, 1, 1)


def circular_conv_pair(
    x: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    bias: Tensor | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Depth-wise circular convolution along the height, then along the width of the same channels.

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
        is_fast = all(_transform_length(n) == n for n in x.shape[2:])
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


class CircularKernel:
    """A kernel and an offset, transformed once for many maps of one size; for inference.

    Args:
        weight: Kernel of four dimensions, as in :func:`circular_conv`, in the dtype to compute in.
        dim: ``'H'`` (2 or -2) or ``'W'`` (3 or -1).
        offset: What to add to the result, shape (D, 1, 1), (D, n, 1) along the height or (D, 1, n)
            along the width, or None.
        algorithm: What :meth:`choose` gave.
        dense: Whether the kernel mixes channels; None finds out, except for a single channel.
    """

    def __init__(
        self,
        weight: Tensor,
        dim: int | str,
        offset: Tensor | None,
        algorithm: str,
        dense: bool | None = None,
    ) -> None:
        self.axis = _axis(dim)
        length = weight.shape[self.axis]
        dense = weight.shape[1] > 1 if dense is None else dense
        taps, self.dense = _taps(weight, self.axis, _map_shape(weight, self.axis, dense, length))
        dense = self.dense
        prepare, self._multiply = _FORMS[algorithm]
        self.operand = prepare(taps, self.axis, dense)
        self.dtype = weight.dtype
        self.offset = offset

    @staticmethod
    def choose(weight: Tensor, x: Tensor, dim: int | str, algorithm: str = "auto") -> str:
        """The algorithm for a map, with a stored kernel of any length along an axis of it."""
        axis = _axis(dim)
        dense = weight.dim() == 4 and weight.shape[1] > 1
        shape = (*weight.shape[: 2 if dense else 1], x.shape[axis])
        return _choose(x, shape, axis, dense, "prepared", algorithm)

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve a map of shape (B, C, H, W)."""
        with without_autocast(x):
            x = x.to(self.dtype)
            return self._multiply(x, self.operand, self.axis, self.dense, self.offset)


def _map_shape(weight: Tensor, axis: int, dense: bool, length: int) -> tuple[int, ...]:
    channels = weight.shape[1] if dense else weight.shape[0]
    return (1, channels, length, 1) if axis == 2 else (1, channels, 1, length)


def _axis(dim: int | str) -> int:
    if dim not in _AXES:
        raise ValueError(f"dim={dim!r} is illegal; give 'H' (2, -2) or 'W' (3, -1)")
    return _AXES[dim]


def _taps(weight: Tensor, axis: int, shape: tuple[int, ...]) -> tuple[Tensor, bool]:
    """Kernel of shape (C, n) or (D, C, n) for a map of this shape, and whether it is dense."""
    taps = weight
    if weight.dim() == 4 and weight.shape[5 - axis] == 1:
        taps = weight.squeeze(5 - axis)
        if weight.shape[1] == 1 and weight.shape[0] == shape[1]:
            taps = taps.squeeze(1)
    elif weight.dim() != 2:
        kernel = "(C, 1, n, 1) or (D, C, n, 1)" if axis == 2 else "(C, 1, 1, n) or (D, C, 1, n)"
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} is illegal along {'HW'[axis - 2]}; give "
            f"(C, n), {kernel}"
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
            f"algorithm={algorithm!r} is unknown; give one of {', '.join(ALGORITHMS)} as "
            f"argument or in {_ENVIRONMENT}, or 'auto' for the measured rules"
        )


def _choose(
    x: Tensor, taps_shape: tuple[int, ...], axis: int, dense: bool, use: str, algorithm: str
) -> str:
    """The algorithm for a map and a kernel of shape (C, n) or (D, C, n)."""
    if algorithm == "auto":
        algorithm = os.environ.get(_ENVIRONMENT) or "auto"
    check_algorithm(algorithm)
    if x.shape[0] == 0:  # no FFT takes an empty batch
        return "concat"
    if algorithm != "auto":
        return algorithm
    facts = (x.device.type, compute_dtype(x), x.shape[0], taps_shape, axis, dense)
    if not is_traced():
        return _rule(*facts, use)
    # A compiler traces through the cache anyway, and says so at length.
    return _rule.__wrapped__(*facts, "export" if is_exported() else use)


@lru_cache(maxsize=1024)
def _rule(
    device: str,
    dtype: torch.dtype,
    batch: int,
    taps_shape: tuple[int, ...],
    axis: int,
    dense: bool,
    use: str,
) -> str:
    """The algorithm of the first rule that fits."""
    length = taps_shape[-1]
    matrix = math.prod(taps_shape) * length * dtype.itemsize / 2**20
    facts = {"device": device, "use": use, "dense": dense, "axis": axis}
    facts |= {"is_half": dtype in _HALF, "is_fast": _is_fast(length)}
    for rule in RULES:
        if (
            all(getattr(rule, name) in (None, fact) for name, fact in facts.items())
            and length <= rule.max_length
            and matrix <= rule.max_matrix
            # An export may leave the batch open, and its rule asks for none.
            and (rule.max_batch == math.inf or batch <= rule.max_batch)
        ):
            return rule.algorithm
    raise AssertionError("the last rules fit everything")


# --- concat -----------------------------------------------------------------------------------


def _prepare_concat(taps: Tensor, axis: int, dense: bool) -> Tensor:
    return (taps if dense else taps.unsqueeze(1)).unsqueeze(5 - axis)


def _concat(x: Tensor, weight: Tensor, axis: int, dense: bool, offset: Tensor | None) -> Tensor:
    x = torch.cat([x, x.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    out = F.conv2d(x, weight, groups=1 if dense else x.shape[1])
    return out if offset is None else out + offset


# --- circulant --------------------------------------------------------------------------------


def circulant_matrix(taps: Tensor) -> Tensor:
    """The matrix whose product with a signal is its circular convolution.

    Args:
        taps: Kernel, shape (..., n).

    Returns:
        Shape (..., n, n); row i, column m holds ``taps[(m - i) mod n]``.
    """
    return toeplitz_matrix(torch.cat([taps[..., 1:], taps], dim=-1))


def toeplitz_matrix(diagonals: Tensor) -> Tensor:
    """The square matrix with these diagonals.

    Args:
        diagonals: From the lower left corner to the upper right one, shape (..., 2n - 1).

    Returns:
        Shape (..., n, n); row i, column m holds ``diagonals[n - 1 + m - i]``.
    """
    return diagonals.unfold(-1, diagonals.shape[-1] // 2 + 1, 1).flip(-2)


def _prepare_circulant(taps: Tensor, axis: int, dense: bool) -> Tensor:
    return circulant_matrix(taps)


def _circulant(x: Tensor, matrix: Tensor, axis: int, dense: bool, offset: Tensor | None) -> Tensor:
    if dense:
        equation = "dcim,bcmj->bdij" if axis == 2 else "dcim,bcjm->bdji"
        out = torch.einsum(equation, matrix, x)
        return out if offset is None else out + offset
    return multiply_axis(x, matrix, axis, offset)


def multiply_axis(x: Tensor, matrix: Tensor, axis: int, offset: Tensor | None = None) -> Tensor:
    """Multiply the rows or columns of every channel by the channel's own matrix.

    Args:
        x: Map, shape (B, C, H, W).
        matrix: Shape (C, n, n), where n is H for ``axis=2`` and W for ``axis=3``.
        axis: 2 or 3.
        offset: What to add, of a shape that broadcasts to (C, H, W), or None.

    Returns:
        Shape (B, C, H, W).
    """
    batch, length = x.shape[0], x.shape[axis]
    if is_traced() or x.is_meta or torch.is_grad_enabled():
        out = matrix @ x if axis == 2 else x @ matrix.transpose(-2, -1)
        return out if offset is None else out + offset
    if batch > 1 and (x.device.type != "cpu" or length <= _FOLDED_LENGTH):
        return _multiply_folded(x, matrix, axis, offset)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if axis == 3:
        matrix = matrix.transpose(-2, -1)
    for image, result in zip(x, out, strict=True):
        factors = (matrix, image) if axis == 2 else (image, matrix)
        if offset is None:
            torch.bmm(*factors, out=result)
        else:
            torch.baddbmm(offset, *factors, out=result)
    return out


def _multiply_folded(x: Tensor, matrix: Tensor, axis: int, offset: Tensor | None) -> Tensor:
    """One product for the whole batch, whose images stand side by side."""
    batch, channels, height, width = x.shape
    if axis == 2:
        columns = x.permute(1, 2, 0, 3).reshape(channels, height, batch * width)
        out = torch.bmm(matrix, columns).view(channels, height, batch, width).permute(2, 0, 1, 3)
    else:
        rows = x.transpose(0, 1).reshape(channels, batch * height, width)
        out = torch.bmm(rows, matrix.transpose(-2, -1))
        out = out.view(channels, batch, height, width).transpose(0, 1)
    return out.contiguous() if offset is None else (out + offset).contiguous()


class _CirculantFunction(torch.autograd.Function):
    """The circulant form, which keeps the map and the kernel only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.axis = axis
        return multiply_axis(x, circulant_matrix(taps), axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, taps = ctx.saved_tensors
        grad_x = grad_taps = None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:
            grad_x = multiply_axis(grad, circulant_matrix(taps).transpose(-2, -1), ctx.axis)
        if ctx.needs_input_grad[1]:
            grad_taps = _sum_wrapped_diagonals(_outer(grad, x, ctx.axis)).to(taps.dtype)
        return grad_x, grad_taps, None


def _outer(grad: Tensor, x: Tensor, axis: int) -> Tensor:
    """``sum grad[i] x[m]`` over images and the free axis, shape (C, n, n), at least float32."""
    batch, channels, length = x.shape[0], x.shape[1], x.shape[axis]
    if batch > 1 and (x.device.type != "cpu" or length <= _FOLDED_LENGTH):
        order, shape = ((1, 2, 0, 3), (channels, length, -1)) if axis == 2 else (
            (1, 0, 2, 3), (channels, -1, length))  # fmt: skip
        grad, x = (t.permute(order).reshape(shape) for t in (grad, x))
        factors = (grad, x.transpose(1, 2)) if axis == 2 else (grad.transpose(1, 2), x)
        return torch.bmm(*factors).to(torch.promote_types(x.dtype, torch.float32))
    out = torch.zeros(
        channels,
        length,
        length,
        dtype=torch.promote_types(x.dtype, torch.float32),
        device=x.device,
    )
    for g, image in zip(grad, x, strict=True):
        factors = (g, image.transpose(1, 2)) if axis == 2 else (g.transpose(1, 2), image)
        if out.dtype == x.dtype:
            out.baddbmm_(*factors)
        else:  # the sum over images keeps its precision
            out += torch.bmm(*factors)
    return out


def _sum_wrapped_diagonals(matrix: Tensor) -> Tensor:
    """``sum_i matrix[i, (i + k) mod n]`` for every k, shape (C, n)."""
    channels, length, _ = matrix.shape
    doubled = torch.cat([matrix, matrix], dim=-1)
    stride = 2 * length
    return doubled.as_strided((channels, length, length), (length * stride, stride + 1, 1)).sum(
        dim=1
    )


# --- fft --------------------------------------------------------------------------------------


def _prepare_fft(taps: Tensor, axis: int, dense: bool) -> Tensor:
    """The conjugate spectrum, shaped to multiply that of a map."""
    length = taps.shape[-1]
    if taps.dtype in _HALF:
        taps = taps.float()
    if not dense:  # real taps get the axis: exporters do not reshape complex tensors
        taps = taps.unsqueeze(5 - axis - 1)
        return torch.fft.rfft(taps, n=_transform_length(length), dim=axis - 1).conj()
    return torch.fft.rfft(taps, n=_transform_length(length)).conj()


def _fft(x: Tensor, spectrum: Tensor, axis: int, dense: bool, offset: Tensor | None) -> Tensor:
    length = x.shape[axis]
    dtype = x.dtype
    if not dense and x.device.type == "cpu" and x.numel() > _FFT_CHUNK and not (
        is_traced() or torch.is_grad_enabled()
    ):  # fmt: skip
        return _fft_chunked(x, spectrum, axis, offset)
    if dtype in _HALF:  # no FFT has them at every length
        x = x.float()
    transformed = _rfft(x, axis)
    if dense:
        equation = "dcf,bcfj->bdfj" if axis == 2 else "dcf,bcjf->bdjf"
        transformed = torch.einsum(equation, spectrum, transformed)
    else:
        transformed = transformed * spectrum
    out = _irfft(transformed, axis, length)
    return (out if offset is None else out + offset).to(dtype)


def _fft_chunked(x: Tensor, spectrum: Tensor, axis: int, offset: Tensor | None) -> Tensor:
    """A few channels at a time: the spectra stay in the cache and their memory is used again."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    length = x.shape[axis]
    is_direct = x.dtype not in _HALF and _transform_length(length) == length
    for b, first, last in _chunks(x):
        part, result = x[b, first:last], out[b, first:last]
        part = part.float() if part.dtype in _HALF else part
        transformed = _rfft(part, axis - 1).mul_(spectrum[first:last])
        if is_direct:
            torch.fft.irfft(transformed, n=length, dim=axis - 1, out=result)
        else:
            result.copy_(_irfft(transformed, axis - 1, length))
        if offset is not None:
            result += offset[first:last]
    return out


def _chunks(x: Tensor) -> list[tuple[int, int, int]]:
    """Image, first and last channel of each part."""
    channels = x.shape[1]
    step = max(1, _FFT_CHUNK // max(1, x.shape[2] * x.shape[3]))
    return [
        (b, first, min(first + step, channels))
        for b in range(x.shape[0])
        for first in range(0, channels, step)
    ]


def _rfft(x: Tensor, axis: int) -> Tensor:
    """The spectrum of a map along an axis; of the doubled map where its length is a bad one."""
    length = x.shape[axis]
    transform = _transform_length(length)
    if transform != length:
        x = torch.cat([x, x.narrow(axis, 0, length - 1)], dim=axis)
    return torch.fft.rfft(x, n=transform, dim=axis)


def _irfft(spectrum: Tensor, axis: int, length: int) -> Tensor:
    transform = _transform_length(length)
    out = torch.fft.irfft(spectrum, n=transform, dim=axis)
    return out if transform == length else out.narrow(axis, 0, length)


def _transform_length(length: int) -> int:
    """The length itself, or for one with large prime factors a fast one for the doubled signal."""
    if length < 64 or _is_fast(length):
        return length
    return next(n for n in range(2 * length - 1, 4 * length) if _is_fast(n))


def _is_fast(length: int) -> bool:
    for factor in _FAST_FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1


class _FFTFunction(torch.autograd.Function):
    """The Fourier form, which keeps the map and the kernel instead of their spectra."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.axis = axis
        return _fft(x, _prepare_fft(taps, axis, False), axis, False, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, taps = ctx.saved_tensors
        grad_x = grad_taps = None
        if ctx.needs_input_grad[0]:  # the same with the kernel running backwards
            spectrum = _prepare_fft(taps.flip(-1).roll(1, -1), ctx.axis, False)
            grad_x = _fft(grad, spectrum, ctx.axis, False, None)
        if ctx.needs_input_grad[1]:
            grad_taps = _fft_of_taps(grad, x, ctx.axis).to(taps.dtype)
        return grad_x, grad_taps, None


def _fft_of_taps(grad: Tensor, x: Tensor, axis: int) -> Tensor:
    """Gradient of the kernel, shape (C, n): the gradient is the kernel that reads the map."""
    length = x.shape[axis]
    transform = _transform_length(length)
    parts = []
    for first, last in sorted({(first, last) for _, first, last in _chunks(x)}):
        total = 0
        for g, image in zip(grad[:, first:last], x[:, first:last], strict=True):
            if x.dtype in _HALF:
                g, image = g.float(), image.float()
            product = _rfft(image, axis - 1) * torch.fft.rfft(g, n=transform, dim=axis - 1).conj()
            total = total + product.sum(dim=4 - axis)
        parts.append(torch.fft.irfft(total, n=transform).narrow(-1, 0, length))
    return torch.cat(parts)


# --- dft --------------------------------------------------------------------------------------


def _prepare_dft(taps: Tensor, axis: int, dense: bool) -> tuple[Tensor, Tensor]:
    forward, _ = _dft_matrices(taps.shape[-1], taps)
    real, imag = (taps @ forward).chunk(2, dim=-1)
    return (real, imag) if dense else (real.unsqueeze(1), imag.unsqueeze(1))


def _dft(
    x: Tensor, kernel: tuple[Tensor, Tensor], axis: int, dense: bool, offset: Tensor | None
) -> Tensor:
    forward, backward = _dft_matrices(x.shape[axis], x)
    real, imag = (x.movedim(axis, -1) @ forward).chunk(2, dim=-1)
    kernel_real, kernel_imag = kernel
    if dense:
        equation = "dcf,bcjf->bdjf"
        product = (
            torch.einsum(equation, kernel_real, real) + torch.einsum(equation, kernel_imag, imag),
            torch.einsum(equation, kernel_real, imag) - torch.einsum(equation, kernel_imag, real),
        )
    else:
        product = (
            real * kernel_real + imag * kernel_imag,
            imag * kernel_real - real * kernel_imag,
        )
    out = (torch.cat(product, dim=-1) @ backward).movedim(-1, axis)
    return out if offset is None else out + offset


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


# Algorithm -> what is made of a kernel once, and what is done with a map.
_FORMS = {
    "concat": (_prepare_concat, _concat),
    "circulant": (_prepare_circulant, _circulant),
    "fft": (_prepare_fft, _fft),
    "dft": (_prepare_dft, _dft),
}
_FUNCTIONS = {"circulant": _CirculantFunction, "fft": _FFTFunction}
