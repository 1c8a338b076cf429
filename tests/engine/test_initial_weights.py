"""What a training starts from is chosen, said, and written down."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvitconv.engine.checkpoint import SafeCheckpointHook
from mmvitconv.engine.initial_weights import RANDOM, InitialWeightsHook, choose_initial_weights
from mmvitconv.errors import CheckpointError
from mmvitconv.weights import load_file

NAME = "mmvitconv://parcnet_s"
PUBLISHED = {"type": "Pretrained", "checkpoint": NAME}


def config(init_cfg: dict | None = None, **options) -> Config:
    """A detector whose backbone would be frozen in part."""
    backbone = {"type": "mmvitconv.ParCNet", "arch": "s", "norm_eval": True, "frozen_stages": 0}
    model = {"backbone": {**backbone, "init_cfg": init_cfg}, "neck": {"type": "FPN"}}
    return Config({"model": model, "default_scope": "mmdet", **options})


def chosen(cfg: Config) -> tuple[str, list[str]]:
    """What the hook in the config says."""
    (hook,) = cfg.custom_hooks
    assert hook.type == "mmvitconv.InitialWeightsHook"
    return hook.source, hook.lifted


FROZEN = ["norm_eval=True", "frozen_stages=0"]


@pytest.mark.parametrize(
    ("init_cfg", "options", "weights", "from_scratch", "source"),
    [
        (PUBLISHED, {}, None, False, NAME),
        (
            [{"type": "Normal", "layer": "Linear"}, PUBLISHED],
            {},
            None,
            False,
            NAME,
        ),
        (PUBLISHED, {}, "own.pth", False, "own.pth"),
        (PUBLISHED, {"load_from": "all.pth"}, None, False, "all.pth"),
        (None, {}, "own.pth", False, "own.pth"),
        (None, {}, None, False, RANDOM),
        (PUBLISHED, {}, None, True, RANDOM),
        (PUBLISHED, {"load_from": "all.pth"}, None, True, RANDOM),
        (
            PUBLISHED,
            {"load_from": "last.pth", "resume": True},
            None,
            False,
            NAME,
        ),
        (PUBLISHED, {"load_from": "last.pth", "resume": True}, None, True, RANDOM),
    ],
)
def test_source(init_cfg, options, weights, from_scratch, source):
    cfg = config(init_cfg, **options)
    choose_initial_weights(cfg, weights, from_scratch)
    is_random = source == RANDOM
    assert chosen(cfg) == (source, FROZEN if is_random else [])
    backbone = cfg.model.backbone
    assert (backbone.norm_eval, backbone.frozen_stages) == ((False, -1) if is_random else (True, 0))
    if weights:
        assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": weights}
    if from_scratch:
        assert backbone.init_cfg is None
        assert cfg.get("load_from") == ("last.pth" if cfg.get("resume") else None)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_the_config_that_a_run_has_written_says_the_same(from_scratch):
    cfg = config(PUBLISHED)
    choose_initial_weights(cfg, None, from_scratch)
    first = chosen(cfg)
    choose_initial_weights(cfg, None, False)
    assert chosen(cfg) == first


@pytest.mark.parametrize("hooks", [5, "hook", {"type": "EMAHook"}])
def test_hooks_that_are_no_list_stay_for_the_builder_to_name(hooks):
    cfg = config(PUBLISHED, custom_hooks=hooks)
    choose_initial_weights(cfg, None, False)
    assert cfg.custom_hooks == hooks


def test_what_a_foreign_backbone_freezes_by_default_is_lifted():
    cfg = Config({"model": {"backbone": {"type": "mmdet.ResNet", "depth": 50}}})
    cfg.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    choose_initial_weights(cfg, None, True)
    assert chosen(cfg) == (RANDOM, ["norm_eval=True"])
    assert cfg.model.backbone.norm_eval is False


class Tiny(nn.Module):
    """A model for MMEngine's runner that remembers what its init_cfg was at initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.layer.init_cfg = dict(PUBLISHED)
        self.read: list = []

    def init_weights(self) -> None:
        self.read.append(self.layer.init_cfg)

    def train_step(self, data, optim_wrapper) -> dict:
        loss = self.layer(torch.ones(1, 1)).sum()
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}


def train(folder: Path, source: str, lifted: list[str], resume: str | None = None) -> Runner:
    """One epoch, or another one after a checkpoint."""
    runner = Runner(
        Tiny(),
        str(folder),
        train_dataloader=DataLoader([0, 1]),
        train_cfg={"by_epoch": True, "max_epochs": 1 if resume is None else 2},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        custom_hooks=[SafeCheckpointHook(), InitialWeightsHook(source, lifted)],
        load_from=resume,
        resume=resume is not None,
        experiment_name=f"{folder.name}{resume is not None}{source[:3]}{len(lifted)}",
    )
    runner.train()
    return runner


@pytest.mark.parametrize(("source", "lifted"), [(NAME, []), (RANDOM, FROZEN)])
def test_said_and_written_down(source, lifted, tmp_path, safe_loading, runner_state):
    runner = train(tmp_path, source, lifted)
    (log,) = tmp_path.glob("*/*.log")
    (line,) = (line for line in log.read_text().splitlines() if "the training started" in line)
    assert f"started from {source}" in line
    assert all(name in line for name in lifted)
    assert ("WARNING" in line) is (source == RANDOM)
    assert runner.model.read == [PUBLISHED]
    checkpoint = tmp_path / "epoch_1.pth"
    meta = load_file(checkpoint)["meta"]
    assert meta["initial_weights"] == {"source": source, "lifted": lifted}
    # a run that goes on reads nothing but its checkpoint, and keeps what it started from
    again = train(tmp_path, "another name of these", lifted, str(checkpoint))
    assert again.model.read == [None]
    meta = load_file(tmp_path / "epoch_2.pth")["meta"]
    assert meta["initial_weights"]["source"] == source
    with pytest.raises(CheckpointError, match=r"epoch_1.pth' is of a run that started from .*both"):
        train(tmp_path, "x", [] if lifted else FROZEN, str(checkpoint))


@pytest.mark.parametrize(
    "wrong", [None, 3, "x", [], {}, {"source": 1, "lifted": []}, {"source": "a", "lifted": [1]}]
)
def test_what_a_checkpoint_says_is_checked(wrong):
    runner = SimpleNamespace(_resume=True, _load_from="bad.pth")
    with pytest.raises(CheckpointError, match=r"'bad.pth': meta.initial_weights must hold"):
        InitialWeightsHook("a").after_load_checkpoint(runner, {"meta": {"initial_weights": wrong}})
