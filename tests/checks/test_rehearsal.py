"""One batch through training and validation before a run: what it finds; nothing of it is left."""

import random
from copy import deepcopy
from types import SimpleNamespace

import exports
import numpy as np
import pytest
import torch
from broken_data import CLASSIFIER
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.rehearsal import RehearsalHook, rehearse_config
from mmvitconv.errors import UserError

SIZE, BATCH = 5, 2


class Data(torch.utils.data.Dataset):
    """Numbers 0 to 4, as an augmentation would draw them."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return SIZE

    def __getitem__(self, number):
        self.asked.append(number)
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        return torch.full((3,), number + 1e-3 * noise)


class Model(torch.nn.Module):
    """Normalises a batch; a norm in training would keep its statistics."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.note = lambda mode: None

    def val_step(self, batch):
        self.note((self.training, torch.is_grad_enabled()))
        return [{"img_id": int(row[0]), "value": row.mean()} for row in self.norm(batch)]


class Mean(BaseMetric):
    default_prefix = "test"

    def process(self, data_batch, data_samples):
        self.results += [float(sample["value"]) for sample in data_samples]

    def compute_metrics(self, results):
        assert len(results) == BATCH
        return {"mean": sum(results) / len(results)}


def make(metric=None, save_best="auto", model=None):
    """The parts of a runner that the hook uses."""
    loader = DataLoader(Data(), batch_size=BATCH)
    loop = SimpleNamespace(dataloader=loader, evaluator=Evaluator(metric or Mean()))
    checkpoint = CheckpointHook(save_best=save_best, rule="greater")
    return SimpleNamespace(
        val_loop=loop, model=(model or Model()).train(), hooks=[RehearsalHook(), checkpoint]
    )


def rehearse(runner):
    RehearsalHook().before_train(runner)


def test_one_batch_is_validated_and_nothing_is_left():
    runner, modes = make(), []
    runner.model.note = modes.append  # a list of the model itself would be put back
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    weights = {key: value.clone() for key, value in runner.model.state_dict().items()}
    rehearse(runner)
    assert runner.val_loop.dataloader.dataset.asked == list(range(BATCH))
    assert modes == [(False, False)], "evaluated, without gradients"
    assert runner.model.training
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert runner.val_loop.evaluator.metrics[0].results == []
    assert states == (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    )  # fmt: skip


def test_runs_without_a_validation_start():
    rehearse(SimpleNamespace(val_loop=None))
    rehearse(SimpleNamespace(val_loop=SimpleNamespace()))


def failing(where, error):
    """A runner whose validation fails somewhere."""

    def fail(*_, **__):
        raise error

    runner = make()
    target, name = {
        "data": (Data, "__getitem__"),
        "model": (runner.model, "val_step"),
        "process": (runner.val_loop.evaluator.metrics[0], "process"),
        "evaluator": (runner.val_loop.evaluator.metrics[0], "compute_metrics"),
    }[where]
    return runner, target, name, fail


