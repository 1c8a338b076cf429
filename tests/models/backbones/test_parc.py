"""ParC backbones: the originals' numbers, and the literal oracle where the originals give none."""

import pytest
import torch
from oracles import parc as oracle
from torch import Tensor, nn

from mmvitconv.models import ParCConvNeXt, ParCMobileNetV2, ParCNet, ParCResNet
from mmvitconv.models.backbones.parc_net import BlockOptions, ParCBlock
from mmvitconv.weights import convert_state_dict

# Oracle's map names in the order of our stages, our family's name for converters.
MAPS = {
    ParCNet: ([*(f"out_l{i}" for i in range(1, 6)), "out_l5_exp"], "parc_net"),
    ParCConvNeXt: ([f"stage{i}" for i in range(4)], "parc_convnext"),
    ParCResNet: ([f"layer{i}" for i in range(1, 5)], "parc_resnet"),
    ParCMobileNetV2: (
        [f"features{i}" for i in (1, 3, 6, 10, 13, 16, 17, 18)],
        "parc_mobilenetv2",
    ),
}


def load(backbone: nn.Module, original: dict[str, Tensor]) -> tuple[nn.Module, nn.Linear]:
    """The backbone in evaluation mode, and the classifier's layer, with original weights."""
    converted = convert_state_dict(original, MAPS[type(backbone)][1])
    own = backbone.state_dict()
    part = {k.removeprefix("backbone."): v for k, v in converted.items() if "head." not in k}
    missing = set(own) - set(part)
    # ConvNeXt's classifier has the last stage's norm only.
    assert all(key.startswith(("norm0.", "norm1.", "norm2.")) for key in missing)
    assert set(part) <= set(own)
    backbone.load_state_dict(part, strict=False)
    head = nn.Linear(1, 1)
    if "head.fc.weight" in converted:
        head.weight = nn.Parameter(converted["head.fc.weight"])
        head.bias = nn.Parameter(converted["head.fc.bias"])
    return backbone.eval(), head


def stage_maps(backbone: nn.Module, x: Tensor, grad: bool) -> dict[str, Tensor]:
    """Maps by the oracle's names: what leaves each stage, before ConvNeXt's output norms."""
    found: dict[str, Tensor] = {}
    names = MAPS[type(backbone)][0]
    with torch.set_grad_enabled(grad):
        if not isinstance(backbone, ParCConvNeXt):
            outs = backbone(x)
            picked = [names[i] for i in backbone.out_indices]
            return dict(zip(picked, (out.detach() for out in outs), strict=True))
        hooks = [
            blocks[-1].register_forward_hook(
                lambda m, i, out, name=name: found.update({name: out.detach()})
            )
            for name, blocks in zip(names, backbone.stages, strict=True)
        ]
        backbone(x)
    for hook in hooks:
        hook.remove()
    return found


