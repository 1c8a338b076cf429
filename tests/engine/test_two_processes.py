"""Two CPU processes: equal weights, the same steps as one process, every sample evaluated once.

One pair of processes does all the work, since starting them takes seconds; the tests look at it.
Each runs this file as a script.
"""

import copy
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import broken_data
import numpy as np
import pytest
import torch
from families import FAMILIES, shallow
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank, is_distributed
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, METRICS, MODEL_WRAPPERS
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from processes import join_ranks, run_ranks
from recipes import load
from torch import distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, SequentialSampler

from mmvitconv.engine.checkpoint import load_from_file, use_safe_loading

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4
STEPS = 3
CLASSES = 5
OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.05},
}
SIZES = (1, 2, 3, 13)
BATCH_SIZES = (1, 2, 3, 4)


class Classifier(BaseModel):
    """A family's shallow backbone with a linear head."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.backbone = FAMILIES[family](shallow(family), out_indices=(-1,), drop_path_rate=0.0)
        for module in self.backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.head = nn.Linear(self.backbone.out_channels[-1], CLASSES)

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = "loss"
    ) -> dict[str, torch.Tensor] | list[dict]:
        scores = self.head(self.backbone(inputs)[-1].mean(dim=(2, 3)))
        if mode == "predict":
            return [{"number": row.max().item()} for row in scores]
        return {"loss": functional.cross_entropy(scores, labels)}


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "inputs": torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64),
            "labels": torch.randint(CLASSES, (BATCH,), generator=generator),
        }
        for _ in range(STEPS)
    ]


@cache
def build(family: str, seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(family).double()


def train(family: str, optimizer: str, norm_eval: bool, alone: bool) -> dict[str, Any]:
    """Take some steps, on all of each batch or on this process's share."""
    # the wrapper gives every process the weights of rank 0
    model = copy.deepcopy(build(family, seed=0 if alone else get_rank()))
    model.backbone.norm_eval = norm_eval
    wrapped = model.train()
    if not alone:
        wrapped = MODEL_WRAPPERS.build(
            {"type": "mmvitconv.CPUDistributedDataParallel", "module": model}
        )
    chosen = getattr(torch.optim, optimizer)(model.parameters(), **OPTIMIZERS[optimizer])
    wrapper = OptimWrapper(chosen)
    share = slice(None) if alone else slice(get_rank(), None, 2)
    losses, gradients = [], {}

    def keep_gradients(*_: Any) -> None:  # the wrapper clears them after the step
        for name, parameter in model.named_parameters():
            gradients.setdefault(name, parameter.grad.clone())

    chosen.register_step_pre_hook(keep_gradients)
    for batch in batches():
        logs = wrapped.train_step({key: value[share] for key, value in batch.items()}, wrapper)
        losses.append(logs["loss"].detach())
    losses = torch.stack(losses)
    if not alone:
        distributed.all_reduce(losses)
        losses /= 2
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return {"losses": losses, "gradients": gradients, "weights": weights}


class Collect(BaseMetric):
    """Returns what was collected."""

    def process(self, data_batch: Any, data_samples: list[dict]) -> None:
        self.results += [sample["number"] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, Any]:
        return {"results": results}


def evaluate_numbers(size: int, batch_size: int, device: str) -> list[int]:
    dataset = [{"number": number} for number in range(size)]
    sampler = DefaultSampler(dataset, shuffle=False)
    evaluator = Evaluator([Collect(collect_device=device)])
    for batch in DataLoader(dataset, batch_size, sampler=sampler, collate_fn=list):
        evaluator.process(batch)
    return evaluator.evaluate(size)["results"]


def first_samples(task: str, data: str, count: int, **changes: Any) -> Any:
    """Samples of a real data set, without random changes."""
    settings = broken_data.dataset(task, ROOT / "data" / data, indices=count, **changes)
    pipeline = settings["pipeline"]
    settings["pipeline"] = [step for step in pipeline if "RandomFlip" not in step["type"]]
    return DATASETS.build(settings)


def detection() -> tuple[Any, dict, Any]:
    def predict(sample: Any, generator: np.random.Generator) -> None:
        boxes = sample.gt_instances.bboxes.tensor
        noise = torch.from_numpy(generator.normal(0, 2, boxes.shape)).float()
        scores = torch.from_numpy(generator.random(len(boxes))).float()
        labels = torch.zeros(len(boxes), dtype=torch.long)
        sample.pred_instances = InstanceData(bboxes=boxes + noise, scores=scores, labels=labels)

    file = str(broken_data.json_of(ROOT / "data" / "nuclei"))
    metric = {"type": "mmdet.CocoMetric", "ann_file": file, "metric": "bbox"}
    return first_samples("detection", "nuclei", 5, test_mode=True), metric, predict


