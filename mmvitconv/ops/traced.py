"""Who looks on while an operator runs."""

import torch


def is_traced() -> bool:
    """Whether a compiler, an exporter or ``torch.func`` sees the operators instead of values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()


def is_transformed() -> bool:
    """Whether ``torch.func`` transforms the operators (vmap, grad, jvp)."""
    is_compiling = torch.compiler.is_compiling()  # which cannot look at the stack
    return not is_compiling and torch._C._functorch.peek_interpreter_stack() is not None


def is_exported() -> bool:
    """Whether torch.export (from torch 2.7 on) or TorchScript records the operators."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)
    return torch.jit.is_tracing() or (is_exporting is not None and is_exporting())
