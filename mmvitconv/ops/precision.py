"""The dtype that an operator of ours computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from mmvitconv.ops.traced import as_one_node


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that an operator computes in: the map's, or autocast's."""
    if _is_autocast(x) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which what is computed from ``x`` keeps its dtype."""
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


@as_one_node
def saturate(x: Tensor) -> Tensor:
    """Hold float16 at the largest value that it has; other dtypes pass unchanged.

    An infinite value alone would do no harm, but the next sum over both signs makes NaN of it.
    """
    if x.dtype != torch.float16:
        return x
    largest = torch.finfo(torch.float16).max
    return x.clamp(-largest, largest)


@as_one_node
def saturating_relu(x: Tensor) -> Tensor:
    """Apply ReLU in place, for float16 with :func:`saturate` in the same pass over the data."""
    if x.dtype != torch.float16:
        return F.relu_(x)
    return F.hardtanh_(x, 0.0, torch.finfo(torch.float16).max)


def _is_autocast(x: Tensor) -> bool:
    if isinstance(x, Proxy):  # a symbolic trace, which knows no device
        return False
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)
