"""Run state is data: whatever a checkpoint says, a run goes on rightly or ends in one sentence."""

import copy
import logging
import os
import random
import re
import shutil
from collections import deque
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_file_backend
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmvitconv.checks.non_finite import NonFiniteError
from mmvitconv.engine.checkpoint import LateRemoval
from mmvitconv.engine.loops import VALIDATED_AT
from mmvitconv.engine.resume import find_resumable
from mmvitconv.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("safe_loading")
EPOCHS, PER_EPOCH = 4, 5
# by loop: a checkpoint on the way (the second in the middle of a step) and the last
FILES = {"epochs": ("epoch_2.pth", "epoch_4.pth"), "iterations": ("iter_9.pth", "iter_20.pth")}


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor, mode: str = "loss") -> Any:
        outputs = self.head(self.backbone(inputs))
        return {"loss": outputs.square().mean()} if mode == "loss" else [outputs.mean()]


@METRICS.register_module(name="mmvitconv_run_state_metric", force=True)
class Metric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {"score": 1.0}  # the first is the best: the others make early stopping wait


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def build(work_dir: Path, resume: Path | None = None, **settings: Any) -> Runner:
    build.count = getattr(build, "count", 0) + 1
    start = {} if resume is None else {"resume": True, "load_from": str(resume)}
    loader = {
        "dataset": [{"inputs": torch.linspace(0, index, 3)} for index in range(2 * PER_EPOCH)],
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "batch_size": 2,
        "num_workers": 0,
        "collate_fn": {"type": "default_collate"},
    }
    by_epoch = settings.pop("loop", "epochs") == "epochs"
    epochs = settings.pop("epochs", EPOCHS)
    checkpoint = {
        "type": "CheckpointHook",
        "interval": 1 if by_epoch else 3,
        "by_epoch": by_epoch,
        "save_best": "score",
        "rule": "greater",
        **settings.pop("checkpoint", {}),
    }
    train_cfg = {"type": "mmvitconv.ResumableEpochLoop", "max_epochs": epochs}
    if not by_epoch:
        lengths = {"max_iters": epochs * PER_EPOCH, "val_interval": PER_EPOCH}
        train_cfg = {"type": "mmvitconv.ResumableIterLoop", **lengths}
    schedules = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 7},
        {"type": "CosineAnnealingLR", "by_epoch": by_epoch, "T_max": 5, "begin": 1, "end": 9},
    ]
    torch.manual_seed(0)
    return Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator={"type": "mmvitconv_run_state_metric"},
        val_cfg={},
        train_cfg=train_cfg,
        optim_wrapper={
            "optimizer": {"type": "AdamW", "lr": 0.01},
            "accumulative_counts": 2,
            "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 0.5}}},
            **settings.pop("optim_wrapper", {}),
        },
        param_scheduler=settings.pop("param_scheduler", schedules),
        default_hooks={"checkpoint": checkpoint},
        custom_hooks=[
            {"type": "mmvitconv.SafeCheckpointHook"},
            {"type": "mmvitconv.NonFiniteHook"},
            {"type": "EMAHook", "momentum": 0.5},
            {
                "type": "EarlyStoppingHook",
                "monitor": "score",
                "rule": "greater",
                "patience": settings.pop("patience", 99),
            },
            *settings.pop("hooks", []),
        ],
        experiment_name=f"run_state_{build.count}_{work_dir.name}",
        randomness={"seed": 3},
        log_level="ERROR",
        **start,
        **settings,
    )


def final_state(work_dir: Path, loop: str = "epochs") -> dict[str, Any]:
    """What must be equal at the end: all but paths, names and times."""
    saved = torch.load(work_dir / FILES[loop][1], weights_only=True)
    hub = saved["message_hub"]
    left_out = re.compile("time|eta|cfg|ckpt|experiment_name")
    saved["meta"] = {key: saved["meta"][key] for key in ("epoch", "iter", "seed")}
    saved["message_hub"] = {
        part: {key: value for key, value in hub[part].items() if not left_out.search(key)}
        for part in ("log_scalars", "runtime_info")
    }
    return saved


