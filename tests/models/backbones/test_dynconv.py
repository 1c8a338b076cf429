"""DynConvViT and DynConvSwin: sizes, blocks, position embeddings, windows, class token."""

import copy

import pytest
import torch
import torch.nn.functional as F
from families import parameters
from mmcv.cnn.utils import fuse_conv_bn
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from mmvitconv.models import DynConvSwin, DynConvViT
from mmvitconv.models.backbones.dynconv_swin import Merge, resize_table
from mmvitconv.models.backbones.dynconv_vit import Block, PatchEmbed, resize_position
from mmvitconv.models.layers import MIXERS, make_mixer
from mmvitconv.models.layers.mixers import GlobalAttention
from mmvitconv.zoo.costs import count_complexity

VIT = {"embed_dims": 16, "depth": 4, "num_heads": 2}
SWIN = {"embed_dims": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "window_size": 3}
DWVIT5 = {"preset": "dwvit", "size": 5}
DWNET = ("dw", "ddw", "iddw")
WINDOWS = {"window_size": 14, "global_blocks": ()}
TOKEN = {"with_cls_token": True, "out_type": "cls_token"}
FAMILIES = {
    "vit": lambda **kwargs: DynConvViT(VIT, **{"patch_size": 4, "img_size": 24, **kwargs}),
    "swin": lambda **kwargs: DynConvSwin(SWIN, **{"out_indices": (0, 1, 2), **kwargs}),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def filled(model: nn.Module) -> nn.Module:
    """Evaluation mode and no parameter at its neutral value."""
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


# Sizes: docs/specs/dynconv.md#7-models ---------------------------------------------------------


def cost(model: type, arch: str, last: int, **kwargs: object) -> tuple[int, float]:
    """Parameters, and multiply-adds of an image of 224 x 224 in units of 1e9, with a classifier."""
    with torch.device("meta"):
        backbone = model(arch, out_indices=(last,), **kwargs).eval()
        found = count_complexity(backbone, torch.empty(1, 3, 224, 224))
    assert not found.uncounted
    (channels,) = backbone.out_channels
    return found.params + (channels + 1) * 1000, (found.macs.total + channels * 1000) / 1e9


@pytest.mark.parametrize(
    ("model", "arch", "params", "macs", "more"),
    [
        (DynConvViT, "tiny", 5_717_416, 1.254, 72),
        (DynConvViT, "small", 22_050_664, 4.599, 144),
        (DynConvViT, "base", 86_567_656, 17.564, 288),
        (DynConvSwin, "tiny", 28_288_354, 4.491, 276),
        (DynConvSwin, "small", 49_606_258, 8.741, 564),
        (DynConvSwin, "base", 87_768_224, 15.431, 752),
    ],
)
def test_cost_of_softmax_is_exact(model: type, arch: str, params: int, macs: float, more: int):
    last, options = (11, TOKEN) if model is DynConvViT else (3, {})
    found = cost(model, arch, last, **options)
    assert (found[0], round(found[1], 3)) == (params, macs)
    # gamma and beta of each head, which cost no multiply-adds
    assert cost(model, arch, last, mixer="ln_relu", **options) == (params + more, found[1])


COSTS = [  # millions of parameters and 1e9 multiply-adds of tiny, small and base
    (DynConvViT, "deit", (5.717, 1.247), (22.050, 4.574), (86.566, 17.472)),
    (DynConvViT, "dwvit", (5.947, 0.984), (22.511, 3.788), (87.488, 14.860)),
    (DynConvViT, DWVIT5, (5.837, 0.941), (22.290, 3.660), (87.045, 14.433)),
    (DynConvSwin, "dwvit", (28.707, 4.008), (50.461, 7.738), (88.908, 13.649)),
    (DynConvSwin, DWVIT5, (28.495, 3.836), (50.028, 7.438), (88.330, 13.164)),
    (DynConvSwin, "dw", (24.173, 3.727), (42.158, 7.239), (74.347, 12.812)),
    (DynConvSwin, "ddw", (51.132, 3.754), (91.237, 7.288), (161.598, 12.900)),
]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("row", COSTS, ids=lambda row: f"{row[0].__name__} {row[1]}")
def test_cost(row: tuple, number: int):
    model, mixer, *expected = row
    arch, last = ("tiny", "small", "base")[number], 11 if model is DynConvViT else 3
    params, macs = cost(model, arch, last, mixer=mixer)
    assert (round(params / 1e6, 3), round(macs, 3)) == expected[number]


# Every mixer in both families ------------------------------------------------------------------


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_mixer_trains_at_odd_sizes(family: str, mixer: str):
    model = FAMILIES[family](mixer=mixer, drop_path_rate=0.1).train()
    outs = model(torch.randn(2, 3, 45, 38))
    for out, channels, stride in zip(outs, model.out_channels, model.strides, strict=True):
        assert out.shape == (2, channels, -(-45 // stride), -(-38 // stride))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_batch_do_not_meet(family: str, mixer: str):
    model = filled(FAMILIES[family](mixer=mixer)).double()
    x = torch.randn(3, 3, 33, 50).double()
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "options"),
    [(family, {"mixer": mixer}) for family in FAMILIES for mixer in ("ln_relu", "dwvit", "ddw")]
    + [("vit", TOKEN)],
)
def test_recomputing_changes_no_value(family: str, options: dict):
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = FAMILIES[family](with_cp=with_cp, drop_path_rate=0.5, **options).train()
        outs = model(torch.linspace(-2, 2, 2 * 3 * 30 * 30).view(2, 3, 30, 30).sin())
        sum(out.cos().sum() for out in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters()), *model.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_mixers_are_refused(family: str):
    with pytest.raises(ValueError, match=r"mixer='conv' is unknown; give one of deit, swin"):
        FAMILIES[family](mixer="conv")
    with pytest.raises(ValueError, match="softmax normalises over the keys already"):
        FAMILIES[family](mixer={"preset": "deit", "norm": "ln_key"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mixer", ["deit", "ddw"])
def test_initialisation(family: str, mixer: str):
    model = FAMILIES[family](mixer=mixer)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.numel() > 500:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_without_norms(family: str):
    model = filled(FAMILIES[family]())
    plain = FAMILIES[family](output_norms=False).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    assert not [name for name, _ in plain.named_parameters() if name.startswith("norm")]
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for index, normed, raw in zip(model.out_indices, model(x), plain(x), strict=True):
            norm = getattr(model, f"norm{index}")
            expected = norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            torch.testing.assert_close(normed, expected)


# Ways to run a model ---------------------------------------------------------------------------


@pytest.fixture(params=[(family, mixer) for family in FAMILIES for mixer in MIXERS], ids=str)
def small(request) -> nn.Module:
    family, mixer = request.param
    sizes = {"vit": {**VIT, "depth": 2}, "swin": {**SWIN, "depths": (2, 1), "num_heads": (1, 2)}}
    kind = {"vit": DynConvViT, "swin": DynConvSwin}[family]
    options = {"patch_size": 4, "img_size": 24} if family == "vit" else {}
    return filled(kind(sizes[family], out_indices=(0, 1), mixer=mixer, **options)).double()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_as_people_type_it(small: nn.Module):
    x, other = torch.randn(2, 2, 3, 45, 38, dtype=torch.float64)
    traced = torch.jit.trace(small, x)
    for ours, expected in zip(traced(other), small(other), strict=True):
        torch.testing.assert_close(ours, expected)


def test_transforms_of_functions(small: nn.Module):
    """vmap over images, their gradients, and forward-mode differentiation against backward-mode."""

    def last(x: Tensor) -> Tensor:
        return small(x)[-1]

    def total(x: Tensor) -> Tensor:
        return last(x[None]).sin().sum()

    images = torch.randn(3, 2, 3, 21, 30, dtype=torch.float64)
    expected = torch.stack([last(x) for x in images])
    torch.testing.assert_close(vmap(last)(images), expected)
    x = images[:, 0].clone().requires_grad_()
    sum(map(total, x)).backward()
    torch.testing.assert_close(vmap(grad(total))(images[:, 0]), x.grad)
    tangent = torch.randn_like(images[0])
    y, forward = jvp(last, (images[0],), (tangent,))
    x = images[0].clone().requires_grad_()
    weights = torch.randn_like(y)
    (backward,) = torch.autograd.grad(last(x), x, weights)
    torch.testing.assert_close((weights * forward).sum(), (backward * tangent).sum())


def test_hooks_hear_every_layer(small: nn.Module):
    heard = set()
    silent = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
    names = {name for name, m in small.named_modules() if not isinstance(m, silent)}
    for name, module in small.named_modules():
        module.register_forward_hook(lambda *_, name=name: heard.add(name))
    small(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    mixers = {name for name in names if name.endswith(".mixer")}  # which take channels last
    assert names - mixers <= heard


def test_fusion_of_batch_norms_changes_nothing(small: nn.Module):
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = small(x)
    for ours, theirs in zip(fuse_conv_bn(copy.deepcopy(small))(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


# Blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["deit", "dwvit"])
def test_pre_norm_block(mixer: str):
    block = filled(Block(make_mixer(mixer, 8, 2), 8, 4, eps=1e-6))
    x = torch.randn(2, 5, 4, 8)
    with torch.no_grad():
        y = x + block.mixer(block.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        expected = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("mixer", DWNET)
def test_dwnet_block(mixer: str):
    block = filled(Block(make_mixer(mixer, 8, 2), 8, 4, eps=1e-6))
    assert {name.partition(".")[0] for name in block.state_dict()} == {"mixer", "norm2", "mlp"}
    x = torch.randn(2, 5, 4, 8)
    with torch.no_grad():
        y = x + block.mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        norm = block.norm2
        normed = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        normed = normed * norm.weight + norm.bias
        expected = y + block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
        torch.testing.assert_close(block(x), expected)


def test_dwnet_survives_the_exchange_of_its_norms():
    """MMEngine's ``sync_bn`` makes new layers, which know nothing of ours."""
    model = filled(FAMILIES["swin"](mixer="dw"))
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        expected = model(x)
        outs = nn.SyncBatchNorm.convert_sync_batchnorm(model)(x)
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_tokens_of_an_image_share_their_fate():
    block = filled(Block(make_mixer("deit", 8, 2), 8, 4, eps=1e-6, drop_path_rate=0.5)).train()
    x = torch.randn(64, 5, 8)
    same = (block(x, (2, 2)) == x).flatten(1)
    assert 4 < same.all(1).sum() < 32  # both branches dropped: one in four
    assert not same.any(1)[~same.all(1)].any()


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1)])
def test_patches_are_filled_up(size: tuple[int, int]):
    embed = filled(PatchEmbed(3, 6, 4, nn.LayerNorm(6)))
    x = torch.randn(2, 3, *size)
    padded = torch.zeros(2, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    padded[..., : size[0], : size[1]] = x
    patches = F.unfold(padded, 4, stride=4).transpose(1, 2)
    expected = embed.norm(patches @ embed.proj.weight.flatten(1).T + embed.proj.bias)
    torch.testing.assert_close(embed(x).flatten(1, 2), expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_merging(size: tuple[int, int]):
    merge = filled(Merge(3))
    x = torch.randn(2, *size, 3)
    padded = F.pad(x, (0, 0, 0, size[1] % 2, 0, size[0] % 2))
    parts = [padded[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merge.reduction(merge.norm(torch.cat(parts, dim=-1)))
    torch.testing.assert_close(merge(x), expected)


# DynConvSwin -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["swin", "relu_n", "ln_relu", "relu_ln"])
def test_windows_of_swin(mixer: str):
    model = DynConvSwin(SWIN, out_indices=-1, mixer=mixer)
    for blocks in model.stages:
        for index, block in enumerate(blocks):
            found = (block.mixer.reach, block.mixer.size, block.mixer.shift)
            assert found == ("window", 3, index % 2)
            assert block.mixer.relative_position_bias_table.shape[0] == 25


def test_options_of_a_mixer_come_first():
    def mixers(mixer: dict) -> list[nn.Module]:
        model = DynConvSwin(SWIN, out_indices=-1, mixer=mixer)
        return [block.mixer for blocks in model.stages for block in blocks]

    for mixer in mixers({"preset": "ln_relu", "reach": "global"}):
        assert isinstance(mixer, GlobalAttention)
    for mixer in mixers({"preset": "ln_relu", "bias": None}):
        assert mixer.reach == "window"
        assert mixer.relative_position_bias_table is None
    shifted = mixers({"preset": "swin", "size": 5})[1]
    assert (shifted.size, shifted.shift) == (5, 2)
    assert {mixer.size for mixer in mixers(DWVIT5)} == {5}
    assert {mixer.size for mixer in mixers({"preset": "dwvit"})} == {7}


def test_no_shift_in_a_map_of_one_window():
    model = filled(DynConvSwin({**SWIN, "depths": (2,), "num_heads": (2,)}, out_indices=0))
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        (expected,) = model(x)
        model.stages[0][1].mixer.shift = 0
        torch.testing.assert_close(model(x)[0], expected)
        model.stages[0][1].mixer.shift = 1
        larger = torch.randn(1, 3, 24, 24)
        (shifted,) = model(larger)
        model.stages[0][1].mixer.shift = 0
        assert (model(larger)[0] - shifted).abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": (1, 2)}, "one entry for each stage"),
        ({"depths": (), "num_heads": ()}, "one entry for each stage"),
        ({"depths": (1, 0, 1)}, r"depths must be positive, got \(1, 0, 1\)"),
        ({"depths": (1, 2.0, 1)}, "depths must be 3 integers of at least 1"),
        ({"embed_dims": 8.0}, "embed_dims must be a positive integer, got 8.0"),
        ({"window_size": 0}, "window_size must be a positive integer, got 0"),
        ({"num_heads": (1, 3, 4)}, "must divide its stage's channels"),
        ({"mlp_ratio": 0.0}, "at least one hidden channel"),
    ],
)
def test_illegal_sizes_of_swin(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DynConvSwin({**SWIN, **change}, out_indices=0)


# DynConvViT: outputs, windows, class token, position embedding ---------------------------------


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (2, (0, 1)), (1, (0,))]
)
def test_default_outputs(depth: int, expected: tuple[int, ...]):
    with torch.device("meta"):
        assert DynConvViT({**VIT, "depth": depth}).out_indices == expected


@pytest.mark.parametrize("mixer", ["deit", "relu_n", "ln_relu"])
def test_window_form_in_a_map_of_one_window_is_global(mixer: str):
    model = filled(FAMILIES["vit"](mixer=mixer)).double()
    windowed = FAMILIES["vit"](mixer=mixer, window_size=6, global_blocks=(3,)).eval().double()
    windowed.load_state_dict(model.state_dict())
    assert [block.mixer.reach for block in windowed.blocks] == ["window"] * 3 + ["global"]
    x = torch.randn(2, 3, 24, 24).double()
    with torch.no_grad():
        for a, b in zip(windowed(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_windows_do_not_meet_before_a_global_block():
    model = filled(FAMILIES["vit"](window_size=3, global_blocks=(3,), out_indices=(2, 3)))
    x = torch.randn(1, 3, 24, 24)
    changed = x.clone()
    changed[..., 12:, 12:] += 1
    with torch.no_grad():
        (before, after), (before2, after2) = model(x), model(changed)
    assert torch.equal(before[..., :3, :], before2[..., :3, :])
    assert not torch.equal(before[..., 3:, 3:], before2[..., 3:, 3:])
    assert not torch.isclose(after[..., :3, :], after2[..., :3, :]).any()


@pytest.mark.parametrize("mixer", ["deit", "ln_relu", "sima", "dwhead"])
def test_class_token_takes_part(mixer: str):
    model = filled(FAMILIES["vit"](mixer=mixer, with_cls_token=True))
    x = torch.randn(2, 3, 24, 20)
    with torch.no_grad():
        before = model(x)[-1]
        model.cls_token += torch.randn(16)
        assert before.shape == (2, 16, 6, 5)
        assert (model(x)[-1] - before).abs().max() > 1e-4


def test_class_token_is_returned():
    options = {"with_cls_token": True, "window_size": 3, "global_blocks": (1,)}
    model = filled(FAMILIES["vit"](out_type="cls_token", out_indices=(0, 3), **options))
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        first, last = model(x)
    assert first.shape == last.shape == (2, 16)
    assert torch.equal(first[0], first[1])  # the first block has windows: it saw no image yet
    assert not torch.isclose(last[0], last[1]).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"img_size": 0}, "img_size must be an integer of at least 1, got 0"),
        ({"patch_size": 0}, "patch_size must be an integer of at least 1, got 0"),
        ({"window_size": -1}, "window_size must be an integer of at least 0, got -1"),
        ({"out_type": "raw"}, "out_type must be 'featmap' or 'cls_token', got 'raw'"),
        ({"out_type": "cls_token"}, "needs a class token; give with_cls_token=True"),
        ({"window_size": 7, "global_blocks": (4,)}, r"global_blocks must .* 0 to 3, got \(4,\)"),
        ({"with_cls_token": True, "mixer": "dwvit"}, "with_cls_token must be False"),
        *(
            ({"mixer": mixer, **WINDOWS}, f"window_size must be 0 with mixer='{mixer}', got 14")
            for mixer in ("dwvit", "natt", *DWNET, "swin")
        ),
        ({"mixer": "sima", **WINDOWS}, "takes its norm over all tokens"),
        (
            {"with_cls_token": True, "window_size": 7, "global_blocks": (3,), "out_indices": 2},
            "with_cls_token must be False .* in blocks 0 to 2",
        ),
        ({"arch": {**VIT, "num_heads": 3}}, "num_heads must divide embed_dims=16, got 3"),
        ({"arch": {**VIT, "depth": 0}}, "depth must be a positive integer, got 0"),
        ({"arch": {**VIT, "mlp_ratio": 0.01}}, "at least one hidden channel"),
    ],
)
def test_illegal_arguments_of_vit(kwargs: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DynConvViT(**{"arch": VIT, **kwargs})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            FAMILIES["vit"](with_cls_token=True),
            {
                "pos_embed": 0,
                "cls_token": 0,
                "patch_embed.proj.bias": 0,
                "blocks.0.mixer.qkv.bias": 1,
                "blocks.3.mlp.fc2.bias": 4,
                "norm1.weight": 5,
            },
        ),
        (
            FAMILIES["swin"](),
            {
                "patch_embed.norm.weight": 0,
                "stages.0.0.mixer.qkv.bias": 1,
                "stages.0.1.norm2.bias": 2,
                "downsamples.1.reduction.weight": 3,
                "stages.1.0.mlp.fc1.bias": 3,
                "downsamples.2.norm.weight": 4,
                "stages.2.1.mixer.relative_position_bias_table": 5,
                "norm0.weight": 6,
            },
        ),
    ],
    ids=FAMILIES,
)
def test_layer_depth(model: nn.Module, expected: dict[str, int]):
    assert {name: model.get_layer_depth(name)[0] for name in expected} == expected


def test_embeddings_are_frozen_with_the_first_block():
    model = FAMILIES["vit"](with_cls_token=True, frozen_stages=0).train()
    frozen = {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "cls_token", "patch_embed", "blocks"}
    assert not any(p.requires_grad for p in model.blocks[0].parameters())
    assert all(p.requires_grad for p in model.blocks[1].parameters())
    assert FAMILIES["vit"]().train().pos_embed.requires_grad


def bicubic(tokens: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.float().transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(
        grid, (height, width), mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.flatten(2).transpose(1, 2).to(tokens.dtype)


@pytest.mark.parametrize("with_cls_token", [False, True])
@pytest.mark.parametrize("size", [(24, 24), (40, 17), (4, 100)])
@pytest.mark.parametrize("antialias", [True, False])
def test_position_embedding_follows_the_image(
    antialias: bool, size: tuple[int, int], with_cls_token: bool
):
    """As if the model had been made for the grid; its own grid is left alone."""
    options = {} if antialias else {"pos_antialias": False}
    model = filled(FAMILIES["vit"](with_cls_token=with_cls_token, out_indices=0, **options))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.extend(args))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        model(x)
        tokens = model.pos_embed[:, with_cls_token:]
        grid = (-(-size[0] // 4), -(-size[1] // 4))
        expected = model.patch_embed(x).flatten(1, 2)
        expected = expected + (tokens if grid == (6, 6) else bicubic(tokens, *grid, antialias))
    if with_cls_token:
        token = model.cls_token + model.pos_embed[:, :1]
        torch.testing.assert_close(seen[0][:, :1], token.expand(2, -1, -1))
        assert seen[1] == grid
    found = seen[0][:, 1:] if with_cls_token else seen[0].flatten(1, 2)
    torch.testing.assert_close(found, expected)


def test_resizing_is_done_in_float32():
    tokens = torch.randn(1, 9, 4, dtype=torch.bfloat16)
    resized = resize_position(tokens, 5, 7, antialias=False)
    assert resized.dtype == resize_position(tokens, 5, 7).dtype == torch.bfloat16
    assert torch.equal(resized.flatten(1, 2), bicubic(tokens, 5, 7, antialias=False))
    whole = resize_position(tokens.float(), 5, 7)
    assert torch.equal(resize_position(tokens, 5, 7), whole.bfloat16())
    assert resize_position(tokens, 3, 3).data_ptr() == tokens.data_ptr()
    table = torch.randn(25, 3, dtype=torch.bfloat16)
    assert torch.equal(resize_table(table, 49), bicubic(table[None], 7, 7, antialias=False)[0])
    assert resize_table(table, 25) is table


@pytest.mark.parametrize("size", [(5, 7), (20, 31), (14, 9)])
def test_positions_are_resized_as_timm_does(size: tuple[int, int]):
    tokens = torch.randn(1, 196, 8)
    expected = resample_abs_pos_embed(tokens, list(size), num_prefix_tokens=0)
    found = resize_position(tokens, *size).flatten(1, 2)
    # In float32, places up to 31 are 2e-6 off; so are weights, of 16 cells with values up to 5.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_model_in_half_precision(family: str, dtype: torch.dtype):
    model = filled(FAMILIES[family]()).to(dtype)
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 32, 44, dtype=dtype))
    assert all(out.dtype == dtype and out.isfinite().all() for out in outs)


def test_parameters_that_nothing_needs_are_not_made():
    whole, part = FAMILIES["vit"](), FAMILIES["vit"](out_indices=(0, 1))
    assert parameters(part.blocks) * 2 == parameters(whole.blocks)
    assert {name for name in part.state_dict() if "norm" in name and "blocks" not in name} == {
        f"norm{i}.{entry}" for i in (0, 1) for entry in ("weight", "bias")
    }
    short = FAMILIES["swin"](out_indices=0)
    assert len(short.stages) == 1
    assert len(short.downsamples) == 0