@pytest.mark.parametrize("where", ["data", "model", "process", "evaluator"])
def test_a_failure_is_one_sentence_and_leaves_nothing(where, monkeypatch):
    runner, target, name, fail = failing(where, KeyError("area"))
    monkeypatch.setattr(target, name, fail)
    state = torch.get_rng_state()
    with pytest.raises(UserError) as raised:
        rehearse(runner)
    assert "the validation fails in a rehearsal with one batch" in str(raised.value)
    assert "area" in str(raised.value)
    assert "--no-rehearsal" in str(raised.value)
    assert runner.model.training
    assert runner.val_loop.evaluator.metrics[0].results == []
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "error", [UserError("the file a.jpg is damaged"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_what_is_explained_already_passes(error, monkeypatch):
    runner, target, name, fail = failing("data", error)
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(type(error)) as raised:
        rehearse(runner)
    assert raised.value is error


@pytest.mark.parametrize("save_best", ["auto", "test/mean", ["test/mean"], None])
def test_scores_that_the_evaluator_gives(save_best):
    rehearse(make(save_best=save_best))


@pytest.mark.parametrize("save_best", ["mean", ["test/mean", "test/median"]])
def test_scores_that_it_does_not_give(save_best):
    with pytest.raises(UserError, match=r"but val_evaluator gives test/mean: write one of these"):
        rehearse(make(save_best=save_best))


def test_a_detector_that_finds_nothing_yet_is_no_error(tmp_path, monkeypatch):
    from mmdet.evaluation import CocoMetric

    exports.as_coco(tmp_path)
    metric = CocoMetric(str(tmp_path / "annotations.json"), metric="bbox")
    metric.dataset_meta = {"classes": exports.CLASSES}
    nothing = {"bboxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    sample = {"ori_shape": (exports.HEIGHT, exports.WIDTH), "pred_instances": nothing}
    model = torch.nn.Identity()
    model.val_step = lambda batch: [{"img_id": 10 * int(row[0]), **sample} for row in batch]
    logged = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "callHandlers", logged.append)
    rehearse(make(metric, "coco/bbox_mAP", model))
    assert logged == []
    logger.error("the level is as before")
    assert logged


@pytest.mark.parametrize("batch", [1, 3])
def test_cocos_metric_scores_the_images_of_the_batch(batch, tmp_path):
    from mmdet.evaluation import CocoMetric

    class Detector(torch.nn.Module):
        """Predicts the first object of the scene, in each image."""

        def val_step(self, batch):
            _, polygon = exports.SCENE["a one.jpg"][0]
            left, top, width, height = exports.box(polygon)
            found = {
                "bboxes": torch.tensor([[left, top, left + width, top + height]]),
                "scores": torch.ones(1),
                "labels": torch.zeros(1, dtype=torch.long),
            }
            size = exports.HEIGHT, exports.WIDTH
            return [
                {"img_id": 10 * int(row[0]), "ori_shape": size, "pred_instances": found}
                for row in batch
            ]

    exports.as_coco(tmp_path)
    metric = CocoMetric(str(tmp_path / "annotations.json"), metric="bbox")
    metric.dataset_meta = {"classes": exports.CLASSES}
    seen = []
    compute = metric.compute_metrics
    metric.compute_metrics = lambda results: seen.append(compute(results)) or seen[-1]
    runner = make(metric, "coco/bbox_mAP", Detector())
    runner.val_loop.dataloader = DataLoader(Data(), batch_size=batch)
    rehearse(runner)
    # of the other images nothing was predicted, and nothing is expected
    assert seen[0]["bbox_mAP_50"] == pytest.approx(1 if batch == 1 else 0.5, abs=0.3)
    assert metric.img_ids is None or len(metric.img_ids) == len(exports.SCENE)
    assert metric.results == []


# ---- training


class Draw(BaseTransform):
    """Draws random numbers of all kinds, and keeps a count that changes what it draws."""

    count = 0

    def transform(self, results):
        self.count += 1
        noise = random.random() + np.random.rand() + torch.rand(1).item() + self.count
        results["img"] = np.clip(results["img"] + noise, 0, 255).astype(np.uint8)
        return results


TRANSFORMS.register_module(module=Draw, force=True)
PIPELINE = "train_dataloader.dataset.pipeline"


def classifier(make, tmp_path, batch=4, **changes):
    """The config of a small classifier of digits, with dropout and norms."""
    _, cfg = make("classification")
    cfg |= deepcopy(CLASSIFIER)
    loader = cfg["train_dataloader"]
    loader.update(batch_size=batch, drop_last=True)
    loader["dataset"]["pipeline"].insert(1, {"type": "Draw"})
    cfg["model"]["backbone"]["base_channels"] = 8
    del cfg["val_dataloader"]
    cfg.update(work_dir=str(tmp_path / "run"), randomness={"seed": 3}, **changes)
    cfg["default_hooks"] = {"checkpoint": None, "logger": None}
    return Config(cfg)


def weights_after(cfg, *hooks):
    cfg = Config(deepcopy(cfg._cfg_dict))
    cfg.custom_hooks = [{"type": f"mmvitconv.{hook}"} for hook in hooks]
    cfg.experiment_name = f"rehearsal_{random.random()}"
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["EpochBasedTrainLoop", "mmvitconv.ResumableEpochLoop"])
@pytest.mark.parametrize("optimizer", ["OptimWrapper", "mmvitconv.CPUAmpOptimWrapper"])
def test_a_training_is_the_same_with_a_rehearsal(make, tmp_path, runner_state, loop, optimizer):
    cfg = classifier(make, tmp_path, train_cfg={"type": loop, "max_epochs": 2})
    cfg.optim_wrapper.update(type=optimizer)
    if "Amp" in optimizer:
        cfg.optim_wrapper.dtype = "bfloat16"
    plain = weights_after(cfg, "BadDataHook", "NonFiniteHook")
    rehearsed = weights_after(cfg, "BadDataHook", "NonFiniteHook", "RehearsalHook")
    assert plain.keys() == rehearsed.keys()
    for key, value in plain.items():
        assert torch.equal(value, rehearsed[key]), key


def rehearse_of(cfg):
    """The report on a config, and the error with which its training ends."""
    report = Report()
    rehearse_config(report, cfg)
    return report


SLIPS = [
    (lambda cfg, steps: steps.pop(),
     f"{PIPELINE}: the samples are not packed (they have img_path, gt_label, sample_idx, img, "
     "img_shape, ori_shape): end it with dict(type='PackInputs')"),
    (lambda cfg, steps: cfg.model.head.update(in_channels=32), "model.head: the loss fails"),
    (lambda cfg, steps: cfg.model.head.update(num_classes=1),
     "model.head: the loss fails in a rehearsal with training samples (labels 1, "
     "model.head.num_classes=1): Target 1 is out of bounds"),
    (lambda cfg, steps: steps.insert(1, {"type": "RandomApply", "prob": 1.0, "transforms": [
        {"type": "LoadAnnotations", "with_keypoints": True}]}),
     f"{PIPELINE}.1.transforms.0 (LoadAnnotations): "),
    (lambda cfg, steps: cfg.model.backbone.update(depth=17),
     "model: it cannot be built: invalid depth 17"),
    (lambda cfg, steps: cfg.data_preprocessor.update(mean=[0.5] * 3, std=[0.2] * 3),
     "train_dataloader: numbers of up to 127"),
    (lambda cfg, steps: steps.insert(-1, {"type": "Normalize", "mean": [127] * 3, "std": [64] * 3}),
     "normalised twice: take Normalize out"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), SLIPS)
def test_slips_in_a_training_are_named(make, tmp_path, change, words):
    cfg = classifier(make, tmp_path)
    cfg.train_dataloader.dataset.pipeline.pop(1)
    assert rehearse_of(cfg) == Report()
    change(cfg, cfg.train_dataloader.dataset.pipeline)
    report = rehearse_of(cfg)
    sentences = report.sentences() + report.sentences("warnings")
    assert len(sentences) == 1
    assert words in sentences[0]
    assert "--no-rehearsal" not in sentences[0], "the check has trained nothing"


@pytest.mark.parametrize("packs", [True, False])
def test_an_evaluation_that_does_not_pack_is_named(make, tmp_path, packs):
    cfg = classifier(make, tmp_path)
    loader = deepcopy(cfg.train_dataloader)
    loader.dataset.update(data_prefix="val", test_mode=True)
    loader.dataset.pipeline.pop(1)
    cfg.update(val_dataloader=loader, val_evaluator={"type": "Accuracy", "topk": (1,)})
    if not packs:
        loader.dataset.pipeline.pop()
    sentences = rehearse_of(cfg).sentences()
    assert len(sentences) == (not packs)
    assert packs or sentences[0].startswith(
        "val_dataloader.dataset.pipeline: the samples are not packed (they have img_path"
    )


@pytest.mark.parametrize("splits", [None, ("test",)])
def test_the_test_is_rehearsed_too(make, tmp_path, splits):
    cfg = classifier(make, tmp_path)
    loader = deepcopy(cfg.train_dataloader)
    loader.dataset.update(data_prefix="val", test_mode=True)
    loader.dataset.pipeline.pop(1)
    cfg.train_dataloader.dataset.pipeline.pop(1)
    cfg.update(test_dataloader=loader, test_evaluator={"type": "Accuracy", "topk": (1,)})
    report = Report()
    rehearse_config(report, cfg, splits)
    assert report == Report()
    cfg.test_evaluator["topk"] = (3,)
    rehearse_config(report, cfg, splits)
    (sentence,) = report.sentences("errors" if splits else "warnings")
    assert sentence.startswith("test_dataloader: the test fails in a rehearsal with one batch")
    assert "test_evaluator" in sentence
