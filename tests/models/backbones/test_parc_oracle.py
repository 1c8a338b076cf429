"""The literal ParC oracle against every reference number of the original code."""

import numpy as np
import pytest
import torch
from oracles import parc, reference
from oracles.parc import (
    MODELS,
    Block,
    ConvNeXtBlock,
    DownstreamOperator,
    Frame,
    Operator,
    OversizeConv,
    ParCBottleneck,
    ParCConvNeXt,
    ParCInvertedResidual,
    ParCMobileNetV2,
    ParCResNet50,
    assert_map,
    assert_operator,
    parc_net,
    read_model,
    read_operator,
    resized,
    split_case,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

OPERATORS = {
    name: read_operator(name)
    for name in (
        "op_parc_operator_fixed",
        "op_kernel_interp",
        "op_parc_rect_downstream",
        "op_parc_block_interp",
        "op_oversize_conv",
    )
}
BUILD = {
    "parc_net_xs": lambda: parc_net("xs"),
    "parc_convnext_xt": ParCConvNeXt,
    "parc_mv2": ParCMobileNetV2,
}


def test_every_fixture_is_used():
    assert set(OPERATORS) | set(MODELS) == set(reference.names("parc"))
    assert len(MODELS) == 6


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str):
    state_dict, x, arrays = read_model(name)
    oracle = BUILD[name.partition("_2")[0]]().eval()
    assert list(oracle.state_dict()) == list(state_dict)
    oracle.load_state_dict(state_dict)
    with torch.no_grad():
        out = oracle(x)
    names = parc.map_names(arrays)
    assert len(names) >= 5
    for map_name in names:
        assert_map(arrays, map_name, out[map_name], parc.tolerance(name))


@pytest.mark.parametrize("case", OPERATORS["op_parc_operator_fixed"])
def test_operator_and_gradients(case: str):
    fields = OPERATORS["op_parc_operator_fixed"][case]
    kind, direction, length, pe = case.split("_")
    x = fields["x"].clone().requires_grad_()
    operator = Operator(x.shape[1], direction, int(length), pe == "pe", kind == "dense").double()
    operator.load_state_dict({key: fields[key] for key in operator.state_dict()})
    assert ("pe" in fields) == (pe == "pe")
    y = operator(x)
    assert_operator(y, fields["y"])
    y.backward(fields["g"])
    assert_operator(x.grad, fields["dx"])
    for key, parameter in operator.named_parameters():
        assert_operator(parameter.grad, fields[f"d_{key}"])


@pytest.mark.parametrize("length", OPERATORS["op_kernel_interp"])
def test_kernel_interpolation(length: str):
    fields = dict(OPERATORS["op_kernel_interp"][length])
    kernel = fields.pop("w")
    assert len(fields) == 16
    for size, expected in fields.items():
        own = resized(kernel, int(size), 2, "interpolation_bilinear")
        assert_operator(own, expected)
        turned = resized(kernel.mT, int(size), 3, "interpolation_bilinear")
        assert_operator(turned, expected.mT)


@pytest.mark.parametrize("case", OPERATORS["op_parc_rect_downstream"])
def test_downstream_operator_on_rectangles(case: str):
    state_dict, sizes = split_case(OPERATORS["op_parc_rect_downstream"][case])
    direction, length = case.split("_")
    operator = DownstreamOperator(6, direction, int(length)).double()
    assert list(operator.state_dict()) == list(state_dict)
    operator.load_state_dict(state_dict)
    assert len(sizes) == 6
    for fields in sizes.values():
        assert_operator(operator(fields["x"]), fields["y"])


@pytest.mark.parametrize("case", OPERATORS["op_parc_block_interp"])
def test_block(case: str):
    state_dict, sizes = split_case(OPERATORS["op_parc_block_interp"][case])
    options = case.split("_")
    rule = "crop" if "crop" in options else "interpolation_bilinear"
    with_pe = "pe" in options
    block = Block(
        16,
        8,
        24,
        pe=with_pe,
        attention="ca" in options,
        bias="bias" in options,
        mid_mix="mix" in options,
        instance_kernel=rule,
    )
    block.double().eval()
    assert list(block.state_dict()) == list(state_dict)
    block.load_state_dict(state_dict)
    assert len(sizes) == (5 if rule == "crop" else 7)
    for fields in sizes.values():
        x = fields["x"]
        assert_operator(block(x), fields["y"])
        for name in ("1_H", "1_W", "2_H", "2_W"):
            assert_operator(block.instance("kernel", name, x), fields[f"kernel_{name}"])
            assert (f"pe_{name}" in fields) == with_pe
            if with_pe:
                expected = fields[f"pe_{name}"]
                assert_operator(block.instance("pe", name, x).expand_as(expected), expected)


