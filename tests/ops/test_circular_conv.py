"""Circular convolution: the original operator's numbers, the sum over shifts, every exact form."""

import itertools
import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numerics import assert_same_gradients, assert_sums_close
from oracles import reference
from torch import Tensor
from torch.autograd import forward_ad

from mmvitconv.ops import circulant_matrix, circular_conv, circular_conv_pair
from mmvitconv.ops.circular_conv import fft, rules

module = sys.modules["mmvitconv.ops.circular_conv"]  # the function has the package's name

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


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()


@pytest.mark.smoke
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
    x, bias = leaf(2, 4, *size), leaf(3 if dense else 4)
    weight = leaf(3, 4, length) if dense else leaf(4, length)
    expected = rolled(x, weight, axis, bias)
    out = circular_conv(x, weight.unsqueeze(5 - axis) if dense else weight, axis, bias, algorithm)
    assert_same_gradients(out, expected, (x, weight, bias))


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
    # Nine products below 3 of factors rounded to 8 bits, and their rounded sum.
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=9 * 3 * 2**-9)


@pytest.mark.parametrize("algorithm", module.ALGORITHMS)
def test_float32_stays_accurate_on_long_axes(algorithm: str):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 3, 333), torch.randn(2, 333)
    expected = circular_conv(x.double(), weight.double(), -1, algorithm="concat")
    out = circular_conv(x, weight, -1, algorithm=algorithm)
    # The transforms mix all values of a row, so the largest of its sums is the measure.
    magnitude = circular_conv(x.double().abs(), weight.double().abs(), -1, algorithm="concat")
    assert_sums_close(out, expected, magnitude.max(), 333)


def test_circulant_matrix():
    expected = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    assert circulant_matrix(torch.arange(3)).tolist() == expected


def test_axes_and_kernel_shapes_are_equivalent():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 6).double(), torch.randn(4, 5).double()
    expected = circular_conv(x, weight, "H")
    for dim in (2, -2):
        assert torch.equal(circular_conv(x, weight.view(4, 1, 5, 1), dim), expected)
    turned = circular_conv(x.transpose(2, 3), weight.view(4, 1, 1, 5), "W").transpose(2, 3)
    torch.testing.assert_close(turned, expected)


def choose(length: int, algorithm: str = "auto", use: str = "inference", **facts: object) -> str:
    facts = {"device": "cpu", "dtype": torch.float32, "batch": 2, "channels": 64, "axis": 2} | facts
    dense, channels = facts.get("dense", False), facts["channels"]
    shape = (channels, channels, length) if dense else (channels, length)
    if algorithm == "auto" and "MMVITCONV_CIRCULAR_CONV" not in os.environ:
        where = facts["device"], facts["dtype"], facts["batch"]
        last = facts.get("channels_last", False)
        return rules.choose_form.__wrapped__(*where, shape, facts["axis"], dense, use, last)
    return module._choose(torch.empty(1, 1, 1, 1), shape, facts["axis"], dense, use, algorithm)


def test_rules(monkeypatch):
    monkeypatch.setattr(rules, "RULES", rules.rules_of("amx"))
    assert choose(7) == choose(192) == "circulant"
    assert choose(112, axis=3) == "circulant"
    assert choose(128, axis=3) == "fft"
    assert choose(500) == "fft"
    assert choose(167, axis=3) == "circulant"  # a prime
    assert choose(500, dtype=torch.bfloat16) == "circulant"
    assert choose(112, channels=100_000) == "fft"  # the circulant would take 5 GB
    assert choose(7, dense=True) == choose(14, dense=True) == "concat"
    assert choose(14, dense=True, batch=16) == "fft"
    assert choose(500, device="meta") == "concat"
    assert choose(500, use="export") == "circulant"
    assert choose(500, use="export", dense=True) == "dft"
    assert (
        module._choose(torch.empty(1, 1, 1, 1), (9, 500), 2, False, "export", "auto") == "circulant"
    )
    assert choose(64, device="cuda") == choose(14, device="cuda", dense=True) == "concat"
    assert choose(65, device="cuda") != "concat"
    monkeypatch.setattr(rules, "RULES", rules.rules_of("avx512"))
    assert choose(94) == choose(33, axis=3) == choose(67, axis=3) == "circulant"
    assert choose(96) == choose(7, axis=3) == choose(40, axis=3) == choose(56, axis=3) == "fft"
    assert choose(40, axis=3, use="training") == "circulant"
    assert choose(33, channels_last=True) == choose(7, axis=3, channels_last=True) == "concat"
    assert choose(34, channels_last=True) == "circulant"


