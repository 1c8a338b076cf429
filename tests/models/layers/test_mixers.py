"""The mixers against their literal oracle, and docs/specs/dynconv.md#8-tests."""

import copy
import math
import pickle
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import dynconv as oracle
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.models.layers import MIXERS, DynamicConvMixer, make_mixer
from mmvitconv.models.layers.mixers import Mixer

PRESETS = list(oracle.ORACLES)
DIM, HEADS = 16, 4
SIZES = [(5, 7), (1, 1), (14, 14), (23, 25)]
GLOBAL = ["deit", "relu_n", "ln_relu", "relu_ln", "rela", "sima", "dwhead"]
WINDOWED = ["swin", "relu_n", "ln_relu", "relu_ln"]
DWNET = ["ddw", "iddw", "dw"]
COUNTED = ["relu_n", "ln_relu", "relu_ln", "rela"]  # keep a map of their scores
FULL_MAPS = ["deit", *COUNTED]
# Options of the mixer beside the preset, and those of the oracle.
CASES = {preset: (preset, {}, {}) for preset in PRESETS}
for name in WINDOWED:
    table = {"reach": "window", "size": 7, "bias": "rel_table"}
    twin = {"size": 7} if name == "swin" else {"size": 7, "reach": "window"}
    CASES[f"{name} window"] = (name, table, twin)
    CASES[f"{name} shifted"] = (name, {**table, "shift": 3}, {**twin, "shift": 3})
CASES["ln_relu window without bias"] = (
    "ln_relu",
    {"reach": "window", "size": 5},
    {"reach": "window", "size": 5},
)
for name, sizes in {"natt": (3, 5), "dwvit": (3, 5), "ddw": (3,), "iddw": (3,), "dw": (5,)}.items():
    for size in sizes:
        CASES[f"{name} {size}"] = (name, {"size": size}, {"size": size})


def build(preset: str, dim: int = DIM, heads: int = HEADS, **options: object) -> Mixer:
    return filled(make_mixer({"preset": preset, **options}, dim, heads).double())


def build_case(case: str) -> Mixer:
    preset, options, _ = CASES[case]
    return build(preset, **options)


def filled(mixer: nn.Module) -> nn.Module:
    """In evaluation mode, with parameters and statistics that all matter."""
    generator = torch.Generator().manual_seed(0)
    for name, value in mixer.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(noise.abs() + 0.5 if "var" in name else 0.5 * noise)
    return mixer.eval()


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def leaves(mixer: nn.Module) -> dict[str, Tensor]:
    """The state dict as the oracle's own, differentiable tensors."""
    parameters = {name for name, _ in mixer.named_parameters()}
    return {
        name: value.detach().clone().requires_grad_(name in parameters)
        for name, value in mixer.state_dict().items()
    }


def assert_near(ours: Tensor, theirs: Tensor, bound: float = 1e-11) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * max(1.0, theirs.abs().max())


