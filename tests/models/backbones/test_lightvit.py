"""LightViT against the reference numbers and, where they end, against the literal oracle."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import lightvit as oracles
from oracles import reference
from oracles.lightvit import OracleLightViT, variant
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models.backbones.lightvit import (
    ARCHS,
    Attention,
    Block,
    FeedForward,
    LightViT,
    Merge,
    Tokens,
    WindowGrid,
)
from mmvitconv.models.layers.window import relative_position_index
from mmvitconv.models.necks import LightViTPooling
from mmvitconv.weights import adapt_checkpoint, check_match, convert_state_dict

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DETECTION = [name for name in reference.names("lightvit") if "_det_" in name]
# The same small model in both vocabularies; the oracle's number of tokens is its fourth argument.
SMALL = {
    "depths": (1, 1, 2),
    "embed_dims": (16, 32, 48),
    "num_heads": (1, 2, 3),
    "num_global_tokens": 3,
    "mlp_ratios": (4, 2, 2),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small_oracle(dense: bool, num_tokens: int = 3, **kwargs) -> OracleLightViT:
    sizes = ([16, 32, 48], [1, 1, 2], [1, 2, 3], num_tokens)
    return OracleLightViT(*sizes, dense, mlp_ratios=(4, 2, 2), **kwargs)


def filled(oracle: OracleLightViT) -> OracleLightViT:
    """The oracle with the rule's weights."""
    oracle.load_state_dict(reference.fill_like(oracle.state_dict()))
    return oracle.eval()


class Classifier(nn.Module):
    """What mmpretrain's ImageClassifier is, for logits: the same keys, the same order."""

    def __init__(self, num_classes: int, **kwargs) -> None:
        super().__init__()
        self.backbone = LightViT(out_indices=-1, out_type="raw", **kwargs)
        self.neck = LightViTPooling(self.backbone.out_channels[-1])
        self.head = nn.Module()
        self.head.fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.neck(self.backbone(x))[0])


class Dense(nn.Module):
    """A backbone at the place where a detector has it."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.backbone = LightViT(**kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(x)


def like(oracle: OracleLightViT, **kwargs) -> Dense | Classifier:
    """Our model with the oracle's weights; every key has to match."""
    is_dense = oracle.dense
    model = Dense(**kwargs) if is_dense else Classifier(oracle.head.out_features, **kwargs)
    model.load_state_dict(convert_state_dict(oracle.state_dict(), "lightvit"))
    return model.eval()


def small_backbone(**kwargs) -> LightViT:
    """A small backbone with the rule's weights, so that no branch is negligible."""
    return like(filled(small_oracle(dense=True)), arch=SMALL, **kwargs).backbone


def assert_samples(out: Tensor, arrays: dict[str, np.ndarray], name: str) -> None:
    assert out.shape == tuple(arrays[f"{name}_shape"])
    values = out.contiguous().view(-1)[torch.from_numpy(arrays[f"{name}_idx"])]
    expected = torch.from_numpy(arrays[f"{name}_val"])
    torch.testing.assert_close(values, expected, rtol=0, atol=2e-5)
    assert abs(out.double().mean().item() - arrays[f"{name}_mean"]) < 1e-5
    assert abs(out.double().std(correction=0).item() - arrays[f"{name}_std"]) < 1e-5


# --- reference numbers ---------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
def test_classification_fixture(layout: str):
    ref = reference.read("lightvit", "lightvit_tiny_cls_224x224")
    model = Classifier(1000).eval()
    model.load_state_dict(convert_state_dict(ref.state_dict, "lightvit"))
    with torch.no_grad():
        (pooled,) = model.neck(model.backbone(ref.x.contiguous(memory_format=LAYOUTS[layout])))
        logits = model.head.fc(pooled)
    torch.testing.assert_close(logits, torch.from_numpy(ref.arrays["logits"]), rtol=0, atol=5e-6)
    assert_samples(pooled, ref.arrays, "pooled")


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DETECTION)
def test_detection_fixtures(name: str, layout: str):
    ref = reference.read("lightvit", name)
    model = Dense(arch="tiny").eval()
    model.load_state_dict(convert_state_dict(ref.state_dict, "lightvit"))
    with torch.no_grad():
        outs = model(ref.x.contiguous(memory_format=LAYOUTS[layout]))
    assert len(outs) == 3
    for i, out in enumerate(outs):
        assert out.is_contiguous(memory_format=LAYOUTS[layout])
        assert_samples(out, ref.arrays, f"feat{i}")