@pytest.mark.parametrize("kind", ["amx", "avx512"])
def test_rules_of_every_machine_are_complete(kind, monkeypatch):
    monkeypatch.setattr(rules, "RULES", rules.rules_of(kind))
    for device, dtype, dense, use, length in itertools.product(
        ("cpu", "cuda", "mps"),
        (torch.float16, torch.bfloat16, torch.float32, torch.float64),
        (False, True),
        ("training", "inference", "export"),
        (1, 7, 56, 1000, 10**6),
    ):
        chosen = choose(length, device=device, dtype=dtype, dense=dense, use=use)
        assert chosen in module.ALGORITHMS
        assert use != "export" or chosen == ("dft" if dense else "circulant")


def test_environment_and_argument(monkeypatch):
    assert choose(7, "dft") == "dft"
    monkeypatch.setenv("MMVITCONV_CIRCULAR_CONV", "concat")
    assert choose(7) == "concat"
    assert choose(7, "dft") == "dft"
    monkeypatch.setenv("MMVITCONV_CIRCULAR_CONV", "ntt")
    with pytest.raises(ValueError, match="algorithm='ntt' is unknown; give one of concat"):
        choose(7)


lengths = st.one_of(st.integers(1, 20), st.sampled_from([37, 64, 67, 74, 97, 101, 134]))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    height=lengths,
    width=lengths,
    axis=st.sampled_from([2, 3]),
    dense=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_all_algorithms_in_float32(
    batch, channels, height, width, axis, dense, channels_last, seed
):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, height, width)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    out_channels = 1 + seed % 4 if dense else channels
    length = x.shape[axis]
    weight = torch.randn(out_channels, channels if dense else 1, length).unsqueeze(5 - axis)
    bias, grad = torch.randn(out_channels), torch.randn(batch, out_channels, height, width)

    def values_and_gradients(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        taps = leaves[1].squeeze(5 - axis)
        taps = taps.squeeze(1) if not dense or (channels == 1 and out_channels == 1) else taps
        out = rolled(leaves[0], taps, axis, leaves[2])
        return [out, *torch.autograd.grad(out, leaves, grad)]

    doubles = [t.double() for t in (x, weight, bias, grad)]
    expected = values_and_gradients(*doubles)
    # Of absolute values the gradients, too, are the sums of absolute products. The transforms mix
    # all values of a line, so the largest of the sums is the measure.
    magnitudes = [t.max() for t in values_and_gradients(*[t.abs() for t in doubles])]
    lengths_of_sums = length * channels + 1, length * out_channels, *[batch * height * width] * 2
    for algorithm in ALGORITHMS:
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        out = circular_conv(*leaves[:2], axis, leaves[2], algorithm)
        found = [out, *torch.autograd.grad(out, leaves, grad)]
        for values in zip(found, expected, magnitudes, lengths_of_sums, strict=True):
            assert_sums_close(*values, algorithm)
        with torch.no_grad():  # other code than with gradients
            out = circular_conv(x, weight, axis, bias, algorithm)
        assert_sums_close(out, expected[0], magnitudes[0], lengths_of_sums[0], algorithm)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("algorithm", module.ALGORITHMS)
@pytest.mark.parametrize("needed", ["x", "weight"])
def test_gradient_of_one_factor_alone(needed: str, algorithm: str, axis: int):
    torch.manual_seed(0)
    x, weight = leaf(2, 3, 70, 74), leaf(3, (70, 74)[axis - 2])
    expected = circular_conv(x, weight, axis, algorithm="concat")
    needed, other = (x, weight) if needed == "x" else (weight, x)
    grad = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, needed, grad)
    other.requires_grad_(False)
    circular_conv(x, weight, axis, algorithm=algorithm).backward(grad)
    torch.testing.assert_close(needed.grad, expected_grad, rtol=1e-9, atol=1e-9)
    assert other.grad is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("axis", [2, 3])
