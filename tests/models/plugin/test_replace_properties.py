"""What holds for models of other libraries with circular convolutions in them, on random cases."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import Bottleneck

from mmvitconv.models import replace_with_parc

MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision.resnet": lambda: torchvision.models.ResNet(
        Bottleneck, [1, 1, 2, 2], num_classes=5, width_per_group=8
    ),
    "timm.convnext": lambda: timm.models.ConvNeXt(
        depths=(1, 1, 2, 2), dims=(8, 8, 16, 16), num_classes=5
    ),
    "timm.vit": lambda: timm.models.VisionTransformer(
        64,
        16,
        embed_dim=16,
        depth=3,
        num_heads=2,
        num_classes=5,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    ),
}


@dataclass(frozen=True)
class Case:
    """How layers are replaced, and the images that the model gets then."""

    options: dict
    batch: int
    size: tuple[int, int]
    seed: int


# 32 pixels are the least that timm's ConvNeXt takes.
pixels = st.integers(32, 128)
cases = st.builds(
    Case,
    st.fixed_dictionaries(
        {"image_size": st.one_of(pixels, st.tuples(pixels, pixels))},
        optional={"position_embedding": st.booleans(), "bias": st.booleans()},
    ),
    st.integers(1, 3),
    st.tuples(pixels, pixels),
    st.integers(0, 99),
)


@pytest.mark.parametrize("name", MODELS)
def test_replaced_layers(name: str, search, count: Callable):
    def check(case: Case) -> None:
        count("shapes tried")
        count("property: replaced layers")
        torch.manual_seed(case.seed)
        model = MODELS[name]()
        report = replace_with_parc(model, **case.options)
        assert report.replaced
        x = torch.randn(case.batch, 3, *case.size)
        before = x.clone()
        model.eval()
        with torch.no_grad():
            outs = model(x)
            assert torch.equal(x, before), "the input was changed"
            assert outs.shape == (case.batch, 5)
            assert outs.isfinite().all()
            for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                assert torch.equal(other(x), outs), "a copy gives other values"
            limit = 1e-4 * outs.abs().max().clamp(min=1)  # other orders of sums
            alone = torch.cat([model(x[i : i + 1]) for i in range(case.batch)])
            assert (alone - outs).abs().max() <= limit, "an image alone"
            last = model(x.contiguous(memory_format=torch.channels_last))
            assert (last - outs).abs().max() <= limit, "memory format"
        assert (model(x) - outs).abs().max() <= limit, "prepared kernels"
        if case.batch > 1:
            model.train()(x).square().sum().backward()
            assert not [n for n, p in model.named_parameters() if p.grad is None]
            assert all(p.grad.isfinite().all() for p in model.parameters())

    search(check, cases, 10)
