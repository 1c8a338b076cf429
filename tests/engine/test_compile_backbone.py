from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from torch import nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))


def make_runner(model: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(model=model, logger=MMLogger.get_current_instance())


@pytest.mark.parametrize("event", ["before_train", "before_val", "before_test"])
def test_only_the_backbone_is_compiled_and_nothing_else_changes(event: str) -> None:
    torch.manual_seed(0)
    model = Model()
    keys = list(model.state_dict())
    images = torch.rand(2, 3, 9, 7)
    expected = model(images)
    hook = HOOKS.build({"type": "mmvitconv.CompileBackboneHook", "backend": "aot_eager"})
    getattr(hook, event)(make_runner(model))
    assert model.backbone._compiled_call_impl is not None
    assert model.head._compiled_call_impl is None
    assert model._compiled_call_impl is None
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(images), expected)


def test_backbone_is_compiled_once() -> None:
    model = Model()
    hook = HOOKS.build({"type": "mmvitconv.CompileBackboneHook", "backend": "eager"})
    hook.before_train(make_runner(model))
    compiled = model.backbone._compiled_call_impl
    hook.before_val(make_runner(model))
    assert model.backbone._compiled_call_impl is compiled


@pytest.mark.parametrize(("argument", "value"), [("mode", "fast"), ("dynamic", "yes")])
def test_wrong_arguments(argument: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be .* got '{value}'"):
        HOOKS.build({"type": "mmvitconv.CompileBackboneHook", argument: value})
