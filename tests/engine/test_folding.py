"""Folding before a test: which models are folded, and what they compute."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseTTAModel

from mmvitconv.engine.folding import FoldHook
from mmvitconv.models import ConvMixer

SIZES = {"embed_dims": 8, "depth": 2, "kernel_size": 3, "patch_size": 2}


class Model(torch.nn.Module):
    def __init__(self, backbone: ConvMixer) -> None:
        super().__init__()
        self.backbone = backbone

    def test_step(self, images: torch.Tensor) -> tuple:
        return self.backbone(images)


class Averaging(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


def make_runner(model: torch.nn.Module, *hooks: object) -> SimpleNamespace:
    return SimpleNamespace(model=model, hooks=hooks, logger=logging.getLogger("test"))


@pytest.fixture
def backbone() -> ConvMixer:
    torch.manual_seed(0)
    backbone = ConvMixer(SIZES).double()
    backbone(torch.randn(4, 3, 8, 8, dtype=torch.float64))  # statistics that are not 0 and 1
    return backbone


def test_a_wrapped_model_is_folded_in_place_and_computes_the_same(backbone):
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = backbone.eval()(images)
        backbone.train()
        FoldHook().before_test(make_runner(Averaging(Model(backbone))))
        torch.testing.assert_close(backbone(images), expected)
    assert hasattr(backbone, "inference_only")


def test_weights_that_are_exchanged_stay(backbone):
    FoldHook().before_test(make_runner(backbone, EMAHook()))
    assert not hasattr(backbone, "inference_only")
