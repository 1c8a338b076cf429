"""Run state is data: whatever a checkpoint says, a run goes on rightly or ends in one sentence."""

import copy
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("safe_loading")
EPOCHS, PER_EPOCH = 4, 5


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
    checkpoint = {
        "type": "CheckpointHook",
        "interval": 1,
        "save_best": "score",
        "rule": "greater",
        **settings.pop("checkpoint", {}),
    }
    torch.manual_seed(0)
    return Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator={"type": "mmvitconv_run_state_metric"},
        val_cfg={},
        train_cfg={
            "type": "mmvitconv.ResumableEpochLoop",
            "max_epochs": settings.pop("epochs", EPOCHS),
        },
        optim_wrapper={
            "optimizer": {"type": "AdamW", "lr": 0.01},
            "accumulative_counts": 2,
            "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 0.5}}},
            **settings.pop("optim_wrapper", {}),
        },
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 7},
            {"type": "CosineAnnealingLR", "by_epoch": True, "T_max": 5, "begin": 1, "end": 9},
        ],
        default_hooks={"checkpoint": checkpoint},
        custom_hooks=[
            {"type": "mmvitconv.SafeCheckpointHook"},
            {"type": "mmvitconv.NonFiniteHook"},
            {"type": "EMAHook", "momentum": 0.5},
            {"type": "EarlyStoppingHook", "monitor": "score", "rule": "greater", "patience": 99},
            *settings.pop("hooks", []),
        ],
        experiment_name=f"run_state_{build.count}_{work_dir.name}",
        randomness={"seed": 3},
        log_level="ERROR",
        **start,
        **settings,
    )


def final_state(work_dir: Path) -> dict[str, Any]:
    """What must be equal at the end: all but paths, names and times."""
    saved = torch.load(work_dir / f"epoch_{EPOCHS}.pth", weights_only=True)
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
    trained: Path, folder: Path, checkpoint: Any, place: tuple, expected: dict, **settings: Any
) -> str | None:
    """Resume from a checkpoint; return what is wrong with what happens."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for path in trained.iterdir():
        if path.suffix == ".pth":
            shutil.copyfile(path, work / path.name)
    file = work / "epoch_2.pth"
    torch.save(checkpoint, file)
    before = snapshot(work)
    try:
        build(work, file, **settings).train()
    except CheckpointError as error:
        text = str(error)
        if "epoch_2.pth" not in text:
            return f"without the file's name: {text[:200]}"
        named = [*(str(key) for key in place), "meta.iter", "was refused", "the checkpoint"]
        if place and not any(name in text for name in named):
            return f"without the field: {text[:200]}"
        if len(text) > 2000:
            return f"long: {len(text)}"
        after = snapshot(work)
        return None if after == before else f"touched: {sorted(after.keys() ^ before.keys())}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    try:
        assert_same(final_state(work), expected)
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


def run_fuzzer(trained: Path, folder: Path, number: int, seed: int) -> list[str]:
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    expected = final_state(trained)
    assert try_file(trained, folder, checkpoint, (), expected) is None
    wrong = []
    for place, value in cases(checkpoint, number, seed):
        changed = mutate(checkpoint, place, value)
        problem = try_file(trained, folder, changed, place, expected)
        if problem:
            shown = "(removed)" if value is REMOVED else repr(value)[:60]
            wrong.append(f"{'.'.join(map(str, place))} = {shown}: {problem}")
    return wrong


@pytest.mark.usefixtures("runner_state")
def test_any_field_may_be_anything(trained: Path, tmp_path: Path, count: Any) -> None:
    """To try others: run this file as a script, with a number and a seed."""
    assert run_fuzzer(trained, tmp_path, 60, seed=0) == []
    count("fields of checkpoints changed", 60)


if __name__ == "__main__":
    import sys
    import tempfile
    import warnings

    from mmvitconv.engine.checkpoint import use_safe_loading

    warnings.simplefilter("ignore")
    os.fsync = lambda descriptor: None
    use_safe_loading()
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "trained", "work")
        build(whole).train()
        print(*run_fuzzer(whole, Path(name), int(sys.argv[1]), int(sys.argv[2])), sep="\n")
