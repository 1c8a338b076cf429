"""The depth-wise vision Transformer: both products of attention as depth-wise convolutions.

The queries are the map, the keys one k x k kernel for each channel and image, the values another;
both kernels are made from the map, pooled to k x k cells (docs/specs/dynconv.md#5-depth-wise-vit).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.layers.mixers.base import Mixer, check_choice, check_neighbourhood
from mmvitconv.models.layers.window import from_windows, to_windows
from mmvitconv.ops.dynamic_attention import ELEMENTWISE
from mmvitconv.ops.dynamic_conv import IMPLEMENTATIONS, dynamic_depthwise_conv2d, pool_layout

__all__ = ["PooledMixer", "PooledProjection"]

_EPS = 1e-6
_NORMS = {"ln_channel": nn.LayerNorm, "bn": nn.BatchNorm2d}


class PooledProjection(nn.Linear):
    """Queries of a map; keys and values of its pooled layout.

    Projections are linear, so these are the pooled keys and values of the map.

    Args:
        dim: Channels C.
        bias: Whether they have a bias.
    """

    def __init__(self, dim: int, bias: bool = True) -> None:
        super().__init__(dim, 3 * dim, bias)

    def forward(self, x: Tensor, layout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project a map (B, H, W, C) and its layout (B, k, k, C).

        Returns:
            The queries, shape (B, H, W, C), keys and values, shape (B, C, k, k).
        """
        dim = self.in_features
        biases = (None, None) if self.bias is None else (self.bias[:dim], self.bias[dim:])
        q = F.linear(x, self.weight[:dim], biases[0])
        kernels = F.linear(layout.to(x.dtype), self.weight[dim:], biases[1]).permute(0, 3, 1, 2)
        return q, kernels[:, :dim], kernels[:, dim:]


class PooledMixer(Mixer):
    """Two depth-wise dynamic convolutions with a norm and an activation between them.

    Args:
        dim: Channels C of input and output.
        size: Side k of the kernels, odd.
        act: Activation between the convolutions, one of
            :data:`mmvitconv.ops.dynamic_attention.ELEMENTWISE`.
        norm: ``'ln_channel'``, ``'bn'`` or None, before the activation.
        bias: ``'static_kernel'`` adds learnt kernels to both; None leaves the dynamic ones alone.
        count_power: The result is divided by this power of k * k; ``'auto'`` is the factor
            ``sqrt(2 pi) / k^2`` of a standardised ReLU.
        window: Side of windows that have kernels of their own; None for kernels of the whole map.
        qkv_bias: Whether q, k and v have a bias.
        proj_drop: Dropout of the output, in [0, 1).
        impl: See :func:`mmvitconv.ops.dynamic_conv.dynamic_depthwise_conv2d`.

    Examples:
        >>> PooledMixer(64, size=5)(torch.rand(1, 64, 9, 7)).shape
        torch.Size([1, 64, 9, 7])
    """

    kernel = "pooled"

    def __init__(
        self,
        dim: int,
        *,
        size: int = 7,
        act: str = "relu",
        norm: str | None = "ln_channel",
        bias: str | None = "static_kernel",
        count_power: float | str = "auto",
        window: int | None = None,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        impl: str = "auto",
    ) -> None:
        super().__init__(dim, proj_drop=proj_drop)
        check_neighbourhood(size)
        check_choice("act", act, ELEMENTWISE)
        check_choice("norm", norm, (None, *_NORMS))
        check_choice("bias", bias, (None, "static_kernel"))
        check_choice("impl", impl, IMPLEMENTATIONS)
        if count_power != "auto" and not isinstance(count_power, (int, float)):
            raise ValueError(f"count_power must be 'auto' or a number, got {count_power!r}")
        self.size, self.act, self.window, self.impl = size, act, window, impl
        self.factor = math.sqrt(2 * math.pi) / size**2
        if count_power != "auto":
            self.factor = float(size**2) ** -count_power
        norms = {"ln_channel": "LN over channels", "bn": "BN", None: ""}
        parts = filter(None, (norms[norm], "" if act == "identity" else act))
        self.columns |= {
            "reach": f"{size} x {size}, twice",
            "per_position": "no",
            "activation": ", ".join(parts) or "none",
            "static_term": "static kernel" if bias else "none",
        }
        self.qkv = PooledProjection(dim, qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.static_key = self.static_value = None
        if bias:
            self.static_key = nn.Parameter(0.02 * torch.randn(dim, size, size))
            self.static_value = nn.Parameter(0.02 * torch.randn(dim, size, size))
        self.norm = _NORMS[norm](dim, eps=_EPS) if norm else None

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map whose channels come last, shape (B, H, W, C)."""
        valid = None if key_padding_mask is None else ~key_padding_mask
        mixed = self.convolve_twice(x, valid) if self.window is None else self.by_window(x, valid)
        return self.proj_drop(self.proj(mixed))

    def convolve_twice(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Convolve the queries with the keys' kernel, activate, convolve with the values' one."""
        q, key, value = self.qkv(x, pool_layout(x, self.size, valid))
        key = key / self.size
        if self.static_key is not None:
            key, value = key + self.static_key, value + self.static_value
        scores = self.standardise(self.convolve(q, key, valid))
        weights = ELEMENTWISE[self.act](scores)
        return self.convolve(weights, self.factor * value, valid)

    def convolve(self, x: Tensor, kernels: Tensor, valid: Tensor | None) -> Tensor:
        """Convolve each channel (B, H, W, C) with its kernel (B, C, k, k)."""
        if valid is not None:  # padding is as empty as what lies outside the map
            x = x * valid.unsqueeze(-1)
        return dynamic_depthwise_conv2d(x.permute(0, 3, 1, 2), kernels, self.impl).permute(
            0, 2, 3, 1
        )

    def standardise(self, u: Tensor) -> Tensor:
        """Apply the norm to a map whose channels come last."""
        if isinstance(self.norm, nn.modules.batchnorm._BatchNorm):
            return self.norm(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return u if self.norm is None else self.norm(u)

    def by_window(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Make kernels for each window, and convolve inside it."""
        size = self.window
        _, height, width, _ = x.shape
        windows = to_windows(x, size).unflatten(1, (size, size))
        if valid is not None or height % size or width % size:
            if valid is None:
                valid = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
            valid = to_windows(valid.unsqueeze(-1).int(), size).squeeze(-1).bool()
            valid = valid.unflatten(1, (size, size))
        return from_windows(self.convolve_twice(windows, valid).flatten(1, 2), size, height, width)

    def macs(self, height: int, width: int) -> int:
        """Return one image's multiply-adds."""
        n, c, taps = height * width, self.dim, self.size**2
        kernels = 1
        if self.window is not None:
            kernels = -(-height // self.window) * -(-width // self.window)
        return 2 * n * c * c + kernels * 2 * taps * c * c + 2 * n * taps * c
