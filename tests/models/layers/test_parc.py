"""ParC layers: the originals' numbers, folding, and kernels kept only as long as they are true."""

import copy
import io

import pytest
import torch
from oracles import parc as oracle
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.models.layers import OversizeConv, ParC, ParCPair
from mmvitconv.models.layers.parc import resize_taps

RECTANGLES = oracle.read_operator("op_parc_rect_downstream")
INTERPOLATED = oracle.read_operator("op_kernel_interp")
OVERSIZE = oracle.read_operator("op_oversize_conv")
MODES = [{"grad": True}, {"grad": False}]  # as written, and folded


def call(layer: nn.Module, x: Tensor, grad: bool) -> Tensor:
    with torch.set_grad_enabled(grad):
        return layer(x).detach()


def filled(layer: nn.Module) -> nn.Module:
    """The layer in evaluation mode with parameters and statistics that all matter."""
    generator = torch.Generator().manual_seed(0)
    for name, value in layer.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(noise.abs() + 0.5 if "var" in name else noise)
    return layer.eval()


@pytest.mark.smoke
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ["auto", "concat", "circulant", "fft", "dft"])
@pytest.mark.parametrize("case", RECTANGLES)
def test_reference_numbers_on_rectangles(case: str, algorithm: str, mode: dict):
    parameters, sizes = oracle.split_case(RECTANGLES[case])
    direction, length = case.split("_")
    layer = ParC(6, direction, int(length), algorithm=algorithm).double().eval()
    parameters["position_embedding"] = parameters.pop("meta_pe")
    layer.load_state_dict(parameters)
    assert len(sizes) >= 5
    for fields in sizes.values():
        oracle.assert_operator(call(layer, fields["x"], **mode), fields["y"])


@pytest.mark.smoke
@pytest.mark.parametrize("length", INTERPOLATED)
def test_reference_kernels(length: str):
    fields = INTERPOLATED[length]
    assert len(fields) > 10
    for size in set(fields) - {"w"}:
        taps = resize_taps(fields["w"], (int(size), 1))
        oracle.assert_operator(taps, fields[size])


@pytest.mark.smoke
@pytest.mark.parametrize("algorithm", ["auto", "direct", "toeplitz", "fft"])
@pytest.mark.parametrize("case", OVERSIZE)
def test_reference_numbers_of_the_oversize_convolution(case: str, algorithm: str):
    parameters, sizes = oracle.split_case(OVERSIZE[case])
    _, length, kind = case.split("_")
    layer = OversizeConv(6, int(length), True, kind == "interp", algorithm).double()
    layer.load_state_dict(parameters)
    for fields in sizes.values():
        oracle.assert_operator(call(layer, fields["x"], True), fields["y"])
        oracle.assert_operator(call(layer, fields["x"], False), fields["y"])


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 1)])
@pytest.mark.parametrize("direction", ["H", "W"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pre_norm": {"type": "BN"}},
        {"pre_norm": {"type": "BN", "affine": False}, "bias": False},
        {"pre_norm": {"type": "BN"}, "position_embedding": False},
        {"position_embedding": False, "bias": False},
    ],
)
def test_folding_changes_nothing(options: dict, dense: bool, direction: str, size):
    layer = filled(ParC(6, direction, 8, 4 if dense else None, **options).double())
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    plain, folded = call(layer, x, True), call(layer, x, False)
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    assert layer._prepared  # it was folded
    torch.testing.assert_close(call(layer, x, False), plain, rtol=1e-10, atol=1e-10)


def swap_through_data(layer: ParC) -> None:
    for parameter in layer.parameters():
        parameter.data.copy_(parameter.data + 1)


