"""Linear layers whose weights oneDNN keeps in its own order.

``F.linear`` goes to MKL, which runs at half of oneDNN's speed on CPUs that are not Intel's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmvitconv.ops.machine import machine_name
from mmvitconv.ops.traced import is_traced

__all__ = ["PackedLinear", "pack", "packing_pays"]


@cache
def packing_pays() -> bool:
    """Return whether packing is known to be faster here: oneDNN on another CPU than Intel's."""
    has_operator = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_operator and torch.backends.mkldnn.is_available() and "AMD" in machine_name()


def pack(model: nn.Module) -> None:
    """Replace the plain linear layers of a module, in place.

    Args:
        model: In evaluation mode.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                packed = PackedLinear.__new__(PackedLinear)
                vars(packed).update(vars(child))  # hooks included
                setattr(module, name, packed)


class PackedLinear(nn.Linear):
    """A linear layer with a copy of its weight in oneDNN's order, made at the first call."""

    _packed: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Transform rows of shape (..., C)."""
        weight, bias = self.weight, self.bias
        if (
            is_traced()
            or x.device.type != "cpu"
            or not (x.dtype == weight.dtype == torch.float32)
            or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            or torch.is_autocast_enabled("cpu")
            or x.numel() == 0
        ):
            return super().forward(x)
        # A tensor made in inference mode has no version.
        version = 0 if weight.is_inference() else weight._version
        mark = (id(weight), weight.data_ptr(), version)
        packed = self._packed
        if packed is None or packed[0] != mark:
            values = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            packed = self._packed = mark, values
        return torch.ops.mkldnn._linear_pointwise(x, packed[1], bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_packed"}
