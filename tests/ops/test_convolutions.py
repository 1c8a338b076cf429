"""The operators of mmvitconv.ops against plain convolutions: values, gradients, dtypes, layouts."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmvitconv.ops import depthwise_conv as depthwise_module
from mmvitconv.ops import depthwise_conv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def gradients(operator, tensors: list[Tensor | None]) -> list[Tensor]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    out = operator(*leaves)
    # A gradient that differs everywhere, in the layout of the output.
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
    return [out.detach(), *[leaf.grad for leaf in leaves if leaf is not None]]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    kernel_size=st.sampled_from([1, 3, 5, 7, 11, 13]),
    has_bias=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
)
def test_depthwise_equals_plain(batch, channels, height, width, kernel_size, has_bias, layout):
    generator = torch.Generator().manual_seed(batch * 1000 + channels * 100 + height * 10 + width)
    new = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = new(batch, channels, height, width).contiguous(memory_format=layout)
    weight = new(channels, 1, kernel_size, kernel_size)
    bias = new(channels) if has_bias else None
    ours, expected = (
        gradients(depthwise_conv2d, [x, weight, bias]),
        gradients(plain, [x, weight, bias]),
    )
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_depthwise_takes_its_own_backward():
    x, weight = torch.randn(2, 4, 9, 9), torch.randn(4, 1, 7, 7, requires_grad=True)
    assert "DepthwiseConv2d" in depthwise_conv2d(x, weight).grad_fn.name()
    assert "DepthwiseConv2d" not in depthwise_conv2d(x, weight[:, :, 2:5, 2:5]).grad_fn.name()


def test_depthwise_gradcheck_and_second_derivative():
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(depthwise_conv2d, (x, weight, bias))
    assert torch.autograd.gradgradcheck(depthwise_conv2d, (x, weight, bias))


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, True, True)])
def test_depthwise_gives_only_the_gradients_asked_for(needs):
    tensors = [torch.randn(2, 3, 8, 8), torch.randn(3, 1, 5, 5), torch.randn(3)]
    for tensor, need in zip(tensors, needs, strict=True):
        tensor.requires_grad_(need)
    depthwise_conv2d(*tensors).sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == list(needs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_depthwise_reduced_precision_is_as_good_as_its_inputs(dtype, autocast, training):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 12, 10), torch.randn(4, 1, 7, 7), torch.randn(4)
    if not autocast:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    expected = plain(x.double(), weight.double(), bias.double())
    weight.requires_grad_(training)
    with torch.autocast("cpu", dtype, enabled=autocast):
        out = depthwise_conv2d(x, weight, bias)
    assert out.dtype == dtype
    # Sums of 49 products, each rounded at most once on input, and one rounding of the output.
    error = (out.detach().double() - expected).abs().max()
    assert error <= (1.5 if autocast else 0.5) * torch.finfo(dtype).eps * expected.abs().max()
    if training:
        out.float().sum().backward()
        assert weight.grad.dtype == weight.dtype


def test_operators_compile_without_graph_break():
    def both(x: Tensor, large: Tensor, small: Tensor) -> Tensor:
        return depthwise_conv2d(depthwise_conv2d(x, large), small)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    shapes = [(1, 4, 8, 8), (4, 1, 7, 7), (4, 1, 2, 2)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    ours, expected = gradients(compiled, tensors), gradients(both, tensors)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert depthwise_module._MIN_KERNEL_SIZE <= 7  # the kernel above takes the fast path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", [None, *depthwise_module.ALGORITHMS])
@pytest.mark.parametrize("kernel_size", [1, 2, 4, 5, 8, 12, 15])
def test_algorithms_are_exact(kernel_size: int, algorithm: str | None, layout):
    """All of them, even kernels and those larger than the map included."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64).contiguous(memory_format=layout)
    tensors = [x, torch.randn(3, 1, kernel_size, kernel_size, dtype=torch.float64)]
    tensors.append(torch.randn(3, dtype=torch.float64))
    before = (kernel_size - 1) // 2
    after = kernel_size - 1 - before

    def padded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, groups=3)

    ours = gradients(lambda *args: depthwise_conv2d(*args, algorithm), tensors)
    for a, b in zip(ours, gradients(padded, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert ours[0].is_contiguous(memory_format=layout)


def test_algorithm_by_rule_environment_and_argument(monkeypatch):
    seen = []
    compute = depthwise_module._compute
    monkeypatch.setattr(
        depthwise_module, "_compute", lambda *args: seen.append(args[-1]) or compute(*args)
    )
    x, weight = torch.randn(1, 2, 8, 8), torch.randn(2, 1, 15, 15)
    depthwise_conv2d(x, weight)  # the rule of large kernels in the default layout
    monkeypatch.setenv("MMVITCONV_DEPTHWISE_CONV", "fft")
    depthwise_conv2d(x, weight)
    depthwise_conv2d(x, weight, algorithm="unfold")
    assert seen == ["direct_nhwc", "fft", "unfold"]
    monkeypatch.setenv("MMVITCONV_DEPTHWISE_CONV", "winograd")
    with pytest.raises(ValueError, match="algorithm='winograd' is unknown; give one of direct"):
        depthwise_conv2d(x, weight)


def test_every_rule_names_an_algorithm():
    assert {rule.algorithm for rule in depthwise_module.RULES} <= set(depthwise_module.ALGORITHMS)
    assert all(rule.min_kernel_size <= rule.max_kernel_size for rule in depthwise_module.RULES)
