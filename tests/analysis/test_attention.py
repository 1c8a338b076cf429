"""Attention maps are what the models use: their own outputs come out of them."""

import numpy as np
import pytest
import torch
from torch import nn

from mmvitconv.analysis.attention import (
    AttentionMap,
    capture_attention,
    choose_layers,
    draw_queries,
    draw_tokens,
    lightvit_attention,
    query_map,
    token_maps,
)
from mmvitconv.analysis.pictures import save_figure
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.dynconv_swin import DynConvSwin
from mmvitconv.models.backbones.dynconv_vit import DynConvViT
from mmvitconv.models.backbones.lightvit import Attention, LightViT, Tokens, WindowGrid
from mmvitconv.models.layers import make_mixer
from mmvitconv.models.layers.window import from_windows, relative_position_index
from tests.families import shallow

SOURCE = np.zeros((32, 32, 3), np.uint8)


def tiny_vit(**options) -> DynConvViT:
    torch.manual_seed(0)
    arch = {"embed_dims": 12, "depth": 2, "num_heads": 3}
    return DynConvViT(arch, img_size=32, patch_size=8, **options).eval()


@pytest.mark.parametrize("size", [(8, 12), (9, 10), (3, 4), (4, 4)], ids=str)
def test_lightvit_maps_give_the_layers_output(size: tuple[int, int]):
    torch.manual_seed(0)
    module = Attention(24, 3, window_size=4).double()
    grid = WindowGrid(*size, 4, relative_position_index(4))
    tokens = Tokens(2, size[0] * size[1], 5)
    nn.init.normal_(module.kv.bias)
    rows = torch.randn(2 * (tokens.num_image + 5), 24).double()
    *windows, gather, read = lightvit_attention(module, rows, tokens, grid)
    assert (gather.kind, read.kind) == ("gather", "read")
    assert gather.grid == read.grid == size
    assert [w.kind for w in windows] == ["window"] * len(grid.regions)

    image = rows[: 2 * tokens.num_image]
    _, v = module.kv(image).view(2, -1, 2, 3, 8).permute(2, 0, 3, 1, 4)  # B, heads, N, d
    # the maps are row by row, the layer's tokens in the order of windows
    order = grid.to_map(torch.arange(tokens.num_image).view(1, -1, 1)).flatten()
    gathered = (gather.weights @ v[:, :, order]).transpose(1, 2).flatten(2)
    values = module.kv_global(gathered).view(2, 5, 2, 3, 8).permute(2, 0, 3, 1, 4)[1]
    out = torch.empty(2, 3, tokens.num_image, 8).double()
    out[:, :, order] = read.weights @ values
    pad = module.kv.bias.view(2, 3, 8)[1]
    start = 0
    for window in windows:
        _, _, length, slots = window.weights.shape
        count = window.weights.shape[0] // 2
        part = v[:, :, start : start + count * length].unflatten(2, (count, length))
        filling = pad[None, :, None, None].expand(2, 3, count, slots - length, 8)
        part = torch.cat([part, filling], dim=3).transpose(1, 2).flatten(0, 1)
        local = (window.weights @ part).unflatten(0, (2, count)).transpose(1, 2).flatten(2, 3)
        out[:, :, start : start + count * length] += local
        start += count * length
    joined = torch.cat([out.transpose(1, 2).reshape(-1, 24), gathered.flatten(0, 1)])
    torch.testing.assert_close(module.proj(joined), module(rows, tokens, grid))


