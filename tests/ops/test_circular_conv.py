"""Circular convolution: the original operator's numbers, the sum over shifts, every exact form."""

import sys

import numpy as np
import pytest
import torch
from oracles import reference
from torch import Tensor

from mmvitconv.ops import circulant_matrix, circular_conv

module = sys.modules["mmvitconv.ops.circular_conv"]  # the function has the module's name

ALGORITHMS = ["auto", *module.ALGORITHMS]
with np.load(reference.ROOT / "parc" / "op_parc_operator_fixed.npz") as file:
    FIXTURE = {key: file[key] for key in file.files}


def rolled(x: Tensor, weight: Tensor, axis: int, bias: Tensor) -> Tensor:
    """The formula: a sum over the shifts of the map; weight (C, n) or (D, C, n)."""
    out = bias.view(-1, 1, 1)
    for k in range(x.shape[axis]):
        shifted = torch.roll(x, -k, axis)
        if weight.dim() == 2:
            out = out + weight[:, k].view(-1, 1, 1) * shifted
        else:
            out = out + torch.einsum("dc,bchw->bdhw", weight[..., k], shifted)
    return out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", [str(case) for case in FIXTURE["cases"]])
def test_reference_numbers(case: str, algorithm: str):
    part = {
        key.partition("/")[2]: torch.from_numpy(value)
        for key, value in FIXTURE.items()
        if key.startswith(f"{case}/")
    }
    names = [name for name in ("x", "pe", "gcc_conv.weight", "gcc_conv.bias") if name in part]
    leaves = {name: part[name].clone().requires_grad_() for name in names}
    x = leaves["x"] + leaves["pe"] if "pe" in leaves else leaves["x"]
    axis = case.split("_")[1]
    out = circular_conv(x, leaves["gcc_conv.weight"], axis, leaves["gcc_conv.bias"], algorithm)
    torch.testing.assert_close(out, part["y"], rtol=1e-10, atol=1e-10)
    out.backward(part["g"])
    for name, leaf in leaves.items():
        expected = part["dx" if name == "x" else f"d_{name}"]
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (13, 20), (60, 57)])
def test_equals_the_sum_over_shifts(size: tuple[int, int], axis: int, dense: bool, algorithm: str):
    torch.manual_seed(0)
    length = size[axis - 2]
    new = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, bias = new(2, 4, *size), new(3 if dense else 4)
    weight = new(3, 4, length) if dense else new(4, length)
    expected = rolled(x, weight, axis, bias)
    out = circular_conv(x, weight.unsqueeze(5 - axis) if dense else weight, axis, bias, algorithm)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(out)
    leaves = (x, weight, bias)
    for a, b in zip(
        torch.autograd.grad(out, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_reduced_precision(dtype: torch.dtype, autocast: bool, algorithm: str):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 7, 9), torch.randn(4, 9) / 3
    expected = circular_conv(x, weight, "W")
    with torch.autocast("cpu", dtype, enabled=autocast):
        given = (x, weight) if autocast else (x.to(dtype), weight.to(dtype))
        out = circular_conv(*given, "W", algorithm=algorithm)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("algorithm", module.ALGORITHMS)
def test_float32_stays_accurate_on_long_axes(algorithm: str):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 3, 333), torch.randn(2, 333)
    expected = circular_conv(x.double(), weight.double(), -1, algorithm="concat")
    out = circular_conv(x, weight, -1, algorithm=algorithm)
    assert ((out - expected).abs().max() / expected.std()).item() < 1e-5


def test_circulant_matrix():
    expected = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    assert circulant_matrix(torch.arange(3)).tolist() == expected


def test_axes_and_kernel_shapes_are_equivalent():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(4, 5)
    expected = circular_conv(x, weight, "H")
    for dim in (2, -2):
        assert torch.equal(circular_conv(x, weight.view(4, 1, 5, 1), dim), expected)
    turned = circular_conv(x.transpose(2, 3), weight.view(4, 1, 1, 5), "W").transpose(2, 3)
    torch.testing.assert_close(turned, expected)


def test_rules_environment_and_argument(monkeypatch):
    def chosen(length: int, dense: bool = False, algorithm: str = "auto") -> str:
        x, weight = torch.empty(1, 1, length, 1), torch.empty(1, length)
        return module._choose(x, weight, length, dense, algorithm)

    assert chosen(56) == "circulant"
    assert chosen(57) == "fft"
    assert chosen(7, dense=True) == "concat"
    assert chosen(57, algorithm="dft") == "dft"
    assert {rule.algorithm for rule in module.RULES} <= set(module.ALGORITHMS)
    monkeypatch.setenv("MMVITCONV_CIRCULAR_CONV", "concat")
    assert chosen(56) == "concat"
    assert chosen(56, algorithm="dft") == "dft"
    monkeypatch.setenv("MMVITCONV_CIRCULAR_CONV", "ntt")
    with pytest.raises(ValueError, match="algorithm='ntt' is unknown; give one of concat"):
        chosen(56)


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((4, 6), "H", "must have 4 channels and 5 taps, so interpolate"),
        ((3, 5), "H", "must have 4 channels and 5 taps"),
        ((4, 1, 1, 5), "H", r"illegal along H; give \(C, n\), \(C, 1, n, 1\)"),
        ((4, 1, 5, 1), "W", r"illegal along W; give \(C, n\), \(C, 1, 1, n\)"),
        ((2, 3, 5, 1), "H", "must have 4 channels"),
        ((4, 5), "D", "dim='D' is illegal"),
    ],
)
def test_wrong_arguments(shape: tuple[int, ...], dim: str, message: str):
    with pytest.raises(ValueError, match=message):
        circular_conv(torch.randn(1, 4, 5, 6), torch.randn(shape), dim)