@pytest.mark.parametrize("case", OPERATORS["op_oversize_conv"])
def test_oversize_convolution(case: str):
    state_dict, sizes = split_case(OPERATORS["op_oversize_conv"][case])
    _, length, kind = case.split("_")
    conv = OversizeConv(6, int(length), bias=True, interpolate=kind == "interp").double()
    assert list(conv.state_dict()) == list(state_dict)
    conv.load_state_dict(state_dict)
    assert len(sizes) >= 2
    for fields in sizes.values():
        assert_operator(conv(fields["x"]), fields["y"])


# docs/specs/parc.md#4-variants: parameters, input size, multiply-adds in millions.
SIZES = {
    "parc_net_xs": (lambda: parc_net("xs"), 2_185_384, 256, 944),
    "parc_net_s": (lambda: parc_net("s"), 5_037_088, 256, 1657),
    "parc_net_s_224": (lambda: parc_net("s"), 5_037_088, 224, 1266),
    "parc_net_h": (lambda: parc_net("h"), 20_403_940, 256, 8544),
    "parc_convnext_xt": (ParCConvNeXt, 7_412_824, 224, 1139),
    "parc_convnext_96": (lambda: ParCConvNeXt((96, 192, 384, 768)), 28_538_056, 224, 4446),
    "parc_resnet50": (ParCResNet50, 23_737_640, 224, 3941),
    "parc_mobilenetv2": (ParCMobileNetV2, 3_532_136, 224, 302),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_multiply_adds(name: str):
    build, parameters, size, expected = SIZES[name]
    with torch.device("meta"):
        oracle = build().eval()
        x = torch.empty(1, 3, size, size)
    assert sum(p.numel() for p in oracle.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        oracle(x)
    assert round(counter.get_total_flops() / 2e6) == expected


def test_size_of_the_deep_convnext():
    """docs/specs/parc.md#3-parc-convnets rounds it: 26.6M parameters."""
    with torch.device("meta"):
        oracle = ParCConvNeXt((56, 112, 224, 448), (3, 9, 36, 6))
    assert round(sum(p.numel() for p in oracle.parameters()) / 1e5) == 266
    replaced = [
        f"{i}.{j}" for i in range(4) for j, b in enumerate(oracle.stages[i]) if b.mixers[1:]
    ]
    assert replaced == [*(f"2.{j}" for j in range(24, 36)), "3.4", "3.5"]


def test_entries_without_the_alias():
    """docs/specs/parc.md#5-state-dict: 557 entries for S, of which 18 are ``residual.*``."""
    with torch.device("meta"):
        assert len(parc_net("s").state_dict()) == 557 - 18


def norm_eps(module: nn.Module, kind: type) -> set[float]:
    return {m.eps for m in module.modules() if isinstance(m, kind)}


@pytest.mark.parametrize("downstream", [False, True], ids=["classification", "downstream"])
def test_norm_eps(downstream: bool):
    with torch.device("meta"):
        assert norm_eps(ParCConvNeXt(downstream=downstream), nn.LayerNorm) == {1e-6}
        for build in (ParCResNet50, ParCMobileNetV2, lambda: parc_net("xs")):
            assert norm_eps(build(), nn.BatchNorm2d) == {1e-5}


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(32, (16, 32)), (16, (16, 16)), (8, (8, 8))]
)
def test_output_stride_of_parc_net(output_stride: int, strides: tuple[int, int]):
    with torch.device("meta"):
        oracle = parc_net("xs", output_stride=output_stride)
        out = oracle(torch.empty(2, 3, 96, 160))
    for name, stride in zip(("out_l4", "out_l5"), strides, strict=True):
        assert out[name].shape[2:] == (96 // stride, 160 // stride)
    dilations = {
        name: module.dilation[0]
        for name, module in oracle.named_modules()
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1)
    }
    # the layer that loses its stride has the dilation from before, frames have none
    expected = {"layer_5.0.block.conv_3x3.block.conv": 2} if output_stride == 8 else {}
    assert dilations == expected


