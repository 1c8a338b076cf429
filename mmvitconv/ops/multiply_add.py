"""``x + a * b`` in one pass over the data, with a backward pass as short as that of the formula."""

from typing import Any

import torch
from torch import Tensor

from mmvitconv.ops.traced import as_one_node, is_traced


@as_one_node
def multiply_add(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute ``x + a * b`` with broadcasting.

    Torch's own ``addcmul`` multiplies each factor by its scalar, 1, once more in the backward pass.

    Args:
        x: Any tensor, floating point.
        a: First factor.
        b: Second factor.

    Returns:
        Tensor of the broadcast shape.
    """
    needs_grad = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if not needs_grad or is_traced():
        return torch.addcmul(x, a, b)
    return _MultiplyAdd.apply(x, a, b)


class _MultiplyAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.shape = x.shape
        return torch.addcmul(x, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad
        return (
            grad.sum_to_size(ctx.shape) if needs_x else None,
            (grad * b).sum_to_size(a.shape) if needs_a else None,
            (grad * a).sum_to_size(b.shape) if needs_b else None,
        )