def module_fixture(
    name: str, position: str, oracle: OracleLightViT
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights of a module fixture in our layout, x and y.

    The converter takes whole models only, so the module is put in its place inside one.

    Args:
        name: Name of the fixture.
        position: Original key of the module in ``oracle``.
        oracle: A model that has such a module.
    """
    with np.load(reference.ROOT / "lightvit" / "lightvit_modules.npz") as file:
        arrays = {key: file[key] for key in file.files if key.startswith(f"{name}_")}
    keys, shapes = (json.loads(str(arrays[f"{name}_{part}"])) for part in ("keys", "shapes"))
    own = {
        f"{position}{key.removeprefix(name)}": value
        for key, value in reference.fill(keys, shapes).items()
    }
    assert {k: v.shape for k, v in own.items()}.items() <= {
        k: v.shape for k, v in oracle.state_dict().items()
    }.items()
    marked = {k: v.new_full(v.shape, -7) for k, v in oracle.state_dict().items()}
    converted = convert_state_dict({**marked, **own}, "lightvit")
    taken = {k: v for k, v in converted.items() if not (v == -7).all()}
    prefix = {"stages.1.0": "merges.0", "stages.0.0": "stages.0.0"}.get(
        position, "stages.0.0." + ("attn" if position.endswith("0.attn") else "ffn")
    )
    weights = {k.removeprefix(f"backbone.{prefix}."): v for k, v in taken.items()}
    return weights, *(torch.from_numpy(arrays[f"{name}_{part}"]) for part in "xy")


def one_stage(c: int, heads: int) -> OracleLightViT:
    return OracleLightViT([c], [1], [heads], 3, True, mlp_ratios=(4,))


def window_grid(height: int, width: int, size: int = 7) -> WindowGrid:
    return WindowGrid(height, width, size, relative_position_index(size))


def to_rows(x: Tensor, grid: WindowGrid, height: int, width: int) -> Tensor:
    """The fixtures' sequence (B, T + N, C), globals first, as our matrix of rows."""
    t = x.shape[1] - height * width
    image = grid.to_windows(x[:, t:].unflatten(1, (height, width)))
    return torch.cat([image.flatten(0, 1), x[:, :t].flatten(0, 1)])


def to_sequence(parts: list[Tensor], grid: WindowGrid) -> Tensor:
    """The inverse of :func:`to_rows`, from image tokens and, if there are any, global ones."""
    image = grid.to_map(parts[0]).flatten(1, 2)
    return torch.cat([*parts[1:], image], dim=1)


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "size"), [("attn_even", (14, 7)), ("attn_odd", (9, 12))])
def test_attention_fixtures(name: str, size: tuple[int, int]):
    weights, x, y = module_fixture(name, "stages.0.0.attn", one_stage(32, 2))
    attn = Attention(32, 2, 7)
    attn.load_state_dict(weights)
    grid = window_grid(*size)
    tokens = Tokens(2, size[0] * size[1], 3)
    rows = to_rows(x, grid, *size)
    for grad in (False, True):  # another attention kernel
        with torch.set_grad_enabled(grad):
            out = attn(rows, tokens, grid)
            alone = attn(rows, tokens, grid, drop_globals=True)
        torch.testing.assert_close(to_sequence(tokens.split(out), grid), y, rtol=0, atol=5e-6)
        torch.testing.assert_close(alone, out[: len(alone)], rtol=0, atol=1e-6)
        assert len(alone) == 2 * size[0] * size[1]


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["block_odd", "block_last"])
def test_block_fixtures(name: str):
    weights, x, y = module_fixture(name, "stages.0.0", one_stage(32, 2))
    block = Block(32, 2, 4, ARCHS["tiny"], drop_globals=name == "block_last").eval()
    block.load_state_dict(weights)
    grid = window_grid(9, 12)
    with torch.no_grad():
        image, tokens = block(grid.to_windows(x[:, 3:].unflatten(1, (9, 12))), x[:, :3], grid)
    assert (tokens is None) == (name == "block_last")
    parts = [image] if tokens is None else [image, tokens]
    torch.testing.assert_close(to_sequence(parts, grid), y, rtol=0, atol=5e-6)


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "size"), [("merge_even", (6, 4)), ("merge_odd", (5, 7))])
def test_merge_fixtures(name: str, size: tuple[int, int]):
    oracle = OracleLightViT([16, 24], [1, 1], [1, 1], 3, True, mlp_ratios=(4, 4))
    weights, x, y = module_fixture(name, "stages.1.0", oracle)
    merge = Merge(16, 24)
    merge.load_state_dict(weights)
    with torch.no_grad():
        image, tokens = merge(x[:, 3:].unflatten(1, size), x[:, :3])
    assert image.shape[1:3] == (-(-size[0] // 2), -(-size[1] // 2))
    out = torch.cat([tokens, image.flatten(1, 2)], dim=1)
    torch.testing.assert_close(out, y, rtol=0, atol=5e-6)


class Constant(nn.Module):
    """Whatever the input, the output is this."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value


@pytest.mark.smoke
@pytest.mark.parametrize("num_global", [0, 5])
@pytest.mark.parametrize("name", ["biattn", "biattnmlp"])
def test_feed_forward_fixtures(name: str, num_global: int):
    """The rows of an image are equals, so any of them may be taken for global tokens."""
    position = "stages.0.0.mlp" + (".attn" if name == "biattn" else "")
    weights, x, y = module_fixture(name, position, one_stage(16, 1))
    ffn = FeedForward(16, 64, 4, 0.0)
    own = ffn.state_dict()
    ffn.load_state_dict({**own, **weights})
    assert (own.keys() == weights.keys()) == (name == "biattnmlp")

    def rows(z: Tensor) -> Tensor:
        n = 20 - num_global
        return torch.cat([z[:, :n].flatten(0, 1), z[:, n:].flatten(0, 1)])

    if name == "biattn":  # the gates alone
        ffn.fc2 = Constant(rows(x))
    residual = torch.randn(40, 16)
    with torch.no_grad():
        outs = ffn(rows(x), Tokens(2, 20 - num_global, num_global), residual)
    out = torch.cat([part.flatten(0, 1) for part in outs]) - residual
    torch.testing.assert_close(out, rows(y), rtol=0, atol=5e-6)


# --- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_tokens", "size"),
    [("tiny", 512, (65, 103)), ("small", None, (97, 61)), ("base", None, (120, 63))],
)
def test_dense_variants_equal_the_oracle(name: str, num_tokens: int | None, size: tuple[int, int]):
    oracle = filled(variant(name, dense=True, num_tokens=num_tokens))
    model = like(oracle, arch=name, num_global_tokens=num_tokens)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for expected, out in zip(oracle(x), model(x), strict=True):
            torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "size"), [("tiny", (217, 448)), ("small", (120, 75)), ("base", (64, 224))]
)
def test_classifiers_equal_the_oracle(name: str, size: tuple[int, int]):
    oracle = filled(variant(name, dense=False, num_classes=20))
    model = like(oracle, arch=name)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), oracle(x), rtol=0, atol=5e-6)


def train(model: nn.Module, norm_eval: bool) -> None:
    model.train()
    for module in model.modules():
        if norm_eval and isinstance(module, nn.BatchNorm2d):
            module.eval()


def values_and_gradients(model: nn.Module, images: Tensor, layout: str) -> tuple:
    x = images.clone(memory_format=LAYOUTS[layout]).requires_grad_()
    torch.manual_seed(3)
    outs = model(x)
    outs = (outs,) if isinstance(outs, Tensor) else outs
    sum((out.sin() * (i + 1)).sum() for i, out in enumerate(outs)).backward()
    return outs, x.grad, {k: p.grad for k, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("dense", "norm_eval", "size", "window_size", "drop_path", "layout"),
    [
        (True, False, (224, 224), 7, 0.0, "nchw"),
        (True, True, (72, 105), 7, 0.0, "nhwc"),
        (True, False, (72, 105), 7, 0.5, "nchw"),
        (True, True, (64, 96), 2, 0.5, "nchw"),
        (False, True, (217, 224), 7, 0.0, "nhwc"),
        (False, False, (72, 105), 7, 0.0, "nchw"),
        (False, True, (90, 61), 3, 0.5, "nchw"),
    ],
)
def test_values_and_gradients_equal_the_oracle_in_float64(
    dense: bool,
    norm_eval: bool,
    size: tuple[int, int],
    window_size: int,
    drop_path: float,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """Training mode: batch or running statistics, and the same draws of dropped branches."""
    monkeypatch.setattr(oracles, "WINDOW", window_size)
    num_classes = None if dense else 5
    oracle = filled(small_oracle(dense, num_classes=num_classes, drop_path_rate=drop_path))
    arch = {**SMALL, "window_size": window_size}
    ours = like(oracle, arch=arch, norm_eval=norm_eval, drop_path_rate=drop_path)
    oracle.double()
    ours.double().train()
    train(oracle, norm_eval)
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    expected_outs, expected_x_grad, expected_grads = values_and_gradients(oracle, images, "nchw")
    outs, x_grad, grads = values_and_gradients(ours, images, layout)
    for expected, out in zip(expected_outs, outs, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x_grad, expected_x_grad, rtol=1e-7, atol=1e-7)
    renamed = convert_state_dict({**oracle.state_dict(), **expected_grads}, "lightvit")
    for key, grad in grads.items():  # gradients travel under their parameters' names
        torch.testing.assert_close(grad, renamed[key], rtol=1e-7, atol=1e-7)
        assert grad.any(), key
    statistics = convert_state_dict(oracle.state_dict(), "lightvit")
    for key, value in ours.state_dict().items():
        if "running" in key or "tracked" in key:
            torch.testing.assert_close(value, statistics[key], rtol=1e-12, atol=1e-12)


def test_float32_training_equals_the_oracle():
    oracle = filled(variant("tiny", dense=True))
    ours = like(oracle, arch="tiny")
    x = torch.randn(2, 3, 64, 88)
    for expected, out in zip(oracle.train()(x), ours.train()(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=0, atol=3e-5)


def test_drop_path_grows_linearly_to_the_full_rate():
    model = LightViT("tiny", drop_path_rate=0.1)
    rates = [m.drop_path_rate for m in model.modules() if isinstance(m, Block)]
    assert rates == pytest.approx([0.1 * j / 13 for j in range(14)])


def test_dropout_sits_after_the_activation_and_after_the_gates():
    torch.manual_seed(0)
    ffn = FeedForward(8, 16, 2, 0.5).train()
    rows = torch.randn(10, 8)
    torch.manual_seed(1)
    (out,) = ffn(rows, Tokens(2, 5, 0), torch.zeros(10, 8))
    torch.manual_seed(1)
    u = ffn.fc2(F.dropout(F.gelu(ffn.fc1(rows)))).view(2, 5, 8)
    z = ffn.norm(u)
    context = F.gelu(ffn.global_reduce(z.mean(dim=1, keepdim=True)))
    score = ffn.spatial_select(F.gelu(ffn.local_reduce(z))) + ffn.spatial_context(context)
    gated = u * ffn.channel_select(context).sigmoid() * score.sigmoid()
    torch.testing.assert_close(out, F.dropout(gated))
    with torch.no_grad():
        (still,) = ffn.eval()(rows, Tokens(2, 5, 0), torch.zeros(10, 8))
    assert still.all()


# --- counts and initialisation -------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# docs/specs/lightvit.md#6-variants: classifier with 1000 classes, number of tokens and backbone
# of the detection code.
COUNTS = [
    ("tiny", 9_377_698, 512, 7_797_818),
    ("tiny", 9_377_698, 8, 7_765_562),
    ("small", 19_200_248, None, 17_424_464),
    ("base", 35_195_653, None, 33_256_221),
]


@pytest.mark.parametrize(("name", "classifier", "num_tokens", "dense"), COUNTS)
def test_parameter_counts(name: str, classifier: int, num_tokens: int | None, dense: int):
    with torch.device("meta"):
        assert count(Classifier(1000, arch=name)) == classifier
        assert count(LightViT(name, num_global_tokens=num_tokens)) == dense


def test_initialisation():
    torch.manual_seed(0)
    model = LightViT("small")
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert (len(convs), len(linears)) == (5, 14 * 11 + 2 * 3)
    for linear in linears:
        if linear.weight.numel() > 5000:
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.weight.abs().max() < 0.12  # no tails of another distribution
        assert linear.bias is None or not linear.bias.any()
    for block in model.stages[2]:
        table = block.attn.relative_position_bias_table
        assert table.std().item() == pytest.approx(0.02, rel=0.1)
        assert len(table.unique()) > table.numel() // 2
    for conv in convs:  # torch's own: uniform, bound 1 / sqrt(fan in)
        bound = (conv.in_channels // conv.groups * 9) ** -0.5
        assert 0.8 * bound < conv.weight.abs().max() <= bound
    assert model.patch_embed.proj.bias.any()
    for norm in (m for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
    # Equal tokens would stay equal for ever.
    (tokens,) = model.patch_embed.global_token
    assert tokens.std().item() == pytest.approx(0.02, rel=0.05)
    assert tokens.shape == (16, 96)
    assert torch.pdist(tokens).min() > 0.1


def test_norm_epsilons():
    model = LightViT("tiny")
    fine = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) and module.eps == 1e-6
    }
    blocks = {n for n, m in model.named_modules() if isinstance(m, Block)}
    assert fine == {f"{n}.norm{i}" for n in blocks for i in (1, 2)} | {"norm0", "norm1", "norm2"}


# --- the number of global tokens -----------------------------------------------------------------


def test_number_of_tokens_of_a_new_model():
    tokens = lambda **kwargs: LightViT(**kwargs).patch_embed.global_token.shape[1]  # noqa: E731
    assert [ARCHS[name].num_global_tokens for name in ("tiny", "small", "base")] == [8, 16, 24]
    assert tokens(arch=SMALL) == 3
    assert tokens(arch=SMALL, num_global_tokens=11) == 11


def test_loaded_weights_decide_about_the_number_of_tokens():
    weights = filled(small_oracle(dense=True, num_tokens=5)).state_dict()
    model = Dense(arch=SMALL)
    tokens = model.backbone.patch_embed.global_token
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.load_state_dict(convert_state_dict(weights, "lightvit"))
    assert model.backbone.patch_embed.global_token is tokens
    assert torch.equal(tokens.data, weights["global_token"])
    sum(out.sin().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()  # it was built before
    assert (tokens.data - weights["global_token"]).abs().amin(dim=(0, 2)).all()
    assert isinstance(tokens, nn.Parameter)


def test_init_cfg_adopts_the_number_of_tokens(tmp_path):
    weights = filled(small_oracle(dense=True, num_tokens=5)).state_dict()
    torch.save(weights, tmp_path / "a.pth")
    config = {"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth")}
    model = LightViT(SMALL, init_cfg=config)
    tokens = model.patch_embed.global_token
    model.init_weights()
    assert model.patch_embed.global_token is tokens
    assert torch.equal(tokens.data, weights["global_token"])
    refused = LightViT(SMALL, init_cfg=config, num_global_tokens=3)
    before = refused.patch_embed.global_token.clone()
    shapes = r"patch_embed\.global_token is \(1, 5, 16\) in the file, \(1, 3, 16\) here"
    with pytest.raises(CheckpointError, match=shapes):
        refused.init_weights()
    assert torch.equal(refused.patch_embed.global_token, before)


def test_whole_models_adopt_the_number_of_tokens():
    weights = filled(small_oracle(dense=False, num_tokens=5, num_classes=4)).state_dict()
    model = Classifier(4, arch=SMALL)
    adapted = adapt_checkpoint({"state_dict": weights}, model)["state_dict"]
    check_match(adapted, model)
    check_match(adapted, model, scope="backbone")
    model.load_state_dict(adapted)
    assert torch.equal(model.backbone.patch_embed.global_token.data, weights["global_token"])
    refused = Classifier(4, arch=SMALL, num_global_tokens=6)
    shapes = r"patch_embed\.global_token is \(1, 5, 16\) in the file, \(1, 6, 16\) here"
    for scope in ("all", "backbone"):
        with pytest.raises(CheckpointError, match=shapes):
            check_match(adapted, refused, scope=scope)
    with pytest.raises(
        RuntimeError, match=r"size mismatch for backbone\.patch_embed\.global_token"
    ):
        refused.load_state_dict(adapted)
    asked_for = Classifier(4, arch=SMALL, num_global_tokens=5)
    check_match(adapted, asked_for)
    asked_for.load_state_dict(adapted)


@pytest.mark.parametrize("shape", [(1, 5, 24), (2, 3, 16), (3, 16)])
def test_tokens_that_differ_otherwise_are_refused(shape: tuple[int, ...]):
    model = LightViT(SMALL)
    state_dict = {**model.state_dict(), "patch_embed.global_token": torch.ones(shape)}
    with pytest.raises(CheckpointError, match=r"global_token is .* in the file, \(1, 3, 16\) here"):
        check_match(state_dict, model)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state_dict)
    assert model.patch_embed.global_token.shape == (1, 3, 16)


# --- behaviour -----------------------------------------------------------------------------------


def test_first_frozen_stage_has_the_stem_and_the_global_tokens():
    model = LightViT(SMALL, frozen_stages=0).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {"patch_embed.global_token", "patch_embed.stem.0.weight", "norm0.bias"} < frozen
    assert {name.partition(".")[0] for name in frozen} == {"patch_embed", "stages", "norm0"}
    assert not any(name.startswith(("stages.1", "merges", "norm1")) for name in frozen)
    assert not any(m.training for m in model.patch_embed.modules())


def test_norm_eval_keeps_statistics_and_trains_the_affine_parameters():
    model = LightViT(SMALL, norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4
    before = [m.running_mean.clone() for m in norms]
    sum(out.sin().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    for norm, mean in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert norm.weight.grad.any()
        assert norm.bias.grad.any()


@pytest.mark.parametrize("size", [(64, 112), (57, 130)])
def test_a_pixel_reaches_all_of_its_image_and_no_other(size: tuple[int, int]):
    model = small_backbone().double()
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    changed = x.clone()
    changed[1, 0, 3, 5] += 1
    with torch.no_grad():
        for before, after in zip(model(x), model(changed), strict=True):
            assert torch.equal(before[[0, 2]], after[[0, 2]])
            assert (before[1] - after[1]).abs().amax(dim=0).min() > 1e-12  # at every location


def test_padding_is_seen_and_the_batch_is_not():
    model, x = small_backbone().double(), torch.randn(2, 3, 64, 64).double()
    with torch.no_grad():
        alone, both = model(x[:1]), model(x)
        padded = model(F.pad(x[:1], (0, 64)))
    for a, b, p in zip(alone, both, padded, strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-9, atol=1e-9)
        assert (p[..., : a.shape[-1] // 2] - a[..., : a.shape[-1] // 2]).abs().max() > 1e-3


def dropping(model: LightViT) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, stage in enumerate(model.stages)
        for j, block in enumerate(stage)
        if block.drop_globals
    ]


def test_only_the_last_block_of_a_whole_dense_backbone_drops_the_globals():
    assert dropping(LightViT(SMALL)) == [(2, 1)]
    assert dropping(LightViT(SMALL, out_indices=2)) == [(2, 1)]
    assert dropping(LightViT(SMALL, out_indices=(0, 1))) == []
    assert dropping(LightViT(SMALL, out_type="raw")) == []


def test_raw_outputs_are_the_global_tokens_and_then_the_map():
    dense, raw = small_backbone().double(), small_backbone(out_type="raw").double()
    x = torch.randn(2, 3, 72, 40, dtype=torch.float64)
    with torch.no_grad():
        maps, rows = dense(x), raw(x)
        cut = small_backbone_of(dense, out_indices=(0, 1))(x)
    for i, (a, b) in enumerate(zip(maps, rows, strict=True)):
        image = a.flatten(2).transpose(1, 2)
        assert b.shape == (2, 3 + image.shape[1], image.shape[2])
        difference = (b[:, 3:] - image).abs().max().item()
        # the last feed-forward network sees the globals in one of them only
        assert (difference > 1e-3) if i == 2 else (difference < 1e-12)
    for a, b in zip(maps, cut, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def small_backbone_of(model: LightViT, **kwargs) -> LightViT:
    """Another small backbone with the weights of a larger one."""
    other = LightViT(SMALL, **kwargs).to(next(model.parameters()).dtype).eval()
    own = other.state_dict()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k in own})
    return other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("out_type", ["featmap", "raw"])
def test_reduced_precision_stays_finite(dtype: torch.dtype, out_type: str):
    torch.manual_seed(0)
    model = LightViT("tiny", out_type=out_type).eval()
    images = [1e4 * torch.randn(2, 3, 64, 88), torch.zeros(1, 3, 56, 40), torch.randn(1, 3, 1, 1)]
    for training in (False, True):
        model.train(training)
        for x in images:
            if training and x.shape[-1] == 1:
                x = x.expand(2, -1, 3, 3)  # one value has no variance
            with torch.autocast("cpu", dtype):
                outs = model(x)
            assert all(out.isfinite().all() for out in outs)
            if min(x.shape[-2:]) < 4:
                continue  # on one position torch's own bfloat16 convolution gives NaN gradients
            model.zero_grad()
            sum(out.float().square().mean() for out in outs).backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())


# --- replaced layers -----------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A layer of another kind, as an adapter or a quantiser would put in place."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["ffn.fc1", "attn.kv", "attn.q", "attn.proj", "ffn.fc2"])
def test_a_replaced_linear_is_used(name: str, grad: bool):
    """It equals an own layer with doubled parameters, in padded slots as well."""
    replaced, doubled = small_backbone(), small_backbone()
    parent, _, leaf = f"stages.0.0.{name}".rpartition(".")
    old = replaced.get_submodule(f"{parent}.{leaf}")
    new = Scaled(old.in_features, old.out_features)
    new.load_state_dict(old.state_dict())
    setattr(replaced.get_submodule(parent), leaf, new)
    x = torch.randn(1, 3, 72, 40)
    with torch.no_grad():
        before = doubled(x)
        for parameter in doubled.get_submodule(f"{parent}.{leaf}").parameters():
            parameter.mul_(2)
    with torch.set_grad_enabled(grad):
        outs, expected = replaced(x), doubled(x)
    assert (before[0] - expected[0]).abs().max() > 1e-2
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


# --- windows -------------------------------------------------------------------------------------


def regions(height: int, width: int, size: int) -> Iterator[list[list[tuple[int, int]]]]:
    """Literally: the windows of each region, each a list of its tokens' rows and columns."""
    windows = [
        [
            (row, col)
            for row in range(top, min(top + size, height))
            for col in range(left, min(left + size, width))
        ]
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]

    def is_cut(window: list[tuple[int, int]]) -> tuple[bool, bool]:
        (top, left), (bottom, right) = window[0], window[-1]
        return bottom - top + 1 < size, right - left + 1 < size

    for kind in ((False, False), (False, True), (True, False), (True, True)):
        if region := [window for window in windows if is_cut(window) == kind]:
            yield region


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 23), width=st.integers(1, 23), size=st.integers(1, 8))
def test_window_order(height: int, width: int, size: int):
    grid = window_grid(height, width, size)
    expected = list(regions(height, width, size))
    positions = torch.tensor(
        [row * width + col for region in expected for window in region for row, col in window]
    )
    x = torch.randn(2, height, width, 3)
    rows = grid.to_windows(x)
    assert torch.equal(rows, x.flatten(1, 2)[:, positions])
    assert torch.equal(grid.to_map(rows), x)
    assert grid.sizes == [sum(map(len, region)) for region in expected]
    assert grid.has_padding == bool(height % size or width % size)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 17), width=st.integers(1, 17), size=st.integers(1, 7))
