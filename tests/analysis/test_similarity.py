"""Similarity maps against the specification's formula and against what the model adds."""

import numpy as np
import pytest
import torch
from torch import nn

from mmvitconv.analysis.pictures import save_figure
from mmvitconv.analysis.similarity import (
    capture_similarity,
    context_weights,
    draw_similarity,
    select_similarity,
)
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.fcvit import ARCHS, FCViT, GlobalContext
from tests.families import shallow


def random_context(compete: bool = True) -> GlobalContext:
    torch.manual_seed(0)
    context = GlobalContext(16, 4, 4, compete=compete, weighted=True)
    nn.init.normal_(context.rescale_weight)
    nn.init.normal_(context.rescale_bias)
    return context


def by_loops(context: GlobalContext, x: torch.Tensor) -> np.ndarray:
    """docs/specs/fcvit.md#13-global-context, number by number."""
    x = x.double().numpy()
    batch, channels, height, width = x.shape
    d = channels // context.num_heads
    weights = np.zeros((batch, context.num_heads, height, width))
    for b in range(batch):
        for k in range(context.num_heads):
            for i in range(height):
                for j in range(width):
                    for c in range(k * d, (k + 1) * d):
                        weights[b, k, i, j] += x[b, c, i, j] * x[b, c].mean() / d**0.5
        weights[b] = (weights[b] - weights[b].mean()) / (weights[b].std(ddof=1) + 1e-5)
    scale, shift = (
        p.detach().double().numpy()[None, :, None, None]
        for p in (context.rescale_weight, context.rescale_bias)
    )
    return weights * scale + shift


def test_weights_follow_the_formula():
    context, x = random_context(), torch.randn(2, 16, 5, 3)
    found = context_weights(context, x).detach().numpy()
    np.testing.assert_allclose(found, by_loops(context, x), atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("compete", [True, False])
def test_the_model_adds_its_vector_with_these_weights(compete: bool, memory_format):
    context = random_context(compete)
    x = torch.randn(2, 16, 5, 3).contiguous(memory_format=memory_format)
    added = (context(x) - x).unflatten(1, (4, 4))
    hidden = context.fc1(x.mean(dim=(2, 3)))
    hidden = torch.maximum(*hidden.chunk(2, 1)) if compete else nn.functional.gelu(hidden)
    vector = context.fc2(hidden).view(2, 4, 4, 1, 1)
    torch.testing.assert_close(added, context_weights(context, x).unsqueeze(2) * vector)


def test_all_contexts_are_found_and_nothing_is_changed():
    torch.manual_seed(0)
    model = FCViT("tiny").eval()
    image = torch.randn(1, 3, 64, 96)
    before = model(image)
    maps = capture_similarity(model, image)
    places = [(m.stage, m.block, m.mix) for m in maps]
    depths = ARCHS["tiny"].depths
    assert places == [
        (s, b, m) for s, depth in enumerate(depths) for b in range(depth) for m in (0, 1)
    ]
    assert [m.weights.shape for m in maps if m.block == 0 and m.mix == 0] == [
        (8, 16, 24), (8, 8, 12), (8, 4, 6), (8, 2, 3)
    ]  # fmt: skip
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(map(torch.equal, before, model(image)))

    # the maps are those of the contexts' own inputs
    inputs = {}
    context = model.get_submodule(maps[7].layer)
    context.register_forward_hook(lambda _m, given, out: inputs.update(x=given[0], out=out))
    with torch.no_grad():
        model(image)
    wanted = by_loops(context, inputs["x"])[0]
    np.testing.assert_allclose(maps[7].weights, wanted, atol=2e-4)


def test_selection():
    torch.manual_seed(0)
    maps = capture_similarity(FCViT("tiny").eval(), torch.randn(1, 3, 32, 32))
    assert [(m.stage, m.block) for m in select_similarity(maps, 2, -1)] == [(2, 4), (2, 4)]
    last = select_similarity(maps, block=-1)
    assert [(m.stage, m.block) for m in last[::2]] == [(0, 2), (1, 2), (2, 4), (3, 1)]
    assert {m.stage for m in select_similarity(maps, -1)} == {3}
    with pytest.raises(UserError, match="stage must be -4 to 3, got 4"):
        select_similarity(maps, 4)
    with pytest.raises(UserError, match="there is no block 5; the stages have 3, 3, 5, 2 blocks"):
        select_similarity(maps, block=5)


@pytest.mark.parametrize(
    "switch", [{"use_global_context": False}, {"weighted_context": False}], ids=str
)
def test_models_without_similarity_are_refused(switch: dict):
    model = FCViT({**shallow("FCViT"), **switch}, out_indices=(0,)).eval()
    with pytest.raises(UserError, match="no similarity of tokens"):
        capture_similarity(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("by_head", [False, True])
def test_picture(tmp_path, by_head: bool):
    model = FCViT(shallow("FCViT")).eval()
    maps = capture_similarity(model, torch.randn(1, 3, 64, 64))
    source = np.zeros((64, 64, 3), np.uint8)
    path = save_figure(draw_similarity(maps[-1:], source, "note", by_head), tmp_path / "a.png")
    assert path.stat().st_size > 10_000
