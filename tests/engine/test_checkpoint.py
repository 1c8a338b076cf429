import argparse
import os
from collections import OrderedDict, deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import nn

from mmvitconv.engine import checkpoint
from mmvitconv.engine.checkpoint import KIND, SafeCheckpointHook, from_plain, to_plain
from mmvitconv.errors import CheckpointError
from mmvitconv.weights import files
from mmvitconv.weights.addresses import SCHEMES

pytestmark = pytest.mark.usefixtures("safe_loading")


class Exploit:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def test_plain_data_survive_a_safe_reader(tmp_path: Path) -> None:
    values = {
        "history": HistoryBuffer([1.0, 2.5], [1, 2], max_length=7),
        "scalars": [np.float64(1.5), np.int32(3), np.bool_(True), np.str_("x")],
        "arrays": [
            np.arange(6, dtype=np.uint16).reshape(2, 3),
            np.zeros((0, 2), np.float32),
            np.array(4.0),
            np.array(["a", "b"]),
        ],
        "random state": np.random.RandomState(0).get_state(),
        "containers": OrderedDict(ids=deque([1, 2]), pair=(1, "a"), path=Path("/x")),
        "tensor": torch.ones(2),
    }
    torch.save(to_plain(values), tmp_path / "plain.pth")
    back = from_plain(torch.load(tmp_path / "plain.pth", weights_only=True))
    assert back["history"].data[0].tolist() == [1.0, 2.5]
    assert back["history"].data[1].tolist() == [1, 2]
    assert back["history"].max_length == 7
    back["history"].update(3.5)
    assert back["history"].mean(window_size=3) == pytest.approx((1 + 2.5 + 3.5) / 4)
    assert back["scalars"] == [1.5, 3, True, "x"]
    for expected, actual in zip(values["arrays"][:3], back["arrays"][:3], strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)
    assert back["arrays"][3] == ["a", "b"]
    restored = np.random.RandomState(1)
    restored.set_state(back["random state"])
    assert restored.rand() == np.random.RandomState(0).rand()
    assert back["containers"] == OrderedDict(ids=[1, 2], pair=(1, "a"), path="/x")
    assert torch.equal(back["tensor"], torch.ones(2))


@pytest.mark.parametrize("dtype", ["U12", "U1000000", "O", "V9", "complex256", "M8[s]", "?x"])
def test_arrays_that_no_run_saved(dtype: str) -> None:
    """A few bytes, expanded, would take gigabytes as text."""
    values = torch.zeros(1).expand(60_000_000)
    array = {KIND: "ndarray", "values": values, "shape": [60_000_000], "dtype": dtype}
    with pytest.raises(CheckpointError, match=r"it\['a'\]: an array .* is not what a run"):
        from_plain({"a": array})


def test_foreign_objects_are_not_written() -> None:
    with pytest.raises(TypeError, match="cannot hold Namespace"):
        to_plain({"args": [argparse.Namespace(lr=1)]})


@pytest.mark.parametrize("scheme", ["", "http"])
def test_readers_refuse_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / "bad.pth"
    torch.save({"state_dict": {}, "extra": Exploit(marker)}, file)
    monkeypatch.setattr(files, "fetch", lambda address: file)
    name = "https://example.org/models/bad.pth?download=1" if scheme else str(file)
    with pytest.raises(CheckpointError, match="refused"):
        CheckpointLoader.load_checkpoint(name)
    # what MMEngine's other schemes and the fork's fall-back do
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        torch.load(file, weights_only=False)
    assert not marker.exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_addresses_are_read_by_ours(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "load_file", lambda name, map_location: {"name": name})
    address = f"{scheme}://some/thing.pth"
    assert CheckpointLoader.load_checkpoint(address) == {"name": address}


def test_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"'/none.pth' does not exist"):
        CheckpointLoader.load_checkpoint("/none.pth")


class Model(BaseModel):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict:
        return {"loss": self.head(self.backbone(inputs)).square().mean()}


def build_runner(folder: Path, name: str, epochs: int, **settings: object) -> Runner:
    torch.manual_seed(0)
    return Runner(
        model=settings.pop("model", None) or Model(),
        work_dir=str(folder),
        train_dataloader={
            "batch_size": 2,
            "dataset": [{"inputs": torch.full((4,), float(index))} for index in range(4)],
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.1}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        custom_hooks=[{"type": "mmvitconv.SafeCheckpointHook"}, *settings.pop("hooks", [])],
        experiment_name=f"{name}_{folder.name}",
        **settings,
    )


