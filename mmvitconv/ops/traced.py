"""Who sees an operator run: only the caller, or a compiler, an exporter, a function transform."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.fx import Proxy


def as_one_node(function: Callable) -> Callable:
    """Let ``torch.fx`` record calls of a function instead of what it computes.

    A symbolic trace knows no sizes, layouts or devices, which the function may ask for. torch's own
    operators are recorded in the same way.

    Args:
        function: Takes the tensors as positional arguments.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for proxy in args:
            if isinstance(proxy, Proxy):
                return proxy.tracer.create_proxy("call_function", call, args, kwargs)
        return function(*args, **kwargs)

    return call


def is_transformed() -> bool:
    """Return whether ``torch.func`` or forward-mode differentiation is at work.

    They have formulas for torch's own operators, but not for an ``autograd.Function`` of ours.
    """
    if torch.compiler.is_compiling():  # which cannot look at the stack
        return False
    has_transform = torch._C._functorch.peek_interpreter_stack() is not None
    return has_transform or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether a compiler, an exporter or a transform sees operators instead of values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()


def is_exported() -> bool:
    """Return whether torch.export (from torch 2.7 on) or TorchScript records the operators."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)
    return torch.jit.is_tracing() or (is_exporting is not None and is_exporting())
