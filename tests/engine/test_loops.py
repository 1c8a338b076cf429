"""Runs that are stopped anywhere and go on end with the very same bits."""

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmvitconv.engine.loops import VALIDATED_AT, SeededDataset
from mmvitconv.engine.randomness import derive_seed
from mmvitconv.engine.resume import find_resumable
from mmvitconv.errors import CheckpointError, UserError

pytestmark = pytest.mark.usefixtures("safe_loading")
EPOCH, ITERATION = "mmvitconv.ResumableEpochLoop", "mmvitconv.ResumableIterLoop"
# 12 samples in batches of 2: 6 iterations in an epoch, 3 epochs
SAMPLES, BATCH, PER_EPOCH, TOTAL = 12, 2, 6, 18


class Noise(Dataset):
    """Every sample depends on all three generators, as random changes of images do."""

    metainfo: ClassVar[dict] = {"name": "noise"}

    def __init__(self, length: int = SAMPLES) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return {"inputs": torch.linspace(0, index + noise, 4), "index": index}


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, index, mode: str = "loss"):
        outputs = self.head(self.backbone(inputs))
        return {"loss": outputs.square().mean()} if mode == "loss" else [outputs.mean()]


@METRICS.register_module(name="mmvitconv_test_metric", force=True)
class Metric(BaseMetric):
    default_prefix = "test"

    def process(self, data_batch, data_samples) -> None:
        self.results += [float(sample) + random.random() * 1e-9 for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {"score": abs(float(np.mean(results)))}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Killer(Hook):
    """Ends the run at a place, after all other hooks."""

    priority = "LOWEST"

    def __init__(self, point: str, iteration: int) -> None:
        self.point, self.iteration = point, iteration

    def _kill(self, runner: Runner, point: str) -> None:
        if point == self.point and runner.iter >= self.iteration:
            raise Killed

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self._kill(runner, "train")

    def before_val(self, runner) -> None:
        self._kill(runner, "before validation")

    def after_val(self, runner) -> None:
        self._kill(runner, "after validation")


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # seconds on a busy disk


def build(work_dir: Path, kind: str, resume: Path | None = None, **settings) -> Runner:
    """A runner with everything that has a state: averages, momentum, schedules, best score."""
    by_epoch = kind == EPOCH
    start = {} if resume is None else {"resume": True, "load_from": str(resume)}
    build.count = getattr(build, "count", 0) + 1
    loader = {
        "dataset": Noise(),
        "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": True},
        "batch_size": BATCH,
        "num_workers": 0,
        "collate_fn": {"type": "default_collate"},
    }
    validation = dict(loader, sampler={"type": "DefaultSampler", "shuffle": False})
    checkpoint = {
        "type": "CheckpointHook",
        "interval": 1 if by_epoch else 5,
        "by_epoch": by_epoch,
        "save_best": "test/score",
        "rule": "less",
        "max_keep_ckpts": 1,
        **settings.pop("checkpoint", {}),
    }
    length = {"max_epochs": 3} if by_epoch else {"max_iters": TOTAL}
    torch.manual_seed(0)
    return Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader={**loader, **settings.pop("loader", {})},
        val_dataloader=validation,
        val_evaluator={"type": "mmvitconv_test_metric"},
        val_cfg={},
        train_cfg={"type": kind, "val_interval": 1 if by_epoch else 4, **length},
        optim_wrapper={
            "optimizer": {"type": "AdamW", "lr": 0.01},
            **settings.pop("optim_wrapper", {}),
        },
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 9},
            {"type": "CosineAnnealingLR", "by_epoch": by_epoch, "T_max": 3 if by_epoch else TOTAL},
        ],
        default_hooks={"checkpoint": checkpoint},
        custom_hooks=[
            {"type": "mmvitconv.SafeCheckpointHook"},
            {"type": "EMAHook", "momentum": 0.5},
            *settings.pop("hooks", []),
        ],
        experiment_name=f"loops_{build.count}_{work_dir.name}",
        randomness=settings.pop("randomness", {"seed": 3}),
        log_level="ERROR",
        **start,
        **settings,
    )


