"""Trying something out and leaving no trace of it: not in a model, not in a data set, nowhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset

from mmvitconv.checks.non_finite import random_states, set_random_states

__all__ = ["untouched"]

OPEN = (nn.Module, BaseTransform, Compose, Dataset)
# whose plain objects (samplers and assigners of heads, for example) may count, too
PACKAGES = ("mmcv", "mmdet", "mmpretrain", "mmseg", "mmvitconv")
FEW = 1000  # items of a container that are looked into; of longer ones only the items are kept
SMALL = 2**20  # numbers of an array that is kept


@contextmanager
def untouched(*objects: Any) -> Iterator[None]:
    """Put back, at the end, all that a trial has changed.

    Weights, buffers, gradients, hooks and other attributes of the objects and of what is inside
    them, and the global random states.

    Args:
        *objects: Models, data sets or transforms.

    Yields:
        Nothing.
    """
    states = random_states()
    restorers = list(_keep(objects))
    try:
        yield
    finally:
        with torch.no_grad():
            for restore in restorers:
                restore()
        set_random_states(states)


def _keep(objects: tuple) -> Iterator[Callable[[], None]]:
    """Copy what the objects hold; yield what puts each part back."""
    seen: set[int] = set()
    waiting: list[Any] = list(objects)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            is_plain = value.layout == torch.strided and not value.is_meta and not is_lazy(value)
            if is_plain and 0 not in value.stride():  # of expanded ones
                yield _restorer(value, value.detach().clone(), Tensor.copy_)
                gradient = value.grad if value.is_leaf else None
                if value.requires_grad:
                    yield _restorer(value, gradient, _set_gradient)
                    waiting.append(gradient)
        elif isinstance(value, np.ndarray):
            if value.size <= SMALL and value.flags.writeable:
                yield _restorer(value, value.copy(), np.copyto)
        elif isinstance(value, (MutableMapping, set)):
            kept = set(value) if isinstance(value, set) else dict(value)
            yield _restorer(value, kept, _refill)
            inside = value.values() if isinstance(value, MutableMapping) else ()
            waiting += inside if len(value) <= FEW else ()
        elif isinstance(value, (list, deque)):
            yield _restorer(value, list(value), _refill_list)
            waiting += value if len(value) <= FEW else ()
        elif isinstance(value, tuple):
            waiting += value if len(value) <= FEW else ()
        elif _is_open(value):
            waiting.append(vars(value))


def _is_open(value: Any) -> bool:
    """Tell whether the attributes of an object belong to what is tried."""
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    package = type(value).__module__.partition(".")[0]
    return isinstance(value, OPEN) or package in PACKAGES


def _restorer(value: Any, kept: Any, put: Callable[[Any, Any], Any]) -> Callable[[], None]:
    """Return a function that puts back what was kept of a value."""

    def restore() -> None:
        put(value, kept)

    return restore


def _set_gradient(tensor: Tensor, gradient: Tensor | None) -> None:
    """Give a tensor the gradient that it had."""
    tensor.grad = gradient


def _refill(container: Any, kept: Any) -> None:
    """Give a dict or a set the items that it had."""
    container.clear()
    container.update(kept)


def _refill_list(container: Any, kept: list) -> None:
    """Give a list or a queue the items that it had."""
    container.clear()
    container.extend(kept)