CHANGES = {
    "load_state_dict": lambda layer: layer.load_state_dict(
        {k: v + 1 for k, v in layer.state_dict().items()}
    ),
    "optimizer": lambda layer: [p.data.add_(1) for p in layer.parameters()],
    "swap of an EMA": swap_through_data,
    "assignment of data": lambda layer: setattr(layer.weight, "data", layer.weight.data + 1),
    "new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight + 1)),
    "bias": lambda layer: layer.bias.data.add_(1),
    "embedding": lambda layer: layer.position_embedding.data.mul_(2),
    "statistics": lambda layer: layer.norm.running_mean.add_(1),
    "norm": lambda layer: layer.norm.weight.data.mul_(3),
    "training": lambda layer: layer.train()(torch.randn(4, 3, 7, 5)),
    "precision": lambda layer: layer.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_kernels_follow_every_change(change: str):
    torch.manual_seed(0)
    layer = filled(ParC(3, "H", 8, pre_norm={"type": "BN"}))
    x = torch.randn(2, 3, 7, 5)
    before = call(layer, x, False)
    CHANGES[change](layer)
    layer.eval()
    x = x.to(layer.weight.dtype)
    after = call(layer, x, False)
    torch.testing.assert_close(after, call(layer, x, True), rtol=1e-4, atol=1e-4)
    assert change == "precision" or not torch.allclose(after, before)


def test_a_mark_is_enough_where_values_are_not_compared(monkeypatch):
    """As on a GPU: what PyTorch counts is seen without comparing values."""
    monkeypatch.setattr("mmvitconv.models.layers.parc._compares_values", lambda source: False)
    layer = filled(ParC(3, "H", 8, pre_norm={"type": "BN"}))
    x = torch.randn(2, 3, 7, 5)
    for change in ("load_state_dict", "assignment of data", "new parameter", "statistics"):
        call(layer, x, False)
        CHANGES[change](layer)
        torch.testing.assert_close(
            call(layer, x, False), call(layer, x, True), rtol=1e-4, atol=1e-4
        )
    swap_through_data(layer)
    layer.eval()  # mmengine's hooks swap before they call it
    torch.testing.assert_close(call(layer, x, False), call(layer, x, True), rtol=1e-4, atol=1e-4)
    swap_through_data(layer)
    layer.reset_cache()
    torch.testing.assert_close(call(layer, x, False), call(layer, x, True), rtol=1e-4, atol=1e-4)


def test_kernels_are_kept_for_few_sizes_and_never_saved():
    layer = filled(ParC(3, "W", 8))
    for width in (8, 5, 9, 5, 12, 30, 31, 8):
        x = torch.randn(1, 3, 2, width)
        torch.testing.assert_close(call(layer, x, False), call(layer, x, True))
    assert 1 < len(layer._prepared) <= 4
    kept = layer._prepared[next(reversed(layer._prepared))][-1]
    call(layer, x, False)
    assert layer._prepared[next(reversed(layer._prepared))][-1] is kept  # not made again
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert not torch.load(file, weights_only=False)._prepared
    twin = copy.deepcopy(layer)
    swap_through_data(twin)
    torch.testing.assert_close(call(twin, x, False), call(twin, x, True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ["concat", "circulant", "fft", "dft"])
def test_reduced_precision(algorithm: str, dtype: torch.dtype):
    layer = filled(ParC(4, "H", 14, pre_norm={"type": "BN"}, algorithm=algorithm))
    layer.weight.data /= 4
    x = torch.randn(2, 4, 9, 5)
    expected = call(layer, x, True)
    tolerance = 0.06 * expected.abs().max().item()
    for grad in (True, False):
        with torch.autocast("cpu", dtype):
            out = call(layer, x, grad)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)
    layer.to(dtype)
    for grad in (True, False):
        out = call(layer, x.to(dtype), grad)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)


def test_crop_takes_the_first_taps():
    layer = filled(ParC(3, "H", 8, instance_kernel="crop"))
    x = torch.randn(2, 3, 5, 4)
    for grad in (True, False):
        expected = oracle.rolled(
            x + layer.position_embedding[:, :, :5], layer.weight[:, :, :5], 2, layer.bias
        )
        torch.testing.assert_close(call(layer, x, grad), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("instance_kernel", "length", "legal"), [("crop", 9, "1 to 8"), ("fixed", 7, "8")]
)
def test_maps_that_do_not_fit(instance_kernel: str, length: int, legal: str, grad: bool):
    layer = ParC(3, "W", 8, instance_kernel=instance_kernel).eval()
    message = rf"length {length} along W does not fit .*{instance_kernel}.* takes {legal};"
    with pytest.raises(ValueError, match=message):
        call(layer, torch.randn(1, 3, 4, length), grad)
    call(layer, torch.randn(1, 3, 4, 8), grad)


def test_dense_with_one_input_channel():
    layer = filled(ParC(1, "H", 5, out_channels=2))
    x = torch.randn(2, 1, 5, 4)
    assert call(layer, x, True).shape == (2, 2, 5, 4)
    torch.testing.assert_close(call(layer, x, False), call(layer, x, True), rtol=1e-4, atol=1e-5)


def test_a_fake_run_leaves_no_kernel():
    layer = filled(ParCPair(4, 8))
    x = torch.randn(2, 4, 6, 5)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        layer(mode.from_tensor(x))
    torch.testing.assert_close(call(layer, x, False), call(layer, x, True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_folding_costs_no_counted_multiply_adds(dense: bool):
    layer = filled(ParC(4, "H", 8, 6 if dense else None, pre_norm={"type": "BN"}))
    x = torch.randn(1, 4, 7, 5)
    for grad in (False, False, True):
        with FlopCounterMode(display=False) as counter:
            call(layer, x, grad)
        assert counter.get_total_flops() == 2 * 7 * (6 * 4 if dense else 4) * 7 * 5


@pytest.mark.parametrize("dense", [False, True])
def test_pair(dense: bool):
    pair = filled(ParCPair(6, 4, dense))
    x = torch.randn(2, 6, 5, 7)
    expected = torch.cat([pair.height(x[:, :3]), pair.width(x[:, 3:])], dim=1).detach()
    torch.testing.assert_close(call(pair, x, True), expected)
    torch.testing.assert_close(call(pair, x, False), expected, rtol=1e-4, atol=1e-5)
    assert pair.height.weight.shape == (3, 3 if dense else 1, 4, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParC(4, "V", 7), "direction='V' is illegal; give 'H' or 'W'"),
        (lambda: ParC(4, "H", 0), "length=0 must be at least 1"),
        (lambda: ParC(4, "H", 7, instance_kernel="nearest"), "'nearest' is unknown; give one of"),
        (lambda: ParC(4, "H", 7, algorithm="ntt"), "'ntt' is unknown; give one of concat"),
        (lambda: ParCPair(5, 7), "channels=5 is illegal; give an even number"),
        (lambda: OversizeConv(0, 7), "channels=0 and length=7 must be at least 1"),
    ],
)
def test_illegal_arguments(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
