"""Linear layers and convolutions in oneDNN give what plain ones give, and follow their weights."""

import copy
import pickle
import sys

import pytest
import torch
from numerics import assert_sums_close
from torch import Tensor, nn

from mmvitconv.models import DynConvViT
from mmvitconv.runtime import fold
from mmvitconv.runtime.packing import DirectConv2d, PackedLinear, pack


@pytest.fixture
def layers() -> tuple[nn.Linear, nn.Sequential]:
    torch.manual_seed(0)
    plain = nn.Linear(20, 30)
    packed = nn.Sequential(copy.deepcopy(plain)).eval()
    pack(packed)
    assert type(packed[0]) is PackedLinear
    return plain, packed


def assert_same(packed: nn.Module, plain: nn.Linear, x: Tensor) -> None:
    expected = plain.double()(x.double())
    magnitude = (x.double().abs() @ plain.weight.abs().T + plain.bias.abs()).max()
    assert_sums_close(packed(x), expected, magnitude, x.shape[-1] + 1)
    plain.float()


@pytest.mark.parametrize("shape", [(20,), (1, 20), (7, 20), (2, 3, 5, 20), (0, 20)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values(layers, shape: tuple[int, ...], mode):
    plain, packed = layers
    with mode():
        x = torch.randn(shape)
        if x.numel():
            assert_same(packed, plain, x)
            assert packed[0]._packed is not None
        assert packed(x).shape == plain(x).shape
        strided = torch.randn(6, 4, 20).transpose(0, 1)
        assert_same(packed, plain, strided)


def test_changed_weights_are_seen(layers):
    plain, packed = layers
    x = torch.randn(3, 20)
    with torch.no_grad():
        packed(x)
        for layer in (plain, packed[0]):
            layer.weight.mul_(2)
        assert_same(packed, plain, x)
        packed[0].weight = nn.Parameter(plain.weight * 2)
        plain.weight.mul_(2)
        assert_same(packed, plain, x)


def test_gradients_other_dtypes_and_traces(layers):
    plain, packed = layers
    x = torch.randn(3, 20, requires_grad=True)
    ours, expected = (torch.autograd.grad(f(x).sum(), x)[0] for f in (packed, plain))
    assert torch.equal(ours, expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(x), plain(x))
    with torch.no_grad():
        packed(x)
        graph = str(torch.jit.trace(packed, x).inlined_graph)
        assert "aten::linear" in graph
        assert "mkldnn" not in graph
        packed.double()
        assert packed(x.double()).dtype == torch.float64


def test_copies_and_pickles(layers):
    plain, packed = layers
    x = torch.randn(3, 20)
    with torch.no_grad():
        packed(x)
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert_same(other, plain, x)


@pytest.mark.parametrize("pays", [True, False])
def test_folded_backbones_are_packed_where_it_pays(pays: bool, monkeypatch):
    monkeypatch.setattr(sys.modules[fold.__module__], "packing_pays", lambda: pays)
    model = DynConvViT("tiny", out_indices=-1).eval()
    folded = fold(model)
    for kind in (PackedLinear, DirectConv2d):
        assert any(isinstance(m, kind) for m in folded.modules()) == pays
        assert not any(isinstance(m, kind) for m in model.modules())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours, expected = folded(x)[0], model(x)[0]
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": (5, 2), "stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)},
        {"kernel_size": 3, "groups": 4},
    ],
)
def test_convolutions(options: dict, layout: torch.memory_format, batch: int):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, **options)
    packed = nn.Sequential(copy.deepcopy(plain)).eval()
    pack(packed)
    assert type(packed[0]) is DirectConv2d
    x = torch.randn(batch, 8, 11, 9).contiguous(memory_format=layout)
    for other in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        with torch.no_grad():
            out = other(x)
            exact = copy.deepcopy(plain).double()
            expected = exact(x.double())
            exact.weight.abs_()
            magnitude = exact(x.double().abs()).abs().max() + 1
            assert_sums_close(out, expected, magnitude, plain.weight[0].numel() + 1)
        assert out.is_contiguous(memory_format=layout)
    with torch.no_grad():
        packed[0].weight.mul_(2)
        plain.weight.mul_(2)
        assert torch.allclose(packed(x), plain(x), atol=1e-5)
        other = torch.randn(1, 8, 6, 14).contiguous(memory_format=layout)  # of another size
        assert torch.allclose(packed(other), plain(other), atol=1e-5)
        assert packed(x[0]).shape == plain(x[0]).shape
        assert packed(x[:0]).shape == plain(x[:0]).shape
    x.requires_grad_()
    assert torch.autograd.grad(packed(x).sum(), x)[0].shape == x.shape


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}]
)
def test_convolutions_that_stay(options: dict):
    layer = nn.Sequential(nn.Conv2d(2, 2, 3, **options)).eval()
    pack(layer)
    assert type(layer[0]) is nn.Conv2d
