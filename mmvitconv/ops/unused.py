"""Gradients of parameters that reach no output that anybody consumes: zeros instead of none."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from mmvitconv.ops.traced import is_exported, is_transformed


def with_zero_gradients(
    outputs: Sequence[Tensor], parts: Iterable[tuple[nn.Module, Collection[int]]]
) -> tuple[Tensor, ...]:
    """Return the outputs, so that each parameter gets a gradient whichever of them are consumed.

    DistributedDataParallel waits for the gradient of each parameter, but a head takes of a pyramid
    what it needs. Parameters that reach only outputs that nothing consumes get zeros, and nothing
    is computed for them; all other gradients are what they would be, bit for bit.

    Args:
        outputs: Any tensors.
        parts: Modules, and the positions of the outputs that their parameters reach. Those that
            reach all outputs may be left out.

    Returns:
        The same values.
    """
    has_gradient = torch.is_grad_enabled() and not isinstance(outputs[0], Proxy)
    if not has_gradient or is_exported() or is_transformed():
        return tuple(outputs)
    reaches = {p: reach for part, reach in parts for p in part.parameters() if p.requires_grad}
    if not reaches:
        return tuple(outputs)
    consumed: dict[int, int] = {}
    zero = _Zeros.apply(outputs[0].new_empty(()), consumed, list(reaches.values()), *reaches)
    return tuple(
        _Output.apply(x, zero, consumed, i) if x.requires_grad else x for i, x in enumerate(outputs)
    )


class _Output(torch.autograd.Function):
    """An output that notes in which backward pass it got a gradient.

    It is a node of its own for each output: what made an output that nothing consumes is not part
    of the graph that is walked back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: Tensor, consumed: dict[int, int], index: int) -> Tensor:
        ctx.consumed, ctx.index = consumed, index
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.compiler.is_compiling():
            ctx.consumed[ctx.index] = torch._C._current_graph_task_id()
        return grad, None, None, None  # which is enough for _Zeros to run


class _Zeros(torch.autograd.Function):
    """Runs behind all consumed outputs; a compiler cannot know which, and adds zeros everywhere."""

    @staticmethod
    def forward(
        ctx: Any, zero: Tensor, consumed: dict[int, int], reaches: list, *parameters: Tensor
    ) -> Tensor:
        ctx.consumed, ctx.reaches, ctx.parameters = consumed, reaches, parameters
        return torch.empty_like(zero)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        consumed = set()
        if not torch.compiler.is_compiling():
            now = torch._C._current_graph_task_id()
            consumed = {index for index, when in ctx.consumed.items() if when == now}
        zeros = [
            torch.zeros_like(parameter) if consumed.isdisjoint(reach) else None
            for parameter, reach in zip(ctx.parameters, ctx.reaches, strict=True)
        ]
        return None, None, None, *zeros
