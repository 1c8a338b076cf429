"""Linear layers and convolutions that run in oneDNN.

``F.linear`` goes to MKL, and so do convolutions of small batches where torch has one thread. MKL
runs at half of oneDNN's speed on CPUs that are not Intel's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmvitconv.ops.machine import machine_name
from mmvitconv.ops.memory_format import is_channels_last
from mmvitconv.ops.traced import is_traced

__all__ = ["DirectConv2d", "PackedLinear", "pack", "packing_pays"]


@cache
def packing_pays() -> bool:
    """Return whether packing is known to be faster here: oneDNN on another CPU than Intel's."""
    has_operator = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_operator and torch.backends.mkldnn.is_available() and "AMD" in machine_name()


def pack(model: nn.Module) -> None:
    """Replace the plain linear layers and convolutions of a module, in place.

    Args:
        model: In evaluation mode.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _as(PackedLinear, child))
            elif (
                type(child).forward is nn.Conv2d.forward
                and child.padding_mode == "zeros"
                and not isinstance(child.padding, str)
            ):
                setattr(module, name, _as(DirectConv2d, child))


def _as(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    """Return a layer of another class with all that a layer has, hooks included."""
    result = kind.__new__(kind)
    vars(result).update(vars(layer))
    return result


def _runs(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN takes a call."""
    return not (
        is_traced()
        or x.device.type != "cpu"
        or not (x.dtype == weight.dtype == torch.float32)
        or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        or torch.is_autocast_enabled("cpu")
        or x.numel() == 0
    )


def _packed(layer: nn.Module, make: Callable[[Tensor], Tensor], shape: tuple = ()) -> Tensor:
    """Return a layer's weight in oneDNN's order, which may be one for inputs of this shape.

    It is made again for another shape, and after a change of the weight.
    """
    weight = layer.weight
    # A tensor made in inference mode has no version.
    version = 0 if weight.is_inference() else weight._version
    mark = (id(weight), weight.data_ptr(), version, shape)
    packed = vars(layer).get("_packed")
    if packed is None or packed[0] != mark:
        packed = layer._packed = mark, make(weight.detach())
    return packed[1]


class _Packing:
    """What layers with a packed weight share."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_packed"}


class DirectConv2d(_Packing, nn.Conv2d):
    """A convolution that runs in oneDNN with any number of threads.

    For a single map in channels_last it keeps a copy of its weight in oneDNN's order for the last
    shape. Other maps would come out in channels_last, and beside a batch the order is cheap.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map of shape (B, C, H, W)."""
        if x.dim() != 4 or not _runs(x, self.weight):
            return super().forward(x)
        options = (self.padding, self.stride, self.dilation, self.groups)
        if self.groups > 1 or len(x) > 1 or not is_channels_last(x):
            return torch.mkldnn_convolution(x, self.weight, self.bias, *options)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        weight = _packed(self, lambda weight: reorder(weight, *options, list(x.shape)), x.shape)
        run = torch.ops.mkldnn._convolution_pointwise
        return run(x, weight, self.bias, *options, "none", [], "")


class PackedLinear(_Packing, nn.Linear):
    """A linear layer with a copy of its weight in oneDNN's order, made at the first call."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform rows of shape (..., C)."""
        if not _runs(x, self.weight):
            return super().forward(x)
        reorder = torch.ops.mkldnn._reorder_linear_weight
        weight = _packed(self, lambda weight: reorder(weight, None))
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, "none", [], "")
