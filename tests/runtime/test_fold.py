"""Folding changes no value, on every family, and a folded model says that it cannot be trained."""

import copy
import pickle

import pytest
import torch
from families import FAMILIES, shallow
from torch import Tensor, nn

from mmvitconv.models.layers import ParC
from mmvitconv.runtime import fold

# What a family builds differently from its defaults, and what there must be less of afterwards.
VARIANTS = [
    *((name, {}) for name in FAMILIES),
    ("ConvMixer", {"act_cfg": {"type": "ReLU"}}),
    ("DynConvViT", {"mixer": "ddw"}),
    ("FCViT", {"layer_scale_init_value": None}),
    ("ParCNet", {"mixer": "bkc_ca", "parc_bias": True}),
    ("ParCNet", {"output_stride": 8}),
]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and every statistic a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if not values.is_floating_point():
            continue
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            values.data.copy_(0.5 + noise.abs())
        elif values.dim() <= 1:
            values.data.copy_(1 + 0.5 * noise)
        else:
            values.data.add_(noise.to(values) * values.data.std(correction=0))
    return model


def build(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return randomise(FAMILIES[name](shallow(name), **kwargs)).double().eval()


def assert_equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_values_stay(name: str, options: dict):
    model = build(name, **options)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    single = copy.deepcopy(model).float()
    for size in ((2, 3, 64, 96), (1, 3, 75, 33)):
        x = torch.randn(size, dtype=torch.float64)
        with torch.no_grad():
            expected = model(x)
            assert_equal(folded(x), expected, 1e-10)
            assert_equal(fold(single)(x.float()), single(x.float()), 1e-5)
    assert folded is not model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_something_is_folded(name: str):
    folded = fold(build(name))
    left = [type(module) for module in folded.modules()]
    assert ParC not in left
    norms = sum(kind is nn.BatchNorm2d for kind in left)
    if name == "ConvMixer":  # behind the 1x1 convolution and the stem: the next block pads
        assert norms == 1 + folded.arch.depth
    else:
        assert norms == 0


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        # behind the stem of a map or in front of an attention, a context, a patch or an output
        ("FCViT", 4 + 4),
        ("LightViT", 1 + 3 + 3),
        ("ParCConvNeXt", 1 + 3 + 4),
        ("DynConvViT", 1 + 1),
        ("DynConvSwin", 1 + 4 + 4),
    ],
)
def test_affine_parts_are_folded(name: str, kept: int):
    def count(model: nn.Module) -> int:
        kinds = (nn.LayerNorm, nn.GroupNorm)
        return sum(isinstance(m, kinds) and m.weight is not None for m in model.modules())

    assert count(fold(build(name))) == kept < count(build(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_model_is_for_inference(name: str):
    folded = fold(build(name), inplace=True)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    with pytest.raises(RuntimeError, match="folded for inference"):
        nn.Sequential(folded).train()
    folded.eval()
    assert fold(folded) is folded
    again = pickle.loads(pickle.dumps(folded))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert_equal(again(x), folded(x), 0)


def test_training_mode_is_refused():
    with pytest.raises(RuntimeError, match=r"call model.eval\(\) first"):
        fold(build("FCViT").train())


def test_models_of_others_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    assert fold(model) is model


def test_backbones_are_found_in_larger_models():
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build("FCViT", out_indices=(3,))
            self.head = nn.Linear(self.backbone.out_channels[0], 5).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x)[0].mean((2, 3)))

    model = Classifier().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_equal((fold(model)(x),), (model(x),), 1e-10)
    assert not isinstance(fold(model).backbone.patch_embeds[0].norm, nn.BatchNorm2d)


def test_watched_and_replaced_layers_stay():
    model = build("FCViT")
    seen = []
    block = model.stages[0][0]
    block.channel_mixer.fc1.register_forward_hook(lambda *_: seen.append(1))
    block.channel_mixer.fc2 = nn.Sequential(block.channel_mixer.fc2)
    folded = fold(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert_equal(folded(x), model(x), 1e-10)
    assert folded.stages[0][0].norm2.weight is not None
    assert folded.stages[0][0].layer_scale_2 is not None
    assert len(seen) == 2
