"""The literal LightViT oracle against every reference number of the original code."""

import json

import numpy as np
import pytest
import torch
from oracles import reference
from oracles.lightvit import (
    VARIANTS,
    Attention,
    BiAttention,
    BiAttentionMLP,
    Block,
    Merge,
    OracleLightViT,
    OracleLightViTFPN,
    variant,
)
from torch import Tensor, nn

DETECTION = ["lightvit_tiny_T8_det_200x264", "lightvit_tiny_T8_det_224x224"]

# The module fixtures do not store the grid. 3 tokens and these (H, W) are the only factors of the
# number of rows (T + H * W, T below 10) with which the stored output is reproduced.
TOKENS = 3
MODULES = {
    "biattn": (lambda: BiAttention(16), ()),
    "biattnmlp": (lambda: BiAttentionMLP(16, 4), ()),
    "merge_even": (lambda: Merge(16, 24), (6, 4)),
    "merge_odd": (lambda: Merge(16, 24), (5, 7)),
    "attn_even": (lambda: Attention(32, 2), (14, 7)),
    "attn_odd": (lambda: Attention(32, 2), (9, 12)),
    "block_odd": (lambda: Block(32, 2, 4), (9, 12)),
    "block_last": (lambda: Block(32, 2, 4, drop_globals=True), (9, 12)),
}


def assert_keys(module: nn.Module, keys: list[str], computed: list[str]) -> None:
    """Same keys in the same order, the index buffers apart."""
    own = list(module.state_dict())
    assert [key for key in own if not key.endswith("relative_position_index")] == keys
    assert [key for key in own if key.endswith("relative_position_index")] == computed


def assert_samples(out: Tensor, arrays: dict[str, np.ndarray], name: str) -> None:
    """Shape, stored samples, mean and standard deviation."""
    assert out.shape == tuple(arrays[f"{name}_shape"])
    values = out.contiguous().view(-1)[torch.from_numpy(arrays[f"{name}_idx"])]
    expected = torch.from_numpy(arrays[f"{name}_val"])
    torch.testing.assert_close(values, expected, rtol=0, atol=2e-5)
    assert abs(out.double().mean().item() - arrays[f"{name}_mean"]) < 1e-5
    assert abs(out.double().std(correction=0).item() - arrays[f"{name}_std"]) < 1e-5


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str):
    with np.load(reference.ROOT / "lightvit" / "lightvit_modules.npz") as file:
        arrays = {key: file[key] for key in file.files}
    build, grid = MODULES[name]
    module = build().eval()
    keys = json.loads(str(arrays[f"{name}_keys"]))
    plain = [key.removeprefix(f"{name}.") for key in keys]
    assert_keys(module, plain, [k for k in module.state_dict() if k.endswith("_index")])
    filled = reference.fill(keys, json.loads(str(arrays[f"{name}_shapes"])))
    module.load_state_dict(
        {**module.state_dict(), **dict(zip(plain, filled.values(), strict=True))}
    )
    x = torch.from_numpy(arrays[f"{name}_x"])
    if grid:
        assert x.shape[1] == TOKENS + grid[0] * grid[1]
    with torch.no_grad():
        out = module(x, *grid)
    if isinstance(out, tuple):  # with the new grid
        out = out[0]
    torch.testing.assert_close(out, torch.from_numpy(arrays[f"{name}_y"]), rtol=0, atol=5e-6)


def test_classification_fixture():
    ref = reference.read("lightvit", "lightvit_tiny_cls_224x224")
    oracle = variant("tiny", dense=False, num_classes=1000).eval()
    assert_keys(oracle, list(ref.state_dict), json.loads(str(ref.arrays["computed_keys"])))
    assert count(oracle) == ref.arrays["param_count"]
    oracle.load_state_dict({**oracle.state_dict(), **ref.state_dict})
    seen = {}
    watched = {"tokens_stem": oracle.patch_embed, "pooled": oracle.head}
    watched |= {f"tokens_stage{s}": stage[-1] for s, stage in enumerate(oracle.stages)}
    for name, module in watched.items():
        module.register_forward_hook(
            lambda _, args, out, name=name: seen.__setitem__(
                name, args[0] if name == "pooled" else out[0]
            )
        )
    with torch.no_grad():
        logits = oracle(ref.x)
    torch.testing.assert_close(logits, torch.from_numpy(ref.arrays["logits"]), rtol=0, atol=5e-6)
    for name, out in seen.items():
        assert_samples(out, ref.arrays, name)
    assert len(seen) == 5
    oracle.head = nn.Identity()
    with torch.no_grad():
        assert_samples(oracle(ref.x), ref.arrays, "pooled")