def logits(backbone: nn.Module, head: nn.Linear, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = backbone(x)[-1]
        return head(out if out.dim() == 2 else out.mean(dim=(2, 3)))


BUILD = {
    "parc_net_xs": lambda: ParCNet("xs", out_indices=range(6)),
    "parc_convnext_xt": lambda: ParCConvNeXt("xt", gap_before_final_norm=True),
    "parc_mv2": lambda: ParCMobileNetV2("1.0", out_indices=range(8)),
}


@pytest.mark.smoke
@pytest.mark.parametrize("mode", ["written", "folded", "channels_last"])
@pytest.mark.parametrize("name", oracle.MODELS)
def test_reference_numbers(name: str, mode: str):
    original, x, arrays = oracle.read_model(name)
    backbone, head = load(BUILD[name.partition("_2")[0]](), original)
    if mode == "channels_last":
        backbone, x = (t.to(memory_format=torch.channels_last) for t in (backbone, x))
    maps = stage_maps(backbone, x, mode == "written")
    tolerance = oracle.tolerance(name)
    names = [name for name in oracle.map_names(arrays) if name in maps]
    assert len(names) >= 4
    for map_name in names:
        oracle.assert_map(arrays, map_name, maps[map_name], tolerance)
    oracle.assert_map(arrays, "logits", logits(backbone, head, x), tolerance)


def assert_equals(maps: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert len(maps) >= 3
    for name, out in maps.items():
        assert out.shape == expected[name].shape
        error = (out - expected[name]).abs().max() / expected[name].std()
        assert error < tolerance, f"{name}: {error}"


def assert_same(backbone: nn.Module, literal: nn.Module, size: tuple[int, int], gain: float):
    """Maps and logits of our backbone and the oracle, with weights that let everything matter."""
    literal.load_state_dict(oracle.fill_like(literal.state_dict(), gain))
    backbone, head = load(backbone, literal.state_dict())
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = literal.eval()(x)
    for grad in (True, False):
        assert_equals(stage_maps(backbone, x, grad), expected, 1e-4)
    ours = logits(backbone, head, x)
    assert (ours - expected["logits"]).abs().max() / expected["logits"].std() < 1e-4


@pytest.mark.parametrize(
    ("arch", "size", "output_stride"),
    [
        ("s", (192, 192), 32),
        ("s", (320, 320), 32),
        ("h", (192, 192), 32),
        ("s", (256, 256), 16),
        ("xs", (128, 128), 8),
        ("xs", (96, 160), 32),
        ("s", (33, 70), 16),
    ],
)
def test_parc_net(arch: str, size: tuple[int, int], output_stride: int):
    backbone = ParCNet(arch, out_indices=range(6), output_stride=output_stride)
    assert_same(backbone, oracle.parc_net(arch, output_stride=output_stride), size, 1.3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"mixer": "gcc"}, {"attention": False}),
        ({"position_embedding": False}, {"pe": False}),
        ({"parc_bias": True, "mid_mix": True}, {"bias": True, "mid_mix": True}),
        ({"instance_kernel": "crop"}, {"instance_kernel": "crop"}),
    ],
)
def test_parc_net_options(ours: dict, theirs: dict):
    backbone = ParCNet("xs", out_indices=range(6), **ours)
    assert_same(backbone, oracle.parc_net("xs", **theirs), (160, 96), 1.3)


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
@pytest.mark.parametrize(
    ("make", "literal"),
    [
        (lambda: ParCResNet("50"), oracle.ParCResNet50),
        (lambda: ParCMobileNetV2("1.0", out_indices=range(8)), oracle.ParCMobileNetV2),
        (
            lambda: ParCConvNeXt("tiny", gap_before_final_norm=True),
            lambda: oracle.ParCConvNeXt((96, 192, 384, 768), (3, 3, 9, 3)),
        ),
    ],
)
def test_conv_nets(make, literal, size: tuple[int, int]):
    assert_same(make(), literal(), size, 1.2)


@pytest.mark.parametrize("size", [(224, 320), (256, 416), (37, 98)])
def test_dense_form_of_convnext(size: tuple[int, int]):
    literal = oracle.ParCConvNeXt((48, 96, 192, 384), (3, 3, 9, 3), downstream=True).eval()
    literal.load_state_dict(oracle.fill_like(literal.state_dict()))
    backbone, _ = load(ParCConvNeXt("xt"), literal.state_dict())
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, outs = literal(x), backbone(x)
    assert_equals({f"out{i}": out for i, out in enumerate(outs)}, expected, 1.5e-5)


BLOCKS = oracle.read_operator("op_parc_block_interp")
LAYERS = {"1_H": "half1.0", "2_W": "half1.1", "1_W": "half2.0", "2_H": "half2.1"}


