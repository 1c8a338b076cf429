"""Who sees an operator run: only the caller, or a compiler, an exporter, a function transform."""

import torch
from torch.autograd import forward_ad


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
