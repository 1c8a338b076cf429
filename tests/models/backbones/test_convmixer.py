"""ConvMixer against the reference numbers, the literal oracle, timm and mmpretrain."""

import copy
import json

import mmpretrain.models
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from oracles import reference
from oracles.convmixer import oracle
from torch import Tensor, nn

from mmvitconv.models import ConvMixer
from mmvitconv.models.backbones.convmixer import resize_kernel
from mmvitconv.weights import convert_state_dict

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SIZES = {"embed_dims": 24, "depth": 3, "kernel_size": 5, "patch_size": 4}
# (map, tolerance over its standard deviation), docs/specs/convmixer.md#7-reference-numbers
TAPS = ("stem", "third", "two_thirds", "last")
COUNTS = {  # parameters of the classifier, multiply-adds in G at 224 (32 for the last), classes
    "1536_20": (51_625_960, 51.10, 1000),
    "768_32": (21_110_248, 20.68, 1000),
    "1024_20": (24_383_464, 5.95, 1000),
    "1024_12": (14_621_672, 13.85, 1000),
    "512_16": (5_357_544, 4.91, 1000),
    "256_8": (594_186, 0.148, 10),
}


def load(model: ConvMixer, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load original weights into ours; the converted ones come back."""
    converted = convert_state_dict(state_dict, "convmixer")
    own = {k.removeprefix("backbone."): v for k, v in converted.items() if "head" not in k}
    model.load_state_dict(own)
    return converted


def calibrated(model: nn.Module, x: Tensor) -> nn.Module:
    """With the statistics of x in every norm, so that the input reaches the last map."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def oracle_for(name_or_sizes, act: str = "gelu", num_classes: int = 0) -> nn.Sequential:
    sizes = vars(ConvMixer(name_or_sizes, out_indices=0).arch)
    return oracle(
        sizes["embed_dims"], sizes["depth"], sizes["kernel_size"], sizes["patch_size"], act,
        num_classes,
    )  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", reference.names("convmixer"))
def test_reference_numbers(name: str, layout: str):
    with np.load(reference.ROOT / "convmixer" / f"{name}.npz") as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"]))
    shapes = json.loads(str(arrays["shapes"]))
    state_dict = reference.fill([str(key) for key in arrays["keys"]], shapes)
    for key in arrays:
        if key.startswith("bn."):
            state_dict[key.removeprefix("bn.")] = torch.from_numpy(arrays[key])
    sizes = {k: meta[k] for k in ("depth", "kernel_size", "patch_size")}
    blocks = meta["block_index"]
    model = ConvMixer(
        {"embed_dims": meta["dim"], **sizes},
        out_indices=sorted({index for index in blocks.values() if index >= 0}),
        act_cfg={"type": {"gelu": "GELU", "relu": "ReLU"}[meta["act"]]},
        pad_to_patch=False,
    ).eval()
    head = load(model, state_dict)
    x = torch.from_numpy(
        np.random.RandomState(0).standard_normal(arrays["input_shape"]).astype(np.float32)
    ).contiguous(memory_format=LAYOUTS[layout])
    with torch.no_grad():
        maps = dict(zip(model.out_indices, model(x), strict=True))
        maps[-1] = model.stem(x)
    for tap in TAPS:
        out = maps[blocks[tap]]
        assert out.shape == tuple(arrays[f"{tap}.shape"])
        values = out.contiguous().view(-1)[torch.from_numpy(arrays[f"{tap}.indices"])]
        difference = (values - torch.from_numpy(arrays[f"{tap}.values"])).abs().max().item()
        assert difference / float(arrays[f"{tap}.std"]) < 1e-4
    logits = maps[blocks["last"]].mean((2, 3)) @ head["head.fc.weight"].T + head["head.fc.bias"]
    torch.testing.assert_close(logits, torch.from_numpy(arrays["logits"]), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("name", "act", "size"),
    [("768_32", "gelu", (56, 63)), ("768_32", "relu", (64, 50)), ("1024_20", "gelu", (70, 58))],
)
def test_large_variants_equal_the_oracle(name: str, act: str, size: tuple[int, int]):
    expected = oracle_for(name, act)
    expected.load_state_dict(reference.fill_like(expected.state_dict()))
    x = torch.randn(2, 3, *size)
    expected = calibrated(expected, x)
    act_cfg = {"type": {"gelu": "GELU", "relu": "ReLU"}[act]}
    ours = ConvMixer(name, out_indices=(0, -1), act_cfg=act_cfg, pad_to_patch=False).eval()
    load(ours, {**expected.state_dict(), **classifier(ours)})
    with torch.no_grad():
        first, last = ours(x)
        torch.testing.assert_close(first, expected[:4](x), rtol=0, atol=1e-3)
        assert ((last - expected(x)).abs().max() / last.std()).item() < 0.3


def classifier(model: ConvMixer) -> dict[str, Tensor]:
    """A head, as the official layout is told by its last number."""
    position = model.arch.depth + 5
    dims = model.arch.embed_dims
    return {f"{position}.weight": torch.ones(2, dims), f"{position}.bias": torch.ones(2)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel_size", [4, 5, 8, 9])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_values_and_gradients_equal_the_oracle_in_float64(layout, kernel_size, training, act):
    sizes = {**SIZES, "kernel_size": kernel_size}
    expected = oracle_for(sizes, act).double()
    act_cfg = {"type": {"gelu": "GELU", "relu": "ReLU"}[act]}
    ours = ConvMixer(sizes, out_indices=-1, act_cfg=act_cfg, pad_to_patch=False).double()
    expected.load_state_dict(reference.fill_like(expected.state_dict()))
    load(ours, {**expected.state_dict(), **classifier(ours)})
    images = torch.randn(2, 3, 30, 41, dtype=torch.float64)
    grads = []
    for model in (expected.train(training), ours.train(training)):
        x = images.clone(memory_format=LAYOUTS[layout]).requires_grad_()
        out = model(x)
        out = out[0] if isinstance(out, tuple) else out
        out.sin().sum().backward()
        grads.append((out, x.grad, {k: p.grad for k, p in model.named_parameters()}))
    torch.testing.assert_close(grads[1][0], grads[0][0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads[1][1], grads[0][1], rtol=1e-7, atol=1e-9)
    renamed = convert_state_dict(
        {**expected.state_dict(), **grads[0][2], **classifier(ours)}, "convmixer"
    )
    for key, grad in grads[1][2].items():
        torch.testing.assert_close(grad, renamed[f"backbone.{key}"], rtol=1e-7, atol=1e-9)
    converted = convert_state_dict({**expected.state_dict(), **classifier(ours)}, "convmixer")
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, converted[f"backbone.{key}"])


@pytest.mark.smoke
def test_timm_model_converts_and_agrees():
    model = timm.create_model("convmixer_768_32", num_classes=7).eval()
    x = torch.randn(1, 3, 50, 57)
    ours = ConvMixer("768_32", out_indices=-1, pad_to_patch=False).eval()
    head = load(ours, model.state_dict())
    model, ours, x = model.double(), ours.double(), x.double()
    with torch.no_grad():
        pooled = ours(x)[0].mean((2, 3))
        logits = F.linear(pooled, head["head.fc.weight"].double(), head["head.fc.bias"].double())
        torch.testing.assert_close(logits, model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.smoke
def test_mmpretrain_model_converts_and_agrees():
    model = mmpretrain.models.backbones.ConvMixer(dict(SIZES))
    model.eval()  # returns None there
    ours = ConvMixer(SIZES, out_indices=-1, pad_to_patch=False).eval()
    load(ours, {f"backbone.{key}": value for key, value in model.state_dict().items()})
    ours, model, x = ours.double(), model.double(), torch.randn(2, 3, 33, 47).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], model(x)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds(name: str):
    from mmvitconv.zoo.costs import count_complexity

    params, macs, classes = COUNTS[name]
    side = 32 if name == "256_8" else 224
    with torch.device("meta"):
        model = ConvMixer(name, out_indices=-1, pad_to_patch=False)
        cost = count_complexity(model, torch.empty(1, 3, side, side))
    sizes = model.arch
    d, n, k, p = sizes.embed_dims, sizes.depth, sizes.kernel_size, sizes.patch_size
    assert cost.params + d * classes + classes == params
    assert cost.macs.total == (side // p) ** 2 * (3 * d * p**2 + n * (d * k**2 + d**2))
    assert (cost.macs.total + d * classes) / 1e9 == pytest.approx(macs, abs=0.006)
    assert not cost.uncounted


@pytest.mark.parametrize("act", ["GELU", "ReLU", "SiLU"])
def test_fused_equals_unfused(act: str):
    torch.manual_seed(0)
    model = ConvMixer(SIZES, act_cfg={"type": act})
    x = torch.randn(2, 3, 37, 29)
    model = calibrated(model, x)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model, x = model.double(), x.double()  # maps of values up to 150, a scale of random sign
    with pytest.deprecated_call(match="mmvitconv.runtime.fold"):
        fused = copy.deepcopy(model).fuse()
    assert not torch.equal(fused.blocks[0][1].bias, model.blocks[0][1].bias)
    with torch.no_grad():
        for a, b in zip(fused(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        with pytest.deprecated_call():
            twice = fused.fuse()(x)
        torch.testing.assert_close(twice[-1], model(x)[-1], rtol=1e-9, atol=1e-9)
    with pytest.deprecated_call(), pytest.raises(RuntimeError, match="is for inference; call eval"):
        copy.deepcopy(model).train().fuse()


def test_padding_and_dropping_the_remainder():
    torch.manual_seed(0)
    padded = ConvMixer(SIZES).eval().double()
    dropped = ConvMixer(SIZES, pad_to_patch=False).eval().double()
    dropped.load_state_dict(padded.state_dict())
    x = torch.randn(1, 3, 30, 34).double()
    with torch.no_grad():
        expected = dropped(F.pad(x, (0, 2, 0, 2)))
        for out, full, less in zip(padded(x), expected, dropped(x), strict=True):
            torch.testing.assert_close(out, full)
            assert out.shape[2:] == (8, 9)
            assert less.shape[2:] == (7, 8)
        torch.testing.assert_close(dropped(x), dropped(x[..., :28, :32]))
        with pytest.raises(ValueError, match="3 x 34 pixels has no whole patch of 4"):
            dropped(x[:, :, :3])


@pytest.mark.parametrize(
    ("depth", "taps"),
    [
        (32, (7, 15, 23, 31)),
        (20, (4, 9, 14, 19)),
        (8, (1, 3, 5, 7)),
        (12, (2, 5, 8, 11)),
        (1, (0,)),
    ],
)
def test_default_taps_are_evenly_spaced(depth: int, taps: tuple[int, ...]):
    with torch.device("meta"):
        assert ConvMixer({**SIZES, "depth": depth}).out_indices == tuple(taps)


def test_drop_path_spares_the_channel_half():
    torch.manual_seed(0)
    model = ConvMixer(SIZES, drop_path_rate=0.5)
    assert [block[0].add.drop_path_rate for block in model.blocks] == [0.0, 0.25, 0.5]
    block = model.blocks[2].train()
    block[0].add.drop_path_rate = 1 - 1e-9
    x = torch.randn(2, 24, 6, 6)
    torch.testing.assert_close(block(x), block[3](block[2](block[1](x))))


@pytest.mark.parametrize("size", [8, 14, 16])
def test_resized_kernel_keeps_the_response_to_one_colour(size: int):
    torch.manual_seed(0)
    kernel = torch.randn(64, 3, 7, 7)
    resized = resize_kernel(kernel, size)
    expected = F.interpolate(kernel, (size, size), mode="bicubic") * (7 / size) ** 2
    torch.testing.assert_close(resized, expected)
    before, after = kernel.sum((1, 2, 3)), resized.sum((1, 2, 3))
    assert (before - after).norm() < 0.05 * before.norm()
    torch.testing.assert_close(resize_kernel(kernel, 7), kernel)


def test_a_stem_of_another_patch_size_is_resized_on_loading():
    source = ConvMixer({**SIZES, "patch_size": 7})
    model = ConvMixer(SIZES, patch_size=8)
    assert model.strides == (8,) * 3
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(model.stem[0].weight, resize_kernel(source.stem[0].weight, 8))
    torch.testing.assert_close(model.blocks[1][1].weight, source.blocks[1][1].weight)


@pytest.mark.parametrize("algorithm", ["direct", "direct_nchw", "direct_nhwc", "fft", "unfold"])
def test_algorithms_agree(algorithm: str):
    torch.manual_seed(0)
    model = ConvMixer(SIZES).eval().double()
    other = ConvMixer(SIZES, algorithm=algorithm).eval().double()
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 41, 30).double()
    with torch.no_grad():
        for a, b in zip(other(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_sync_batch_norm_and_frozen_norms():
    model = ConvMixer(SIZES, norm_cfg={"type": "SyncBN", "requires_grad": False})
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 1 + 2 * SIZES["depth"]
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_stays_finite(dtype: torch.dtype, scale: float):
    torch.manual_seed(0)
    model = ConvMixer(SIZES).eval()
    for size in ((1, 1), (32, 32)):
        with torch.no_grad(), torch.autocast("cpu", dtype):
            assert all(out.isfinite().all() for out in model(scale * torch.randn(1, 3, *size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "768/32"}, "arch='768/32' is unknown; give one of 1536_20"),
        ({"arch": {"depth": 3}}, "lacks \\['embed_dims', 'kernel_size', 'patch_size'\\]"),
        ({"arch": {**SIZES, "depth": 0}}, "must be a positive integer, got"),
        ({"arch": {**SIZES, "kernel_size": (3, 3)}}, "must be a positive integer, got"),
        ({"arch": SIZES, "patch_size": 0}, "must be a positive integer, got"),
        ({"arch": SIZES, "act_cfg": {"type": "Tanh"}}, "act_cfg has type 'Tanh'; give one of GELU"),
        ({"arch": SIZES, "norm_cfg": {"type": "LN"}}, "norm_cfg has type 'LN'; give one of BN"),
        ({"arch": SIZES, "out_indices": (3,)}, "blocks 0 to 2"),
    ],
)
def test_wrong_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ConvMixer(**options)


def test_names_of_the_original_code():
    """The original calls the width ``dim``, and fixtures write activations small."""
    arch = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 4, "act": "relu"}
    model = ConvMixer(arch)
    assert model.out_channels == (8, 8)
    assert isinstance(model.blocks[0][2], nn.ReLU)


def test_fuse_needs_running_statistics():
    model = ConvMixer(SIZES, norm_cfg={"type": "BN", "track_running_stats": False}).eval()
    with pytest.deprecated_call(), pytest.raises(RuntimeError, match="track_running_stats=False"):
        model.fuse()


def test_unknown_algorithm():
    with pytest.raises(ValueError, match="algorithm='winograd' is unknown; give one of direct"):
        ConvMixer(SIZES, algorithm="winograd")
