"""The fused multiply-add against its formula: values, gradients of each operand, transforms."""

import pytest
import torch
from torch import Tensor

from mmvitconv.ops import multiply_add

SHAPES = [
    ((2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 1, 1)),  # layer scale
    ((2, 3, 4, 5), (2, 3, 4, 5), (2, 1, 1, 1)),  # stochastic depth
    ((2, 3, 1, 1), (2, 3, 4, 5), (3, 1, 1)),  # everything is broadcast
]


def formula(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x + a * b


def draw(shapes: tuple) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("needed", [(0, 1, 2), (0,), (1,), (2,), (0, 2), ()])
@pytest.mark.parametrize("shapes", SHAPES)
def test_equals_the_formula(shapes: tuple, needed: tuple[int, ...]):
    operands = [t.requires_grad_(i in needed) for i, t in enumerate(draw(shapes))]
    outs = [function(*operands) for function in (multiply_add, formula)]
    torch.testing.assert_close(*outs, rtol=1e-14, atol=1e-14)
    if needed:
        weights = torch.linspace(-1, 1, outs[0].numel(), dtype=torch.float64).view_as(outs[0])
        wanted = [operands[i] for i in needed]
        grads = [torch.autograd.grad(out, wanted, weights) for out in outs]
        torch.testing.assert_close(*grads, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shapes", SHAPES)
def test_second_derivative(shapes: tuple):
    operands = [t.requires_grad_() for t in draw(shapes)]
    assert torch.autograd.gradgradcheck(multiply_add, operands)


def test_transforms_and_autocast():
    x, a, b = draw(SHAPES[0])
    grad = torch.func.grad(lambda b: multiply_add(x, a, b).square().sum())(b)
    expected = torch.func.grad(lambda b: formula(x, a, b).square().sum())(b)
    torch.testing.assert_close(grad, expected)
    a, b = a.bfloat16().requires_grad_(), b.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        multiply_add(x.float(), a, b).sum().backward()
    assert (a.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float32)