def padding(extents: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """True outside of each sample's (height, width)."""
    mask = torch.ones(len(extents), height, width, dtype=torch.bool)
    for sample, (inner_height, inner_width) in zip(mask, extents, strict=True):
        sample[:inner_height, :inner_width] = False
    return mask


def plain(mixer: Mixer) -> Mixer:
    """The projection passes on what it gets."""
    with torch.no_grad():
        mixer.proj.weight.copy_(torch.eye(len(mixer.proj.weight)))
        mixer.proj.bias.zero_()
    return mixer


def weights_of(mixer: Mixer, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The N x N map of a mixer with one head and as many channels as positions.

    Values are made the rows of the unit matrix, so that the output is the map.
    """
    mixer = plain(mixer)
    dim = x.shape[1]
    with torch.no_grad():
        mixer.qkv.weight[2 * dim :] = torch.linalg.inv(oracle.tokens(x)[0]).T
        mixer.qkv.bias[2 * dim :] = 0
        return oracle.tokens(mixer(x, mask))[0]


# Values and gradients --------------------------------------------------------------------------


def test_every_preset_has_an_oracle():
    assert set(MIXERS) == set(PRESETS)
    assert len(PRESETS) == 13


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_oracle_values_and_gradients(case: str, size: tuple[int, int]):
    preset, options, twin = CASES[case]
    mixer = build(preset, **options)
    state = leaves(mixer)
    x = draw(2, DIM, *size).requires_grad_()
    x_twin = x.detach().clone().requires_grad_()
    y = mixer(x)
    expected = oracle.ORACLES[preset](state, x_twin, HEADS, **twin)
    assert y.dtype == torch.float64
    assert_near(y, expected)
    direction = draw(*y.shape, seed=2)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_near(x.grad, x_twin.grad, 1e-9)
    for name, parameter in mixer.named_parameters():
        theirs = state[name].grad
        ours = parameter.grad
        if ours is None or theirs is None:  # never touched, as gammas are not at one position
            assert all(grad is None or not grad.any() for grad in (ours, theirs)), name
        else:
            assert_near(ours, theirs, 1e-9)


@pytest.mark.parametrize("case", CASES)
@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 3))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_oracle_values_at_any_size(case: str, height: int, width: int, batch: int):
    preset, options, twin = CASES[case]
    mixer = build(preset, **options)
    x = draw(batch, DIM, height, width)
    with torch.no_grad():
        assert_near(mixer(x), oracle.ORACLES[preset](mixer.state_dict(), x, HEADS, **twin))


@pytest.mark.parametrize("size", [(5, 7), (14, 14)])
@pytest.mark.parametrize("preset", DWNET)
def test_oracle_values_and_gradients_with_batch_statistics(preset: str, size: tuple[int, int]):
    mixer = build(preset).train()
    state = leaves(mixer)
    x = draw(4, DIM, *size)
    y = mixer(x)
    expected = oracle.ORACLES[preset](state, x, training=True)
    assert_near(y, expected, 1e-10)
    direction = draw(*y.shape, seed=2)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    for name, parameter in mixer.named_parameters():
        assert_near(parameter.grad, state[name].grad, 1e-8)


@pytest.mark.parametrize("count_power", ["auto", 1, 0.5, 0, "l1"])
@pytest.mark.parametrize("act", ["relu", "relu2", "gelu", "softplus", "identity", "sigmoid"])
def test_other_activations(act: str, count_power: float | str):
    mixer = build("relu_n", act=act, count_power=count_power)
    x = draw(2, DIM, 5, 7)
    count = 35.0
    q, k, v = oracle.queries_keys_values(mixer.state_dict(), oracle.tokens(x), HEADS)
    s = q @ k.transpose(2, 3) / 2
    if act == "sigmoid":
        a = 1 / (1 + count * (-s).exp())  # -log n inside
    else:
        a = oracle.ACTIVATIONS[act](s)
    if count_power == "l1":
        a = a / (a.abs().sum(dim=-1, keepdim=True) + 1e-6)
    elif count_power == "auto":
        a = a if act == "sigmoid" else a / count
    else:
        a = a / count**count_power
    out = oracle.merged(mixer.state_dict(), a @ v).transpose(1, 2).unflatten(2, (5, 7))
    assert_near(mixer(x), out)


@pytest.mark.parametrize(
    ("preset", "options", "twin"),
    [
        *(
            ("ln_relu", {"count_power": power}, {"count_power": power})
            for power in (1, 0.5, 0, "l1")
        ),
        (
            "ln_relu",
            {"reach": "window", "size": 5, "affine": "key"},
            {"reach": "window", "size": 5},
        ),
        ("natt", {"size": 3, "bias": "static_kernel"}, {"size": 3}),
    ],
)
def test_options_of_the_oracle(preset: str, options: dict, twin: dict):
    mixer = build(preset, **options)
    x = draw(2, DIM, 5, 5)
    assert_near(mixer(x), oracle.ORACLES[preset](mixer.state_dict(), x, HEADS, **twin))


@pytest.mark.parametrize("masked", [False, True])
def test_ln_relu_in_a_neighbourhood(masked: bool):
    """Means and variances of the keys that exist, at borders too."""
    mixer = build("ln_relu", reach="local", size=5)
    x = draw(2, DIM, 9, 10)
    mask = padding([(9, 10), (6, 7)], 9, 10) if masked else None
    rule = {"size": 5, **oracle.RULES["ln_relu"]}
    expected = oracle.natt(mixer.state_dict(), x, HEADS, mask=mask, **rule)
    y = mixer(x, mask)
    assert_near(y[0], expected[0])
    assert_near(y[1, :, :6, :7], expected[1, :, :6, :7])


@pytest.mark.parametrize("preset", ["deit", "relu_n", "ln_relu"])
def test_a_map_for_each_channel_in_windows(preset: str):
    mixer = build(preset, groups="depthwise", reach="window", size=5)
    x = draw(2, DIM, 10, 10)
    expected = oracle.window_pairwise(mixer.state_dict(), x, DIM, size=5, **oracle.RULES[preset])
    assert_near(mixer(x), expected)


def test_sima_with_the_norm_of_xcit():
    mixer = build("sima", norm="l2_token")
    x = draw(2, DIM, 5, 7)
    q, k, v = oracle.queries_keys_values(mixer.state_dict(), oracle.tokens(x), HEADS)
    q, k = (part / (part**2).sum(dim=2, keepdim=True).sqrt() for part in (q, k))
    expected = oracle.merged(mixer.state_dict(), (q @ k.transpose(2, 3)) @ v)
    assert_near(oracle.tokens(mixer(x)), expected)


@pytest.mark.parametrize("size", [(5, 7), (4, 3), (23, 25)])
def test_sima_has_one_value_in_either_order(size: tuple[int, int]):
    mixer = build("sima")
    x = draw(2, DIM, *size)
    state = mixer.state_dict()
    for order in ("map", "linear"):
        assert_near(mixer(x), oracle.sima(state, x, HEADS, order=order))


@pytest.mark.parametrize("size", [(10, 15), (9, 11)])
@pytest.mark.parametrize("window", [3, 5])
def test_dwvit_with_kernels_of_windows(window: int, size: tuple[int, int]):
    """Each window, cut at the border, is a map of its own."""
    mixer = build("dwvit", size=3, gen={"scope": "window", "window": window})
    x = draw(2, DIM, *size)
    expected = torch.empty_like(x)
    for top in range(0, size[0], window):
        for left in range(0, size[1], window):
            cut = (slice(None), slice(None), slice(top, top + window), slice(left, left + window))
            expected[cut] = oracle.dwvit(mixer.state_dict(), x[cut], size=3).detach()
    assert_near(mixer(x), expected)


def test_a_neighbourhood_is_a_masked_map():
    """The oracle's unfolding against its map over all pairs."""
    state = build("natt").state_dict()
    for size in (3, 5, 7):
        x = draw(2, DIM, 9, 10)
        assert_near(
            oracle.natt(state, x, HEADS, size=size), oracle.natt_as_map(state, x, HEADS, size=size)
        )


@pytest.mark.parametrize("out_norm", ["rms", "ln"])
def test_output_norms(out_norm: str):
    mixer = build("rela", out_norm=out_norm)
    x = draw(2, DIM, 5, 7)
    state = mixer.state_dict()
    options = {"act": "relu", "count_power": 0, "out_norm": out_norm}
    assert_near(mixer(x), oracle.global_pairwise(state, x, HEADS, **options))


@pytest.mark.parametrize("case", CASES)
def test_channels_last_and_the_layout_of_backbones(case: str):
    mixer = build_case(case)
    x = draw(2, DIM, 9, 10)
    with torch.no_grad():
        expected = mixer(x)
        assert_near(mixer(x.to(memory_format=torch.channels_last)), expected)
        assert_near(mixer.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected)
        assert_near(mixer.mix(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("preset", GLOBAL)
def test_prefix_tokens_take_part_in_global_pairwise_mixers(preset: str, masked: bool):
    mixer = build(preset)
    x, prefix = draw(2, DIM, 5, 7), draw(2, 3, DIM, seed=2)
    mask = padding([(5, 7), (3, 4)], 5, 7) if masked else None
    sequence = torch.cat([prefix, oracle.tokens(x)], dim=1)
    tokens, image = mixer.mix_tokens(sequence, (5, 7), mask).split([3, 35], dim=1)
    expected = oracle.ORACLES[preset](mixer.state_dict(), x, HEADS, mask=mask, prefix=prefix)
    assert_near(tokens, expected[1])
    image = image.transpose(1, 2).unflatten(2, (5, 7))
    assert_near(image[0], expected[0][0])
    inner = (slice(None), slice(3), slice(4)) if masked else ...
    assert_near(image[1][inner], expected[0][1][inner])


@pytest.mark.parametrize("case", [c for c in CASES if c not in GLOBAL])
def test_other_mixers_leave_prefix_tokens_out(case: str):
    mixer = build_case(case)
    x, prefix = draw(2, 5, 7, DIM), draw(2, 3, DIM, seed=2)
    sequence = torch.cat([prefix, x.flatten(1, 2)], dim=1)
    tokens, image = mixer.mix_tokens(sequence, (5, 7)).split([3, 35], dim=1)
    assert_near(image, mixer.mix(x).flatten(1, 2))
    assert not tokens.any()


# docs/specs/dynconv.md#8-tests, test 1 and 2: softmax


@pytest.mark.parametrize("size", [(5, 7), (14, 14)])
def test_deit_is_two_dynamic_convolutions_and_sdpa(size: tuple[int, int]):
    mixer = make_mixer("deit", DIM, HEADS).double()
    x = draw(2, DIM, *size)
    state = mixer.state_dict()
    q, k, v = oracle.queries_keys_values(state, oracle.tokens(x), HEADS)
    sdpa = oracle.merged(state, F.scaled_dot_product_attention(q, k, v))
    with torch.no_grad():
        assert_near(mixer(x), oracle.deit_as_convolutions(state, x, HEADS), 1e-12)
        assert_near(mixer(x), sdpa.transpose(1, 2).unflatten(2, size), 1e-12)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(14, 14), (21, 14), (28, 35)])
def test_swin_is_masked_sdpa(size: tuple[int, int], shift: int):
    mixer = build("swin", shift=shift)
    x = draw(2, DIM, *size)
    state = mixer.state_dict()
    q, k, v = oracle.queries_keys_values(state, oracle.tokens(x), HEADS)
    axes = [oracle.places(length, 7, shift, "zero") for length in size]
    bias = oracle.relative_bias(state["relative_position_bias_table"], *axes, 7)
    bias = bias.masked_fill(~oracle.window_pairs(*size, 7, shift), -math.inf)
    expected = oracle.merged(state, F.scaled_dot_product_attention(q, k, v, bias[None]))
    with torch.no_grad():
        assert_near(mixer(x), expected.transpose(1, 2).unflatten(2, size), 1e-12)


def test_shifted_regions_are_those_of_swin():
    """Swin's regions, cut from the turned map by slices and numbered."""
    places = torch.arange(14)
    band = (places >= 7).long() + (places >= 11).long()
    region = (3 * band[:, None] + band[None, :]).roll((3, 3), (0, 1)).flatten()
    window = (2 * (places // 7)[:, None] + places // 7).roll((3, 3), (0, 1)).flatten()
    expected = (region[:, None] == region[None]) & (window[:, None] == window[None])
    assert torch.equal(oracle.window_pairs(14, 14, 7, 3), expected)


@pytest.mark.parametrize("preset", ["deit", "swin"])
def test_softmax_runs_in_torchs_own_kernel(preset: str):
    mixer = build(preset)
    real = F.scaled_dot_product_attention
    with torch.no_grad(), mock.patch.object(F, "scaled_dot_product_attention", wraps=real) as spy:
        mixer(draw(2, DIM, 14, 14))
    assert spy.call_count == 1


# docs/specs/dynconv.md#8-tests, test 3: LayerNorm and ReLU


@pytest.mark.parametrize("side", [14, 64])
def test_ln_relu_rows_of_gaussian_scores_sum_to_one(side: int):
    """Values are 1, so that the output is the rows' sums."""
    mixer = plain(make_mixer("ln_relu", 64, 1))
    with torch.no_grad():
        mixer.qkv.weight.copy_(draw(192, 64, dtype=torch.float32) / 8)
        mixer.qkv.bias.zero_()
        mixer.qkv.weight[128:], mixer.qkv.bias[128:] = 0, 1
        sums = mixer(draw(1, 64, side, side, dtype=torch.float32))
    assert abs(sums.mean() - 1) < 0.02
    assert sums.max() <= (2 * math.pi) ** 0.5 / 2 + 1e-4
    assert sums.min() > 0.5


@pytest.mark.parametrize("options", [{}, {"reach": "window", "size": 7, "shift": 3}])
def test_ln_relu_weights(options: dict):
    mixer = make_mixer({"preset": "ln_relu", **options}, 196, 1).double()
    x = draw(1, 196, 14, 14)
    with torch.no_grad():
        mixer.qkv.weight.normal_(generator=torch.Generator().manual_seed(0))
    a = weights_of(mixer, x)
    assert a.min() > -1e-9
    assert a.sum(dim=1).max() <= 1.2534
    count = 196
    if options:
        pairs = oracle.window_pairs(14, 14, 7, 3)
        assert a[~pairs].abs().max() < 1e-9
        count = pairs.sum(dim=1).min()
    active = (a > 1e-9).sum() / (196 * 196 if not options else pairs.sum())
    assert 0.4 < active < 0.6
    assert a.max() <= (2 * math.pi * (count - 1)) ** 0.5 / count + 1e-9


def test_ln_relu_of_one_key_that_stands_out():
    """A one-hot row of scores keeps sqrt(2 pi (n - 1)) / n of the value."""
    mixer = make_mixer("ln_relu", 49, 1).double()
    x = 1e4 * torch.eye(49, dtype=torch.float64).reshape(1, 49, 7, 7)
    with torch.no_grad():
        mixer.qkv.weight.copy_(torch.eye(49).repeat(3, 1))
    a = weights_of(mixer, x)
    assert_near(a.diagonal(), torch.full((49,), 0.3544, dtype=torch.float64), 1e-3)
    assert (a - a.diagonal().diag()).abs().max() < 1e-9


@pytest.mark.parametrize("options", [{}, {"reach": "window", "size": 7, "bias": "rel_table"}])
@pytest.mark.parametrize("scale", [0.25, 7.0])
def test_ln_relu_ignores_scale_and_shift_of_scores(scale: float, options: dict):
    """Queries are scaled for a, and all keys moved for b, which differs from row to row."""
    mixer = build("ln_relu", **options)
    x = draw(2, DIM, 7, 7)
    with torch.no_grad():
        mixer.qkv.weight[: 2 * DIM] *= 100
        mixer.qkv.bias[: 2 * DIM] *= 100
        expected = mixer(x)
        mixer.qkv.weight[:DIM] *= scale
        mixer.qkv.bias[:DIM] *= scale
        if options:
            mixer.relative_position_bias_table *= scale
        mixer.qkv.bias[DIM : 2 * DIM] += 50 * draw(DIM, seed=3)
        assert_near(mixer(x), expected, 1e-6)


@pytest.mark.parametrize("preset", GLOBAL)
def test_tokens_may_be_permuted(preset: str):
    mixer = build(preset)
    x = draw(2, DIM, 5, 7)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    permuted = x.flatten(2)[:, :, order].unflatten(2, (5, 7))
    with torch.no_grad():
        expected = mixer(x).flatten(2)[:, :, order].unflatten(2, (5, 7))
        assert_near(mixer(permuted), expected)


# Masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(14, 14), (16, 17)])
@pytest.mark.parametrize("case", CASES)
def test_padding_changes_nothing(case: str, size: tuple[int, int]):
    """Each sample of a padded batch gives what it gives alone.

    The shift of windows is the batch's, as it depends on the map's sides, and what fills the map up
    to whole windows is padding too.
    """
    preset, options, twin = CASES[case]
    mixer = build(preset, **options)
    extents = [size, (9, 11), (5, 13)]
    mask = padding(extents, *size)
    x = draw(3, DIM, *size)
    other = torch.where(mask[:, None], 100 * draw(3, DIM, *size, seed=5), x)
    if "shift" in twin:
        twin = {**twin, "shift": (3, 3)}
    if preset == "swin":
        twin = {**twin, "filler": "invalid"}
    with torch.no_grad():
        y, y_other = mixer(x, mask), mixer(other, mask)
        alone = oracle.cropped(preset, mixer.state_dict(), x, HEADS, extents, **twin)
        for i, (height, width) in enumerate(extents):
            inner = (i, slice(None), slice(height), slice(width))
            assert_near(y[inner], alone[i])
            assert_near(y_other[inner], y[inner], 1e-12)
        assert y_other.isfinite().all()


@pytest.mark.parametrize("preset", [p for p in PRESETS if p not in DWNET and p != "dwvit"])
def test_masked_keys_may_lie_anywhere(preset: str):
    mixer = build(preset)
    mask = torch.rand(2, 14, 14, generator=torch.Generator().manual_seed(0)) < 0.4
    x = draw(2, DIM, 14, 14)
    with torch.no_grad():
        y = mixer(x, mask).transpose(0, 1)
        expected = oracle.ORACLES[preset](mixer.state_dict(), x, HEADS, mask=mask)
    assert_near(y[:, ~mask], expected.transpose(0, 1)[:, ~mask])


@pytest.mark.parametrize("case", CASES)
def test_samples_without_a_valid_key_are_finite(case: str):
    preset, options, _ = CASES[case]
    mixer = build(preset, **options)
    mask = padding([(8, 8), (0, 0)], 8, 8)
    x = draw(2, DIM, 8, 8).requires_grad_()
    y = mixer(x, mask)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    pairwise = preset not in DWNET and preset not in ("dwvit", "sima")
    if pairwise and preset != "swin":  # zeros before the projection
        bias = mixer.proj.bias.detach()[:, None, None].expand(-1, 8, 8)
        assert_near(y[1].detach(), bias)


@pytest.mark.parametrize("case", CASES)
def test_a_mask_without_padding_is_no_mask(case: str):
    """Swin's own filling takes part as keys where there is no mask: whole windows for it."""
    preset, options, _ = CASES[case]
    mixer = build(preset, **options)
    size = (14, 21) if preset == "swin" else (9, 10)
    x = draw(2, DIM, *size)
    with torch.no_grad():
        assert_near(mixer(x, torch.zeros(2, *size, dtype=torch.bool)), mixer(x))


# Chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 35, 1000])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("preset", COUNTED)
def test_chunks_change_neither_values_nor_gradients(preset: str, masked: bool, chunk: int):
    mask = padding([(5, 7), (3, 4)], 5, 7) if masked else None
    results = []
    for query_chunk in (None, chunk):
        mixer = build(preset, query_chunk=query_chunk)
        x = draw(2, DIM, 5, 7).requires_grad_()
        y = mixer(x, mask)
        (y * draw(*y.shape, seed=2)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in mixer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("preset", COUNTED)
def test_chunks_bound_what_is_kept_for_the_gradient(preset: str):
    kept = {}
    for query_chunk in (None, 64):
        mixer = make_mixer({"preset": preset, "query_chunk": query_chunk}, DIM, HEADS)
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = mixer(draw(1, DIM, 32, 32, dtype=torch.float32))
        kept[query_chunk] = sum(storages.values())
        y.sum().backward()
    assert kept[64] <= kept[None] / 4


# docs/specs/dynconv.md#8-tests, tests 4 to 6


@pytest.mark.parametrize("impl", ["group", "shift"])
@pytest.mark.parametrize("case", ["dwvit", "dwvit 3", "dwvit 5", "ddw", "iddw", "dw"])
def test_implementations_of_local_kernels_agree(case: str, impl: str):
    preset, options, twin = CASES[case]
    mixer = build(preset, impl=impl, **options)
    state = leaves(mixer)
    x = draw(2, DIM, 6, 9).requires_grad_()
    y = mixer(x)
    expected = oracle.ORACLES[preset](state, x, **twin)
    assert_near(y, expected)
    parameters = dict(mixer.named_parameters())
    names = list(parameters)
    ours = torch.autograd.grad(y.square().sum(), [x, *parameters.values()])
    theirs = torch.autograd.grad(expected.square().sum(), [x, *(state[name] for name in names)])
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b, 1e-9)


def test_dwvit_projection_and_pooling_commute():
    """Keys and values of all positions, pooled, give the same kernels."""
    mixer = build("dwvit", size=3)
    x = draw(2, DIM, 6, 9)
    everywhere = F.linear(x.permute(0, 2, 3, 1), mixer.qkv.weight, mixer.qkv.bias)
    _, k, v = everywhere.permute(0, 3, 1, 2).chunk(3, dim=1)
    state = dict(mixer.state_dict())
    key = F.adaptive_avg_pool2d(k, 3) / 3 + state["static_key"]
    value = F.adaptive_avg_pool2d(v, 3) + state["static_value"]
    ys = []
    for image, static_key, static_value in zip(x, key, value, strict=True):
        state.update(static_key=static_key, static_value=static_value)
        fixed = copy.deepcopy(mixer)
        fixed.load_state_dict(state)
        with torch.no_grad():
            fixed.qkv.weight[DIM:] = 0
            fixed.qkv.bias[DIM:] = 0
        ys.append(fixed(image[None]))
    assert_near(mixer(x), torch.cat(ys), 1e-12)


@pytest.mark.parametrize("impl", ["auto", "group", "shift"])
def test_dwvit_gradcheck(impl: str):
    mixer = build("dwvit", dim=3, heads=1, size=3, impl=impl)
    names = [name for name, _ in mixer.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(mixer, dict(zip(names, parameters, strict=True)), (x,))

    x = draw(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *mixer.parameters()))


@pytest.mark.parametrize("size", [3, 7])
def test_dwvit_with_static_kernels_is_two_depthwise_convolutions(size: int):
    mixer = build("dwvit", size=size)
    with torch.no_grad():
        mixer.qkv.weight[DIM:] = 0
        mixer.qkv.bias[DIM:] = 0
    convs = [
        nn.Conv2d(DIM, DIM, size, padding=size // 2, groups=DIM, bias=False).double()
        for _ in range(2)
    ]
    for conv, kernel in zip(convs, (mixer.static_key, mixer.static_value), strict=True):
        conv.weight.data.copy_(kernel.data[:, None])
    x = draw(2, DIM, 9, 10)
    with torch.no_grad():
        q = F.linear(x.permute(0, 2, 3, 1), mixer.qkv.weight[:DIM], mixer.qkv.bias[:DIM])
        t = convs[0](q.permute(0, 3, 1, 2))
        t = F.layer_norm(t.permute(0, 2, 3, 1), (DIM,), mixer.norm.weight, mixer.norm.bias, 1e-6)
        y = convs[1](t.relu().permute(0, 3, 1, 2)) * (2 * math.pi) ** 0.5 / size**2
        expected = mixer.proj(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert_near(mixer(x), expected, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_samples_do_not_mix(case: str):
    mixer = build_case(case)
    x = draw(3, DIM, 9, 10)
    with torch.no_grad():
        alone = torch.cat([mixer(image[None]) for image in x])
        assert_near(mixer(x), alone, 1e-12)


def test_dwhead_is_the_limit_of_one_head_per_channel():
    mixer = build("dwhead")
    x = draw(2, DIM, 9, 10)
    expected = oracle.global_pairwise(mixer.state_dict(), x, DIM, act="relu")
    with torch.no_grad():
        assert_near(mixer(x), expected, 1e-12)


def replace_kernels(mixer: nn.Module, substitute) -> None:
    mixer.gen.register_forward_hook(lambda module, args, out: substitute(out).expand_as(out))


def test_ddw_has_a_kernel_for_each_sample():
    mixer = build("ddw")
    x = draw(2, DIM, 9, 10)
    expected = mixer(x)
    replace_kernels(mixer, lambda kernels: kernels[:1])
    y = mixer(x)
    assert torch.equal(y[0], expected[0])
    assert (y[1] - expected[1]).abs().max() > 0.01


def test_iddw_has_a_kernel_for_each_position():
    mixer = build("iddw")
    x = draw(2, DIM, 9, 10)
    expected = mixer(x)
    replace_kernels(mixer, lambda kernels: kernels[:, :, :1, :1])
    assert (mixer(x) - expected).abs().max() > 0.01


def test_dw_has_one_kernel():
    """Where no border is near, a moved map gives the moved output."""
    mixer = build("dw")
    x = draw(1, DIM, 20, 20)
    moved = mixer(x.roll((2, 3), (2, 3)))
    inner = (slice(None), slice(None), slice(6, 14), slice(6, 14))
    assert_near(moved[inner], mixer(x).roll((2, 3), (2, 3))[inner], 1e-12)


# docs/specs/dynconv.md#8-tests, tests 7 and 8

SQUARE = {  # parameters as a function of dim, heads and kernel or window size
    **dict.fromkeys(
        ["deit", "relu_n", "rela", "sima", "natt", "dwhead"], lambda c, h, k: 4 * c * c + 4 * c
    ),
    "swin": lambda c, h, k: 4 * c * c + 4 * c + (2 * k - 1) ** 2 * h,
    "ln_relu": lambda c, h, k: 4 * c * c + 4 * c + 2 * h,
    "relu_ln": lambda c, h, k: 4 * c * c + 4 * c + 2 * h,
    "dwvit": lambda c, h, k: 4 * c * c + 4 * c + 2 * c + 2 * c * k * k,
    "dw": lambda c, h, k: 2 * c * c + 6 * c + c * k * k + c,
    "ddw": lambda c, h, k: 2 * c * c + 7 * c + c * c // 4 + c // 2 + c // 4 * c * k * k + c * k * k,
    "iddw": lambda c, h, k: (
        2 * c * c + 6 * c + c * c // 4 + c // 4 + c // 2 + (c // 4 + 1) * k * k * (c // h)
    ),
}
MULTIPLY_ADDS = {  # of N positions
    **dict.fromkeys(FULL_MAPS, lambda n, c, h, k: 4 * n * c * c + 2 * n * n * c),
    "swin": lambda n, c, h, k: 4 * n * c * c + 2 * n * k * k * c,
    "natt": lambda n, c, h, k: 4 * n * c * c + 2 * n * k * k * c,
    "sima": lambda n, c, h, k: 4 * n * c * c + 2 * n * min(n, c // h) * c,
    "dwhead": lambda n, c, h, k: 4 * n * c * c + 4 * n * c,
    "dwvit": lambda n, c, h, k: 2 * n * c * c + 2 * k * k * c * c + 2 * n * k * k * c,
    "dw": lambda n, c, h, k: 2 * n * c * c + n * k * k * c,
    "ddw": lambda n, c, h, k: 2 * n * c * c + n * k * k * c + c * c // 4 + c // 4 * c * k * k,
    "iddw": lambda n, c, h, k: (
        2 * n * c * c + n * k * k * c + n * c * c // 4 + n * (c // 4) * k * k * (c // h)
    ),
}


@pytest.mark.parametrize("dim", [96, 384])
@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_and_multiply_adds_of_section_5(preset: str, dim: int):
    heads = dim // 32
    with torch.device("meta"):
        mixer = make_mixer(preset, dim, heads)
    assert sum(p.numel() for p in mixer.parameters()) == SQUARE[preset](dim, heads, 7)
    for height, width in ((14, 14), (28, 56)):
        expected = MULTIPLY_ADDS[preset](height * width, dim, heads, 7)
        assert mixer.macs(height, width) == expected


@pytest.mark.parametrize("preset", WINDOWED)
def test_windows_cost_the_same_for_every_activation(preset: str):
    options = {"reach": "window", "size": 7, "bias": "rel_table"}
    mixer = make_mixer({"preset": preset, **options}, 96, 3)
    assert mixer.macs(28, 28) == MULTIPLY_ADDS["swin"](784, 96, 3, 7)


def test_figures_of_section_5():
    with torch.device("meta"):
        small = [make_mixer(preset, 384, 6).macs(14, 14) for preset in ("deit", "dwvit")]
        large = [make_mixer(preset, 768, 12).macs(64, 64) for preset in ("deit", "dwvit")]
    assert [round(macs / 1e6) for macs in small] == [145, 80]
    assert [round(macs / 1e9, 1) for macs in large] == [35.4, 5.2]


@pytest.mark.parametrize(
    ("preset", "dim", "heads", "side"),
    [
        *((p, 384, 6, 14) for p in (*FULL_MAPS, "swin", "dwvit")),
        *((p, 768, 12, 56) for p in (*FULL_MAPS, "swin", "dwvit")),
        *((p, 96, 3, 28) for p in ("dw", "ddw", "sima")),
    ],
)
def test_torch_counts_as_many_multiply_adds(preset: str, dim: int, heads: int, side: int):
    with torch.device("meta"):
        mixer = make_mixer(preset, dim, heads).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            mixer(torch.empty(1, dim, side, side))
    assert counter.get_total_flops() == 2 * mixer.macs(side, side)


@pytest.mark.parametrize("case", CASES)
def test_odd_sizes(case: str):
    preset, options, _ = CASES[case]
    mixer = make_mixer({"preset": preset, **options}, DIM, HEADS)
    y = mixer(draw(2, DIM, 23, 17, dtype=torch.float32))
    assert y.shape == (2, DIM, 23, 17)
    assert y.isfinite().all()
    assert y.dtype == torch.float32


INPUTS = {
    "large": 1e3 * draw(2, DIM, 14, 14, dtype=torch.float32),
    "large and many": 1e3 * draw(2, DIM, 23, 25, dtype=torch.float32),
    "zero": torch.zeros(2, DIM, 14, 14),
    "constant": torch.full((2, DIM, 14, 14), 3.0),
}
UNBOUNDED = ("relu_n", "dwhead")  # of third degree in x: beyond float16 as a number


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_finite(case: str, kind: str, dtype: torch.dtype):
    preset, options, _ = CASES[case]
    torch.manual_seed(0)
    mixer = make_mixer({"preset": preset, **options}, DIM, HEADS)
    x = INPUTS[kind]
    # Scores of the second degree in x leave float16 beyond 100; backbones norm x before.
    fp16_scale = 0.03 if preset in UNBOUNDED else 0.1
    x = fp16_scale * x if dtype == torch.float16 else x.clone()
    x.requires_grad_()
    with torch.autocast("cpu", dtype):
        y = mixer(x)
    y.float().mean().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    for parameter in mixer.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(14, 14), (23, 25)])
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_near_the_exact_output(
    case: str, size: tuple[int, int], dtype: torch.dtype
):
    preset, options, _ = CASES[case]
    torch.manual_seed(0)
    mixer = make_mixer({"preset": preset, **options}, DIM, HEADS).eval()
    x = draw(2, DIM, *size, dtype=torch.float32)
    with torch.no_grad():
        exact = mixer(x)
        with torch.autocast("cpu", dtype):
            y = mixer(x).float()
    assert (y - exact).norm() <= 0.05 * exact.norm()


@pytest.mark.parametrize("preset", ["deit", "ln_relu", "dwvit"])
def test_a_larger_image_keeps_the_range(preset: str):
    """The map of 224 pixels, enlarged to that of 640."""
    torch.manual_seed(0)
    mixer = make_mixer(preset, 64, 2)
    x = draw(1, 64, 14, 14, dtype=torch.float32)
    large = F.interpolate(x, size=(40, 40), mode="bilinear")
    with torch.no_grad():
        ratio = mixer(large).std() / mixer(x).std()
    assert 0.5 < ratio < 2


# The rest of the interface ---------------------------------------------------------------------

COLUMNS = {"name", "kernel", "reach", "per_position", "groups", "activation", "static_term"}


@pytest.mark.parametrize("case", CASES)
def test_describe_has_the_columns_of_section_2(case: str):
    preset, options, _ = CASES[case]
    row = make_mixer({"preset": preset, **options}, DIM, HEADS).describe()
    assert set(row) == COLUMNS
    assert row["name"] == preset
    assert all(isinstance(cell, str | bool) for cell in row.values())
    in_words = str(row["per_position"]).lower()
    assert in_words in (("false", "no") if preset in ("dwvit", "ddw", "dw") else ("true", "yes"))


def test_rows_of_the_presets_differ():
    rows = [make_mixer(preset, DIM, HEADS).describe() for preset in PRESETS]
    assert len({tuple(str(row[column]) for column in COLUMNS) for row in rows}) == 13


@pytest.mark.parametrize("preset", PRESETS)
def test_block_form(preset: str):
    assert make_mixer(preset, DIM, HEADS).has_norms == (preset in DWNET)


def test_a_preset_is_its_own_mapping():
    by_name = make_mixer("ln_relu", DIM, HEADS, size=5, reach="window", bias="rel_table")
    by_mapping = make_mixer(
        {"preset": "ln_relu", "reach": "window", "size": 5, "bias": "rel_table"}, DIM, HEADS
    )
    by_mapping.load_state_dict(by_name.state_dict())
    assert by_name.relative_position_bias_table.shape == (81, HEADS)
    x = draw(1, DIM, 10, 10, dtype=torch.float32)
    assert torch.equal(by_name(x), by_mapping(x))


def test_window_arguments_reach_window_mixers_only():
    assert make_mixer("swin", DIM, HEADS, 5).relative_position_bias_table.shape == (81, HEADS)
    x = draw(1, DIM, 10, 10, dtype=torch.float32)
    turned = make_mixer("swin", DIM, HEADS, 5, 2)
    straight = make_mixer("swin", DIM, HEADS, 5)
    straight.load_state_dict(turned.state_dict())
    assert (turned(x) - straight(x)).abs().max() > 1e-4
    make_mixer("deit", DIM, HEADS, 5, 2)


LOCAL = {"reach": "local"}
WINDOW = {"reach": "window"}
NORMED = {"act": "relu", "norm": "ln_key"}
PER_CHANNEL = {"groups": "depthwise"}
ILLEGAL = {  # changes of deit, and what the message names
    "dense attention": ({"groups": "dense"}, "dense"),
    "dense sample kernels": ({"kernel": "sample", **LOCAL, "groups": "dense"}, "dense"),
    "softmax on a static kernel": (
        {"kernel": "static", **LOCAL, **PER_CHANNEL, "act": "softmax"},
        "act='softmax'",
    ),
    "table on global reach": ({"bias": "rel_table"}, "rel_table"),
    "table on a neighbourhood": ({**LOCAL, "bias": "rel_table"}, "rel_table"),
    "static part of a global map": ({"bias": "static_kernel"}, "static_kernel"),
    "static part of a window": ({**WINDOW, "bias": "static_kernel"}, "static_kernel"),
    "an affine number for each key of any map": ({**NORMED, "affine": "key"}, "affine"),
    "an affine number without a norm": ({**WINDOW, "affine": "key"}, "affine"),
    "global sample kernels": ({"kernel": "sample", **PER_CHANNEL}, "reach='local'"),
    "global position kernels": (
        {"kernel": "position", "groups": ("per_group", 4)},
        "reach='local'",
    ),
    "global pooled kernels": ({"kernel": "pooled", **PER_CHANNEL}, "reach='local'"),
    "global static kernels": ({"kernel": "static", **PER_CHANNEL}, "reach='local'"),
    "channels of a group of pairs": ({"groups": ("per_group", 4)}, "groups"),
    "norm of all tokens in a window": ({**WINDOW, "norm": "l1_token"}, "over all tokens"),
    "a map for each channel with a norm": ({**PER_CHANNEL, **NORMED}, "DepthwiseHeads"),
    "a map for each channel with dropout": (
        {**PER_CHANNEL, "act": "relu", "attn_drop": 0.1},
        "attn_drop",
    ),
    "a map for each channel with softmax": ({**PER_CHANNEL, "act": "softmax"}, "each channel"),
    "channel norm of scores": ({"act": "relu", "norm": "ln_channel"}, "ln_channel"),
    "heads that do not divide": ({"groups": ("heads", 3)}, "heads"),
    "a shift of nothing": ({"shift": 3}, "shift"),
    "a shift of a whole window": ({**WINDOW, "shift": 7}, "shift"),
    "a negative shift": ({**WINDOW, "shift": -1}, "shift"),
    "an even neighbourhood": ({**LOCAL, "size": 4}, "odd"),
    "no window": ({**WINDOW, "size": 0}, "size"),
    "an unknown option": ({"preset": "swin", "sise": 7}, "sise"),
    "an unknown kernel": ({"kernel": "learned"}, "kernel"),
    "an unknown reach": ({"reach": "far"}, "reach"),
    "unknown groups": ({"groups": "all"}, "groups"),
    "an unknown activation": ({"act": "selu"}, "act"),
    "an unknown norm": ({"norm": "gn"}, "norm"),
    "an unknown place of the norm": ({**NORMED, "norm_pos": "both"}, "norm_pos"),
    "an unknown bias": ({**WINDOW, "bias": "learned"}, "bias"),
    "an unknown norm of the output": ({"out_norm": "bn"}, "out_norm"),
    "an unknown implementation": ({"preset": "ddw", "impl": "loop"}, "impl"),
    "an unknown affine": ({**NORMED, **WINDOW, "affine": "all"}, "affine"),
    "softmax with a norm": ({"norm": "ln_key"}, "softmax normalises"),
    "softmax divided by a power of the count": ({"count_power": 0.5}, "count_power"),
    "chunks of nothing": ({"act": "relu", "query_chunk": 0}, "query_chunk"),
    "unknown entries of the generator": ({"preset": "ddw", "gen": {"ratio": 4}}, "ratio"),
    "a generator of pairs": ({"gen": {"reduction": 4}}, "reduction"),
    "an unknown scope": ({"preset": "dwvit", "gen": {"scope": "row"}}, "scope"),
    "a norm of scores without scores": ({"preset": "dwvit", "norm": "ln_key"}, "norm"),
    "an unknown power": ({"act": "relu", "count_power": "l2"}, "count_power"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_combinations_say_why(case: str):
    options, reason = ILLEGAL[case]
    with pytest.raises(ValueError, match=reason) as error:
        make_mixer({"preset": "deit", **options}, DIM, HEADS)
    assert len(str(error.value).split()) >= 6


AXES = {  # of the former class
    "deit": {},
    "swin": {**WINDOW, "bias": "rel_table"},
    "ln_relu": NORMED,
    "sima": {"act": "identity", "norm": "l1_token"},
    "natt": LOCAL,
    "dwvit": {
        **{"kernel": "pooled", **LOCAL, **PER_CHANNEL, "act": "relu"},
        **{"norm": "ln_channel", "bias": "static_kernel"},
    },
    "dwhead": {**PER_CHANNEL, "act": "relu"},
    "ddw": {"kernel": "sample", **LOCAL, **PER_CHANNEL, "act": "identity"},
    "iddw": {"kernel": "position", **LOCAL, "groups": ("per_group", 4), "act": "identity"},
    "dw": {"kernel": "static", **LOCAL, **PER_CHANNEL, "act": "identity"},
}


@pytest.mark.parametrize("preset", AXES)
def test_the_former_class_warns_and_makes_the_same(preset: str):
    with pytest.warns(DeprecationWarning, match="use make_mixer"):
        mixer = DynamicConvMixer(DIM, **{"groups": ("heads", HEADS), **AXES[preset]})
    ours = make_mixer(preset, DIM, HEADS)
    assert type(mixer) is type(ours)
    assert {**mixer.describe(), "name": preset} == ours.describe()
    mixer.load_state_dict(ours.state_dict())
    x = draw(2, DIM, 9, 10, dtype=torch.float32)
    assert torch.equal(mixer.eval()(x), ours.eval()(x))


def test_a_dense_kernel():
    mixer = make_mixer({"preset": "dw", "groups": "dense", "size": 3}, DIM, HEADS)
    assert mixer.dwconv.weight.shape == (DIM, DIM, 3, 3)
    assert mixer.macs(5, 7) == 2 * 35 * DIM**2 + 35 * 9 * DIM**2
    assert mixer.describe()["groups"] == "dense"
    assert mixer(draw(2, DIM, 5, 7, dtype=torch.float32)).shape == (2, DIM, 5, 7)


@pytest.mark.parametrize("mixer", ["performer", {"preset": "performer"}])
def test_unknown_presets_are_refused(mixer: str | dict):
    with pytest.raises(ValueError, match=r"performer.*deit"):
        make_mixer(mixer, DIM, HEADS)


@pytest.mark.parametrize("training", [False, True])
def test_attention_dropout_runs_in_training_only(training: bool):
    for preset in ("deit", "ln_relu", "swin"):
        mixer = make_mixer({"preset": preset, "attn_drop": 0.5}, DIM, HEADS).train(training)
        x = draw(1, DIM, 7, 7, dtype=torch.float32)
        assert torch.equal(mixer(x), mixer(x)) != training


@pytest.mark.graph
@pytest.mark.parametrize("preset", ["ln_relu", "dwvit"])
def test_compiles_without_graph_breaks(preset: str):
    torch.compiler.reset()
    mixer = build(preset)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    grads = []
    for run in (mixer, compiled):
        x = draw(2, DIM, 9, 10).requires_grad_()
        y = run(x)
        (y * draw(*y.shape, seed=2)).sum().backward()
        grads.append((y, x.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_pickle_and_copy(case: str):
    mixer = build_case(case)
    x = draw(1, DIM, 9, 10)
    with torch.no_grad():
        expected = mixer(x)
        for twin in (pickle.loads(pickle.dumps(mixer)), copy.deepcopy(mixer)):
            assert torch.equal(twin(x), expected)


def test_keys():
    """State dicts are files on disk; their names may not change."""
    linear = {f"{name}.{field}" for name in ("qkv", "proj") for field in ("weight", "bias")}
    bn = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    dwnet = {"conv1.weight", "conv2.weight"} | {f"bn{i}.{f}" for i in (1, 2, 3) for f in bn}
    gen = {f"gen.1.{f}" for f in bn} | {"gen.0.weight", "gen.3.weight", "gen.3.bias"}
    expected = {
        **dict.fromkeys(["deit", "relu_n", "rela", "sima", "natt", "dwhead"], linear),
        "swin": linear | {"relative_position_bias_table"},
        "ln_relu": linear | {"gamma", "beta"},
        "relu_ln": linear | {"gamma", "beta"},
        "dwvit": linear | {"static_key", "static_value", "norm.weight", "norm.bias"},
        "dw": dwnet | {"dwconv.weight", "dwconv.bias"},
        "ddw": dwnet | gen | {"out_bias"},
        "iddw": dwnet | gen | {"gen.0.bias"},
    }
    for preset in PRESETS:
        assert set(make_mixer(preset, DIM, HEADS).state_dict()) == expected[preset], preset
    mixer = make_mixer({"preset": "ln_relu", "affine": "key", **WINDOW, "size": 5}, DIM, HEADS)
    assert mixer.gamma.shape == mixer.beta.shape == (HEADS, 25)
    natt = make_mixer({"preset": "natt", "size": 3, "bias": "static_kernel"}, DIM, HEADS)
    assert natt.static_kernel.shape == (HEADS, 3, 3)
    state = make_mixer("ln_relu", DIM, HEADS).state_dict()
    assert state["gamma"].tolist() == [1.0] * HEADS
    assert state["beta"].tolist() == [0.0] * HEADS
    state = make_mixer("ddw", DIM, HEADS).state_dict()
    assert state["gen.0.weight"].shape == (DIM // 4, DIM, 1, 1)
    assert state["gen.3.weight"].shape == (DIM * 49, DIM // 4, 1, 1)
    assert not state["out_bias"].any()
