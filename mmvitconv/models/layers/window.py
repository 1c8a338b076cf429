"""Windows of a map."""

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_index(window_size: int, device: torch.device | None = None) -> Tensor:
    """Return the bias table's row for each pair of slots, queries slow, shape (size^4,)."""
    position = torch.arange(window_size, device=device)
    offset = position[:, None] - position[None, :] + window_size - 1  # (query, key)
    rows, cols = offset[:, None, :, None], offset[None, :, None, :]
    return (rows * (2 * window_size - 1) + cols).flatten()


class PositionIndex(nn.Module):
    """Base of modules whose buffer ``relative_position_index`` no state dict has.

    It is computed again where nothing else would fill it: after ``to_empty()``, and when a module
    on the meta device gets its weights by ``load_state_dict(assign=True)``.
    """

    def set_index(self, window_size: int, device: torch.device | None = None) -> None:
        """Compute the buffer for windows of a size."""
        index = relative_position_index(window_size, device)
        self.register_buffer("relative_position_index", index, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = self._index()
        super()._apply(fn, recurse)
        after = self._index()
        if after is not None and after is not before and not after.is_meta:
            self.set_index(isqrt(isqrt(after.numel())), after.device)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping, *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        index = self._index()
        if index is not None and index.is_meta and local_metadata.get("assign_to_params_buffers"):
            devices = [value.device for key, value in state_dict.items() if key.startswith(prefix)]
            self.set_index(isqrt(isqrt(index.numel())), devices[0] if devices else index.device)

    def _index(self) -> Tensor | None:
        return self._buffers.get("relative_position_index")


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