def assert_same(one: Any, other: Any, place: str = "") -> None:
    if isinstance(other, dict):
        assert isinstance(one, dict), place
        assert one.keys() >= other.keys(), place  # what else is there harms no one
        for key in other:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(other, list):
        assert len(one) == len(other), place
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{place}[{index}]")
    elif isinstance(other, Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """The checkpoints, and everything that is not a log of a run."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not re.match(r"\d{8}_\d{6}", path.relative_to(folder).parts[0])
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with the checkpoints of all epochs."""
    folder = tmp_path_factory.mktemp("trained") / "work"
    build(folder).train()
    return folder


def nodes(value: Any, place: tuple = ()) -> Iterator[tuple]:
    yield place
    if isinstance(value, dict):
        for key in value:
            yield from nodes(value[key], (*place, key))
    elif isinstance(value, (list, tuple)):
        for index in range(len(value)):
            yield from nodes(value[index], (*place, index))


REMOVED = object()
NAN, INFINITE = float("nan"), float("inf")


def other_values(value: Any, chance: random.Random) -> Iterator[Any]:
    """Values that may take the place of one: other kinds, then others of its kind."""
    yield from (REMOVED, "word", "", "/", None, [], {}, [1, "a"], {"a": 1}, {1: None}, True, b"x")
    yield from (NAN, INFINITE, -INFINITE, -1, -0.5, 10**18, 10**400, 0, 1, 2, 1e30, complex(0, 1))
    yield from (torch.zeros(3, 3), torch.zeros(()), torch.tensor([], dtype=torch.int64))
    yield from (torch.tensor(NAN), torch.zeros(2, dtype=torch.bool), torch.zeros(4).to_sparse())
    if isinstance(value, Tensor):
        yield value[:-1] if value.ndim and len(value) else value.reshape(1, 1)
        yield value.reshape(1, *value.shape)
        yield value.to(torch.complex64)
        if value.numel() and value.is_floating_point():
            for number in (NAN, INFINITE, -INFINITE, -1e-3):
                changed = value.clone()
                changed.view(-1)[chance.randrange(value.numel())] = number
                yield changed
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (-value - 1, value + 1, value * 3 + 1, str(value), [value], float(value))
    if isinstance(value, list):
        yield from (value[1:], [*value, *value[:1]], value[::-1], dict(enumerate(value)))
    if isinstance(value, dict):
        yield {**value, "extra": 1}
        yield {**value, 0: 1}
        yield {**value, "extra": {"a": torch.zeros(2)}}
        yield list(value.items())
        yield {str(key): item for key, item in list(value.items())[1:]}
    if isinstance(value, str):
        yield from (f"{value}x", value[::-1], f"/{value}", f"../{value}", "\0", "x" * 10**5)


def mutate(checkpoint: dict, place: tuple, value: Any) -> dict:
    changed = copy.deepcopy(checkpoint)
    if not place:
        return {} if value is REMOVED else value
    target = changed
    for key in place[:-1]:
        target = target[key]
    if isinstance(target, tuple):  # betas
        return changed
    if value is REMOVED:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return changed


# what a file may say without a run being another: texts, clocks, curves, what is read by no one
FREE = re.compile(
    r"meta\.(cfg|experiment_name|time|mmengine_version|dataset_meta)"
    r"|runtime_info\.(cfg|experiment_name|mmengine_version|eta|best_score|max_|epoch|iter|dataset|loop)"
    r"|log_scalars|resumed_keys|run_state\.unsaved|(last|best)_ckpt|keep_ckpt|iter_of_last"
    r"|(EarlyStoppingHook.0|EarlyStoppingHook)\.(best_score|wait_count)|skips"
    r"|state_dict\.|meta\.seed|runtime_info\.seed|state\.\d+\.|exp_avg|accumulated"
)


def try_file(
    trained: Path, folder: Path, checkpoint: Any, place: tuple, expected: dict, loop: str = "epochs"
) -> str | None:
    """Resume from a checkpoint; return what is wrong with what happens."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for path in trained.iterdir():
        if path.suffix == ".pth":
            shutil.copyfile(path, work / path.name)
    file = work / FILES[loop][0]
    torch.save(checkpoint, file)
    before, around = snapshot(work), snapshot(trained)
    try:
        build(work, file, loop=loop).train()
    except CheckpointError as error:
        text = str(error)
        if file.name not in text:
            return f"without the file's name: {text[:200]}"
        named = [*(str(key) for key in place), "meta.iter", "was refused", "the checkpoint"]
        if place and not any(name in text for name in named):
            return f"without the field: {text[:200]}"
        if len(text) > 2000:
            return f"long: {len(text)}"
        after = snapshot(work)
        return None if after == before else f"touched: {sorted(after.keys() ^ before.keys())}"
    except NonFiniteError:  # a gradient may have been so when the file was written
        return None if place[0] == "accumulated_gradients" else "stopped late"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if lost := [name for name in before if not (work / name).exists()]:
        return f"removed: {lost}"
    if snapshot(trained) != around or [*folder.iterdir()] != [work]:
        return "touched something outside of the work directory"
    try:
        assert_same(final_state(work, loop), expected)
    except AssertionError as error:
        if not FREE.search(".".join(map(str, place))):
            return f"goes on, and ends otherwise: {str(error)[:100]}"
    return None


def cases(checkpoint: dict, number: int, seed: int) -> Iterator[tuple[tuple, Any]]:
    """Draw places of a checkpoint, and other values for them."""
    chance = random.Random(seed)
    places = [place for place in nodes(checkpoint) if place]
    for _ in range(number):
        # shallow ones as often as deep ones, of which there are many
        depth = chance.randint(1, max(map(len, places)))
        place = chance.choice([p for p in places if len(p) == depth])
        value = checkpoint
        for key in place:
            value = value[key]
        yield place, chance.choice(list(other_values(value, chance)))


def run_fuzzer(trained: Path, folder: Path, number: int, seed: int, loop: str) -> list[str]:
    checkpoint = torch.load(trained / FILES[loop][0], weights_only=True)
    expected = final_state(trained, loop)
    assert try_file(trained, folder, checkpoint, (), expected, loop) is None
    wrong = []
    for place, value in cases(checkpoint, number, seed):
        changed = mutate(checkpoint, place, value)
        problem = try_file(trained, folder, changed, place, expected, loop)
        if problem:
            shown = "(removed)" if value is REMOVED else repr(value)[:60]
            wrong.append(f"{'.'.join(map(str, place))} = {shown}: {problem}")
    return wrong


@pytest.mark.usefixtures("runner_state")
@pytest.mark.parametrize("loop", FILES)
def test_any_field_may_be_anything(tmp_path: Path, count: Any, loop: str) -> None:
    """To try others: run this file as a script, with a number, a seed and the loop."""
    build(tmp_path / "trained", loop=loop).train()
    assert run_fuzzer(tmp_path / "trained", tmp_path / "tried", 40, seed=0, loop=loop) == []
    count("fields of checkpoints changed", 40)


def copy_of(trained: Path, folder: Path, epochs: int = 2) -> Path:
    """A copy of the work directory as it was after some epochs."""
    folder.mkdir(parents=True)
    for name in (*(f"epoch_{n}.pth" for n in range(1, epochs + 1)), "best_score_epoch_1.pth"):
        shutil.copy2(trained / name, folder / name)
    (folder / "last_checkpoint").write_text(str(trained / f"epoch_{epochs}.pth"))
    return folder


def with_notes(file: Path, target: Path, **notes: Any) -> Path:
    """Write a checkpoint whose message hub says something else."""
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["message_hub"]["runtime_info"].update(notes)
    checkpoint["message_hub"]["resumed_keys"].update(dict.fromkeys(notes, True))
    if "best_score" in notes:
        checkpoint["message_hub"]["log_scalars"]["val/score"]["logs"].fill_(notes["best_score"])
    torch.save(checkpoint, target)
    return target


BETTER = {"best_score": -1.0}  # so that the first validation finds a better one, and removes


@pytest.mark.parametrize(
    "place",
    [
        "{out}/precious",
        "{out}/precious/notes.txt",
        "{out}/precious/{name}_1.pth",
        "../out/precious",
        "/",
        "",
        ".",
    ],
)
@pytest.mark.parametrize("key", ["best_ckpt", "last_ckpt"])
def test_paths_in_a_file_never_remove_anything(
    trained: Path, tmp_path: Path, key: str, place: str
) -> None:
    outside = tmp_path / "out"
    (outside / "precious" / "best_score_epoch_1.pth").mkdir(parents=True)
    (outside / "precious" / "notes.txt").write_text("years of work")
    before = snapshot(outside)
    work = copy_of(trained, tmp_path / "work")
    name = "best_score_epoch" if key == "best_ckpt" else "epoch"
    notes = {**BETTER, key: place.format(out=outside, name=name)}
    file = with_notes(trained / "epoch_2.pth", work / "epoch_2.pth", **notes)
    if place.endswith(".pth"):  # a name that this run might have given
        build(work, file, checkpoint={"max_keep_ckpts": 1}).train()
    else:
        with pytest.raises(CheckpointError, match=f"epoch_2.pth: .*runtime_info.{key} is "):
            build(work, file).train()
    assert snapshot(outside) == before
    assert list(work.glob("best_*.pth"))


@pytest.mark.parametrize("score", [-1.0, 1e6, 0.0])
def test_a_best_score_that_no_validation_gave(trained: Path, tmp_path: Path, score: float) -> None:
    work = copy_of(trained, tmp_path / "work")
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    checkpoint["message_hub"]["runtime_info"]["best_score"] = score
    torch.save(checkpoint, work / "epoch_2.pth")
    log = StringIO()
    runner = build(work, work / "epoch_2.pth")
    runner.logger.addHandler(logging.StreamHandler(log))
    runner.train()
    assert (work / "best_score_epoch_1.pth").is_file()
    assert f"best_score is {score}, the best or worst score of no validation" in log.getvalue()


def test_folders_in_the_work_directory_stay(trained: Path, tmp_path: Path) -> None:
    work = copy_of(trained, tmp_path / "work")
    (work / "best_score_epoch_1.pth").unlink()
    for name in ("best_score_epoch_1.pth", "epoch_1.pth/deep"):
        shutil.rmtree(work / name.split("/")[0], ignore_errors=True)
        (work / name.split("/")[0]).unlink(missing_ok=True)
        (work / name).mkdir(parents=True)
    notes = {**BETTER, "best_ckpt": str(work / "best_score_epoch_1.pth"), "keep_ckpt_ids": [1, 2]}
    file = with_notes(trained / "epoch_2.pth", work / "epoch_2.pth", **notes)
    build(work, file, checkpoint={"max_keep_ckpts": 1}).train()
    assert (work / "best_score_epoch_1.pth").is_dir()
    assert (work / "epoch_1.pth" / "deep").is_dir()


def test_a_folder_is_never_removed_late_either(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("file", "other/file"):
        (tmp_path / name).write_text("")
    backend = LateRemoval(get_file_backend(str(tmp_path)), str(tmp_path))
    backend.rmtree(str(tmp_path / "folder"))
    backend.remove(str(tmp_path / "other" / "file"))
    backend.remove(str(tmp_path / "file"))
    backend.remove_pending(kept="")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "other"]


@pytest.mark.parametrize("way", ["fork", "copy", "links"])
def test_the_original_stays_as_it_was(trained: Path, tmp_path: Path, way: str) -> None:
    original = copy_of(trained, tmp_path / "original")
    (original / "last_checkpoint").write_text(str(original / "epoch_2.pth"))
    notes = {**BETTER, "best_ckpt": str(original / "best_score_epoch_1.pth")}
    with_notes(trained / "epoch_2.pth", original / "epoch_2.pth", **notes, keep_ckpt_ids=[1, 2])
    before = snapshot(original)
    other = tmp_path / "other"
    if way == "copy":
        shutil.copytree(original, other)
    elif way == "links":
        other.mkdir()
        for path in original.iterdir():
            (other / path.name).symlink_to(path)
    file = original / "epoch_2.pth" if way == "fork" else find_resumable(other)[0]
    assert way == "fork" or file.parent == other
    build(other, file, checkpoint={"max_keep_ckpts": 1}).train()
    assert snapshot(original) == before
    # in its own folder a run removes what it has replaced
    names = sorted(path.name for path in other.glob("*.pth"))
    assert names == ["best_score_epoch_2.pth", f"epoch_{EPOCHS}.pth"]
    assert (other / "last_checkpoint").read_text() == str(other / f"epoch_{EPOCHS}.pth")


def test_settings_come_from_the_config(trained: Path, tmp_path: Path) -> None:
    """A file cannot change how a run trains; what it says otherwise is named."""
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    for group in checkpoint["optimizer"]["param_groups"]:
        group.update(weight_decay=1e9, betas=(0.0, 0.5), initial_lr=7.0)
    checkpoint["param_schedulers"][1].update(eta_min=9.0, T_max=1, param_name="weight_decay")
    assert try_file(trained, tmp_path, checkpoint, ("a",), final_state(trained)) is None


class Learning(Hook):
    """Has attributes of all kinds."""

    def __init__(self) -> None:
        self.count, self.sums, self.seen, self.window = 0, {}, torch.zeros(2), deque(maxlen=3)
        self.flag, self.word, self.thing, self.best = False, "a", SimpleNamespace(n=0), None

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.count += 1
        self.sums[runner.iter] = self.sums.get(runner.iter - 1, 0.0) + self.count
        self.seen += self.count
        self.window.append(runner.iter)
        self.flag, self.word, self.best = True, self.word + "b", self.count / 3
        self.thing.n += 1


ONE_CYCLE = [{"type": "OneCycleLR", "eta_max": 0.02, "total_steps": 20, "by_epoch": False}]


@pytest.mark.usefixtures("runner_state")
@pytest.mark.parametrize(
    ("schedules", "place", "value"),
    [
        (None, ("optimizer", "param_groups", 0, "lr"), 0.5),
        (None, ("optimizer", "base_param_settings", "lr"), 10**18),
        (ONE_CYCLE, ("optimizer", "param_groups", 0, "max_lr"), 2.0),
        (ONE_CYCLE, ("optimizer", "base_param_settings", "max_lr"), -1),
        (
            ONE_CYCLE,
            ("param_schedulers", 0, "_schedule_phases", 0, "end_step"),
            torch.tensor([True, False]),
        ),
    ],
)
def test_other_settings_are_named_and_do_not_count(
    tmp_path: Path, schedules: list | None, place: tuple, value: Any
) -> None:
    """A rate that no schedule changes is a setting; so is what a schedule notes in a group."""
    build(tmp_path / "whole", param_scheduler=schedules).train()
    expected = final_state(tmp_path / "whole")
    checkpoint = torch.load(tmp_path / "whole" / "epoch_2.pth", weights_only=True)
    torch.save(mutate(checkpoint, place, value), tmp_path / "changed.pth")
    log = StringIO()
    runner = build(tmp_path / "rest", tmp_path / "changed.pth", param_scheduler=schedules)
    runner.logger.addHandler(logging.StreamHandler(log))
    runner.train()
    assert_same(final_state(tmp_path / "rest"), expected)
    assert place[-1] in log.getvalue() or place[-2] in log.getvalue()


def test_hooks_keep_what_they_have_learnt(tmp_path: Path) -> None:
    whole, rest = Learning(), Learning()
    build(tmp_path / "whole", hooks=[whole]).train()
    log = StringIO()
    handler = logging.StreamHandler(log)
    runner = build(tmp_path / "rest", tmp_path / "whole" / "epoch_2.pth", hooks=[rest])
    runner.logger.setLevel(logging.WARNING)
    runner.logger.addHandler(handler)
    runner.train()
    for name in ("count", "sums", "window", "best"):
        assert getattr(rest, name) == getattr(whole, name), name
    assert rest.window.maxlen == 3
    assert torch.equal(rest.seen, whole.seen)
    # named when the run goes on, and when the first checkpoint is written
    assert "does not hold Learning.flag, Learning.word, Learning.thing" in log.getvalue()
    assert rest.thing.n < whole.thing.n


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_early_stopping_goes_on_waiting(
    tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [1.0, 2.0, 1.5, 1.9, 1.0, 1.0, 1.0, 1.0, 1.0]

    def compute(self: Metric, results: list) -> dict:
        done = MessageHub.get_current_instance().get_info(VALIDATED_AT)
        return {"score": scores[done // PER_EPOCH - 1]}

    monkeypatch.setattr(Metric, "compute_metrics", compute)

    def train(work: Path, resume: Path | None = None) -> tuple[int, int, float]:
        runner = build(work, resume, epochs=9, patience=3)
        runner.train()
        hook = next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))
        return runner.epoch, hook.wait_count, hook.best_score

    expected = train(tmp_path / "whole")
    assert expected == (5, 3, 2.0)
    assert train(tmp_path / "rest", tmp_path / "whole" / f"epoch_{epoch}.pth") == expected


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    class Stop(Hook):
        def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
            runner.train_loop.stop_training = True

    build(tmp_path, hooks=[Stop()]).train()
    runner = build(tmp_path, tmp_path / "epoch_1.pth", hooks=[Stop()])
    runner.train()
    assert runner.epoch == 1


def test_older_files_still_resume(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    del checkpoint["run_state"], checkpoint["meta"]["run_state"]
    expected = final_state(trained)
    del expected["run_state"]
    assert try_file(trained, tmp_path, checkpoint, ("run_state",), expected) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("meta", "iter"), 10**18),
        (("meta", "iter"), -1),
        (("meta", "epoch"), "2"),
        (("meta", "epoch"), EPOCHS + 1),
        (("optimizer", "state", 0, "exp_avg_sq"), torch.full((4, 3), NAN)),
        (("optimizer", "state", 0, "exp_avg_sq"), torch.full((4, 3), -1e-9)),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(5)),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(1, 3).expand(4, 3)),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(4, 3).to(torch.float8_e5m2)),
        (("optimizer", "state", 0, "step"), torch.tensor(10.0).to(torch.float8_e5m2)),
        (("optimizer", "state", 0, "step"), torch.tensor(0.0)),
        (("optimizer", "state", 0, "step"), torch.tensor(1.5)),
        (("optimizer", "state", 0, "step"), torch.tensor(5.0).bfloat16()),
        (("optimizer", "state", 0), REMOVED),
        (("optimizer", "param_groups", 0, "lr"), REMOVED),
        (("optimizer", "param_groups", 0, "lr"), NAN),
        (("optimizer", "param_groups", 0, "lr"), 10**18),
        (("param_schedulers", 0), []),
        (("param_schedulers", 0, "_global_step"), 9),
        (("param_schedulers",), REMOVED),
        (("ema_state_dict",), REMOVED),
        (("ema_state_dict", "module.head.weight"), torch.full((1, 4), INFINITE)),
        (("ema_state_dict", "module.head.weight"), torch.zeros(1, 4).to(torch.float8_e5m2)),
        (("state_dict", "head.weight"), torch.zeros(1, 4).to(torch.float8_e5m2)),
        (("run_state",), REMOVED),
        (("run_state", "hooks", "EarlyStoppingHook"), REMOVED),
        (("run_state", "hooks", "EarlyStoppingHook", 0, "wait_count"), "1"),
        (("message_hub", "runtime_info", "keep_ckpt_ids"), ["../1"]),
        (("message_hub", "log_scalars", "train/loss", "counts"), torch.zeros(3)),
        (("accumulated_gradients",), []),
    ],
)
def test_known_fields(trained: Path, tmp_path: Path, place: tuple, value: Any) -> None:
    work = copy_of(trained, tmp_path / "work")
    file = (
        trained / "epoch_1.pth" if place[0] == "accumulated_gradients" else trained / "epoch_2.pth"
    )
    torch.save(mutate(torch.load(file, weights_only=True), place, value), work / file.name)
    before = snapshot(work)
    with pytest.raises(CheckpointError) as caught:
        build(work, work / file.name).train()
    assert f"{work / file.name}: " in str(caught.value)
    assert place[0] in str(caught.value)
    assert snapshot(work) == before


def forge(checkpoint: dict, kind: str) -> str:
    """Change what a file says about its run, with nothing else against it; return the field."""
    optimizer, info = checkpoint["optimizer"], checkpoint["message_hub"]["runtime_info"]
    state = optimizer["state"]
    if kind == "nothing kept":
        optimizer["state"] = {}
        checkpoint["run_state"]["entries"]["optimizer"] = 0
        return "optimizer.state is empty after 5 steps, of which it keeps step, exp_avg"
    if kind == "nothing kept, by MMEngine":
        optimizer["state"] = {}
        del checkpoint["run_state"], checkpoint["meta"]["run_state"]
        return "optimizer.state is empty after 5 steps"
    if kind == "one step for all":
        for entry in state.values():
            entry["step"] = state[0]["step"]
        return r"optimizer.state\[\d\].step shares its memory with optimizer.state\[\d\].step"
    if kind == "one moment for two":
        state[0]["exp_avg"] = state[0]["exp_avg_sq"]
        return "exp_avg(_sq)? shares its memory with .*exp_avg"
    if kind == "parts of one":
        whole = torch.zeros(14)
        state[0]["exp_avg"], state[0]["exp_avg_sq"] = whole[:12].view(4, 3), whole[2:].view(4, 3)
        return "exp_avg_sq shares its memory with .*exp_avg"
    length = {"far": 10**12, "beyond dates": 10**15}[kind]
    info.update(max_epochs=EPOCHS, max_iters=EPOCHS * length, epoch=1, iter=2 * length - 1)
    checkpoint["meta"]["iter"] = 2 * length
    schedules = checkpoint["param_schedulers"]
    schedules[0].update(_global_step=2 * length, last_step=6, start_factor=0.2)
    return f"max_iters makes epochs of {length} iterations; 100000 are the most"


KINDS = ["nothing kept", "nothing kept, by MMEngine", "one step for all", "one moment for two"]


@pytest.mark.parametrize("kind", [*KINDS, "parts of one", "far", "beyond dates"])
def test_files_that_agree_with_themselves_only(trained: Path, tmp_path: Path, kind: str) -> None:
    work = copy_of(trained, tmp_path / "work")
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    problem = forge(checkpoint, kind)
    torch.save(checkpoint, work / "epoch_2.pth")
    before = snapshot(work)
    with pytest.raises(CheckpointError, match=problem):
        build(work, work / "epoch_2.pth").train()
    assert snapshot(work) == before


@pytest.mark.usefixtures("runner_state")
def test_gradients_that_share_memory_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "work").train()
    file = tmp_path / "work" / "epoch_1.pth"  # in the middle of a step
    checkpoint = torch.load(file, weights_only=True)
    (part,) = checkpoint["accumulated_gradients"]
    part["backbone.0.bias"] = part["backbone.1.bias"]
    torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match=r"accumulated_gradients.* shares its memory with"):
        build(tmp_path / "work", file).train()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_step_not_yet_made_leaves_nothing(tmp_path: Path, optimizer: str) -> None:
    """Plain SGD keeps nothing ever; AdamW nothing in the middle of its first step."""
    counts = 2 if optimizer == "SGD" else 2 * PER_EPOCH + 2
    wrapper = {"optimizer": {"type": optimizer, "lr": 0.01}, "accumulative_counts": counts}
    build(tmp_path, optim_wrapper=wrapper).train()
    file = tmp_path / "epoch_2.pth"
    state = torch.load(file, weights_only=True)["optimizer"]["state"]
    assert not any(isinstance(v, Tensor) for entry in state.values() for v in entry.values())
    expected = final_state(tmp_path)
    build(tmp_path, file, optim_wrapper=wrapper).train()
    assert_same(final_state(tmp_path), expected)


def test_a_stop_that_no_hook_gives_is_left_out(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    checkpoint["run_state"]["stop_training"] = True
    file = tmp_path / "epoch_2.pth"
    torch.save(checkpoint, file)
    runner = build(tmp_path / "with", file)
    runner.train()
    assert runner.epoch == 2  # early stopping may have said so
    log = StringIO()
    runner = build(tmp_path / "without", file)
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, EarlyStoppingHook)]
    runner.logger.setLevel(logging.WARNING)
    runner.logger.addHandler(logging.StreamHandler(log))
    runner.train()
    assert runner.epoch == EPOCHS
    assert f"{file}: run_state.stop_training is left out" in log.getvalue()


@pytest.mark.parametrize("rate", [0.0, 1e3])
def test_rates_that_the_schedules_never_give(trained: Path, tmp_path: Path, rate: float) -> None:
    """Though the file agrees with itself: the config's count, unless the file's are asked for."""
    build(tmp_path / "whole").train()
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    optimizer = checkpoint["optimizer"]
    for schedule in checkpoint["param_schedulers"]:
        schedule["_last_value"] = [rate] * len(schedule["_last_value"])
    for group in (*optimizer["param_groups"], optimizer["base_param_settings"]):
        group["lr"] = rate
    file = tmp_path / "forged.pth"
    torch.save(checkpoint, file)
    log = StringIO()
    runner = build(tmp_path / "rest", file)
    runner.logger.addHandler(logging.StreamHandler(log))
    runner.train()
    assert_same(final_state(tmp_path / "rest"), final_state(tmp_path / "whole"))
    assert f"lr is {rate} and " in log.getvalue()
    assert "which this run's schedules do not give" in log.getvalue()


@pytest.mark.parametrize("name", ["epoch_3.pth", "best_score_epoch_3.pth"])
def test_folders_in_the_place_of_checkpoints(trained: Path, tmp_path: Path, name: str) -> None:
    work = copy_of(trained, tmp_path / "work")
    (work / name).mkdir()
    before = snapshot(work)
    with pytest.raises(CheckpointError, match=f"{name} is a folder, where this run may write"):
        build(work, work / "epoch_2.pth").train()
    assert snapshot(work) == before


def test_rates_beyond_the_end_of_a_schedule(trained: Path, tmp_path: Path) -> None:
    """Those of another config are its own at the same point, though few steps are repeated."""
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    build(whole).train()
    file = whole / "epoch_3.pth"  # at iteration 15, the first schedule ended at 7
    expected = final_state(whole)
    checkpoint = torch.load(file, weights_only=True)
    groups = len(checkpoint["optimizer"]["param_groups"])
    honest = copy.deepcopy(checkpoint["param_schedulers"])
    checkpoint["param_schedulers"][1]["eta_min"] = 0.5
    for schedule in checkpoint["param_schedulers"]:
        schedule["_last_value"] = [0.003] * (groups + 1)
    optimizer = checkpoint["optimizer"]
    for group in (*optimizer["param_groups"], optimizer["base_param_settings"]):
        group["lr"] = 0.003
    torch.save(checkpoint, tmp_path / "other.pth")
    kept: list = []
    runner = build(rest, tmp_path / "other.pth")
    runner.register_hook(Kept(kept))
    runner.train()
    assert kept == [[schedule["_global_step"] for schedule in honest]]
    found = final_state(rest)
    assert_same(found["optimizer"]["param_groups"], expected["optimizer"]["param_groups"])
    assert_same(found["param_schedulers"], expected["param_schedulers"])


class Kept(Hook):
    """Notes where the schedules are when training begins."""

    keeps_state = False

    def __init__(self, kept: list) -> None:
        self.kept = kept

    def before_train_epoch(self, runner: Runner) -> None:
        if not self.kept:
            self.kept.append([schedule._global_step for schedule in runner.param_schedulers])


if __name__ == "__main__":
    import sys
    import tempfile
    import warnings

    from mmvitconv.engine.checkpoint import use_safe_loading

    warnings.simplefilter("ignore")
    os.fsync = lambda descriptor: None
    use_safe_loading()
    number, seed, loop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with tempfile.TemporaryDirectory() as name:
        build(Path(name, "trained"), loop=loop).train()
        found = run_fuzzer(Path(name, "trained"), Path(name, "tried"), number, seed, loop)
        print(*found, f"{len(found)} of {number} wrong", sep="\n")
