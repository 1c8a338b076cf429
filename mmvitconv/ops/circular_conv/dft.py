"""The Fourier transform as two matrix products: any precision, and it exports everywhere."""

import math

import torch
from torch import Tensor


def prepare(taps: Tensor, axis: int, dense: bool) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of the spectrum of taps (C, n) or (D, C, n)."""
    forward, _ = _matrices(taps.shape[-1], taps)
    real, imag = (taps @ forward).chunk(2, dim=-1)
    return (real, imag) if dense else (real.unsqueeze(1), imag.unsqueeze(1))


def multiply(x: Tensor, kernel: tuple[Tensor, Tensor], axis: int, dense: bool) -> Tensor:
    """Convolve a map of shape (B, C, H, W) by a prepared spectrum."""
    forward, backward = _matrices(x.shape[axis], x)
    real, imag = (x.movedim(axis, 3) @ forward).chunk(2, dim=-1)
    kernel_real, kernel_imag = kernel

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("dcf,bcjf->bdjf", a, b) if dense else a * b

    spectrum = (
        product(kernel_real, real) + product(kernel_imag, imag),
        product(kernel_real, imag) - product(kernel_imag, real),
    )
    return (torch.cat(spectrum, dim=-1) @ backward).movedim(3, axis)


def _matrices(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real DFT and its inverse.

    The first has shape (n, 2m) with m = n // 2 + 1 and holds cosines, then minus sines; the second
    has shape (2m, n).
    """
    position = torch.arange(length, device=like.device, dtype=torch.float64)
    frequency = torch.arange(length // 2 + 1, device=like.device, dtype=torch.float64)
    # The product modulo n keeps the angle exact for long axes.
    angle = torch.outer(position, frequency).remainder(length) * (2 * math.pi / length)
    forward = torch.cat([angle.cos(), -angle.sin()], dim=1)
    # Frequencies 0 and n / 2 stand for themselves, the others for their conjugates too.
    counts = torch.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0).double() / length
    backward = forward.t() * torch.cat([counts, counts]).unsqueeze(1)
    return forward.to(like.dtype), backward.to(like.dtype)