def test_run_with_averaged_weights_goes_on_exactly(tmp_path: Path) -> None:
    hooks = [{"type": "EMAHook", "momentum": 0.5}]
    whole = build_runner(tmp_path / "whole", "whole", 4, hooks=hooks)
    whole.train()
    half = build_runner(tmp_path / "half", "half", 2, hooks=hooks)
    half.train()
    assert not list((tmp_path / "half").glob("*.partial"))
    saved = tmp_path / "half" / "epoch_2.pth"
    rest = build_runner(
        tmp_path / "rest", "rest", 4, hooks=hooks, resume=True, load_from=str(saved)
    )
    rest.train()
    assert (rest.epoch, rest.iter) == (4, 8)
    assert len(rest.message_hub.log_scalars["train/loss"].data[0]) == 8
    torch.testing.assert_close(rest.model.state_dict(), whole.model.state_dict())
    averages = [
        next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.state_dict()
        for runner in (rest, whole)
    ]
    torch.testing.assert_close(*averages)


def test_averaged_weights_start_from_a_file_in_another_layout(tmp_path: Path) -> None:
    given = {key: torch.full_like(value, 3.0) for key, value in Model().state_dict().items()}
    torch.save({f"module.{key}": value for key, value in given.items()}, tmp_path / "bare.pth")
    runner = build_runner(tmp_path, "bare", 1, hooks=[{"type": "EMAHook"}])
    runner.call_hook("before_run")
    runner.load_checkpoint(str(tmp_path / "bare.pth"))
    (average,) = (hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    torch.testing.assert_close(dict(runner.model.state_dict()), given)
    torch.testing.assert_close(dict(average.state_dict()), given)


def load(model: nn.Module, checkpoint: dict, training: bool, resume: bool = False) -> dict:
    class Loop(BaseLoop):
        def __init__(self) -> None:
            pass

        def run(self) -> None:
            pass

    runner = SimpleNamespace(
        model=model,
        _resume=resume,
        _load_from="given.pth",
        _train_loop=Loop() if training else {},
        logger=MMLogger.get_current_instance(),
    )
    SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint


def test_heads_may_differ_at_the_start_of_training_only() -> None:
    checkpoint = {"state_dict": Model(classes=5).state_dict()}
    load(Model(classes=2), dict(checkpoint), training=True)
    with pytest.raises(CheckpointError, match="head"):
        load(Model(classes=2), dict(checkpoint), training=False)


def test_backbone_must_always_match() -> None:
    state = Model().state_dict()
    del state["backbone.bias"]
    with pytest.raises(CheckpointError, match=r"backbone\.bias"):
        load(Model(), {"state_dict": state}, training=True)


def test_bare_and_prefixed_weights_are_brought_into_layout() -> None:
    state = {f"module.{key}": value for key, value in Model().state_dict().items()}
    checkpoint = load(Model(), dict(state), training=False)
    assert checkpoint["state_dict"].keys() == Model().state_dict().keys()


def test_weights_alone_cannot_be_resumed() -> None:
    with pytest.raises(CheckpointError, match="instead of --resume"):
        load(Model(), {"state_dict": Model().state_dict()}, training=True, resume=True)


def test_message_hub_entries_that_are_no_data_are_left_out(tmp_path: Path) -> None:
    hub = MessageHub.get_instance(f"hub_{tmp_path.name}")
    hub.update_info("best", np.float32(0.5))
    hub.update_info("thing", argparse.Namespace())
    checkpoint = {"meta": {"score": np.float64(1)}, "message_hub": hub.state_dict()}
    logger = MMLogger.get_current_instance()
    runner = SimpleNamespace(logger=logger, hooks=[], train_loop=None)
    SafeCheckpointHook().before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / "x.pth")
    back = torch.load(tmp_path / "x.pth", weights_only=True)
    assert back["message_hub"]["runtime_info"] == {"best": 0.5}
    assert back["message_hub"]["resumed_keys"] == {"best": True}
    assert back["meta"]["score"] == 1.0
