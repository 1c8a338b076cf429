"""The limits of tests/numerics.py: any order of summation is within, a mistake is not."""

import pytest
import torch
from numerics import assert_sums_close, assert_within, float32_limits
from torch import nn


@pytest.mark.parametrize("length", [1, 30, 1000, 10_000])
def test_sums(length: int):
    generator = torch.Generator().manual_seed(length)
    a, b = (torch.randn(200, length, generator=generator) for _ in range(2))
    exact = (a.double() * b).sum(dim=1)
    magnitude = (a.double() * b).abs().sum(dim=1)
    products = (a * b).t()
    in_order = torch.zeros(200)
    for row in products:
        in_order += row
    backwards = torch.zeros(200)
    for row in products.flip(0):
        backwards += row
    for sums in (in_order, backwards, products.sum(dim=0), torch.einsum("ij,ij->i", a, b)):
        assert_sums_close(sums, exact, magnitude, length)
    with pytest.raises(AssertionError, match=r"lost product: .* more than rounding explains"):
        assert_sums_close(in_order - products[0], exact, magnitude, length, "lost product")


class Mean(nn.Module):
    """A network whose norm sees nearly equal values where ``spread`` is small."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread, self.norm = spread, nn.LayerNorm(4)
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(1 + self.spread * self.first(x)))


def test_limits_of_a_network_follow_its_sensitivity():
    torch.manual_seed(0)
    limits, x = [], torch.randn(16, 8)
    for spread in (1.0, 1e-2):
        model = Mean(spread).eval()
        limits += float32_limits(model, x)
        exact = model.double()(x.double())
        assert_within([model.float()(x)], [exact], limits[-1:])
        model.first.weight.data[0, 0] += 0.05
        with pytest.raises(AssertionError, match="other weights: off by"):
            assert_within([model(x)], [exact], limits[-1:], "other weights")
    assert limits[1] > 10 * limits[0]