def state_of(runner: Runner) -> dict:
    """What must be equal at the end."""
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    hub = runner.message_hub
    curves = {key: hub.log_scalars[key].data[0] for key in hub.log_scalars if "time" not in key}
    best = hub.runtime_info["best_ckpt"]
    return {
        "place": (runner.epoch, runner.iter),
        "weights": runner.model.state_dict(),
        "average": average.state_dict(),
        "optimizer": runner.optim_wrapper.state_dict(),  # with that of a loss scaler
        "schedules": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        "curves": {key: torch.from_numpy(value) for key, value in curves.items()},
        "best": (Path(best).name, hub.runtime_info["best_score"]),
        "files": sorted(path.name for path in Path(runner.work_dir).glob("*.pth")),
        "best weights": torch.load(best, weights_only=True)["state_dict"],
    }


def assert_same(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if key in ("place", "best", "files", "schedules"):
            assert actual[key] == value, key
        else:
            torch.testing.assert_close(
                actual[key], value, rtol=0, atol=0, msg=lambda m, k=key: f"{k}: {m}"
            )


def run_with_kills(work_dir: Path, kind: str, kills: list[tuple[str, int]], **settings) -> Runner:
    """Train to the end, killed at each of the places."""
    for point, iteration in kills:
        resume, _ = find_resumable(work_dir)
        hooks = [*settings.get("hooks", []), Killer(point, iteration)]
        runner = build(work_dir, kind, resume, **{**settings, "hooks": hooks})
        with pytest.raises(Killed):
            runner.train()
    resume, warnings = find_resumable(work_dir)
    assert not warnings
    runner = build(work_dir, kind, resume, **settings)
    runner.train()
    return runner


SETTINGS = {
    "plain": {},
    "no seed given": {"randomness": {"seed": None}},
    "seeds by rank": {"randomness": {"seed": 1, "diff_rank_seed": True}},
    "accumulated": {"optim_wrapper": {"accumulative_counts": 4}},
    "saved inside epochs": {"checkpoint": {"by_epoch": False, "interval": 4}},
    "loss scaler": {
        "optim_wrapper": {
            "type": "AmpOptimWrapper",
            "dtype": "bfloat16",
            "loss_scale": {"init_scale": 64.0, "growth_interval": 5},
        }
    },
    "in workers": {"loader": {"num_workers": 2}},
    "in lasting workers": {"loader": {"num_workers": 2, "persistent_workers": True}},
    "incomplete batches dropped": {"loader": {"drop_last": True, "dataset": Noise(SAMPLES + 1)}},
}


@pytest.mark.usefixtures("scaler_on_cpu")
@pytest.mark.parametrize("kind", [EPOCH, ITERATION])
@pytest.mark.parametrize("name", SETTINGS)
def test_killed_runs_end_with_the_same_bits(
    tmp_path: Path, kind: str, name: str, count: Callable
) -> None:
    settings = SETTINGS[name]
    if name == "no seed given":  # the first process draws one
        first = build(tmp_path / "whole", kind, **settings)
        settings = {"randomness": {"seed": first.seed}}
    whole = build(tmp_path / "whole", kind, **settings)
    whole.train()
    kills = [("train", 3), ("train", 9), ("before validation", 11), ("after validation", 16)]
    if name == "no seed given":
        first = build(tmp_path / "killed", kind, hooks=[Killer("train", 10)], **settings)
        with pytest.raises(Killed):
            first.train()
        kills, settings = [("train", 14)], {"randomness": {"seed": None}}
    killed = run_with_kills(tmp_path / "killed", kind, kills, **settings)
    assert_same(state_of(killed), state_of(whole))
    count("kills of small runs, no bit different", len(kills))
    if name == "loss scaler":
        assert killed.optim_wrapper.loss_scaler.get_scale() == 64.0 * 2**3  # 18 steps


@pytest.mark.parametrize("kind", [EPOCH, ITERATION])
def test_killed_after_every_iteration(tmp_path: Path, kind: str, count: Callable) -> None:
    settings = {"checkpoint": {"by_epoch": False, "interval": 1}}
    whole = build(tmp_path / "whole", kind, **settings)
    whole.train()
    kills = [("train", iteration) for iteration in range(1, TOTAL)]
    killed = run_with_kills(tmp_path / "killed", kind, kills, **settings)
    assert_same(state_of(killed), state_of(whole))
    count("kills of small runs, no bit different", len(kills))


@pytest.mark.parametrize(
    ("kind", "checkpoint"),
    [
        (EPOCH, {}),
        (EPOCH, {"by_epoch": False, "interval": 3}),
        (ITERATION, {"by_epoch": False, "interval": 3}),
    ],
)
@pytest.mark.parametrize("point", ["train", "before validation"])
def test_a_validation_that_was_made_up_is_saved_as_if_in_one_go(
    tmp_path: Path, kind: str, checkpoint: dict, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(self: Metric, results: list) -> dict:
        return {"score": 1 / MessageHub.get_current_instance().get_info(VALIDATED_AT)}

    def saved(folder: Path) -> dict:
        path, _ = find_resumable(folder)
        hub = torch.load(path, weights_only=True)["message_hub"]
        paths = ("cfg", "last_ckpt", "best_ckpt", "experiment_name")
        notes = {key: value for key, value in hub["runtime_info"].items() if key not in paths}
        return {"logs": hub["log_scalars"]["val/test/score"]["logs"], "notes": notes}

    monkeypatch.setattr(Metric, "compute_metrics", compute)
    settings = {"checkpoint": checkpoint}
    build(tmp_path / "whole", kind, **settings).train()
    run_with_kills(tmp_path / "killed", kind, [(point, TOTAL - (point == "train"))], **settings)
    whole, killed = saved(tmp_path / "whole"), saved(tmp_path / "killed")
    torch.testing.assert_close(killed["logs"], whole["logs"], rtol=0, atol=0)
    assert killed["notes"] == whole["notes"]
    assert {"best_score", "epoch", "iter"} <= whole["notes"].keys()


@pytest.mark.parametrize("kind", [EPOCH, ITERATION])
def test_number_of_workers_changes_nothing(tmp_path: Path, kind: str) -> None:
    states = []
    for workers in (0, 1, 3):
        runner = build(tmp_path / str(workers), kind, loader={"num_workers": workers})
        runner.train()
        states.append(state_of(runner))
    assert_same(states[1], states[0])
    assert_same(states[2], states[0])


def test_random_numbers_are_not_repeated(tmp_path: Path) -> None:
    drawn, masks = [], []

    class Spy(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            drawn.extend((data_batch["inputs"][:, -1] - data_batch["index"]).tolist())
            masks.append(torch.rand(()).item())

    build(tmp_path, EPOCH, hooks=[Spy()], loader={"num_workers": 2}).train()
    assert len(set(drawn)) == len(drawn) == 3 * SAMPLES
    assert len(set(masks)) == TOTAL


def test_finite_sampler_in_rounds(tmp_path: Path) -> None:
    settings = {
        "loader": {"sampler": {"type": "DefaultSampler", "shuffle": True}},
        "checkpoint": {"interval": 7},
    }
    whole = build(tmp_path / "whole", ITERATION, **settings)
    whole.train()
    kills = [("train", 8), ("train", 15)]
    killed = run_with_kills(tmp_path / "killed", ITERATION, kills, **settings)
    assert_same(state_of(killed), state_of(whole))


def test_passing_over_loads_nothing(tmp_path: Path) -> None:
    loaded = []

    class Counting(Noise):
        def __getitem__(self, index: int) -> dict:
            loaded.append(index)
            return super().__getitem__(index)

    settings = {"loader": {"dataset": Counting()}}
    with pytest.raises(Killed):
        build(tmp_path, ITERATION, hooks=[Killer("train", 16)], **settings).train()
    loaded.clear()
    build(tmp_path, ITERATION, find_resumable(tmp_path)[0], **settings).train()
    assert len(loaded) == 3 * BATCH  # of iterations 16, 17, 18


def test_missed_validation_is_made_up_once(tmp_path: Path) -> None:
    for _ in range(3):
        runner = build(tmp_path, EPOCH, find_resumable(tmp_path)[0], hooks=[Killer("train", 7)])
        with pytest.raises(Killed):
            runner.train()
        assert len(runner.message_hub.log_scalars["val/test/score"].data[0]) == 1
    assert runner.message_hub.runtime_info["iter_of_last_validation"] == PER_EPOCH


def test_other_batch_size_starts_the_epoch_again(tmp_path: Path) -> None:
    settings = {"checkpoint": {"by_epoch": False, "interval": 4}}
    with pytest.raises(Killed):
        build(tmp_path, EPOCH, hooks=[Killer("train", 9)], **settings).train()
    found, _ = find_resumable(tmp_path)
    assert found.name == "iter_8.pth"
    runner = build(tmp_path, EPOCH, found, loader={"batch_size": 6}, **settings)
    runner.train()
    assert runner.epoch == 3


def test_streams_are_loaded_again_up_to_the_place(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __len__(self) -> int:
            return SAMPLES

        def __iter__(self):
            yield from ({"inputs": torch.full((4,), float(i)), "index": i} for i in range(SAMPLES))

    def build_stream(name: str, resume: Path | None = None, **settings) -> Runner:
        runner = build(tmp_path / name, EPOCH, resume, **settings)
        runner._train_dataloader = DataLoader(Stream(), batch_size=BATCH)
        return runner

    saved = {"checkpoint": {"by_epoch": False, "interval": 4}}
    whole = build_stream("whole", **saved)
    whole.train()
    with pytest.raises(Killed):
        build_stream("killed", hooks=[Killer("train", 9)], **saved).train()
    killed = build_stream("killed", find_resumable(tmp_path / "killed")[0], **saved)
    killed.train()
    assert_same(state_of(killed), state_of(whole))


def test_no_batches_are_an_error(tmp_path: Path) -> None:
    runner = build(
        tmp_path,
        ITERATION,
        loader={
            "batch_size": 20,
            "drop_last": True,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
        },
    )
    with pytest.raises(UserError, match="have no batch"):
        runner.train()


def test_seeded_dataset_is_the_dataset_for_everyone_else() -> None:
    dataset = SeededDataset(Noise())
    assert dataset.metainfo == {"name": "noise"}
    assert len(dataset) == SAMPLES
    dataset.pipeline = "new"
    assert dataset.dataset.pipeline == "new"
    copied = pickle.loads(pickle.dumps(dataset))
    one, other = copied[(5, 3)], dataset[(5, 3)]
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(dataset[(6, 3)]["inputs"], one["inputs"])
    torch.testing.assert_close(dataset.__getitems__([(5, 3)])[0], one, rtol=0, atol=0)


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = {derive_seed(a, "x", b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "iteration", 0) == 5330549153799591471


def test_checkpoint_is_never_without_a_whole_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of renaming (the last one at which a kill loses the new file) others exist."""
    seen = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        names = sorted(path.name for path in tmp_path.glob("*.pth"))
        seen.append((Path(target).name, names))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    scores = iter((3.0, 2.0, 1.0))
    monkeypatch.setattr(Metric, "compute_metrics", lambda self, results: {"score": next(scores)})
    build(tmp_path, EPOCH).train()
    assert next(name for name, _ in seen if name.startswith("epoch")) == "epoch_1.pth"
    for target, names in seen[1:]:
        assert any(name.startswith("epoch") for name in names), (target, names)
    later_best = [names for target, names in seen if target.startswith("best")][1:]
    assert later_best
    assert all(any(name.startswith("best") for name in names) for names in later_best)
    left = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert [name.split("_")[0] for name in left] == ["best", "epoch"]
    assert not list(tmp_path.glob("*.partial"))


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    runner = build(tmp_path, EPOCH)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"epoch_1.pth cannot be written .*No space left"):
        runner.train()
    assert not list(tmp_path.glob("*.partial"))