def segmentation() -> tuple[Any, dict, Any]:
    def predict(sample: Any, generator: np.random.Generator) -> None:
        truth = sample.gt_sem_seg.data
        wrong = torch.from_numpy(generator.random(truth.shape) < generator.random())
        sample.pred_sem_seg = PixelData(data=torch.where(wrong, 1 - truth, truth))

    metric = {"type": "mmseg.IoUMetric", "iou_metrics": ["mIoU"]}
    return first_samples("segmentation", "nuclei", 5), metric, predict


def classification() -> tuple[Any, dict, Any]:
    def predict(sample: Any, generator: np.random.Generator) -> None:
        scores = torch.from_numpy(generator.random(10)).float()
        scores[sample.gt_label] += 0.5
        sample.set_pred_score(scores)

    metric = {"type": "mmpretrain.Accuracy", "topk": (1, 2)}
    return first_samples("classification", "mnist", 13, split="val"), metric, predict


TASKS = {
    "classification": classification,
    "detection": detection,
    "segmentation": segmentation,
}


def evaluate_task(task: str, batch_size: int) -> dict[str, float]:
    """Metrics of predictions that depend on the sample only."""
    dataset, metric, predict = TASKS[task]()
    evaluator = Evaluator([METRICS.build(metric)])
    evaluator.dataset_meta = dataset.metainfo
    sampler = DefaultSampler(dataset, shuffle=False)
    for batch in DataLoader(range(len(dataset)), batch_size, sampler=sampler, collate_fn=list):
        samples = []
        for index in batch:
            sample = dataset[index]["data_samples"]
            predict(sample, np.random.default_rng(index))
            samples.append(sample)
        evaluator.process(samples)
    return evaluator.evaluate(len(dataset))


class Counting(Hook):
    """Learns something else in each process."""

    def __init__(self) -> None:
        self.sum = 0.0

    def after_train_iter(
        self, runner: Runner, *args: Any, outputs: Any = None, **kwargs: Any
    ) -> None:
        self.sum += float(outputs["loss"])


def train_accumulated(work_dir: str, resume: str | None = None) -> dict[str, Any]:
    """Train 3 epochs of 4 iterations, of which every third makes a step."""
    model = copy.deepcopy(build("ConvMixer", seed=0)).float()
    model.backbone.norm_eval = True
    inputs = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    dataset = [{"inputs": image, "labels": index % CLASSES} for index, image in enumerate(inputs)]
    counting = Counting()
    runner = Runner(
        MODEL_WRAPPERS.build({"type": "mmvitconv.CPUDistributedDataParallel", "module": model}),
        work_dir,
        train_dataloader={
            "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "batch_size": 2,
            "num_workers": 0,
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"type": "mmvitconv.ResumableEpochLoop", "max_epochs": 3},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 1e-3}, "accumulative_counts": 3},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        custom_hooks=[{"type": "mmvitconv.SafeCheckpointHook"}, counting],
        randomness={"seed": 0},
        experiment_name=Path(work_dir).name,
        resume=resume is not None,
        load_from=resume,
        log_level="ERROR",
    )
    runner.train()
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {"weights": weights, "sum": counting.sum, "iterations": runner.iter}


def resume_accumulated(epoch: int) -> dict[str, Any]:
    return train_accumulated(f"rest_{epoch}", f"whole/epoch_{epoch}.pth")


class Watching(Hook):
    """Keeps what this process validates with, before anything is put together."""

    def __init__(self) -> None:
        self.outputs: list[float] = []

    def after_val_iter(
        self, runner: Runner, *args: Any, outputs: Any = None, **kwargs: Any
    ) -> None:
        self.outputs += [sample["number"] for sample in outputs]


def train_norms(hooks: list[str]) -> dict[str, Any]:
    """Train an epoch with statistics of each process's share; both validate on all images."""
    name = f"norms_{len(hooks)}"
    model = copy.deepcopy(build("ConvMixer", seed=0)).float()
    inputs = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    dataset = [{"inputs": image, "labels": index % CLASSES} for index, image in enumerate(inputs)]
    loader = {"batch_size": 4, "num_workers": 0, "collate_fn": {"type": "default_collate"}}
    watching = Watching()
    runner = Runner(
        MODEL_WRAPPERS.build({"type": "mmvitconv.CPUDistributedDataParallel", "module": model}),
        name,
        train_dataloader={
            "dataset": dataset, "sampler": {"type": "DefaultSampler", "shuffle": True}, **loader
        },
        val_dataloader={"dataset": dataset, "sampler": SequentialSampler(dataset), **loader},
        train_cfg={"by_epoch": True, "max_epochs": 1},
        val_cfg={},
        val_evaluator=Evaluator(Collect()),
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        custom_hooks=[*({"type": hook} for hook in hooks), watching],
        randomness={"seed": 0},
        experiment_name=name,
        log_level="ERROR",
    )  # fmt: skip
    runner.train()
    distributed.barrier()
    saved = load_from_file(f"{name}/epoch_1.pth")["state_dict"]
    statistics = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    return {
        "outputs": watching.outputs,
        "statistics": statistics,
        "saved": {key: saved[key] for key in statistics},
    }


