"""Attention operators and fused GELUs against plain formulas: values, gradients, dtypes, layouts.

The window attention is held to a loop over windows whose padded slots are written out.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_sums_close
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmvitconv.ops import attention, conv2d_gelu, linear_gelu, window_attention

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
REDUCED = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def gradients(operator: Callable[..., Tensor], tensors: list[Tensor | None]) -> list[Tensor]:
    """The output and the gradients of all tensors."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    out = operator(*leaves)
    # A gradient that differs everywhere, in the layout of the output.
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
    return [out.detach(), *[leaf.grad for leaf in leaves if leaf is not None]]


def assert_all_close(ours: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Recorder(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def saw(self, part: str) -> bool:
        return any(part in name for name in self.names)


# --- attention -----------------------------------------------------------------------------------


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    return torch.einsum("bhls,bshd->blhd", weights, v)


def attention_magnitude(q: Tensor, k: Tensor, v: Tensor, *biases: Tensor) -> float:
    """Sums of absolute values: the values' mean by weights that are off as the scores are."""
    scores = torch.einsum("bihd,bjhd->bhij", q.abs(), k.abs()).max() / q.shape[-1] ** 0.5
    scores = scores + max((bias.abs().max() for bias in biases), default=0)
    return (v.abs().max() * (1 + 2 * scores)).item()


def attention_inputs(
    batch: int, queries: int, keys: int, heads: int, d: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    shapes = [(batch, queries, heads, d), *[(batch, keys, heads, d)] * 2, (heads, queries, keys)]
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 11),
    keys=st.integers(1, 11),
    heads=st.integers(1, 4),
    d=st.sampled_from([1, 3, 8, 32]),
    has_bias=st.booleans(),
)
def test_attention_equals_plain(
    batch: int, queries: int, keys: int, heads: int, d: int, has_bias: bool
):
    torch.manual_seed(queries * 100 + keys)
    *tensors, bias = attention_inputs(batch, queries, keys, heads, d)
    tensors.append(bias if has_bias else None)
    ours, expected = gradients(attention, tensors), gradients(plain_attention, tensors)
    assert_all_close(ours, expected, 1e-10)
    with torch.no_grad():  # another kernel
        assert_all_close([attention(*tensors)], expected[:1], 1e-10)


@pytest.mark.parametrize("needs", ["qkv", "bias", "q"])
def test_attention_gives_the_gradients_asked_for(needs: str):
    named = dict(zip(("q", "k", "v", "bias"), attention_inputs(2, 5, 7, 2, 8), strict=True))
    wanted = list(needs) if needs == "qkv" else [needs]
    expected = gradients(plain_attention, list(named.values()))[1:]
    for name in wanted:
        named[name].requires_grad_()
    out = attention(*named.values())
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
    for (name, tensor), grad in zip(named.items(), expected, strict=True):
        assert (tensor.grad is not None) == (name in wanted)
        if name in wanted:
            torch.testing.assert_close(tensor.grad, grad, rtol=1e-10, atol=1e-10)


def test_attention_gradcheck():
    tensors = [t.requires_grad_() for t in attention_inputs(1, 3, 4, 2, 2)]
    assert torch.autograd.gradcheck(attention, tensors)


def test_attention_takes_views_and_changes_nothing():
    """Heads and parts of one matrix, as a linear layer leaves them."""
    kv = torch.randn(2, 6, 2, 3, 8)
    q = torch.randn(2 * 5, 24).view(2, 5, 3, 8)
    before = kv.clone(), q.clone()
    with torch.no_grad():
        out = attention(q, *kv.unbind(2))
    k, v = (part.contiguous() for part in kv.unbind(2))
    doubles = q.double(), k.double(), v.double()
    assert_sums_close(out, plain_attention(*doubles), attention_magnitude(*doubles), 6 + 8)
    assert torch.equal(kv, before[0])
    assert torch.equal(q, before[1])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, *REDUCED])
def test_attention_precision(dtype: torch.dtype, has_bias: bool, grad: bool):
    """As good as the inputs; the bias stays float32, as a parameter under autocast."""
    q, k, v, bias = attention_inputs(2, 49, 49, 4, 32, dtype)
    bias = bias.float().requires_grad_(grad) if has_bias else None
    with torch.set_grad_enabled(grad):
        out = attention(q, k, v, bias)
    assert out.dtype == dtype
    doubles = [t.double() for t in (q, k, v, bias) if t is not None]
    expected = plain_attention(*doubles)
    if dtype == torch.float32:
        assert_sums_close(out, expected, attention_magnitude(*doubles), 49 + 32)
    else:  # sums in float32; rounded are the weights, at most 1, and the output
        atol = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)
    if has_bias and grad:
        out.float().sum().backward()  # arrives in the dtype of the parameter


