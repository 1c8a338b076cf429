"""What all token mixers share."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Mixer", "check_choice", "check_divides", "check_neighbourhood"]


class Mixer(nn.Module, metaclass=ABCMeta):
    """A token mixer: a convolution whose kernel is stored, or generated from the map.

    See docs/specs/dynconv.md#6-mixer.

    It has its own projections, but neither a residual connection nor a norm in front. Subclasses
    implement :meth:`mix` and :meth:`macs`, and fill in ``columns``.

    Args:
        dim: Channels C of input and output.
        proj_drop: Dropout of the output, in [0, 1).
    """

    kernel = ""  # what the kernel is made from
    reach = "local"
    name = ""  # what the table calls it
    has_norms = False  # whether it brings its own norms, so that its block has none in front

    def __init__(self, dim: int, *, proj_drop: float = 0.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be a positive integer, got {dim}")
        self.dim = dim
        self.name = type(self).__name__
        self.columns = {  # of the table of docs/specs/dynconv.md#2-table
            "reach": "global",
            "per_position": "yes",
            "groups": "C",
            "activation": "none",
            "static_term": "none",
        }
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map.

        Args:
            x: Shape (B, C, H, W).
            key_padding_mask: Shape (B, H, W), True where the map is padding, or None. What the
                other positions get does not depend on what the padding holds, nor, at the right
                and lower border, on how much there is of it: except that windows are shifted along
                a side where the whole map, not the sample, is longer than one. BatchNorms see the
                padding in training. With a mask, softmax in windows does not see the zeros that
                fill the map up either.

        Returns:
            Shape (B, C, H, W).
        """
        x = x.permute(0, 2, 3, 1).contiguous()  # once, as several readers would each copy it
        return self.mix(x, key_padding_mask).permute(0, 3, 1, 2)

    @abstractmethod
    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map whose channels come last, shape (B, H, W, C), and return that shape."""

    def mix_tokens(
        self, tokens: Tensor, grid: tuple[int, int], key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Mix a map that other tokens, such as a class token, stand in front of.

        Args:
            tokens: P tokens and those of the map, row by row, shape (B, P + H * W, C).
            grid: (H, W).
            key_padding_mask: Shape (B, H, W), True where the map is padding, or None.

        Returns:
            Shape (B, P + H * W, C). The P tokens get zeros, unless the mixer compares pairs of
            tokens of the whole map.
        """
        number = tokens.shape[1] - grid[0] * grid[1]
        out = self.mix(tokens[:, number:].unflatten(1, grid), key_padding_mask)
        return torch.cat([torch.zeros_like(tokens[:, :number]), out.flatten(1, 2)], dim=1)

    def describe(self) -> dict[str, str]:
        """Return the mixer's row of the table of docs/specs/dynconv.md#2-table."""
        return {"name": self.name, "kernel": self.kernel, **self.columns}

    @abstractmethod
    def macs(self, height: int, width: int) -> int:
        """Return one image's multiply-adds; norms, pooling and sums are free.

        See docs/specs/dynconv.md#5-depth-wise-vit.
        """

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.dim}, {self.name!r}"


def check_choice(name: str, value: Any, legal: Iterable[Any]) -> None:
    """Raise a ValueError unless ``value`` is one of ``legal``."""
    if value not in tuple(legal):
        raise ValueError(f"{name} must be one of {tuple(legal)}, got {value!r}")


def check_divides(name: str, number: int, dim: int) -> None:
    """Raise a ValueError unless ``number`` is positive and divides ``dim``."""
    if number < 1 or dim % number:
        raise ValueError(f"{name} must divide dim={dim}, got {number}")


def check_neighbourhood(size: int) -> None:
    """Raise a ValueError unless a neighbourhood of side ``size`` has a centre."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size of a neighbourhood must be a positive odd integer, got {size}")
