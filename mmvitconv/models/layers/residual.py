"""Residual connections: layer scale, stochastic depth and addition."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmvitconv.ops import multiply_add
from mmvitconv.ops.traced import as_one_node


def drop_path_rates(drop_path_rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return stochastic depth rates that grow linearly over the whole network.

    Args:
        drop_path_rate: Rate of the last block, in [0, 1).
        depths: Number of blocks of each stage.

    Returns:
        One list of rates per stage; the first block of the network has rate 0.
    """
    total = sum(depths)
    rates = iter(drop_path_rate * j / max(total - 1, 1) for j in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]


@as_one_node
def draw_kept(x: Tensor, drop_path_rate: float) -> Tensor:
    """Draw which samples keep their residual, as a factor: ``1 / (1 - drop_path_rate)`` or 0.

    Args:
        x: Any tensor of the batch, shape (B, ...), floating point.
        drop_path_rate: Chance in [0, 1) that a sample's residual is dropped.

    Returns:
        Tensor of shape (B, 1, ...), with as many dimensions as ``x``.
    """
    keep = 1.0 - drop_path_rate
    kept = torch.empty((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
    return kept.bernoulli_(keep).div_(keep)


class ScaledResidual(nn.Module):
    """``x + drop_path(gamma * y)`` as a single fused multiply-add.

    Args:
        drop_path_rate: Chance in [0, 1) that a sample's residual is dropped while training; those
            that stay are divided by ``1 - drop_path_rate``.

    Examples:
        >>> add = ScaledResidual(drop_path_rate=0.1)
        >>> add(torch.zeros(2, 8, 4, 4), torch.ones(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, y: Tensor, *, gamma: Tensor | None = None) -> Tensor:
        """Add a residual to its input.

        Args:
            x: The input, shape (B, C, H, W).
            y: The residual, shape (B, C, H, W).
            gamma: Layer scale, shape (C,), or None. A keyword: torch's module tracker, and so its
                FLOP counter, listens for the gradient of every positional tensor that requires
                one, and fails on parameters where no gradients are recorded.

        Returns:
            Tensor of x's shape and dtype.
        """
        y = y.to(x.dtype)
        scale = None if gamma is None else gamma.to(x.dtype).view(1, -1, 1, 1)
        if self.training and self.drop_path_rate > 0:
            kept = draw_kept(x, self.drop_path_rate)
            scale = kept if scale is None else scale * kept
        return x + y if scale is None else multiply_add(x, y, scale)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"drop_path_rate={self.drop_path_rate:.4g}"
