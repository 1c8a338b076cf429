"""How far equal results may lie apart: derived from what is computed, not found on one machine.

Another instruction set, number of threads, memory format or batch size adds the same numbers in
another order. What that may change follows from the sizes of the numbers:

* one operator that sums products: :func:`assert_sums_close`, from the sums of absolute values;
* layers upon layers: :func:`float32_limits`, from how sensitive these layers are to rounding.

Where the test is not about float32, comparing in float64 is simpler: an error that matters is then
many orders of magnitude above any rounding.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


def assert_sums_close(
    actual: Tensor, exact: Tensor, magnitude: Tensor | float, length: int, what: str = ""
) -> None:
    """Check sums of products that were computed in the precision of ``actual``.

    Each of n additions rounds a partial sum, which is at most S, by up to eps / 2 of it. Errors of
    random sign grow with the square root of n, so sqrt(n) eps S is some standard deviations above
    the error of any order of summation; twice that leaves room for a function of slope about 1
    behind the sum, and for transforms, whose errors add up as slowly.

    Args:
        actual: The sums, floating point.
        exact: The same sums of the same numbers, computed in float64.
        magnitude: S, the sums of the absolute values of what is summed (an operator applied to
            absolute values gives them); broadcast to ``exact``.
        length: n, how many products a sum has.
        what: Said in the error.

    Raises:
        AssertionError: An element is further off than rounding explains.
    """
    assert actual.shape == exact.shape, f"{what} {actual.shape} {exact.shape}"
    scale = torch.finfo(actual.dtype).eps * torch.as_tensor(magnitude, dtype=torch.float64)
    worst = ((actual.double() - exact).abs() - 2 * length**0.5 * scale).max()
    assert worst <= 0, f"{what}: {worst:.3g} more than rounding explains"


def assert_same_gradients(out: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    """Check values and gradients in float64, sums of at most a few thousand rounded products.

    Args:
        out: What was computed from the leaves.
        expected: What must come out.
        leaves: Tensors that take a gradient.

    Raises:
        AssertionError: They differ.
    """
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(out)
    found, wanted = (torch.autograd.grad(y, leaves, grad) for y in (out, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def float32_limits(module: nn.Module, *inputs: object, draws: int = 4) -> list[float]:
    """Measure how far two float32 results of a network may lie apart.

    A layer that computes its sums in float32, in any order, gives the exact result for operands
    that differ by some eps from its own. So the network runs in float64 with every parameter and
    every layer's input off by one eps of float32, at random. What that moves is the network's own
    sensitivity: a norm over nearly equal values, for example, enlarges rounding a thousandfold. A
    layer's sums are off by a few times more than one rounding of their operands, the square root
    of their number at most, and two results are compared: 32 times what was found.

    Args:
        module: The network; it is not changed.
        inputs: Its arguments: tensors, or lists, tuples and dicts of them.
        draws: How often roundings are drawn.

    Returns:
        The largest legal difference of each output, in the order of its flattened result.
    """
    eps = torch.finfo(torch.float32).eps
    generator = torch.Generator().manual_seed(0)

    def disturb(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor * (1 + eps * noise)

    twin = copy.deepcopy(module).double()
    inputs = tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
    exact = tree_leaves(twin(*inputs))
    moved = [0.0] * len(exact)
    for _ in range(draws):
        disturbed = copy.deepcopy(twin)
        for parameter in disturbed.parameters():
            parameter.copy_(disturb(parameter))
        for layer in disturbed.modules():
            if not any(True for _ in layer.children()):
                layer.register_forward_pre_hook(
                    lambda _, given: tree_map_only(Tensor, disturb, given)
                )
        for i, (a, b) in enumerate(zip(tree_leaves(disturbed(*inputs)), exact, strict=True)):
            moved[i] = max(moved[i], (a - b).abs().max().item())
    return [
        32 * (distance + eps * b.abs().max().item())
        for distance, b in zip(moved, exact, strict=True)
    ]


def assert_within(
    outs: Sequence[Tensor], expected: Sequence[Tensor], limits: Sequence[float], what: str = ""
) -> None:
    """Check that no output is further from the expected one than its limit.

    Args:
        outs: Results of a network, flat.
        expected: Those that they must equal.
        limits: Largest legal difference of each.
        what: Said in the error.

    Raises:
        AssertionError: One is.
    """
    for a, b, limit in zip(outs, expected, limits, strict=True):
        assert a.shape == b.shape, what
        error = (a.double() - b.double()).abs().max().item()
        assert error <= limit, f"{what}: off by {error:.3g}, legal are {limit:.3g}"