def test_lightvit_layers_are_captured_and_nothing_is_changed():
    torch.manual_seed(0)
    model = LightViT(shallow("LightViT")).eval()
    image = torch.randn(1, 3, 64, 96)
    before = model(image)
    found = capture_attention(model, image)
    gather = [one for one in found if one.kind == "gather"]
    assert [one.grid for one in gather] == [(8, 12), (4, 6), (2, 3)]
    assert [one.layer for one in gather] == [f"stages.{stage}.0.attn" for stage in range(3)]
    assert token_maps(gather[0]).shape == (8, 8, 12)
    np.testing.assert_allclose(token_maps(gather[0]).sum(axis=(1, 2)), 1, rtol=1e-5)
    read = [one for one in found if one.kind == "read"]
    np.testing.assert_allclose(token_maps(read[0], head=1).sum(axis=0), 1, rtol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(map(torch.equal, before, model(image)))
    with pytest.raises(UserError, match="head must be 0 to 1 in this layer, got 2"):
        token_maps(gather[0], head=2)


@pytest.mark.parametrize("with_cls_token", [False, True])
@pytest.mark.parametrize("mixer", ["deit", "relu_n", "ln_relu", "relu_ln"])
def test_global_mixers_give_their_output_from_the_maps(mixer: str, with_cls_token: bool):
    model = tiny_vit(mixer=mixer, with_cls_token=with_cls_token)
    given = {}
    last = model.blocks[-1].mixer
    last.qkv.register_forward_hook(lambda _m, _i, out: given.update(qkv=out))
    last.proj.register_forward_pre_hook(lambda _m, inputs: given.update(mixed=inputs[0]))
    image = torch.randn(2, 3, 32, 48)
    before = model(image)
    found = capture_attention(model, image)
    assert [(one.layer, one.grid, one.prefix) for one in found] == [
        (f"blocks.{index}.mixer", (4, 6), int(with_cls_token)) for index in (0, 1)
    ]
    values = given["qkv"].unflatten(-1, (3, 3, 4))[:, :, 2].transpose(1, 2)
    mixed = (found[-1].weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, given["mixed"])
    assert all(map(torch.equal, before, model(image)))
    assert "mix_tokens" not in vars(last)
    assert "attend" not in vars(last)


@pytest.mark.parametrize("mixer", ["swin", "ln_relu"])
def test_shifted_windows_give_their_output_from_the_maps(mixer: str):
    torch.manual_seed(0)
    arch = {"embed_dims": 8, "depths": (2,), "num_heads": (2,), "window_size": 4}
    model = DynConvSwin(arch, out_indices=(0,), mixer=mixer).eval()
    last, given = model.stages[0][-1].mixer, {}
    last.qkv.register_forward_hook(lambda _m, _i, out: given.update(qkv=out))
    last.proj.register_forward_pre_hook(lambda _m, inputs: given.update(mixed=inputs[0]))
    found = capture_attention(model, torch.randn(1, 3, 40, 24))
    assert [one.kind for one in found] == ["window", "window"]
    values = given["qkv"].unflatten(-1, (3, 2, 4))[:, :, 2].transpose(1, 2)
    mixed = (found[-1].weights @ values).transpose(1, 2).flatten(2)
    # Swin shifts the map of 10 x 6 and fills it up to windows; the others fill it first.
    size = (10, 6) if mixer == "swin" else (12, 8)
    mixed = from_windows(mixed, 4, *size).roll((2, 2), dims=(1, 2))[:, :10, :6]
    torch.testing.assert_close(mixed, given["mixed"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("deit_tiny_patch16_224", "global"), ("swin_tiny_patch4_window7_224", "window")],
)
def test_timm_layers_give_their_output_from_the_maps(name: str, kind: str):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "num_classes": 0}
    if kind == "global":
        model = timm.create_model(name, depth=2, num_heads=3, img_size=32, **sizes)
    else:
        sizes.update(depths=(2,), num_heads=(3,), img_size=56)
        model = timm.create_model(name, **sizes)
    model.eval()
    given = {}
    layer = [m for m in model.modules() if hasattr(m, "fused_attn")][-1]
    layer.qkv.register_forward_hook(lambda _m, _i, out: given.update(qkv=out))
    layer.proj.register_forward_pre_hook(lambda _m, inputs: given.update(mixed=inputs[0]))
    side = 32 if kind == "global" else 56
    was_fused = layer.fused_attn
    found = capture_attention(model, torch.randn(1, 3, side, side))
    assert layer.fused_attn == was_fused
    assert [one.kind for one in found] == [kind, kind]
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        model(image)
    mixed = given["mixed"]  # of the path that the model takes by itself
    weights = capture_attention(model, image)[-1].weights
    values = given["qkv"].unflatten(-1, (3, 3, -1))[:, :, 2].transpose(1, 2)
    torch.testing.assert_close((weights @ values).transpose(1, 2).flatten(2), mixed)


def test_a_position_finds_its_row():
    weights = torch.zeros(1, 2, 7, 7)
    weights[0, :, 1 + 4, 1 + 2] = torch.tensor([0.4, 0.8])  # row 1, column 1 reads row 0, column 2
    attention = AttentionMap("a", "global", weights, (2, 3), prefix=1)
    wanted = np.zeros((2, 3))
    wanted[0, 2] = 0.6
    np.testing.assert_allclose(query_map(attention, (0.5, 0.5)), wanted, rtol=1e-6)
    assert query_map(attention, (0.99, 0.34), head=1)[0, 2] == pytest.approx(0.8)
    assert not query_map(attention, (0.0, 0.5)).any()


def test_models_without_weights_are_refused():
    with pytest.raises(UserError, match="no attention weights that can be read"):
        capture_attention(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 8, 8))
    sima = make_mixer("sima", 8, 2)
    with pytest.raises(UserError, match="no attention weights"):
        capture_attention(sima, torch.randn(1, 8, 4, 4))


def test_layers_are_chosen():
    found = [AttentionMap(name, "gather", torch.zeros(1), (side, side))
             for name, side in (("a", 4), ("b", 4), ("c", 2))]  # fmt: skip
    assert [one.layer for one in choose_layers(found, None)] == ["b", "c"]
    assert [one.layer for one in choose_layers(found, "a")] == ["a"]
    with pytest.raises(UserError, match="there is no layer 'd' of this kind; give one of a, b, c"):
        choose_layers(found, "d")


@pytest.mark.parametrize("kind", ["gather", "read"])
def test_picture_of_tokens(tmp_path, kind: str):
    model = LightViT({**shallow("LightViT"), "num_global_tokens": 9}).eval()
    found = capture_attention(model, torch.randn(1, 3, 32, 32))
    chosen = [one for one in found if one.kind == kind]
    path = save_figure(draw_tokens(chosen[-1:], SOURCE, "note"), tmp_path / "a.png")
    assert path.stat().st_size > 10_000


def test_picture_of_a_query(tmp_path):
    found = capture_attention(tiny_vit(), torch.randn(1, 3, 32, 32))
    path = save_figure(draw_queries(found, (0.5, 0.1), SOURCE, "note", head=2), tmp_path / "a.png")
    assert path.stat().st_size > 10_000
