"""FCViT against the reference numbers and, where they end, against the literal oracle."""

import pytest
import torch
import torch.nn.functional as F
from oracles import reference
from oracles.fcvit import VARIANTS, OracleFCViT, variant
from torch import Tensor, nn

from mmvitconv.models.backbones.fcvit import ARCHS, ChannelMixer, FCViT, GlobalContext
from mmvitconv.models.layers import ScaledResidual
from mmvitconv.weights import convert_state_dict
from mmvitconv.weights.families.fcvit import arch_from_original

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SMALL = {"layers": [1, 1, 2, 1], "embed_dims": [16, 32, 64, 128], "mlp_ratios": [4, 4, 2, 2]}
SMALL_ARCH = {"depths": (1, 1, 2, 1), "embed_dims": (16, 32, 64, 128), "mlp_ratios": (4, 4, 2, 2)}


def load(state_dict: dict[str, Tensor], **kwargs) -> tuple[FCViT, dict[str, Tensor]]:
    """Our backbone with original weights, and the converted head."""
    converted = convert_state_dict(state_dict, "fcvit")
    backbone = FCViT(**kwargs).eval()
    backbone.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in converted.items() if k.startswith("backbone.")}
    )
    return backbone, {k: v for k, v in converted.items() if k.startswith("head.")}