def test_second_and_forward_derivatives(axis: int, algorithm: str):
    torch.manual_seed(0)
    leaves = leaf(2, 2, 4, 5), leaf(2, (4, 5)[axis - 2]), leaf(2)

    def conv(*leaves: Tensor) -> Tensor:
        return circular_conv(*leaves[:2], axis, leaves[2], algorithm)

    assert torch.autograd.gradcheck(conv, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(conv, leaves)
    x, weight, bias = leaves
    dx, dweight, dbias = tangents = [torch.randn_like(leaf) for leaf in leaves]
    expected = conv(dx, weight, dbias) + conv(x, dweight, torch.zeros_like(bias))
    with forward_ad.dual_level():  # and backward mode at once
        duals = map(forward_ad.make_dual, leaves, tangents)
        found = forward_ad.unpack_dual(conv(*duals)).tangent
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["circulant", "fft"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_reduced_precision_add_up_in_float32(dtype: torch.dtype, algorithm: str):
    torch.manual_seed(0)
    x, weight = torch.randn(64, 2, 12, 12), torch.randn(2, 12)
    leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    grad = torch.randn(64, 2, 12, 12).to(dtype)
    out = torch.autograd.grad(circular_conv(*leaves, "H", algorithm=algorithm), leaves, grad)
    expected = torch.autograd.grad(
        circular_conv(*doubles, "H", algorithm="concat"), doubles, grad.double()
    )
    for a, b in zip(out, expected, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, b) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("algorithm", ["fft2", *ALGORITHMS])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (9, 7), (150, 160)])
def test_pair(size: tuple[int, int], algorithm: str):
    torch.manual_seed(0)
    leaves = [leaf(2, 3, *size), leaf(3, size[0]), leaf(3, size[1]), leaf(3)]
    x, weight_h, weight_w, bias = leaves
    expected = rolled(rolled(x, weight_h, 2, torch.zeros(3)), weight_w, 3, bias)
    assert_same_gradients(circular_conv_pair(*leaves, algorithm), expected, leaves)
    half = circular_conv_pair(*[t.detach().bfloat16() for t in leaves], algorithm)
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected.detach()) < 0.1
    with pytest.raises(ValueError, match="must have 3 channels"):
        circular_conv_pair(x, leaf(3, size[0] + 1), weight_w, None, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("axis", [2, 3])
def test_empty_batch(axis: int, algorithm: str):
    x, weight = torch.randn(0, 3, 70, 74), torch.randn(3, (70, 74)[axis - 2], requires_grad=True)
    out = circular_conv(x, weight, axis, None, algorithm)
    assert out.shape == x.shape
    out.sum().backward()
    assert not weight.grad.any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_function_transforms(algorithm: str):
    torch.manual_seed(0)
    x, weight = leaf(2, 3, 9, 8), leaf(3, 9)

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return circular_conv(x, weight, "H", None, algorithm).square().sum()

    def close(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    gradient = torch.func.grad(loss)(weight, x)
    close(gradient, torch.autograd.grad(loss(weight, x), weight)[0])
    images = x[:, None]
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, images)
    close(each.sum(0), gradient)
    tangent = torch.randn_like(weight)
    close(
        torch.func.jvp(lambda w: loss(w, x), (weight,), (tangent,))[1], (gradient * tangent).sum()
    )
    with torch.no_grad():
        each = torch.func.vmap(lambda x: circular_conv(x, weight, "H", None, algorithm))(images)
        close(each[:, 0], circular_conv(x, weight, "H", None, algorithm))


def test_lengths_of_transforms():
    assert fft.transform_length(112) == 112
    assert fft.transform_length(37) == 37  # short enough not to matter
    for length in (67, 148, 167, 333):
        transform = fft.transform_length(length)
        assert transform >= 2 * length - 1
        assert fft.is_fast(transform)


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((4, 6), "H", "must have 4 channels and 5 taps, so interpolate"),
        ((3, 5), "H", "must have 4 channels and 5 taps"),
        ((4, 1, 1, 5), "H", r"along H must have shape \(C, n\), \(C, 1, n, 1\)"),
        ((4, 1, 5, 1), "W", r"along W must have shape \(C, n\), \(C, 1, 1, n\)"),
        ((2, 3, 5, 1), "H", "must have 4 channels"),
        ((4, 5), "D", "dim must be 'H' .* got 'D'"),
    ],
)
def test_wrong_arguments(shape: tuple[int, ...], dim: str, message: str):
    with pytest.raises(ValueError, match=message):
        circular_conv(torch.randn(1, 4, 5, 6), torch.randn(shape), dim)
