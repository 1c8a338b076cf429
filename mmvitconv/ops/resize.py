"""Bicubic resizing of what is learned on a grid: positions, tables, kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_bicubic(grid: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Resize the last two dimensions, computed in float32 at least.

    Args:
        grid: Shape (B, C, H, W).
        size: The new height and width.
        antialias: Average over all cells where the grid becomes smaller, as Pillow does; its cubic
            is another one, too (a = -0.5 instead of -0.75).

    Returns:
        Shape (B, C, *size), in the dtype of ``grid``.
    """
    dtype = torch.promote_types(grid.dtype, torch.float32)
    x = grid.to(dtype)
    if antialias:  # two products, which all exporters and transforms know, unlike torch's operator
        rows, columns = (
            _pillow_weights(length, old, x)
            for length, old in zip(size, grid.shape[2:], strict=True)
        )
        return (rows @ x @ columns.T).to(grid.dtype)
    resized = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    return resized.to(grid.dtype)


def _pillow_weights(length: int, old: int, like: Tensor) -> Tensor:
    """Return the weights of all old cells for each new one, shape (length, old)."""
    kind = {"dtype": like.dtype, "device": like.device}
    ratio = torch.ones((), **kind) * old / length
    centres = (torch.arange(length, **kind) + 0.5) * ratio
    x = (torch.arange(old, **kind) + 0.5 - centres[:, None]) / ratio.clamp(min=1)
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, inner, outer) * (x < 2)
    return weights / weights.sum(dim=1, keepdim=True)