def test_attention_of_large_scores_is_finite():
    q, k, v, bias = attention_inputs(1, 4, 4, 1, 8, torch.float32)
    for grad in (False, True):
        assert attention(1e4 * q, 1e4 * k, v, bias.requires_grad_(grad)).isfinite().all()


# --- window attention ----------------------------------------------------------------------------


def loop_over_windows(
    q: Tensor, kv: Tensor, pad: Tensor | None, biases: list[Tensor], sizes: list[int]
) -> Tensor:
    """Window by window, head by head, query by query, with every padded slot written out."""
    batch, _, heads, d = q.shape
    outs = []
    for image in range(batch):
        start, rows = 0, []
        for bias, size in zip(biases, sizes, strict=True):
            _, length, num_slots = bias.shape
            for first in range(start, start + size, length):
                slots = [kv[image, n] for n in range(first, first + length)]
                slots += [pad] * (num_slots - length)
                for i in range(length):
                    for head in range(heads):
                        query = q[image, first + i, head]
                        scores = [(query * s[0, head]).sum() / d**0.5 for s in slots]
                        weights = (torch.stack(scores) + bias[head, i]).softmax(dim=0)
                        values = torch.stack([slot[1, head] for slot in slots])
                        rows.append(weights @ values)
            start += size
        outs.append(torch.stack(rows).view(-1, heads, d))
    return torch.stack(outs)


# Windows of each region: number of them, tokens in each, slots in each.
REGIONS = {
    "whole": [(3, 4, 4)],
    "one cut": [(2, 3, 4)],
    "right border": [(4, 4, 4), (2, 2, 4)],
    "four": [(4, 9, 9), (2, 6, 9), (2, 3, 9), (1, 2, 9)],
    "corner": [(1, 1, 9)],
}


def window_inputs(regions: str, heads: int = 2, d: int = 4, batch: int = 2) -> tuple:
    """q, kv, pad, biases and sizes, in float64."""
    layout = REGIONS[regions]
    n = sum(windows * length for windows, length, _ in layout)
    new = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    biases = [new(heads, length, slots) for _, length, slots in layout]
    has_pad = any(length < slots for _, length, slots in layout)
    pad = new(2, heads, d) if has_pad else None
    sizes = [windows * length for windows, length, _ in layout]
    return new(batch, n, heads, d), new(batch, n, 2, heads, d), pad, biases, sizes


@pytest.mark.parametrize("regions", REGIONS)
def test_window_attention_equals_the_loop(regions: str):
    q, kv, pad, biases, sizes = window_inputs(regions)

    def run(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, kv, pad, *biases: operator(q, kv, pad, biases, sizes)

    tensors = [q, kv, pad, *biases]
    ours = gradients(run(window_attention), tensors)
    expected = gradients(run(loop_over_windows), tensors)
    assert_all_close(ours, expected, 1e-10)
    assert ours[0].shape == q.shape
    with torch.no_grad():
        assert_all_close([window_attention(*tensors[:3], biases, sizes)], expected[:1], 1e-10)


def test_window_attention_gradcheck():
    q, kv, pad, biases, sizes = window_inputs("right border", heads=1, d=2, batch=1)
    tensors = [t.requires_grad_() for t in (q, kv, pad, *biases)]
    assert torch.autograd.gradcheck(
        lambda q, kv, pad, *biases: window_attention(q, kv, pad, biases, sizes), tensors
    )


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("regions", ["whole", "four"])
@pytest.mark.parametrize("dtype", [torch.float32, *REDUCED])
def test_window_attention_precision(dtype: torch.dtype, regions: str, grad: bool):
    """Tokens in the compute dtype; bias and padded slot are float32, as under autocast."""
    q, kv, pad, biases, sizes = window_inputs(regions)
    q, kv = q.to(dtype), kv.to(dtype)
    pad = None if pad is None else pad.float()
    biases = [bias.float().requires_grad_(grad) for bias in biases]
    with torch.set_grad_enabled(grad):
        out = window_attention(q, kv, pad, biases, sizes)
    assert out.dtype == dtype
    exact = [None if t is None else t.double() for t in (q, kv, pad, *biases)]
    expected = loop_over_windows(*exact[:3], exact[3:], sizes)
    if dtype == torch.float32:
        slots = [kv] if pad is None else [kv, pad.expand(len(kv), 1, -1, -1, -1)]
        k, v = torch.cat(slots, dim=1).double().unbind(2)
        magnitude = attention_magnitude(exact[0], k, v, *exact[3:])
        assert_sums_close(out, expected, magnitude, 9 + 4)
    else:
        atol = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)