def block_keys(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """A block of the original in our names."""
    renamed = {}
    for key, value in parameters.items():
        name, _, rest = key.partition(".")
        if name.startswith("meta_"):
            pass_ = next(p for p in LAYERS if p in name)
            kind = (
                "weight" if "kernel" in name else "position_embedding" if "pe" in name else "bias"
            )
            renamed[f"{LAYERS[pass_]}.{kind}"] = value
        elif name.startswith("pre_Norm_"):
            renamed[f"half{name[-1]}.0.norm.{rest}"] = value
        else:
            index, _, entry = rest.removeprefix("fc.").partition(".")
            names = {
                "ffn": {"0": "norm", "1": "fc1", "4": "fc2"},
                "ca": {
                    "0": "reduce.conv",
                    "1": "reduce.norm",
                    "3": "expand.conv",
                    "4": "expand.norm",
                },
            }
            part = "attention" if name == "ca" else name
            renamed[f"{part}.{names[name][index]}.{entry}"] = value
    return renamed


@pytest.mark.smoke
@pytest.mark.parametrize("case", BLOCKS)
def test_reference_blocks(case: str):
    parameters, sizes = oracle.split_case(BLOCKS[case])
    options = BlockOptions(
        mixer="gcc_ca" if case.startswith("gcc_ca") else "gcc",
        bias="_bias" in case,
        mid_mix=case.endswith("_mix"),
        ffn_drop_rate=0.1,
        instance_kernel="crop" if "crop" in case else "interpolation_bilinear",
        norm_cfg={"type": "BN"},
        algorithm="auto",
    )
    block = ParCBlock(16, 24, 8, "_pe_" in case, options, 0.0).double().eval()
    block.load_state_dict(block_keys(parameters))
    assert len(sizes) >= 4
    for fields in sizes.values():
        oracle.assert_operator(block(fields["x"]).detach(), fields["y"])
        with torch.no_grad():
            oracle.assert_operator(block(fields["x"]), fields["y"])


@pytest.mark.parametrize("algorithm", ["auto", "fft"])
@pytest.mark.parametrize("family", ["net", "convnext"])
def test_gradients(family: str, algorithm: str):
    """Of all parameters and the image, in training mode, in double precision."""
    if family == "net":
        sizes = {"inner": (16, 16, 32), "hidden": (12, 16, 20), "depths": (2, 1, 1)}
        literal = oracle.ParCNet(
            (8, 3), (8, 8, 12, 16, 20), fusion="concat", num_classes=5, ffn_drop=0.0, **sizes
        )
        arch = {
            "stem_dims": 8, "embed_dims": (8, 8, 12, 16, 20), "depths": (1, 3, 2, 1, 1),
            "inner_dims": (16, 16, 32), "ffn_dims": (12, 16, 20), "out_dims": 80,
        }  # fmt: skip
        backbone = ParCNet(arch, out_indices=(5,), ffn_drop_rate=0, algorithm=algorithm)
        last = "out_l5_exp"
    else:
        literal = oracle.ParCConvNeXt((4, 6, 8, 10), (1, 1, 3, 3), num_classes=5)
        arch = {"embed_dims": (4, 6, 8, 10), "depths": (1, 1, 3, 3), "num_parc": (0, 0, 1, 1)}
        backbone = ParCConvNeXt(arch, out_indices=(3,), algorithm=algorithm)
        last = "stage3"
    literal = literal.double()
    literal.load_state_dict(oracle.fill_like(literal.state_dict(), 1.3))
    backbone = load(backbone.double(), literal.state_dict())[0].train()
    literal.train()
    x = torch.randn(3, 3, 70, 74, dtype=torch.float64, requires_grad=True)
    expected_map = literal(x)[last]
    if family == "convnext":  # ours has the last norm on the map
        outs: list[Tensor] = []
        backbone.stages[-1][-1].register_forward_hook(lambda m, i, out: outs.append(out))
        backbone(x)
        out = outs[0]
    else:
        out = backbone(x)[0]
    torch.testing.assert_close(out, expected_map, rtol=1e-7, atol=1e-7)
    factor = torch.randn_like(out)
    (grad_x,) = torch.autograd.grad((out * factor).sum(), x, retain_graph=True)
    (expected_x,) = torch.autograd.grad((expected_map * factor).sum(), x, retain_graph=True)
    torch.testing.assert_close(grad_x, expected_x, rtol=1e-6, atol=1e-8)
    (out * factor).sum().backward()
    (expected_map * factor).sum().backward()
    by_name = {k: p.grad for k, p in literal.named_parameters() if p.grad is not None}
    grads = convert_state_dict(
        {k: by_name.get(k, torch.zeros_like(v)) for k, v in literal.state_dict().items()},
        MAPS[type(backbone)][1],
    )
    compared = 0
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                parameter.grad, grads[f"backbone.{name}"], rtol=1e-6, atol=1e-8
            )
            compared += 1
    assert compared == len(by_name)