@pytest.mark.parametrize("name", DETECTION)
def test_detection_fixtures(name: str):
    ref = reference.read("lightvit", name)
    oracle = variant("tiny", dense=True).eval()
    assert_keys(oracle, list(ref.state_dict), json.loads(str(ref.arrays["computed_keys"])))
    oracle.load_state_dict({**oracle.state_dict(), **ref.state_dict})
    neck = OracleLightViTFPN(VARIANTS["tiny"][0])
    keys = json.loads(str(ref.arrays["neck_keys"]))
    assert_keys(neck, keys, [])
    neck.load_state_dict(reference.fill(keys, json.loads(str(ref.arrays["neck_shapes"]))))
    with torch.no_grad():
        features = oracle(ref.x)
        maps = neck(features)
    assert (len(features), len(maps)) == (3, 5)
    for i, out in enumerate(features):
        assert_samples(out, ref.arrays, f"feat{i}")
    for i, out in enumerate(maps):
        assert_samples(out, ref.arrays, f"neck{i}")


# Parameters and state-dict entries: specification, docs/specs/lightvit.md#6-variants,
# #7-state-dict (entries are counted for the
# classification code).
CLASSIFIERS = {
    "tiny": (9_377_698, 415),
    "small": (19_200_248, 415),
    "base": (35_195_653, 493),
}
DENSE = [
    ("tiny", 8, 7_765_562),
    ("tiny", 512, 7_797_818),
    ("small", None, 17_424_464),
    ("base", None, 33_256_221),
]
NECKS = {"tiny": 2_738_176, "small": 2_795_520}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_parameters(name: str):
    with torch.device("meta"):
        oracle = variant(name, dense=False, num_classes=1000)
    assert (count(oracle), len(oracle.state_dict())) == CLASSIFIERS[name]


@pytest.mark.parametrize(("name", "num_tokens", "expected"), DENSE)
def test_dense_parameters(name: str, num_tokens: int | None, expected: int):
    with torch.device("meta"):
        assert count(variant(name, dense=True, num_tokens=num_tokens)) == expected


@pytest.mark.parametrize("name", NECKS)
def test_neck_parameters(name: str):
    with torch.device("meta"):
        assert count(OracleLightViTFPN(VARIANTS[name][0])) == NECKS[name]


@pytest.mark.parametrize("dense", [False, True], ids=["cls", "dense"])
def test_layer_norm_eps(dense: bool):
    """docs/specs/lightvit.md#1-notation; the fixtures cannot see it in the final and the output
    norms."""
    with torch.device("meta"):
        oracle = variant("tiny", dense=dense)
    eps = {n: m.eps for n, m in oracle.named_modules() if isinstance(m, nn.LayerNorm)}
    # "stages.s.0" of the later stages is a merge layer, which has no attention.
    blocks = {n for n in eps if n.endswith(("norm1", "norm2")) and n.startswith("stages")}
    blocks = {n for n in blocks if f"{n.rpartition('.')[0]}.mlp.attn.norm" in eps}
    fine = blocks | ({"norm0", "norm1", "norm2"} if dense else {"norm"})
    assert len(blocks) == 2 * 14
    assert eps == {n: 1e-6 if n in fine else 1e-5 for n in eps}


@pytest.mark.parametrize("dense", [False, True], ids=["cls", "dense"])
def test_trains_in_float64_at_a_size_that_needs_padding(dense: bool):
    torch.manual_seed(0)
    oracle = OracleLightViT([32, 64, 96], [1, 1, 2], [1, 2, 3], 3, dense, drop_path_rate=0.5)
    oracle.load_state_dict(reference.fill_like(oracle.state_dict()))
    oracle.double().train()
    out = oracle(torch.randn(4, 3, 72, 104, dtype=torch.float64))
    if dense:
        assert [tuple(f.shape) for f in out] == [(4, 32, 9, 13), (4, 64, 5, 7), (4, 96, 3, 4)]
    else:
        assert out.shape == (4, 1280)
        out = (out,)
    sum(o.sin().sum() for o in out).backward()
    assert all(p.grad is not None and p.grad.any() for p in oracle.parameters())
    assert oracle.patch_embed.stem[1].num_batches_tracked == 1


def test_drop_path_masks_samples_with_rising_rates():
    """docs/specs/lightvit.md#27-stochastic-depth: rates rise linearly over all blocks; one draw a
    sample and branch."""
    oracle = OracleLightViT([32, 64, 96], [1, 2, 2], [1, 2, 3], 3, True, drop_path_rate=0.4)
    blocks = [layer for stage in oracle.stages for layer in stage if isinstance(layer, Block)]
    assert [b.drop_path_rate for b in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    kept = blocks[-1].train().drop_path(torch.ones(1000, 2, 3))
    values = kept.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    torch.testing.assert_close(values.unique(), torch.tensor([0, 1 / 0.6]))
    assert (values[:, 0] > 0).double().mean().item() == pytest.approx(0.6, abs=0.05)


def test_neck_outputs_with_other_counts():
    """docs/specs/lightvit.md#5-lightvitfpn: more transposed convolutions chain upward, outputs come
    finest first."""
    features = [torch.randn(1, c, n, n) for c, n in ((4, 8), (6, 4), (8, 2))]
    neck = OracleLightViTFPN([4, 6, 8], 8, num_outs=6, num_extra_trans_convs=2)
    assert [out.shape[2] for out in neck(features)] == [32, 16, 8, 4, 2, 1]
    assert len(OracleLightViTFPN([4, 6, 8], 8, num_outs=4)(features)) == 4