def work(rank: int) -> None:
    """What each of the two processes does; a failure is kept for the test that it belongs to."""
    join_ranks(rank)
    results: dict[Any, Any] = {}

    def note(key: Any, function: Any, *arguments: Any) -> None:
        try:
            results[key] = function(*arguments)
        except Exception:
            results[key] = traceback.format_exc()

    for family in FAMILIES:
        for optimizer in OPTIMIZERS:
            note((family, optimizer), train, family, optimizer, True, False)
        if any(isinstance(module, _BatchNorm) for module in build(family, rank).modules()):
            note((family, "norms"), train, family, "SGD", False, False)
    for size in SIZES:
        for batch_size in BATCH_SIZES:
            for device in ("cpu", "gpu"):  # through files, and through the process group
                key = (size, batch_size, device)
                note(key, evaluate_numbers, *key)
    for task in TASKS:
        for batch_size in (1, 2):
            note((task, batch_size), evaluate_task, task, batch_size)
    use_safe_loading()
    note("whole", train_accumulated, "whole")
    for epoch in (1, 2):
        note(("rest", epoch), resume_accumulated, epoch)
    for hooks in ([], ["SyncBuffersHook"]):
        note(("norms", len(hooks)), train_norms, hooks)
    torch.save(results, f"rank{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, nuclei_root: Path, mnist_root: Path
) -> list[dict]:
    """Results of both processes."""
    files = run_ranks(Path(__file__), tmp_path_factory.mktemp("two"))
    return [torch.load(file, weights_only=False) for file in files]


def look_up(ranks: list[dict], key: Any) -> list[Any]:
    found = [results[key] for results in ranks]
    for result in found:
        assert not isinstance(result, str), result
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_equal_on_both_ranks(ranks: list[dict], family: str) -> None:
    keys = [(family, kind) for kind in (*OPTIMIZERS, "norms") if (family, kind) in ranks[0]]
    assert len(keys) >= len(OPTIMIZERS)
    for key in keys:
        first, second = look_up(ranks, key)
        torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
        torch.testing.assert_close(first["gradients"], second["gradients"], rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_step_as_one_does(ranks: list[dict], family: str, optimizer: str) -> None:
    """Where there are batch norms, with their running statistics instead of the batch's."""
    alone = train(family, optimizer, norm_eval=True, alone=True)
    for found in look_up(ranks, (family, optimizer)):
        assert found["gradients"].keys() == alone["weights"].keys()
        # of the sizes of these gradients; position tables are resized with weights in float32
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_every_sample_is_evaluated_once(
    ranks: list[dict], size: int, batch_size: int, device: str
) -> None:
    for found in look_up(ranks, (size, batch_size, device)):
        assert found == list(range(size))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_metrics_of_two_processes_are_those_of_one(
    ranks: list[dict], task: str, batch_size: int
) -> None:
    assert not is_distributed()
    alone = evaluate_task(task, batch_size)
    assert any(value > 0 for value in alone.values())
    for found in look_up(ranks, (task, batch_size)):
        assert found == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize("epoch", [1, 2])  # after 4 and 8 iterations: within a step of 3
def test_accumulated_steps_go_on_exactly(ranks: list[dict], epoch: int) -> None:
    sums = []
    for whole, rest in zip(look_up(ranks, "whole"), look_up(ranks, ("rest", epoch)), strict=True):
        assert rest["iterations"] == whole["iterations"] == 12
        torch.testing.assert_close(rest["weights"], whole["weights"], rtol=0, atol=0)
        assert rest["sum"] == whole["sum"]
        sums.append(whole["sum"])
    assert sums[0] != sums[1]


def test_statistics_of_norms_are_averaged_before_all_validate(ranks: list[dict]) -> None:
    """With the hook of FCViT's and ConvMixer's recipes; else each process has its own."""
    first, second = look_up(ranks, ("norms", 0))
    assert first["outputs"] != second["outputs"]
    averaged = look_up(ranks, ("norms", 1))
    assert averaged[0]["outputs"] == averaged[1]["outputs"]
    assert len(averaged[0]["outputs"]) == 16
    for key, value in first["statistics"].items():
        mean = (value + second["statistics"][key]) / 2
        for found in averaged:
            torch.testing.assert_close(found["statistics"][key], mean)
            torch.testing.assert_close(found["saved"][key], found["statistics"][key])


@pytest.mark.parametrize("name", ["fcvit_s48_imagenet", "convmixer_512_16_imagenet"])
def test_recipes_that_average_statistics(name: str) -> None:
    assert {"type": "SyncBuffersHook"} in load(name).custom_hooks


if __name__ == "__main__":
    work(int(sys.argv[1]))
