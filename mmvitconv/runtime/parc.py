"""Circular convolutions for inference: embedding, norms and bias in one kernel and one offset.

With a kernel ``w``, an embedding ``p``, a norm ``s x + t`` and a bias ``b``,
``conv(w, s (x + p) + t) + b`` equals ``conv(w s, x) + conv(w, s p + t) + b``: one kernel, and an
offset that varies along the axis only (docs/specs/parc.md#15-exact-forms).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmvitconv.models.layers.parc import ParC, ParCPair, resize_kernel
from mmvitconv.ops import circular_conv
from mmvitconv.runtime.affine import Affine, batch_norm_affine, exact

__all__ = ["FoldedParC", "fold_parc", "prepare_parc"]


def fold_parc(
    layer: nn.Module, sizes: Iterable[tuple[int, int]] = (), norm: nn.Module | None = None
) -> nn.Module:
    """Return a circular convolution with everything around it folded in.

    The result has constants of its own: it does not follow later changes of ``layer``.

    Args:
        layer: A :class:`ParC` or a :class:`ParCPair`, in evaluation mode.
        sizes: Height and width of maps to prepare kernels for, besides the stored length; maps of
            other sizes get theirs at each call.
        norm: BatchNorm that takes the layer's output, folded in as well.

    Returns:
        A :class:`FoldedParC`, or a pair of them.

    Raises:
        TypeError: ``layer`` is neither.
        ValueError: A norm is no BatchNorm with running statistics.

    Examples:
        >>> layer = ParC(64, "H", length=14).eval()
        >>> folded = fold_parc(layer, sizes=[(20, 30)])
    """
    sizes = list(sizes)
    if isinstance(layer, ParC):
        return FoldedParC(layer, [size[layer.axis - 2] for size in sizes], _affine(norm))
    if not isinstance(layer, ParCPair):
        raise TypeError(f"fold_parc takes a ParC or a ParCPair, got {type(layer).__name__}")
    affine = _affine(norm)
    halves = [None, None] if affine is None else zip(*(t.chunk(2) for t in affine), strict=True)
    pair = copy.copy(layer)
    pair._modules = dict(layer._modules)
    for axis, (name, half) in enumerate(zip(("height", "width"), halves, strict=True)):
        lengths = [size[axis] for size in sizes]
        setattr(pair, name, FoldedParC(getattr(layer, name), lengths, half))
    return pair.eval()


def prepare_parc(model: nn.Module, x: Tensor) -> None:
    """Prepare the folded circular convolutions of a model for inputs of one size, in place.

    Args:
        model: Any model that holds :class:`FoldedParC` layers.
        x: An input; only its shape matters.
    """
    layers = [module for module in model.modules() if isinstance(module, FoldedParC)]
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args: layer.prepare(args[0].shape[layer.axis])
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()


class FoldedParC(nn.Module):
    """A circular convolution with a folded kernel and an offset; for inference only.

    Args:
        layer: What it stands for, in evaluation mode.
        lengths: Of the axis, to prepare kernels for, besides the stored one.
        affine: Scale and shift of each output channel, shape (D,), or None.

    Raises:
        ValueError: The layer's norm is no BatchNorm with running statistics.
    """

    def __init__(
        self,
        layer: ParC,
        lengths: Iterable[int] = (),
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.direction, self.axis = layer.direction, layer.axis
        self.algorithm, self.instance_kernel = layer.algorithm, layer.instance_kernel
        taps, shift = _exact(layer.weight), _exact(layer.position_embedding)
        constant = taps.new_zeros(len(taps)) if layer.bias is None else _exact(layer.bias)
        if affine is not None:  # behind the convolution
            taps = taps * affine[0].view(-1, 1, 1, 1)
            constant = constant * affine[0] + affine[1]
        scale = None
        if (before := _affine(layer.norm)) is not None:
            scale, added = (values.view(1, -1, 1, 1) for values in before)
            shift = added if shift is None else shift * scale + added
            scale = scale if layer.dense else scale.transpose(0, 1)  # of the taps
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        parts = {"taps": taps, "scale": scale, "shift": shift, "constant": constant}
        for name, values in parts.items():
            values = None if values is None else values.to(layer.weight.device, dtype)
            self.register_buffer(name, values)
        self.prepared: set[int] = set()
        for length in {layer.length, *lengths}:
            self.prepare(length)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Mix rows or columns of a map of shape (B, C, H, W)."""
        length = x.shape[self.axis]
        if isinstance(length, int) and length in self.prepared:
            weight, offset = (self.get_buffer(f"{part}_{length}") for part in ("weight", "offset"))
        else:
            weight, offset = self._instance(length)
        out = circular_conv(x, weight, self.direction, None, self.algorithm)
        return out + offset.to(out.dtype)

    def prepare(self, length: int) -> None:
        """Keep the kernel and the offset of maps of this length.

        Args:
            length: Of the map's axis.

        Raises:
            ValueError: The layer takes no map of this length.
        """
        if length not in self.prepared:
            weight, offset = self._instance(length)
            self.register_buffer(f"weight_{length}", weight.clone())
            self.register_buffer(f"offset_{length}", offset.clone())
            self.prepared.add(length)

    def _instance(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the kernel, and the offset of shape (D, n, 1), (D, 1, n) or (D, 1, 1)."""

        def resize(stored: Tensor) -> Tensor:
            return resize_kernel(stored, length, self.axis, self.instance_kernel)

        taps, offset = resize(self.taps), self.constant.view(-1, 1, 1)
        if (shift := self.shift) is not None:
            size = (length, 1) if self.axis == 2 else (1, length)
            is_constant = shift.shape[self.axis] == 1
            shift = shift.expand(-1, -1, *size) if is_constant else resize(shift)
            offset = circular_conv(shift, taps, self.direction, self.constant, self.algorithm)[0]
        return taps if self.scale is None else taps * self.scale, offset

    def train(self, mode: bool = True) -> FoldedParC:
        """Accept evaluation mode only.

        Raises:
            RuntimeError: ``mode`` is True.
        """
        if mode:
            raise RuntimeError(
                "this circular convolution was folded for inference and cannot be trained; train "
                "the layer that it was made from"
            )
        return super().train(mode)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.direction!r}, lengths={sorted(self.prepared)}"


def _affine(norm: nn.Module | None) -> Affine | None:
    """Return what a norm does in evaluation; None for no norm."""
    affine = batch_norm_affine(norm)
    if norm is not None and affine is None:
        raise ValueError(
            f"a {type(norm).__name__} cannot be folded; give a BatchNorm with running statistics"
        )
    return affine


def _exact(values: Tensor | None) -> Tensor | None:
    return None if values is None else exact(values)