def test_window_attention_takes_views():
    """One matrix of image rows, as the model gives it, and a strided batch."""
    q, kv, pad, biases, sizes = window_inputs("four")
    expected = window_attention(q, kv, pad, biases, sizes)
    strided_q = torch.stack([q, q + 1], dim=1)[:, 0]
    strided_kv = torch.stack([kv, kv + 1], dim=-1)[..., 0]
    assert not strided_kv.is_contiguous()
    torch.testing.assert_close(
        window_attention(strided_q, strided_kv, pad, biases, sizes), expected
    )


# --- convolution and GELU ------------------------------------------------------------------------

# channels in, channels out, kernel, stride, padding, groups
CONVOLUTIONS = {
    "full": (3, 8, 3, 2, 1, 1),
    "depthwise": (8, 8, 3, 1, 1, 8),
    "depthwise, stride 2": (8, 8, 3, 2, 1, 8),
    "grouped": (8, 12, 3, 1, 0, 4),
    "pointwise": (6, 10, 1, 1, 0, 1),
    "large kernel": (4, 4, 5, 3, 2, 2),
}


def plain_conv(kind: str) -> Callable[..., Tensor]:
    *_, stride, padding, groups = CONVOLUTIONS[kind]
    return lambda x, w, b=None: F.gelu(F.conv2d(x, w, b, stride, padding, groups=groups))


def our_conv(kind: str) -> Callable[..., Tensor]:
    *_, stride, padding, groups = CONVOLUTIONS[kind]
    return lambda x, w, b=None: conv2d_gelu(x, w, b, stride, padding, groups)


