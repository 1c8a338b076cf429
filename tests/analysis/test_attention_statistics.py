"""Statistics of attention made by hand."""

import csv
from math import isnan, log

import numpy as np
import pytest
import timm
import torch

from mmvitconv.analysis.attention import AttentionMap
from mmvitconv.analysis.attention_statistics import (
    attention_statistics,
    draw_statistics,
    entropy,
    head_similarity,
    keys_for_mass,
    query_similarity,
    summarise,
    write_statistics,
)
from mmvitconv.analysis.pictures import save_figure
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.dynconv_swin import DynConvSwin
from mmvitconv.models.backbones.lightvit import LightViT
from tests.families import shallow


def softmax(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(*shape, generator=generator)).softmax(dim=-1)


def test_identical_rows_are_query_irrelevant():
    rows = softmax(2, 3, 1, 10).expand(2, 3, 7, 10)
    assert query_similarity(rows) == pytest.approx(1)
    assert head_similarity(rows) < 0.99
    same_heads = softmax(2, 1, 7, 10).expand(2, 3, 7, 10)
    assert head_similarity(same_heads) == pytest.approx(1)
    assert query_similarity(same_heads) < 0.99


def test_one_hot_rows():
    rows = torch.eye(8).view(1, 1, 8, 8).repeat(1, 2, 1, 1)
    assert query_similarity(rows) == pytest.approx(0)
    assert head_similarity(rows) == pytest.approx(1)
    assert entropy(rows) == pytest.approx(0)
    assert keys_for_mass(rows) == pytest.approx(1 / 8)


def test_uniform_rows():
    rows = torch.full((1, 2, 5, 20), 1 / 20)
    assert entropy(rows) == pytest.approx(1)
    assert keys_for_mass(rows) == pytest.approx(0.9)
    assert keys_for_mass(rows, 0.5) == pytest.approx(0.5)


def test_cosines_and_entropy_by_pairs():
    weights = softmax(2, 3, 4, 6).double()
    cosine = torch.nn.functional.cosine_similarity
    queries = [
        cosine(weights[b, h, i], weights[b, h, j], dim=0)
        for b in range(2) for h in range(3) for i in range(4) for j in range(4) if i != j
    ]  # fmt: skip
    heads = [
        cosine(weights[b, g, i], weights[b, h, i], dim=0)
        for b in range(2) for g in range(3) for h in range(3) if g != h for i in range(4)
    ]  # fmt: skip
    assert query_similarity(weights) == pytest.approx(float(sum(queries) / len(queries)))
    assert head_similarity(weights) == pytest.approx(float(sum(heads) / len(heads)))
    wanted = -(weights * weights.log()).sum(-1).mean() / log(6)
    assert entropy(weights) == pytest.approx(float(wanted))


def test_mass_counts_the_largest_keys_first():
    row = torch.tensor([0.05, 0.6, 0.05, 0.3]).view(1, 1, 1, 4)
    assert keys_for_mass(row, 0.6) == pytest.approx(1 / 4)
    assert keys_for_mass(row, 0.61) == pytest.approx(2 / 4)
    assert keys_for_mass(row) == pytest.approx(2 / 4)
    assert keys_for_mass(row, 1.0) == pytest.approx(1)
    assert keys_for_mass(100 * row) == keys_for_mass(row)  # ReLU attention has other sums


def test_what_is_not_defined():
    one = softmax(1, 1, 1, 5)
    assert isnan(query_similarity(one))
    assert isnan(head_similarity(one))
    assert isnan(entropy(torch.ones(1, 1, 3, 1)))
    empty = torch.zeros(1, 2, 3, 4)
    assert isnan(query_similarity(empty))
    assert isnan(keys_for_mass(empty))
    # a query without any key has no direction: the others count
    partly = softmax(1, 1, 1, 6).repeat(1, 1, 3, 1)
    partly[:, :, 1] = 0
    assert query_similarity(partly) == pytest.approx(1)


