"""Activation checkpointing that leaves BatchNorm's running statistics as they would be without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, *args: Any) -> Any:
    """Run a block without keeping its activations; the backward pass computes them again.

    Args:
        block: The block. Its BatchNorms update their running statistics once, not twice.
        *args: What it takes.

    Returns:
        What ``block(*args)`` returns.
    """
    if not torch.is_grad_enabled():
        return block(*args)
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    if not norms or torch.compiler.is_compiling():
        return checkpoint(block, *args, use_reentrant=False)
    return checkpoint(
        block,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _frozen_statistics(norms)),
    )


@contextmanager
def _frozen_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch without a second update of the running statistics."""
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