def conv_inputs(kind: str, size: tuple[int, int], layout: str = "nchw") -> list[Tensor]:
    c_in, c_out, kernel, _, _, groups = CONVOLUTIONS[kind]
    x = 3 * torch.randn(2, c_in, *size, dtype=torch.float64)
    weight = torch.randn(c_out, c_in // groups, kernel, kernel, dtype=torch.float64)
    bias = torch.randn(c_out, dtype=torch.float64)
    return [x.contiguous(memory_format=LAYOUTS[layout]), weight, bias]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_conv2d_gelu_equals_plain(kind: str, layout: str, has_bias: bool):
    for size in ((5, 3), (17, 12), (32, 32)):
        x, weight, bias = conv_inputs(kind, size, layout)
        tensors = [x, weight, bias if has_bias else None]
        expected = gradients(plain_conv(kind), tensors)
        assert_all_close(gradients(our_conv(kind), tensors), expected, 1e-10)
        *_, stride, padding, groups = CONVOLUTIONS[kind]
        magnitude = F.conv2d(x.abs(), weight.abs(), bias.abs(), stride, padding, 1, groups)
        single = [None if t is None else t.float() for t in tensors]
        before = [None if t is None else t.clone() for t in single]
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                out = our_conv(kind)(*single)
            assert_sums_close(out, expected[0], magnitude, weight[0].numel() + 1)
        for a, b in zip(single, before, strict=True):
            assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize("kind", ["full", "depthwise"])
def test_conv2d_gelu_takes_the_fused_pass_for_inference_only(kind: str):
    tensors = [t.float() for t in conv_inputs(kind, (16, 16), "nhwc")]

    def is_fused(*tensors: Tensor, grad: bool = False) -> bool:
        with torch.set_grad_enabled(grad), Recorder() as recorder:
            our_conv(kind)(*tensors)
        return recorder.saw("_convolution_pointwise")

    assert is_fused(*tensors) == torch.backends.mkldnn.is_available()
    assert not is_fused(*tensors, grad=True)
    assert not is_fused(tensors[0].contiguous(), *tensors[1:])
    assert not is_fused(*[t.double() for t in tensors])
    assert not is_fused(*[t.bfloat16() for t in tensors])
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(*tensors)


@pytest.mark.parametrize("dtype", REDUCED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("autocast", [False, True])
def test_conv2d_gelu_reduced_precision(dtype: torch.dtype, layout: str, autocast: bool):
    tensors = conv_inputs("depthwise", (19, 12), layout)
    given_dtype = torch.float32 if autocast else dtype
    given = [t.to(given_dtype) for t in tensors]
    expected = plain_conv("depthwise")(*[t.double() for t in given])
    for grad in (False, True):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled=autocast):
            out = our_conv("depthwise")(*given)
        assert out.dtype == dtype
        error = (out.double() - expected).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * expected.abs().max()


# --- linear layer and GELU -----------------------------------------------------------------------


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(F.linear(x, weight, bias))


def linear_inputs(*shape: int, width: int = 24) -> list[Tensor]:
    new = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    return [3 * new(*shape), new(width, shape[-1]), new(width)]


SHAPES = [(1, 7), (511, 16), (512, 16), (3, 5, 8), (2, 30, 30, 12), (16,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_gelu_equals_plain(shape: tuple[int, ...], has_bias: bool):
    x, weight, bias = linear_inputs(*shape)
    tensors = [x, weight, bias if has_bias else None]
    expected = gradients(plain_linear, tensors)
    assert_all_close(gradients(linear_gelu, tensors), expected, 1e-10)
    magnitude = F.linear(x.abs(), weight.abs(), bias.abs())
    single = [None if t is None else t.float() for t in tensors]
    before = [None if t is None else t.clone() for t in single]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            out = linear_gelu(*single)
        assert_sums_close(out, expected[0], magnitude, shape[-1] + 1)
    for a, b in zip(single, before, strict=True):
        assert a is b is None or torch.equal(a, b)


def test_linear_gelu_takes_the_fused_pass_where_it_pays():
    def is_fused(rows: int, grad: bool = False, dtype: torch.dtype = torch.float32) -> bool:
        tensors = [t.to(dtype) for t in linear_inputs(rows, 16)]
        with torch.set_grad_enabled(grad), Recorder() as recorder:
            linear_gelu(*tensors)
        return recorder.saw("_linear_pointwise")

    assert is_fused(512) == torch.backends.mkldnn.is_available()
    assert not is_fused(511)
    assert not is_fused(512, grad=True)
    assert not is_fused(512, dtype=torch.float64)
    assert not is_fused(512, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(512)


@pytest.mark.parametrize("dtype", REDUCED)
@pytest.mark.parametrize("rows", [5, 600])
@pytest.mark.parametrize("autocast", [False, True])
def test_linear_gelu_reduced_precision(dtype: torch.dtype, rows: int, autocast: bool):
    given = [t.to(torch.float32 if autocast else dtype) for t in linear_inputs(rows, 16)]
    expected = plain_linear(*[t.double() for t in given])
    for grad in (False, True):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled=autocast):
            out = linear_gelu(*given)
        assert out.dtype == dtype
        error = (out.double() - expected).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * expected.abs().max()


def test_linear_gelu_takes_strided_inputs():
    x, weight, bias = (t.float() for t in linear_inputs(2, 400, 8))
    strided = x.transpose(0, 1)
    with torch.no_grad():
        out = linear_gelu(strided, weight, bias)
    doubles = [t.double() for t in (strided, weight, bias)]
    magnitude = F.linear(*[t.abs() for t in doubles])
    assert_sums_close(out, plain_linear(*doubles), magnitude, 8 + 1)


# --- all of them ---------------------------------------------------------------------------------


def cases() -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    yield "attention", attention, attention_inputs(2, 5, 7, 2, 8, torch.float32)
    q, kv, pad, biases, sizes = window_inputs("four")
    tensors = [t.float() for t in (q, kv, pad, *biases)]
    yield "windows", lambda q, kv, pad, *b: window_attention(q, kv, pad, b, sizes), tensors
    convolution = [t.float() for t in conv_inputs("full", (16, 16), "nhwc")]
    yield "conv2d_gelu", our_conv("full"), convolution
    yield "linear_gelu", linear_gelu, [t.float() for t in linear_inputs(600, 8)]


@pytest.mark.graph
@pytest.mark.parametrize("index", range(4))
def test_operators_compile_without_graph_break(index: int):
    _, operator, tensors = list(cases())[index]
    torch._dynamo.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_all_close(gradients(compiled, tensors), gradients(operator, tensors), 1e-5)
    torch._dynamo.reset()
    with torch.no_grad():
        assert_all_close([compiled(*tensors)], [operator(*tensors)], 1e-5)


@pytest.mark.parametrize("index", range(4))
def test_parameters_are_accepted_in_inference_mode(index: int):
    _, operator, tensors = list(cases())[index]
    expected = operator(*tensors)
    parameters = [nn.Parameter(t) for t in tensors]
    with torch.inference_mode():
        torch.testing.assert_close(operator(*parameters), expected, rtol=0, atol=2e-5)
