"""Who looks on while an operator runs."""

import torch


def is_traced() -> bool:
    """Whether a compiler, an exporter or ``torch.func`` sees the operators instead of values."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
