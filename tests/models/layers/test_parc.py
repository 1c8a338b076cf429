"""ParC layers: the originals' numbers, sizes that fit and those that do not."""

import pytest
import torch
from oracles import parc as oracle
from oracles.parc import filled
from torch import Tensor, nn

from mmvitconv.models.layers import OversizeConv, ParC, ParCPair
from mmvitconv.models.layers.parc import resize_kernel

RECTANGLES = oracle.read_operator("op_parc_rect_downstream")
INTERPOLATED = oracle.read_operator("op_kernel_interp")
OVERSIZE = oracle.read_operator("op_oversize_conv")


def call(layer: nn.Module, x: Tensor, grad: bool = True) -> Tensor:
    with torch.set_grad_enabled(grad):
        return layer(x).detach()


@pytest.mark.smoke
@pytest.mark.parametrize("algorithm", ["auto", "concat", "circulant", "fft", "dft"])
@pytest.mark.parametrize("case", RECTANGLES)
def test_reference_numbers_on_rectangles(case: str, algorithm: str):
    parameters, sizes = oracle.split_case(RECTANGLES[case])
    direction, length = case.split("_")
    layer = ParC(6, direction, int(length), algorithm=algorithm).double().eval()
    parameters["position_embedding"] = parameters.pop("meta_pe")
    layer.load_state_dict(parameters)
    assert len(sizes) >= 5
    for fields in sizes.values():
        for grad in (True, False):
            oracle.assert_operator(call(layer, fields["x"], grad), fields["y"])


@pytest.mark.smoke
@pytest.mark.parametrize("length", INTERPOLATED)
def test_reference_kernels(length: str):
    fields = INTERPOLATED[length]
    assert len(fields) > 10
    for size in set(fields) - {"w"}:
        taps = resize_kernel(fields["w"], int(size), 2, "interpolation_bilinear")
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
        for grad in (True, False):
            oracle.assert_operator(call(layer, fields["x"], grad), fields["y"])


@pytest.mark.parametrize("direction", ["H", "W"])
@pytest.mark.parametrize("dense", [False, True])
def test_formula(dense: bool, direction: str):
    """``conv(norm(x + embedding)) + bias``, and weights written in any way are seen at once."""
    layer = filled(ParC(6, direction, 8, 4 if dense else None, pre_norm={"type": "BN"}).double())
    size = (8, 5) if direction == "H" else (5, 8)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    for grad in (True, False, True):
        y = layer.norm(x + layer.position_embedding).detach()
        expected = oracle.rolled(y, layer.weight.detach(), layer.axis, layer.bias.detach())
        torch.testing.assert_close(call(layer, x, grad), expected, rtol=1e-10, atol=1e-10)
        for value in layer.state_dict().values():
            value.data.add_(1)


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


@pytest.mark.parametrize(
    ("instance_kernel", "length", "legal"), [("crop", 9, "1 to 8"), ("fixed", 7, "8")]
)
def test_maps_that_do_not_fit(instance_kernel: str, length: int, legal: str):
    layer = ParC(3, "W", 8, instance_kernel=instance_kernel).eval()
    message = rf"length {length} along W does not fit .*{instance_kernel}.* takes {legal};"
    with pytest.raises(ValueError, match=message):
        call(layer, torch.randn(1, 3, 4, length))
    call(layer, torch.randn(1, 3, 4, 8))


def test_dense_with_one_input_channel():
    layer = filled(ParC(1, "H", 5, out_channels=2).double())
    x = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    expected = oracle.rolled(x + layer.position_embedding, layer.weight, 2, layer.bias)
    torch.testing.assert_close(call(layer, x), expected.detach())


@pytest.mark.parametrize("dense", [False, True])
def test_pair(dense: bool):
    pair = filled(ParCPair(6, 4, dense))
    x = torch.randn(2, 6, 5, 7)
    expected = torch.cat([pair.height(x[:, :3]), pair.width(x[:, 3:])], dim=1).detach()
    torch.testing.assert_close(call(pair, x), expected)
    assert pair.height.weight.shape == (3, 3 if dense else 1, 4, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParC(4, "V", 7), "direction must be 'H' or 'W', got 'V'"),
        (lambda: ParC(4, "H", 0), "length must be at least 1, got 4 and 0"),
        (lambda: ParC(4, "H", 7, instance_kernel="nearest"), "'nearest' is unknown; give one of"),
        (lambda: ParC(4, "H", 7, algorithm="ntt"), "'ntt' is unknown; give one of concat"),
        (lambda: ParCPair(5, 7), "channels must be even and at least 2, got 5"),
        (lambda: OversizeConv(0, 7), "channels and length must be at least 1, got 0 and 7"),
    ],
)
def test_illegal_arguments(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