@pytest.mark.parametrize("mixer", ["bkc", "bkc_ca"])
def test_big_kernels_for_comparison(mixer: str):
    """Zero-padded kernels of an odd length: each output sees its own surroundings only."""
    backbone = ParCNet("xs", out_indices=range(6), mixer=mixer).eval()
    block = backbone.stages[2][1].blocks[0]
    assert block.half1[0].conv.weight.shape == (48, 1, 31, 1)
    assert block.half2[0].conv.weight.shape == (48, 1, 1, 31)
    assert (block.attention is None) == (mixer == "bkc")
    assert not [name for name, _ in backbone.named_parameters() if "position" in name]
    x = torch.randn(1, 48, 20, 20, dtype=torch.float64)
    conv = block.half1[0].double()
    weight, norm = conv.conv.weight, conv.norm
    scaled = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var + norm.eps).sqrt().view(
        -1, 1, 1
    )
    padded = nn.functional.pad(scaled, (0, 0, 15, 15))
    expected = sum(weight[:, :, k].view(48, 1, 1) * padded[:, :, k : k + 20] for k in range(31))
    torch.testing.assert_close(conv(x), expected)


def test_one_image_cannot_train_with_channel_attention():
    backbone = ParCNet("xs").train()
    with pytest.raises(ValueError, match="cannot train with one image per process; give a batch"):
        backbone(torch.randn(1, 3, 64, 64))
    backbone(torch.randn(2, 3, 64, 64))
    ParCNet("xs", norm_eval=True).train()(torch.randn(1, 3, 64, 64))
    ParCNet("xs", mixer="gcc").train()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("cls", [ParCConvNeXt, ParCResNet, ParCMobileNetV2])
def test_fixed_form_takes_one_size_only(cls):
    backbone = cls(instance_kernel="fixed").eval()
    with torch.no_grad():
        backbone(torch.randn(1, 3, 224, 224))
        with pytest.raises(ValueError, match=r"length 16 along H .* takes 14; resize the image"):
            backbone(torch.randn(1, 3, 256, 224))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParCNet(output_stride=4), "output_stride must be 32, 16 or 8, got 4"),
        (lambda: ParCNet(mixer="gcc_dk"), "mixer='gcc_dk' is unknown; give one of gcc_ca"),
        (lambda: ParCNet("xxs"), "arch='xxs' is unknown; give one of xs, s, h"),
        (lambda: ParCNet(ffn_drop_rate=1.0), "ffn_drop_rate must be .*, got 1.0"),
        (
            lambda: ParCConvNeXt({"embed_dims": (4,) * 4, "depths": (1,) * 4}),
            r"num_parc must be 4 integers from 0 up to depths=.* got \(0, 0, 3, 1\)",
        ),
        (
            lambda: ParCResNet({"depths": (3, 4, 3, 3)}),
            r"num_parc must be 4 integers from 0 below depths=.* got \(0, 0, 3, 1\)",
        ),
        (
            lambda: ParCConvNeXt(layer_scale_init_value=-1),
            "layer_scale_init_value must be at least 0, got -1",
        ),
    ],
)
def test_illegal_arguments(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
