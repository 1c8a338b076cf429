"""Attention operators against plain formulas: values, gradients, dtypes.

The window attention is held to a loop over windows whose padded slots are written out.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_sums_close
from torch import Tensor, nn

from mmvitconv.ops import attention, window_attention

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


# --- all of them ---------------------------------------------------------------------------------


def cases() -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    yield "attention", attention, attention_inputs(2, 5, 7, 2, 8, torch.float32)
    q, kv, pad, biases, sizes = window_inputs("four")
    tensors = [t.float() for t in (q, kv, pad, *biases)]
    yield "windows", lambda q, kv, pad, *b: window_attention(q, kv, pad, b, sizes), tensors


@pytest.mark.graph
@pytest.mark.parametrize("index", range(2))
def test_operators_compile_without_graph_break(index: int):
    _, operator, tensors = list(cases())[index]
    torch._dynamo.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_all_close(gradients(compiled, tensors), gradients(operator, tensors), 1e-5)
    torch._dynamo.reset()
    with torch.no_grad():
        assert_all_close([compiled(*tensors)], [operator(*tensors)], 1e-5)


@pytest.mark.parametrize("index", range(2))
def test_parameters_are_accepted_in_inference_mode(index: int):
    _, operator, tensors = list(cases())[index]
    expected = operator(*tensors)
    parameters = [nn.Parameter(t) for t in tensors]
    with torch.inference_mode():
        torch.testing.assert_close(operator(*parameters), expected, rtol=0, atol=2e-5)
