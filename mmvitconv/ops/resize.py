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
    resized = F.interpolate(
        grid.to(dtype), size=size, mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.to(grid.dtype)
