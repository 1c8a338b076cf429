"""Weights that ``init_cfg`` names and nobody has loaded yet cannot be forgotten."""

import copy
import pickle
import warnings

import pytest
import torch
from families import FAMILIES, shallow
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmvitconv.errors import CheckpointError
from mmvitconv.models import FCViT
from mmvitconv.registry import MODELS
from mmvitconv.weights import adapt_checkpoint, check_match

IMAGE = torch.rand(1, 3, 64, 64)


def build(**options) -> FCViT:
    return FCViT(shallow("FCViT"), **options)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of other random numbers."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(build().state_dict(), path)
    return path


def first(model: nn.Module) -> torch.Tensor:
    return next(model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_runs_on_random_weights(name, file):
    init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    model = MODELS.build({"type": f"mmvitconv.{name}", "arch": shallow(name), "init_cfg": init_cfg})
    whole = nn.Sequential(nn.Identity(), copy.deepcopy(model))
    for use in (lambda: model(IMAGE), model.state_dict, lambda: whole(IMAGE)):
        with pytest.raises(CheckpointError, match=rf"{name} has random weights.*weights.pth"):
            use()


@pytest.mark.parametrize("kind", ["Pretrained", PretrainedInit])
def test_no_file_at_all(kind):
    model = build(init_cfg={"type": kind})
    with pytest.raises(CheckpointError, match="FCViT is of type Pretrained, but names no"):
        model.init_weights()


@pytest.mark.parametrize("given", [str, lambda file: file, lambda file: {
    "type": "Pretrained", "checkpoint": str(file)}])  # fmt: skip
def test_a_file_in_any_form(given, file):
    model = build(init_cfg=given(file))
    model.init_weights()
    assert model(IMAGE)[0].isfinite().all()
    assert torch.equal(first(model), next(iter(torch.load(file).values())))


def test_weights_from_elsewhere(file):
    """Whatever loads: PyTorch, MMEngine, a whole model's checkpoint."""
    given = torch.load(file)
    for load in (
        lambda model: model.load_state_dict(given),
        lambda model: load_state_dict(model, given),
        lambda model: nn.Sequential(model).load_state_dict({f"0.{k}": v for k, v in given.items()}),
    ):
        model = build(init_cfg="elsewhere://weights.pth")
        load(model)
        assert torch.equal(first(model), next(iter(given.values())))
        assert model(IMAGE)
        assert model.state_dict().keys() == given.keys()


def test_comparing_needs_no_weights(file):
    """As a test does, which loads a checkpoint and nothing else."""
    model = build(init_cfg="elsewhere://weights.pth")
    check_match(adapt_checkpoint(torch.load(file), model)["state_dict"], model)
    with pytest.raises(CheckpointError, match="random weights"):
        model.state_dict()


def test_a_resumed_run_takes_the_name_away(file):
    model = build(init_cfg=str(file))
    model.init_cfg = None
    assert model(IMAGE)


def test_a_missing_file_is_named_at_once(tmp_path):
    with pytest.warns(UserWarning, match=r"no file '.*nowhere.pth', which init_cfg of this FCViT"):
        model = build(init_cfg=str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match=r"nowhere.pth"):
        model.init_weights()
    with pytest.raises(CheckpointError, match="random weights"):
        model(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(init_cfg="mmvitconv://fcvit_tiny")  # an address: nothing is asked


def test_average_that_was_copied_before(file):
    """MMEngine copies the model, and the copy's entries are taken, before the weights load."""

    class Whole(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = build(init_cfg=str(file))

    class Runner:
        model = Whole()

    hook = EMAHook(update_buffers=True)
    hook.before_run(Runner)
    Runner.model.init_weights()
    hook.ema_model.update_parameters(Runner.model)
    kept = hook.ema_model.module.state_dict()
    assert all(torch.equal(kept[k], v) for k, v in Runner.model.state_dict().items())


def test_copies_of_a_loaded_model(file):
    model = build(init_cfg=str(file))
    model.init_weights()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(first(other), first(model))
        assert other(IMAGE)