def test_block_on_a_rectangle():
    """No fixture has one: kernels and embeddings that numpy resized to 5 and 11 change nothing."""
    torch.manual_seed(0)
    block = Block(16, 8, 24, bias=True).double().eval()
    block.load_state_dict(parc.fill_like(block.state_dict()))
    x = torch.randn(2, 16, 5, 11, dtype=torch.float64)
    y = block(x)
    resized_names = [key for key, _ in block.named_parameters() if key[-2:] in ("_H", "_W")]
    assert len(resized_names) == 8
    for key in resized_names:
        dim, length = (2, 5) if key.endswith("_H") else (3, 11)
        at = np.linspace(0, 7, length)
        value = np.apply_along_axis(
            lambda taps, at=at: np.interp(at, range(8), taps),
            dim,
            getattr(block, key).detach().numpy(),
        )
        setattr(block, key, nn.Parameter(torch.from_numpy(value)))
    assert_operator(block(x), y)


def filled(module: nn.Module) -> nn.Module:
    module.load_state_dict(parc.fill_like(module.state_dict()))
    return module.eval()


def test_concatenating_frame_has_the_global_part_first():
    """docs/specs/parc.md#22-stage; the fixtures are of xs, which adds."""
    frame = filled(Frame(16, 32, 1, "concat", pe=True, length=8, hidden=24))
    x = torch.randn(2, 16, 8, 8)
    nn.init.zeros_(frame.channel_adaptive.block.norm.weight)
    nn.init.zeros_(frame.channel_adaptive.block.norm.bias)  # SiLU(0) = 0
    y = frame(x)
    with torch.no_grad():
        frame.local_global_fusion.block.conv.weight[:, :16] = 1
    torch.testing.assert_close(frame(x), y, rtol=0, atol=0)


PAIRS = {
    "convnext": (ConvNeXtBlock(32, 7, False), "gcc_H", "gcc_W", lambda b, x: x),
    "convnext_downstream": (
        ConvNeXtBlock(32, 7, True),
        "gcc_conv_1H",
        "gcc_conv_2W",
        lambda b, x: x,
    ),
    "resnet": (
        ParCBottleneck(32, 7),
        "parc_H",
        "parc_W",
        lambda b, x: b.bn1(b.conv1(x)).relu(),
    ),
    "mobilenet": (
        ParCInvertedResidual(32, 7, True),
        "gcc_H",
        "gcc_W",
        lambda b, x: b.pw_expand(x),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_first_half_runs_along_the_height(name: str):
    """docs/specs/parc.md#10-details; no fixture has ResNet-50 or a whole downstream model."""
    block, height, width, expand = PAIRS[name]
    seen = []
    filled(block)
    for operator in (height, width):
        getattr(block, operator).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 32, 5, 6)
    block(x)
    assert (getattr(block, height).dim, getattr(block, width).dim) == (2, 3)
    torch.testing.assert_close(torch.cat(seen, dim=1), expand(block, x), rtol=0, atol=0)


def test_mobilenet_block_clips_at_six():
    """The fixture's activations stay below."""
    block = filled(ParCInvertedResidual(32, 7, True))
    nn.init.constant_(block.bn.bias, 100)
    x = torch.randn(2, 32, 7, 7)
    expected = x + block.pw_linear(torch.full((2, 192, 7, 7), 6.0))
    torch.testing.assert_close(block(x), expected)


MODEL_BUILDS = {
    "parc_net_xs_os16": lambda: parc_net("xs", output_stride=16, ffn_drop=0.0, dropout=0.0),
    "parc_convnext_xt": lambda: ParCConvNeXt((8, 16, 32, 64)),
    "parc_convnext_downstream": lambda: ParCConvNeXt((8, 16, 32, 64), downstream=True),
    "parc_resnet50": ParCResNet50,
    "parc_mobilenetv2": ParCMobileNetV2,
}


@pytest.mark.parametrize("name", MODEL_BUILDS)
def test_trains_in_float64_on_a_rectangle(name: str):
    torch.manual_seed(0)
    oracle = MODEL_BUILDS[name]()
    oracle.load_state_dict(parc.fill_like(oracle.state_dict()))
    oracle.double().train()
    out = oracle(torch.randn(2, 3, 64, 96, dtype=torch.float64))
    sum(o.sin().mean() for o in out.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in oracle.parameters())