def with_oracle(oracle: OracleFCViT, dtype=torch.float32, **kwargs) -> tuple[OracleFCViT, FCViT]:
    """The oracle with the rule's weights, and ours with the same."""
    oracle.load_state_dict(reference.fill_like(oracle.state_dict()))
    ours, _ = load(oracle.state_dict(), **kwargs)
    return oracle.to(dtype).eval(), ours.to(dtype).eval()


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", reference.names("fcvit"))
def test_reference_numbers(name: str, layout: str):
    ref = reference.read("fcvit", name)
    options = {"arch": arch_from_original(ref.config) if ref.config else "tiny"}
    if ref.config.get("use_layer_scale") is False:
        options["layer_scale_init_value"] = None
    backbone, head = load(
        ref.state_dict, out_indices=(3,) if ref.is_classifier else (0, 1, 2, 3), **options
    )
    with torch.no_grad():
        outs = backbone(ref.x.contiguous(memory_format=LAYOUTS[layout]))
    if ref.is_classifier:
        logits = F.linear(outs[0].mean(dim=(2, 3)), head["head.fc.weight"], head["head.fc.bias"])
        torch.testing.assert_close(
            logits, torch.from_numpy(ref.arrays["logits"]), rtol=0, atol=5e-6
        )
        return
    assert len(outs) == 4
    for i, out in enumerate(outs):
        assert out.shape == tuple(ref.arrays[f"feat{i}_shape"])
        values = out.contiguous().view(-1)[torch.from_numpy(ref.arrays[f"feat{i}_index"])]
        expected = torch.from_numpy(ref.arrays[f"feat{i}_values"])
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-5)
        assert abs(out.double().mean().item() - ref.arrays[f"feat{i}_mean"]) < 1e-5
        assert abs(out.double().std(correction=0).item() - ref.arrays[f"feat{i}_std"]) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_oracle_agrees_with_the_other_variants(name: str):
    """The sizes that have no fixture; the oracle itself is held to the fixtures below."""
    oracle, ours = with_oracle(variant(name), arch=name)
    x = torch.randn(1, 3, 96, 72)
    with torch.no_grad():
        for expected, out in zip(oracle(x), ours(x), strict=True):
            torch.testing.assert_close(out, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", [n for n in reference.names("fcvit") if "opt" in n])
def test_oracle_matches_the_fixtures(name: str):
    ref = reference.read("fcvit", name)
    config = {**ref.config, "num_classes": ref.config["num_classes"] if ref.is_classifier else None}
    oracle = OracleFCViT(**config).eval()
    assert list(oracle.state_dict()) == list(ref.state_dict)
    oracle.load_state_dict(ref.state_dict)
    with torch.no_grad():
        out = oracle(ref.x)
    if ref.is_classifier:
        expected = torch.from_numpy(ref.arrays["logits"])
    else:
        out = out[3].contiguous().view(-1)[torch.from_numpy(ref.arrays["feat3_index"])]
        expected = torch.from_numpy(ref.arrays["feat3_values"])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("option", ["A", "B", "C", "D", "shipped"])
def test_values_and_gradients_equal_the_oracle_in_float64(option: str, layout: str):
    config, options = dict(SMALL), {"arch": SMALL_ARCH}
    if option != "shipped":
        name = next(n for n in reference.names("fcvit") if f"opt_{option}_" in n)
        config = reference.read("fcvit", name).config
        options = {"arch": arch_from_original(config)}
        if config.get("use_layer_scale") is False:
            options["layer_scale_init_value"] = None
    oracle = OracleFCViT(**{**config, "num_classes": None})
    oracle, ours = with_oracle(oracle, torch.float64, **options)
    images = torch.randn(2, 3, 65, 41, dtype=torch.float64)
    grads = []
    for model, layout_ in ((oracle, torch.contiguous_format), (ours, LAYOUTS[layout])):
        x = images.clone(memory_format=layout_).requires_grad_()
        outs = model(x)
        sum((out.sin() * (i + 1)).sum() for i, out in enumerate(outs)).backward()
        grads.append((outs, x.grad, {k: p.grad for k, p in model.named_parameters()}))
    (outs, x_grad, parameter_grads), (our_outs, our_x_grad, our_parameter_grads) = grads
    for expected, out in zip(outs, our_outs, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(our_x_grad, x_grad, rtol=1e-7, atol=1e-9)
    renamed = convert_state_dict(
        {**oracle.state_dict(), **parameter_grads}, "fcvit"
    )  # gradients travel under their parameters' names
    for key, grad in our_parameter_grads.items():
        torch.testing.assert_close(grad, renamed[f"backbone.{key}"], rtol=1e-7, atol=1e-9)


def test_train_mode_equals_the_oracle_batch_statistics_included():
    oracle, ours = with_oracle(OracleFCViT(**SMALL), arch=SMALL_ARCH)
    x = torch.randn(2, 3, 64, 64)
    for expected, out in zip(oracle.train()(x), ours.train()(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=0, atol=3e-5)
    converted = convert_state_dict(oracle.state_dict(), "fcvit")
    for key, value in ours.state_dict().items():
        if "running" in key or "tracked" in key:
            torch.testing.assert_close(value, converted[f"backbone.{key}"])


# Parameters of the classifier with 1000 classes, of the trunk, and of the dense backbone (section
# 2).
COUNTS = {
    "tiny": (4_784_752, 4_463_112, 4_464_264, 500),
    "s12": (14_701_832, 14_187_808, 14_189_856, 464),
    "s24": (26_960_232, 26_446_208, 26_448_256, 896),
    "s48": (51_477_032, 50_963_008, 50_965_056, 1760),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str):
    classifier, trunk, dense, entries = COUNTS[name]
    with torch.device("meta"):
        backbone = FCViT(name)
        last = FCViT(name, out_indices=(3,))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    dims = backbone.arch.embed_dims
    assert count(backbone) == dense
    assert count(backbone) - 2 * sum(dims) == trunk
    assert count(last) + 1000 * (dims[-1] + 1) == classifier
    assert len(last.state_dict()) + 2 == entries
    assert len(backbone.state_dict()) == entries + 4


def test_original_names_are_aliases():
    assert all(ARCHS[f"b{n}"] is ARCHS[f"s{n}"] for n in (12, 24, 48))


def test_initialisation():
    torch.manual_seed(0)
    model = FCViT("s12")
    block = model.stages[2][0]
    mix = block.token_mixer.mixes[0]
    expected = {
        model.patch_embeds[0].proj: (2 / (49 * 64)) ** 0.5,
        mix.dwconv: (2 / 121) ** 0.5,
        mix.fc1: (2 / 40) ** 0.5,
        block.channel_mixer.fc1: (2 / 1280) ** 0.5,
        block.channel_mixer.dwconv: (2 / 9) ** 0.5,
        mix.context.fc1: 0.02,
    }
    for layer, std in expected.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()
    assert torch.equal(mix.context.rescale_weight, torch.ones(8))
    assert not mix.context.rescale_bias.any()
    assert torch.equal(block.layer_scale_1, torch.full((320,), 1e-5))
    assert torch.equal(FCViT(SMALL_ARCH, layer_scale_init_value=1e-6).stages[0][0].layer_scale_2,
                       torch.full((16,), 1e-6))  # fmt: skip


def test_drop_path_grows_linearly_to_the_full_rate():
    model = FCViT("s12", drop_path_rate=0.1)
    rates = [m.drop_path_rate for m in model.modules() if isinstance(m, ScaledResidual)]
    assert rates == pytest.approx([0.1 * j / 11 for j in range(12)])


def test_dropout_sits_after_the_activation_and_after_fc2():
    torch.manual_seed(0)
    mixer = ChannelMixer(8, 16, 0.5, ARCHS["tiny"]).train()
    x = torch.randn(1, 8, 6, 6)
    torch.manual_seed(1)
    out = mixer(x)
    torch.manual_seed(1)
    hidden = F.dropout(F.gelu(mixer.dwconv(mixer.fc1(x))), 0.5)
    torch.testing.assert_close(out, F.dropout(mixer.fc2(hidden), 0.5))


def test_a_replaced_layer_is_called():
    mixer = ChannelMixer(8, 32, 0.0, FCViT(SMALL_ARCH).arch).eval()
    x = torch.randn(1, 8, 6, 6)
    hidden = mixer.fc1(x)
    mixer.dwconv = nn.Identity()
    torch.testing.assert_close(mixer(x), mixer.fc2(F.gelu(hidden)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("heads", [1, 4])
def test_one_token_and_constant_maps_stay_finite(heads: int, layout: str):
    """For one head and one token the formula divides 0 by 0; ours takes the deviation as 0."""
    context = GlobalContext(16, heads, 8, True, True)
    for x in (torch.randn(2, 16, 1, 1), torch.zeros(2, 16, 3, 3), torch.ones(2, 16, 4, 2)):
        x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
        out = context(x)
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()


def test_similarity_statistics_are_float32_under_autocast():
    """Similarities of large activations overflow float16 when they are squared there."""
    context = GlobalContext(16, 8, 8, True, True)
    x = 150 * torch.randn(1, 16, 8, 8)
    with torch.autocast("cpu", torch.float16):
        assert context(x.half()).isfinite().all()


def test_classifier_order_is_norm_then_mean():
    oracle = OracleFCViT(**SMALL, num_classes=7)
    oracle.load_state_dict(reference.fill_like(oracle.state_dict()))
    ours, head = load(oracle.eval().state_dict(), arch=SMALL_ARCH, out_indices=-1)
    x = torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        pooled = ours(x)[0].mean(dim=(2, 3))
        logits = F.linear(pooled, head["head.fc.weight"], head["head.fc.bias"])
        torch.testing.assert_close(logits, oracle(x), rtol=0, atol=1e-5)


def test_padding_is_seen_and_other_images_are_not():
    _, model = with_oracle(OracleFCViT(**SMALL), arch=SMALL_ARCH)
    model, x = model.double(), torch.randn(2, 3, 64, 64).double()
    with torch.no_grad():
        alone, both = model(x[:1]), model(x)
        padded = model(F.pad(x[:1], (0, 64)))
    for a, b, p in zip(alone, both, padded, strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-9, atol=1e-9)
        assert (p[..., : a.shape[-1] // 2] - a[..., : a.shape[-1] // 2]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "s13"}, "arch='s13' is unknown; give one of tiny, s12"),
        ({"arch": 12}, "must be a name or a dict"),
        ({"arch": {"depths": (1,)}}, "lacks \\['embed_dims'\\]"),
        ({"arch": {**SMALL_ARCH, "heads": 4}}, "unknown entries \\['heads'\\]"),
        ({"arch": {**SMALL_ARCH, "num_heads": 5}}, "num_heads must divide .*got 5"),
        ({"arch": {**SMALL_ARCH, "mix_sizes": (4, 11)}}, "kernel sizes must be odd"),
        ({"arch": {**SMALL_ARCH, "mix_sizes": ()}}, "one or two kernel sizes"),
        ({"arch": {**SMALL_ARCH, "depths": (1, 1)}}, "one entry for each stage"),
        ({"arch": {**SMALL_ARCH, "depths": (1, 0, 1, 1)}}, "must be positive"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be a number in .*got 1.0"),
        ({"drop_rate": -0.1}, "drop_rate must be .*, got -0.1"),
    ],
)
def test_wrong_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        FCViT(**options)


def test_other_numbers_of_stages():
    model = FCViT(
        {"depths": [1, 2], "embed_dims": [16, 24], "mlp_ratios": [2, 2]}, out_indices=(0, -1)
    )
    assert model.strides == (4, 8)
    assert [tuple(o.shape) for o in model(torch.randn(1, 3, 33, 20))] == [
        (1, 16, 9, 5),
        (1, 24, 5, 3),
    ]
    assert isinstance(model.norm1, nn.GroupNorm)
