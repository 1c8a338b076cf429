"""A product with the n x n matrix of shifted kernels, which all images share."""

import torch
from torch import Tensor

from mmvitconv.ops.traced import is_exported, is_traced

# Up to this length one product for the rearranged batch is faster than a product per image (CPU).
_FOLDED_LENGTH = 10


def circulant_matrix(taps: Tensor) -> Tensor:
    """Return the matrix whose product with a signal is the signal's circular convolution.

    Args:
        taps: Kernel, shape (..., n).

    Returns:
        Shape (..., n, n); row i, column m holds ``taps[(m - i) mod n]``.
    """
    if is_exported():  # where no window slides over a length that is left open
        positions = torch.arange(taps.shape[-1], device=taps.device)
        return taps[..., (positions - positions[:, None]) % taps.shape[-1]]
    return toeplitz_matrix(torch.cat([taps[..., 1:], taps], dim=-1))


def toeplitz_matrix(diagonals: Tensor) -> Tensor:
    """Return the square matrix with the given diagonals.

    Args:
        diagonals: From the lower left corner to the upper right one, shape (..., 2n - 1).

    Returns:
        Shape (..., n, n); row i, column m holds ``diagonals[n - 1 + m - i]``.
    """
    return diagonals.unfold(-1, diagonals.shape[-1] // 2 + 1, 1).flip(-2)


def prepare(taps: Tensor, axis: int, dense: bool) -> Tensor:
    """Return the matrices of taps of shape (C, n) or (D, C, n)."""
    return circulant_matrix(taps)


def multiply(x: Tensor, matrix: Tensor, axis: int, dense: bool) -> Tensor:
    """Convolve a map of shape (B, C, H, W) by its matrices."""
    if not dense:
        return multiply_axis(x, matrix, axis)
    return torch.einsum("dcim,bcmj->bdij" if axis == 2 else "dcim,bcjm->bdji", matrix, x)


def multiply_axis(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply the rows or columns of each channel by the channel's own matrix.

    Args:
        x: Map, shape (B, C, H, W).
        matrix: Shape (C, n, n), where n is H for ``axis=2`` and W for ``axis=3``.
        axis: 2 or 3.

    Returns:
        Shape (B, C, H, W).
    """
    if is_traced() or x.is_meta or torch.is_grad_enabled():
        return matrix @ x if axis == 2 else x @ matrix.transpose(-2, -1)
    if _is_folded(x, axis):
        columns = _fold_batch(x, axis)
        out = matrix @ columns if axis == 2 else columns @ matrix.mT
        batch_axis = 2 if axis == 2 else 1  # of (C, H, B, W) and of (C, B, H, W)
        return out.unflatten(batch_axis, (x.shape[0], -1)).movedim(batch_axis, 0).contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for image, result in zip(x, out, strict=True):
        image = image.contiguous()  # else the product copies it channel by channel
        torch.bmm(*((matrix, image) if axis == 2 else (image, matrix.mT)), out=result)
    return out


def taps_gradient(grad: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return the gradient of a depth-wise kernel, shape (C, n), in float32 or better.

    Args:
        grad: Gradient of the output, shape (B, C, H, W).
        x: Input, of the same shape.
        axis: 2 or 3.
    """
    channels, length = x.shape[1], x.shape[axis]
    dtype = torch.promote_types(x.dtype, torch.float32)
    if _is_folded(x, axis):
        products = _outer(_fold_batch(grad, axis), _fold_batch(x, axis), axis).to(dtype)
    else:
        products = torch.zeros(channels, length, length, dtype=dtype, device=x.device)
        for g, image in zip(grad, x, strict=True):
            image = image.contiguous()  # else the product copies it channel by channel
            if dtype == x.dtype:
                products.baddbmm_(*_factors(g, image, axis))
            else:  # the sum over images keeps its precision
                products += _outer(g, image, axis)
    # Tap k belongs to all positions (i, (i + k) mod n): a diagonal that continues at the border.
    doubled = torch.cat([products, products], dim=-1)
    stride = 2 * length
    diagonals = (length * stride, stride + 1, 1)
    return doubled.as_strided((channels, length, length), diagonals).sum(dim=1)


def _is_folded(x: Tensor, axis: int) -> bool:
    """Return whether one product for the whole batch is faster than one for each image."""
    return x.shape[0] > 1 and (x.device.type != "cpu" or x.shape[axis] <= _FOLDED_LENGTH)


def _fold_batch(x: Tensor, axis: int) -> Tensor:
    """Put the images side by side, shape (C, H, B * W), or below each other, (C, B * H, W)."""
    if axis == 2:
        return x.permute(1, 2, 0, 3).flatten(2)
    return x.transpose(0, 1).flatten(1, 2)


def _factors(grad: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    return (grad, x.mT) if axis == 2 else (grad.mT, x)


def _outer(grad: Tensor, x: Tensor, axis: int) -> Tensor:
    """Sum ``grad[i] x[m]`` over the free axis, shape (C, n, n)."""
    return torch.bmm(*_factors(grad, x, axis))
