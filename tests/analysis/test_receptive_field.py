"""Receptive fields against cases whose answer is known."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from mmvitconv.analysis.pictures import save_figure
from mmvitconv.analysis.receptive_field import (
    contribution_within,
    draw_receptive_fields,
    even_layer_scales,
    measure_reach,
    network_receptive_field,
    receptive_field,
    write_reach,
)
from mmvitconv.errors import UserError
from mmvitconv.models.layers import ParC
from mmvitconv.zoo.loading import LoadedModel
from tests.families import FAMILIES, shallow


def noise(size: int = 21, channels: int = 2, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, channels, size, size, generator=generator) for _ in range(count)]


def centred(size: int, side: int) -> np.ndarray:
    inside = abs(np.arange(size) - size // 2) <= side // 2
    return np.outer(inside, inside)


def over_channels(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x.movedim(1, -1), (2,)).movedim(-1, 1)


@pytest.mark.parametrize("size", [21, 24])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_one_convolution_sees_its_kernel(kernel: int, size: int):
    conv = nn.Conv2d(2, 4, kernel, padding=kernel // 2)
    field = receptive_field(conv, noise(size))
    assert np.array_equal(field > 0, centred(size, kernel))
    weight = conv.weight.detach().double().sum(0).abs().sum(0).numpy()
    start = size // 2 - kernel // 2
    part = slice(start, start + kernel)
    np.testing.assert_allclose(field[part, part], weight, rtol=1e-5)


def test_two_convolutions_see_the_sum_of_their_kernels():
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1))
    assert np.array_equal(receptive_field(model, noise()) > 0, centred(21, 5))


def test_the_global_average_is_flat():
    field = receptive_field(lambda x: x + x.mean(dim=(2, 3), keepdim=True) - x, noise())
    np.testing.assert_allclose(field, 2 / 21**2)
    held, area = contribution_within(field)
    np.testing.assert_allclose(held, area)


@pytest.mark.parametrize(("direction", "axis"), [("H", 0), ("W", 1)])
def test_parc_sees_a_whole_axis_and_nothing_beside_it(direction: str, axis: int):
    field = receptive_field(ParC(2, direction, length=15), noise())
    line = np.moveaxis(field, axis, 0)
    assert (line[:, 10] > 0).all()
    assert (np.delete(line, 10, axis=1) == 0).all()


def test_images_are_averaged_and_stages_chosen():
    def model(x: torch.Tensor) -> list[torch.Tensor]:
        return [x**2, 3 * x]

    images = noise()
    field = receptive_field(model, images, stage=0)
    wanted = np.mean([2 * image[0, :, 10, 10].abs().sum().item() for image in images])
    assert field[10, 10] == pytest.approx(wanted, rel=1e-6)
    assert receptive_field(model, images)[10, 10] == pytest.approx(6)
    batch = receptive_field(model, [torch.cat(images)], stage=0)
    np.testing.assert_allclose(batch, field, rtol=1e-6)
    with pytest.raises(UserError, match="stage must be an output of the model, -2 to 1, got 2"):
        receptive_field(model, images, stage=2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.mean(dim=(2, 3)), "has no centre"),
        (lambda x: 0 * x, "zero or not finite"),
        (lambda x: x / 0, "zero or not finite"),
        (over_channels, "as behind a norm over channels"),
    ],
    ids=["vector", "constant", "infinite", "norm"],
)
def test_what_has_no_receptive_field(model, message: str):
    with pytest.raises(UserError, match=message):
        receptive_field(model, noise())


def test_reach_of_known_maps():
    field = np.zeros((101, 101))
    field[50, 50], field[50, 60], field[20, 50] = 60, 30, 10
    found = measure_reach(field, (0.2, 0.6, 0.61, 0.9, 0.99))
    assert [reach.side for reach in found] == [1, 1, 21, 21, 61]
    assert [reach.area_ratio for reach in found] == pytest.approx(
        [(reach.side / 101) ** 2 for reach in found]
    )
    assert found[-1].side_ratio == pytest.approx(61 / 101)
    even = np.zeros((8, 8))
    even[0, 0] = 1
    assert measure_reach(even, (1.0,))[0].side_ratio == 1
    with pytest.raises(UserError, match="shares in"):
        measure_reach(even, (20,))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_field_with_and_without_its_output_norm(family: str):
    torch.manual_seed(0)
    model = FAMILIES[family](shallow(family)).eval()
    even_layer_scales(model)
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    field = network_receptive_field(LoadedModel(model, family, "random weights"), [image])
    # what is seen is seen through many paths: no position of the image's middle is left out
    assert (field[28:36, 28:36] > field.max() * 1e-6).all()
    for first, second in zip(before, model(image), strict=True):
        assert torch.equal(first, second)


class TokenNorm(nn.Module):
    """A convolution and a norm over channels, as other people's backbones have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 7, padding=3)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.conv(x)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        return [x, tokens.transpose(1, 2).reshape(x.shape)]


def test_output_norms_of_other_models_are_left_out():
    model = TokenNorm().eval()
    loaded = LoadedModel(model, "a", "random weights")
    before = model(noise()[0])
    with pytest.raises(UserError, match="as behind a norm over channels"):
        receptive_field(model, noise())
    field = network_receptive_field(loaded, noise())
    np.testing.assert_array_equal(field, receptive_field(model.conv, noise()))
    np.testing.assert_array_equal(field, network_receptive_field(loaded, noise(), stage=0))
    assert all(map(torch.equal, before, model(noise()[0])))


def test_slopes_are_no_layer_scales():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.PReLU(4))
    assert even_layer_scales(model) == 0
    assert (model[1].weight == 0.25).all()


def test_layer_scales_are_found_by_value():
    model = FAMILIES["FCViT"](shallow("FCViT"))
    names = [name for name, _ in model.named_parameters() if "layer_scale" in name]
    others = {k: v.clone() for k, v in model.state_dict().items() if k not in names}
    assert even_layer_scales(model) == len(names) > 0
    state = model.state_dict()
    assert all((state[name] == 1).all() for name in names)
    assert all(torch.equal(state[name], value) for name, value in others.items())


def test_picture_and_tables(tmp_path):
    fields = {"a $model$\nrandom": centred(21, 5) + 0.0, "b": centred(21, 9) + 0.0}
    path = tmp_path / "new" / "erf.png"
    save_figure(draw_receptive_fields(fields, np.zeros((21, 21, 3), np.uint8), "noise"), path)
    assert path.stat().st_size > 10_000
    reaches = {name: measure_reach(field) for name, field in fields.items()}
    table, full = write_reach(path, reaches, {"seed": 0})
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["side"]) for row in rows if row["threshold"] == "0.99"] == [
        ("a $model$\nrandom", "5"),
        ("b", "9"),
    ]
    content = json.loads(full.read_text(encoding="utf-8"))
    assert content["settings"] == {"seed": 0}
    assert len(content["reach"]) == 8