def test_summary_names_its_numbers():
    weights = softmax(2, 3, 4, 6)
    row = summarise(AttentionMap("a", "global", weights, (2, 3)), 5)
    assert (row.depth, row.layer, row.kind) == (5, "a", "global")
    assert (row.heads, row.queries, row.keys) == (3, 4, 6)
    assert row.query_similarity == query_similarity(weights)
    assert row.head_similarity == head_similarity(weights)
    assert row.entropy == entropy(weights)
    assert row.keys_for_mass == keys_for_mass(weights)


def even_out(model: torch.nn.Module) -> None:
    """Let all scores be zero, so that every query reads all of its keys alike."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or "relative_position_bias" in name:
                parameter.zero_()
            if name.endswith("mixer.beta"):  # behind the norm of ReLU mixers
                parameter.fill_(1)


@pytest.mark.parametrize("side", [64, 72], ids=["whole windows", "filled windows"])
@pytest.mark.parametrize("mixer", ["swin", "ln_relu"])
def test_masked_windows_do_not_count(mixer: str, side: int):
    arch = {"embed_dims": 8, "depths": (2,), "num_heads": (2,), "window_size": 4}
    model = DynConvSwin(arch, out_indices=(0,), mixer=mixer).eval()
    even_out(model)
    rows = attention_statistics(model, [torch.randn(1, 3, side, side)])
    for row in rows:
        assert row.query_similarity == pytest.approx(1)
        assert row.head_similarity == pytest.approx(1)
        assert row.entropy == pytest.approx(1)
        assert row.keys_for_mass == pytest.approx(15 / 16)
    assert len(rows) == 2


def test_masked_windows_of_timm_do_not_count():
    sizes = {
        "img_size": 64,
        "window_size": 4,
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (2,) * 2,
    }
    model = timm.create_model("swin_tiny_patch4_window7_224", **sizes).eval()
    even_out(model)
    rows = attention_statistics(model, [torch.randn(2, 3, 64, 64)])
    assert len(rows) == 4
    for row in rows:
        assert row.query_similarity == pytest.approx(1)
        assert row.entropy == pytest.approx(1)


def test_only_masked_windows():
    weights = softmax(4, 2, 5, 5)
    masked = torch.tensor([True, False, True, True])
    row = summarise(AttentionMap("a", "window", weights, masked=masked))
    assert row.entropy == entropy(weights[1:2])
    assert (row.heads, row.queries, row.keys) == (2, 5, 5)
    none = summarise(AttentionMap("a", "window", weights, masked=torch.ones_like(masked)))
    values = (none.query_similarity, none.head_similarity, none.entropy, none.keys_for_mass)
    assert all(map(isnan, values))


def test_a_model_over_images(tmp_path):
    torch.manual_seed(0)
    model = LightViT(shallow("LightViT")).eval()
    images = [torch.randn(1, 3, 72, 64), torch.randn(1, 3, 72, 64)]
    rows = attention_statistics(model, images)
    assert [(row.depth, row.kind) for row in rows] == [
        (stage, kind) for stage in range(3) for kind in ("window", "gather", "read")
    ]
    singles = [attention_statistics(model, [image])[4] for image in images]
    assert rows[4].entropy == pytest.approx(sum(one.entropy for one in singles) / 2)
    assert singles[0].entropy != singles[1].entropy

    table = write_statistics(rows, tmp_path / "a.png")
    with table.open(encoding="utf-8") as file:
        content = list(csv.DictReader(file))
    assert [row["layer"] for row in content] == [row.layer for row in rows]
    assert float(content[4]["entropy"]) == rows[4].entropy
    figure = draw_statistics(rows, np.zeros((72, 64, 3), np.uint8), "note")
    path = save_figure(figure, tmp_path / "a.png")
    assert path.stat().st_size > 10_000
    with pytest.raises(UserError, match="no image"):
        attention_statistics(model, [])
