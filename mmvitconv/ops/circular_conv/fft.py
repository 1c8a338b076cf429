"""Real FFT, product with the conjugate spectrum of the kernel, inverse FFT; in float32 or better.

The spectrum is conjugate, because a convolution layer correlates.
"""

import torch
from torch import Tensor

from mmvitconv.ops.traced import is_traced

_HALF = (torch.float16, torch.bfloat16)  # no FFT has them at every length
# Larger maps are transformed so many elements at a time: their spectra stay in the cache, and no
# memory is asked of the system. CPU only.
_CHUNK = 1 << 20
# Lengths with other prime factors make the FFT several times slower.
_FAST_FACTORS = (2, 3, 5, 7)


def prepare(taps: Tensor, axis: int, dense: bool) -> Tensor:
    """Return the conjugate spectrum of taps (C, n) or (D, C, n), shaped to multiply that of a map.

    Depth-wise the taps get the map's axes before the transform: exporters do not reshape complex
    tensors.
    """
    length = taps.shape[-1]
    taps = taps.float() if taps.dtype in _HALF else taps
    if dense:
        return torch.fft.rfft(taps, n=transform_length(length)).conj()
    return torch.fft.rfft(taps.unsqueeze(4 - axis), transform_length(length), axis - 1).conj()


def multiply(x: Tensor, spectrum: Tensor, axis: int, dense: bool) -> Tensor:
    """Convolve a map of shape (B, C, H, W) by a prepared spectrum."""
    length, dtype = x.shape[axis], x.dtype
    if not dense and x.device.type == "cpu" and x.numel() > _CHUNK and not (
        is_traced() or torch.is_grad_enabled()
    ):  # fmt: skip
        return _multiply_chunks(x, spectrum, axis)
    transformed = _rfft(x.float() if dtype in _HALF else x, axis)
    if dense:
        equation = "dcf,bcfj->bdfj" if axis == 2 else "dcf,bcjf->bdjf"
        transformed = torch.einsum(equation, spectrum, transformed)
    else:
        transformed = transformed * spectrum
    return _irfft(transformed, axis, length).to(dtype)


def taps_gradient(grad: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return the gradient of a depth-wise kernel, shape (C, n): the gradient read by the map.

    Args:
        grad: Gradient of the output, shape (B, C, H, W).
        x: Input, of the same shape.
        axis: 2 or 3.
    """
    length = x.shape[axis]
    transform = transform_length(length)
    parts = []
    for first, last in sorted({(first, last) for _, first, last in _chunks(x)}):
        total = 0
        for g, image in zip(grad[:, first:last], x[:, first:last], strict=True):
            if x.dtype in _HALF:
                g, image = g.float(), image.float()
            product = _rfft(image, axis - 1) * torch.fft.rfft(g, transform, axis - 1).conj()
            total = total + product.sum(dim=4 - axis)
        parts.append(torch.fft.irfft(total, n=transform).narrow(-1, 0, length))
    return torch.cat(parts)


def transform_length(length: int) -> int:
    """Return the length to transform: its own, or a fast one for the doubled signal.

    A long axis with large prime factors is doubled, because its own FFT is slow.
    """
    if length < 64 or is_fast(length):
        return length
    return next(n for n in range(2 * length - 1, 4 * length) if is_fast(n))


def is_fast(length: int) -> bool:
    """Return whether a length has small prime factors only, so that its FFT is fast."""
    for factor in _FAST_FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1


def _multiply_chunks(x: Tensor, spectrum: Tensor, axis: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    length = x.shape[axis]
    is_direct = x.dtype not in _HALF and transform_length(length) == length
    for b, first, last in _chunks(x):
        part, result = x[b, first:last], out[b, first:last]
        part = part.float() if part.dtype in _HALF else part
        transformed = _rfft(part, axis - 1).mul_(spectrum[first:last])
        if is_direct:
            torch.fft.irfft(transformed, n=length, dim=axis - 1, out=result)
        else:
            result.copy_(_irfft(transformed, axis - 1, length))
    return out


def _chunks(x: Tensor) -> list[tuple[int, int, int]]:
    """Return the image, the first and the last channel of each part."""
    channels = x.shape[1]
    step = max(1, _CHUNK // max(1, x.shape[2] * x.shape[3]))
    return [
        (b, first, min(first + step, channels))
        for b in range(x.shape[0])
        for first in range(0, channels, step)
    ]


def _rfft(x: Tensor, axis: int) -> Tensor:
    """Return the spectrum along an axis; of the doubled map where the length is a slow one."""
    length = x.shape[axis]
    transform = transform_length(length)
    if transform != length:
        x = torch.cat([x, x.narrow(axis, 0, length - 1)], dim=axis)
    return torch.fft.rfft(x, n=transform, dim=axis)


def _irfft(spectrum: Tensor, axis: int, length: int) -> Tensor:
    transform = transform_length(length)
    out = torch.fft.irfft(spectrum, n=transform, dim=axis)
    return out if transform == length else out.narrow(axis, 0, length)