def test_rows_of_the_bias_table(height: int, width: int, size: int):
    """Row (r - r' + size - 1) * (2 * size - 1) + (c - c' + size - 1), real keys first."""
    grid = window_grid(height, width, size)
    for region, index in zip(regions(height, width, size), grid.indices, strict=True):
        tokens = [(row % size, col % size) for row, col in region[0]]
        slots = [(row, col) for row in range(size) for col in range(size)]
        padded = [slot for slot in slots if slot not in tokens]

        def row_of(query: tuple[int, int], key: tuple[int, int]) -> int:
            down, right = (q - k + size - 1 for q, k in zip(query, key, strict=True))
            return down * (2 * size - 1) + right

        given_rows = index.view(len(tokens), size * size).tolist()
        for query, own in zip(tokens, given_rows, strict=True):
            assert own[: len(tokens)] == [row_of(query, key) for key in tokens]
            # padded slots hold copies, so their order is free
            assert sorted(own[len(tokens) :]) == sorted(row_of(query, key) for key in padded)


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "large"}, "arch='large' is unknown; give one of tiny, small, base"),
        ({"arch": 12}, "must be a name or a dict"),
        ({"arch": {"depths": (1,)}}, "lacks \\['embed_dims', 'num_heads'\\]"),
        ({"arch": {**SMALL, "heads": 4}}, "unknown entries \\['heads'\\]"),
        ({"arch": {**SMALL, "depths": (1, 1)}}, "one entry for each stage"),
        ({"arch": {**SMALL, "mlp_ratios": (4, 4)}}, "one entry for each stage"),
        ({"arch": {"depths": (), "embed_dims": (), "num_heads": (), "mlp_ratios": ()}},
         "one entry for each stage"),
        ({"arch": {**SMALL, "depths": (1, 0, 1)}}, "must be positive"),
        ({"arch": {**SMALL, "mlp_ratios": (4, -1, 4)}}, "must be positive"),
        ({"arch": {**SMALL, "num_heads": (1, 3, 3)}}, "each must be divisible by .*num_heads"),
        ({"arch": {**SMALL, "embed_dims": (15, 32, 48)}}, "the first of embed_dims must be even"),
        ({"arch": {**SMALL, "num_global_tokens": 0}}, "num_global_tokens must be .*, got 0"),
        ({"arch": {**SMALL, "window_size": 0}}, "window_size must be a positive integer, got 0"),
        ({"arch": {**SMALL, "reduction_ratio": 0}}, r"reduction_ratio must .* in \(0, 1\] .*got 0"),
        ({"arch": {**SMALL, "reduction_ratio": 1.5}}, r"reduction_ratio must be .*got 1.5"),
        ({"arch": {**SMALL, "reduction_ratio": 0.05}}, "leaves at least one channel"),
        ({"num_global_tokens": 0}, "num_global_tokens must be at least 1, or None .*got 0"),
        ({"out_type": "tokens"}, "out_type must be 'featmap' or 'raw', got 'tokens'"),
        ({"drop_rate": 1.0}, "drop_rate must be .*, got 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be .*, got -0.1"),
        ({"frozen_stages": 3}, "frozen_stages must be .*, got 3"),
        ({"out_indices": (0, 1, 2, 3)}, "out_indices must be .* stages 0 to 2"),
    ],
)  # fmt: skip
def test_wrong_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LightViT(**options)


def test_other_numbers_of_stages():
    arch = {"depths": [1, 2], "embed_dims": [16, 24], "num_heads": [2, 3], "mlp_ratios": [2, 2]}
    model = LightViT(arch, out_indices=(0, -1))
    assert (model.strides, model.out_channels) == ((8, 16), (16, 24))
    outs = model(torch.randn(1, 3, 33, 20))
    assert [tuple(o.shape) for o in outs] == [(1, 16, 5, 3), (1, 24, 3, 2)]


def test_keys_and_values_without_bias():
    model = LightViT("tiny").eval()
    attn = model.stages[0][0].attn
    attn.kv = nn.Linear(64, 128, bias=False)
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        expected = model(x)
        weight = attn.kv.weight
        attn.kv = nn.Linear(64, 128)
        attn.kv.weight.copy_(weight)
        attn.kv.bias.zero_()
        for a, b in zip(model(x), expected, strict=True):
            torch.testing.assert_close(a, b)
