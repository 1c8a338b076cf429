"""Windows of a map."""

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_position_index(window_size: int) -> Tensor:
    """Return the bias table's row for each pair of slots, queries slow, shape (size^4,)."""
    position = torch.arange(window_size)
    offset = position[:, None] - position[None, :] + window_size - 1  # (query, key)
    rows, cols = offset[:, None, :, None], offset[None, :, None, :]
    return (rows * (2 * window_size - 1) + cols).flatten()


def to_windows(x: Tensor, window_size: int) -> Tensor:
    """Cut a map into windows.

    Args:
        x: Shape (B, H, W, C); zeros are appended to whole windows.
        window_size: M.

    Returns:
        Shape (B * rows * columns, M * M, C).
    """
    down, right = ((window_size - side % window_size) % window_size for side in x.shape[1:3])
    x = F.pad(x, (0, 0, 0, right, 0, down))
    batch, height, width, channels = x.shape
    x = x.reshape(
        batch, height // window_size, window_size, width // window_size, window_size, channels
    )
    return x.transpose(2, 3).reshape(-1, window_size * window_size, channels)


def from_windows(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """Undo :func:`to_windows`.

    Args:
        windows: Shape (B * rows * columns, M * M, C).
        window_size: M.
        height: Of the map.
        width: Of the map.

    Returns:
        Shape (B, height, width, C).
    """
    # Not -(-side // size): exported graphs divide integers towards zero.
    rows, columns = ((side + window_size - 1) // window_size for side in (height, width))
    channels = windows.shape[-1]
    x = windows.reshape(-1, rows, columns, window_size, window_size, channels).transpose(2, 3)
    x = x.reshape(-1, rows * window_size, columns * window_size, channels)
    return x[:, :height, :width]
