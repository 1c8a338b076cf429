"""Every backbone gives finite values under autocast, whatever image it gets."""

from collections.abc import Sequence
from functools import cache
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from families import DISTINCT, FAMILIES, smallest
from torch import Tensor, nn

from mmvitconv.models.base import Backbone
from mmvitconv.ops.precision import saturate, saturating_relu
from mmvitconv.registry import MODELS

DTYPES = [torch.bfloat16, torch.float16]
LARGE = 1e4
NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}


def make_images(size: int) -> dict[str, Tensor]:
    """Images of shape (2, 3, size, size) that are far from what a network is trained on."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, size, size)
    images = {
        "noise": torch.randn(shape, generator=generator) * LARGE,
        "grey": torch.randn(2, 1, size, size, generator=generator).repeat(1, 3, 1, 1) * LARGE,
        "positive": torch.rand(shape, generator=generator) * LARGE,
        "hot pixel": torch.zeros(shape),
        **{f"{value:g}": torch.full(shape, float(value)) for value in (0, 3, LARGE, -LARGE)},
    }
    images["hot pixel"][:, :, size // 3, size // 2] = LARGE
    return images


@cache
def make_model(name: str, arch: str) -> Backbone:
    torch.manual_seed(0)
    return FAMILIES[name](arch)


def check(model: nn.Module, inputs: Tensor | Sequence[Tensor], dtype: torch.dtype) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype):
        outs = model(inputs)
    for index, out in enumerate(outs):
        assert out.dtype in (dtype, torch.float32)
        bad = [image for image, values in enumerate(out) if not torch.isfinite(values).all()]
        assert not bad, f"output {index} of images {bad}"
    for key, buffer in model.named_buffers():
        assert not buffer.is_floating_point() or torch.isfinite(buffer).all(), key


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("name", FAMILIES)
def test_smallest(name: str, dtype: torch.dtype) -> None:
    model = make_model(name, smallest(name))
    state = {key: buffer.clone() for key, buffer in model.named_buffers()}
    layouts = cycle([torch.channels_last, torch.contiguous_format])
    next(layouts) if dtype is torch.float16 else None
    for size in (32, 1):
        images = make_images(size)
        # in evaluation samples do not influence each other: all images are one batch
        batch = torch.cat([image[:1] for image in images.values()])
        check(model.eval(), batch.contiguous(memory_format=next(layouts)), dtype)
        for kind in ("noise", "0", "10000") if size > 1 else ("noise",):
            check(model.train(), images[kind].contiguous(memory_format=next(layouts)), dtype)
            for key, buffer in model.named_buffers():
                buffer.copy_(state[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_in_bfloat16(name: str) -> None:
    model = make_model(name, smallest(name)).train()
    images = make_images(32)
    for image in (images["noise"], images["0"], make_images(1)["noise"]):
        if image.shape[-1] == 1:
            # two values a channel: the slope of a BatchNorm that trains on them has no bound
            for module in model.modules():
                module.train(not isinstance(module, nn.BatchNorm2d))
        model.zero_grad()
        # oneDNN (torch 2.14) leaves memory that nobody wrote in the bfloat16 gradient of a padded
        # kernel of which a map of one pixel sees one tap only
        with (
            torch.backends.mkldnn.flags(enabled=image.shape[-1] > 1),
            torch.autocast("cpu", torch.bfloat16),
        ):
            outs = model(image)
            sum(out.float().square().mean() for out in outs).backward()
        for key, parameter in model.named_parameters():
            assert torch.isfinite(parameter.grad).all(), key
    model.zero_grad()


@pytest.mark.parametrize(
    ("name", "arch"), [(name, arch) for name, arch in DISTINCT if arch != smallest(name)]
)
def test_larger_architectures(name: str, arch: str) -> None:
    images = make_images(32)
    batch = torch.cat([images[kind][:1] for kind in ("noise", "10000")])
    model = make_model.__wrapped__(name, arch)  # not kept: they are large
    for training in (False, True):
        check(model.train(training), batch, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize(
    "cfg",
    [
        {"type": "mmvitconv.LightViTFPN", "in_channels": [8, 8, 8, 8], "out_channels": 8},
        {"type": "mmvitconv.IsotropicPyramid", "in_channels": 8, "patch_size": 8},
        {"type": "mmvitconv.IsotropicPyramid", "in_channels": 8, "patch_size": 8, "mode": "last"},
    ],
    ids=lambda cfg: f"{cfg['type']}-{cfg.get('mode')}",
)
def test_necks(cfg: dict, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    neck = MODELS.build(cfg)
    # linear layers whose results may be ten times as large: float16 has no room for more
    for scale in (0.0, 1e3):
        for values in (torch.ones(2, 8, 8, 8), torch.randn(2, 8, 8, 8), torch.randn(2, 8, 1, 1)):
            for training in (False, True):
                check(neck.train(training), [values * scale] * 4, dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_saturation_changes_nothing_else(dtype: torch.dtype) -> None:
    values = [-60000.0, -1.5, -0.0, 0.0, 2.0**-20, 1.0, 65504.0]
    x, plain = (torch.tensor(values).to(dtype).requires_grad_() for _ in range(2))
    y, expected = saturating_relu(x.clone()), F.relu(plain)
    assert torch.equal(y, expected)
    weights = torch.arange(7.0).to(dtype)
    y.backward(weights)
    expected.backward(weights)
    inside = slice(0, -1 if dtype is torch.float16 else None)  # the largest value has no slope
    assert torch.equal(x.grad[inside], plain.grad[inside])
    assert torch.equal(saturate(x), x)


def test_saturation_makes_infinite_finite_but_hides_no_nan() -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=torch.float16)
    assert saturate(x)[:2].tolist() == [65504.0, -65504.0]
    assert saturate(x)[2].isnan()
    y = saturating_relu(x.clone())
    assert y[:2].tolist() == [65504.0, 0.0]
    assert y[2].isnan()
    wide = torch.tensor([torch.inf, 1e30])
    assert torch.equal(saturate(wide), wide)
    assert torch.equal(saturating_relu(wide.clone()), wide)
