"""Folded circular convolutions: equal to the layers they stand for, and constants for good."""

import copy
import io

import pytest
import torch
from oracles.parc import filled
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.models.layers import ParC, ParCPair
from mmvitconv.ops.circular_conv import ALGORITHMS
from mmvitconv.runtime.parc import fold_parc, prepare_parc

SIZES = [(8, 8), (5, 12), (1, 1), (13, 8)]


def assert_equal(folded: nn.Module, expected: nn.Module, x: Tensor) -> None:
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(folded(x), expected(x).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("direction", ["H", "W"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pre_norm": {"type": "BN"}},
        {"pre_norm": {"type": "BN", "affine": False}, "bias": False},
        {"pre_norm": {"type": "SyncBN"}, "position_embedding": False},
        {"position_embedding": False, "bias": False},
        *({"pre_norm": {"type": "BN"}, "algorithm": algorithm} for algorithm in ALGORITHMS),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_equals_the_layer(behind: bool, options: dict, dense: bool, direction: str):
    """At the stored length, at prepared sizes and at others; with and without a norm behind."""
    layer = filled(ParC(6, direction, 8, 4 if dense else None, **options).double())
    norm = filled(nn.BatchNorm2d(4 if dense else 6).double()) if behind else None
    expected = layer if norm is None else nn.Sequential(layer, norm)
    folded = fold_parc(layer, SIZES[:2], norm)
    assert not list(folded.parameters())
    for size in SIZES:
        assert_equal(folded, expected, torch.randn(2, 6, *size, dtype=torch.float64))


@pytest.mark.parametrize("dense", [False, True])
def test_pair(dense: bool):
    pair = filled(ParCPair(6, 4, dense).double())
    norm = filled(nn.BatchNorm2d(6).double())
    for size in SIZES:
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        assert_equal(fold_parc(pair, [size]), pair, x)
        assert_equal(fold_parc(pair, norm=norm), nn.Sequential(pair, norm), x)
    assert isinstance(pair.height, ParC)


@pytest.mark.parametrize(("rule", "lengths"), [("crop", (5, 8)), ("fixed", (8,))])
def test_instance_kernels(rule: str, lengths: tuple[int, ...]):
    layer = filled(ParC(3, "W", 8, instance_kernel=rule, pre_norm={"type": "BN"}).double())
    folded = fold_parc(layer)
    for length in lengths:
        assert_equal(folded, layer, torch.randn(2, 3, 4, length, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"length 9 along W does not fit .*{rule}"):
        folded(torch.randn(1, 3, 4, 9))
    with pytest.raises(ValueError, match="length 9 along W does not fit"):
        fold_parc(layer, [(9, 9)])


def test_a_dead_channel_of_the_norm():
    """A scale of zero: what the embedding adds is gone, what the norm adds is not."""
    layer = filled(ParC(3, "H", 8, pre_norm={"type": "BN"}).double())
    layer.norm.weight.data[1] = 0
    assert_equal(fold_parc(layer), layer, torch.randn(2, 3, 5, 4, dtype=torch.float64))


def test_dense_with_one_input_channel():
    layer = filled(ParC(1, "H", 5, out_channels=2).double())
    assert_equal(fold_parc(layer), layer, torch.randn(2, 1, 7, 4, dtype=torch.float64))


def test_is_a_constant():
    """Later changes of the layer, and of its dtype, do not reach it; a state dict does."""
    layer = filled(ParC(3, "H", 8, pre_norm={"type": "BN"}).double())
    folded = fold_parc(layer, [(7, 5)])
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    expected = folded(x)
    for change in (torch.Tensor.zero_, lambda t: t.data.copy_(t.data + 1)):
        with torch.no_grad():
            for value in layer.state_dict(keep_vars=True).values():
                change(value)
        assert torch.equal(folded(x), expected)
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    for twin in (copy.deepcopy(folded), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x), expected)
    other = fold_parc(layer, [(7, 5)])
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(folded.state_dict())
    assert torch.equal(other(x), expected)
    assert folded.float()(x.float()).dtype == torch.float32


def test_cannot_be_trained():
    for folded in (fold_parc(ParC(3, "H", 8).eval()), fold_parc(ParCPair(4, 8).eval())):
        assert not any(module.training for module in folded.modules())
        with pytest.raises(RuntimeError, match="folded for inference and cannot be trained"):
            folded.train()
        folded.eval()


def test_refuses_what_it_cannot_fold():
    with pytest.raises(TypeError, match="takes a ParC or a ParCPair, got Conv2d"):
        fold_parc(nn.Conv2d(3, 3, 1))
    layer = ParC(4, "H", 8, pre_norm={"type": "BN", "track_running_stats": False}).eval()
    with pytest.raises(ValueError, match="BatchNorm2d cannot be folded; give a BatchNorm with"):
        fold_parc(layer)
    with pytest.raises(ValueError, match="LayerNorm cannot be folded"):
        fold_parc(ParC(4, "H", 8), norm=nn.LayerNorm(4))


def test_prepares_for_an_image():
    model = nn.Sequential(fold_parc(filled(ParCPair(4, 8))), nn.AvgPool2d(2), nn.Identity())
    model[2] = fold_parc(filled(ParCPair(4, 4)))
    prepare_parc(model, torch.randn(1, 4, 12, 20))
    layers = [model[0].height, model[0].width, model[2].height, model[2].width]
    assert [layer.prepared for layer in layers] == [{8, 12}, {8, 20}, {4, 6}, {4, 10}]
    assert not any(layer._forward_pre_hooks for layer in layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("prepared", [False, True])
def test_reduced_precision(prepared: bool, algorithm: str, dtype: torch.dtype):
    layer = filled(ParC(4, "H", 14, pre_norm={"type": "BN"}, algorithm=algorithm))
    layer.weight.data /= 4
    x = torch.randn(2, 4, 9, 5)
    expected = layer(x).detach()
    # Nine products of factors that are rounded to 8 bits, and the rounded sum.
    tolerance = 0.06 * expected.abs().max().item()
    folded = fold_parc(layer, [(9, 5)] if prepared else [])
    with torch.autocast("cpu", dtype):
        outs = [folded(x)]
    outs += [folded.to(dtype)(x.to(dtype)), fold_parc(layer.to(dtype))(x.to(dtype))]
    for out in outs:
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dense", [False, True])
def test_costs_no_more_multiply_adds_than_the_layer(dense: bool):
    layer = filled(ParC(4, "H", 8, 6 if dense else None, pre_norm={"type": "BN"}))
    x = torch.randn(1, 4, 7, 5)
    for model in (layer, fold_parc(layer, [(7, 5)])):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        assert counter.get_total_flops() == 2 * 7 * (6 * 4 if dense else 4) * 7 * 5


def test_a_fake_run_changes_nothing():
    folded = fold_parc(filled(ParCPair(4, 8)))
    x = torch.randn(2, 4, 6, 5)
    expected = folded(x)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        folded(mode.from_tensor(x))
    assert torch.equal(folded(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (6, 11)])
def test_traces_compiles_and_exports(size: tuple[int, int]):
    folded = fold_parc(filled(ParCPair(4, 8).double()), [(8, 8)])
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = folded(x)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(folded, (x,), dynamic_shapes={"x": {0: batch}}).module()
    for other in (
        torch.jit.trace(folded, x),
        torch.compile(folded, backend="aot_eager", fullgraph=True),
        program,
    ):
        torch.testing.assert_close(other(x), expected, rtol=1e-10, atol=1e-10)
    assert program(x[:1].expand(3, -1, -1, -1)).shape == (3, 4, *size)
    each = torch.func.vmap(lambda image: folded(image[None]))(x)
    torch.testing.assert_close(each[:, 0], expected, rtol=1e-10, atol=1e-10)
