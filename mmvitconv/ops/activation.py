"""Activations that overwrite their input where no gradient is recorded.

Fresh memory for a large map costs more than the activation itself. While gradients are recorded,
torch would have to copy first what is overwritten.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.traced import as_one_node, is_traced

_FUNCTIONS = {"silu": F.silu, "hardswish": F.hardswish, "relu6": F.relu6}


@as_one_node
def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation.

    Args:
        x: Any tensor that nobody else needs, such as what a norm has just made.
        name: ``'silu'``, ``'hardswish'`` or ``'relu6'``.

    Returns:
        The activated tensor: ``x`` itself, overwritten, unless gradients are recorded
        or somebody traces.
    """
    return _FUNCTIONS[name](x, inplace=not (torch.is_grad_enabled() or is_traced()))
