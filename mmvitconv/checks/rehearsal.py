"""A rehearsal of training and validation before the first iteration: no mistake waits for it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.bad_data import GuardedPipeline
from mmvitconv.checks.samples import BadSampleError, CheckedPipeline, Problem, innermost
from mmvitconv.checks.steps import describe, locate, name_steps
from mmvitconv.checks.untouched import untouched
from mmvitconv.compat.absent import check_model
from mmvitconv.datasets.layout import leaf_datasets
from mmvitconv.engine.loops import SeededDataset
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.engine.quiet import log_traceback, quiet_logger
from mmvitconv.engine.randomness import seed_process
from mmvitconv.errors import UserError, describe_accident, root_cause
from mmvitconv.registry import HOOKS

__all__ = ["RehearsalHook", "rehearse_config"]

TRIED = 8  # samples of which the batch is chosen
SIZE = 2  # of the batch of training, at most
FAR = 50.0  # numbers beyond this in an image that was normalised
NARROW = 25.0  # the width of one that was normalised


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Runs a batch through loss, validation and evaluator before training begins.

    Nothing is left of it: no scores, no random numbers that were drawn, no statistics of norms.

    Raises:
        UserError: The batch cannot be trained on or validated, or the score that is to choose the
            best checkpoint is none of the evaluator's.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.RehearsalHook")]
    """

    priority = "LOWEST"
    keeps_state = False

    def before_train(self, runner: Runner) -> None:
        """Train on a few samples and validate one batch."""
        cfg = getattr(runner, "cfg", None) or {}
        wrapper = getattr(runner, "optim_wrapper", None)
        loader = getattr(getattr(runner, "train_loop", None), "dataloader", None)
        if loader is not None and isinstance(wrapper, OptimWrapper):
            for text in rehearse_training(runner.model, loader, cfg, wrapper):
                runner.logger.warning(text)
        loop = runner.val_loop
        if loop is None or not hasattr(loop, "evaluator"):
            return
        is_half = getattr(loop, "fp16", False)
        scores = rehearse_validation(runner.model, loop.dataloader, loop.evaluator, cfg, is_half)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and scores:
                self._check_score(hook, scores)

    @staticmethod
    def _check_score(hook: CheckpointHook, scores: Mapping[str, Any]) -> None:
        """Raise when the best checkpoint shall be chosen by a score that is not there."""
        wanted = hook.save_best or ()
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name != "auto" and name not in scores:
                raise UserError(
                    f"default_hooks.checkpoint.save_best is {name!r}, but val_evaluator gives "
                    f"{', '.join(scores)}: write one of these"
                )


class RehearsalError(UserError):
    """Something that would fail in the first iteration.

    Args:
        place: Where in the config.
        reason: What is wrong, and what to do.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}; --no-rehearsal starts nevertheless")
        self.place = place
        self.reason = reason


def rehearse_config(report: Report, cfg: Config, splits: Sequence[str]) -> None:
    """Rehearse a training and its validation with a model of random weights.

    Args:
        report: Gets the problems.
        cfg: The config.
        splits: Of 'train' and 'val', those to rehearse; others are passed over.
    """
    wanted = [name for name in ("train", "val") if cfg.get(f"{name}_dataloader") and name in splits]
    if not isinstance(cfg.get("model"), Mapping) or not wanted:
        return
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        _rehearse_config(report, cfg, wanted)


def _rehearse_config(report: Report, cfg: Config, splits: Sequence[str]) -> None:
    """Rehearse in the config's scope, see :func:`rehearse_config`."""
    try:
        model = _build_model(cfg)
        for split in splits:
            settings = dict(cfg[f"{split}_dataloader"], num_workers=0, persistent_workers=False)
            for key in ("prefetch_factor", "pin_memory"):
                settings.pop(key, None)
            with quiet_logger(logging.CRITICAL), redirect_stdout(io.StringIO()):
                loader = Runner.build_dataloader(settings, seed=0)
            if split == "train":
                for text in rehearse_training(model, loader, cfg):
                    report.warn(text, f"{split}_dataloader")
            elif cfg.get("val_evaluator"):
                evaluator = Evaluator(cfg["val_evaluator"])
                evaluator.dataset_meta = getattr(loader.dataset, "metainfo", None)
                rehearse_validation(model, loader, evaluator, cfg)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, RehearsalError):
            report.error(cause.reason, cause.place)
        else:
            report.error(f"it cannot be used: {describe(cause)}", "config")


def _build_model(cfg: Config) -> nn.Module:
    """Build a config's model as MMEngine's runner does, without weights of a file."""
    settings = dict(cfg["model"])
    if isinstance(cfg.get("data_preprocessor"), Mapping):
        settings.setdefault("data_preprocessor", cfg["data_preprocessor"])
    try:
        with quiet_logger(logging.CRITICAL), redirect_stdout(io.StringIO()), catch_warnings():
            simplefilter("ignore")  # of the frameworks' old names for their parts
            model = MODELS.build(settings)
    except Exception as error:
        reason = f"it cannot be built: {describe(root_cause(error))}"
        raise RehearsalError("model", reason) from error
    check_model(model)
    return model


def rehearse_training(
    model: nn.Module, loader: Any, cfg: Mapping[str, Any], wrapper: OptimWrapper | None = None
) -> list[str]:
    """Take a few samples through the pipeline and the loss of a training, and leave no trace.

    All processes of a distributed run do the same with the same samples, so that all end or none.

    Args:
        model: The model.
        loader: That of training.
        cfg: The config, for the places of what fails.
        wrapper: The optimizer's, for its precision.

    Returns:
        What is unusual, a sentence each.

    Raises:
        UserError: It fails; the message says where in the config.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    dataset = loader.dataset
    while isinstance(dataset, SeededDataset):
        dataset = dataset.dataset
    if (
        not isinstance(model, BaseModel)
        or is_model_wrapper(model)  # FSDP and DeepSpeed keep the weights to themselves
        or type(model).train_step is not BaseModel.train_step
        or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and len(dataset))
        or _mixes_sources(loader)
    ):
        return []
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    stance = getattr(torch.compiler, "set_stance", None)
    trial = _Trial(model, dataset, cfg)
    with (
        untouched(model, dataset),
        quiet_logger(logging.CRITICAL),
        redirect_stdout(io.StringIO()),
        stance("force_eager") if stance else nullcontext(),
        wrapper.optim_context(model) if wrapper is not None else nullcontext(),
    ):
        return trial.run(loader.collate_fn, min(SIZE, size))


def _mixes_sources(loader: Any) -> bool:
    """Tell whether a sampler decides what a batch is made of (semi-supervised training)."""
    samplers = (loader.sampler, loader.batch_sampler)
    samplers += tuple(getattr(item, "batch_sampler", None) for item in samplers)
    return any("Multi" in type(item).__name__ for item in samplers)


class _Trial:
    """A rehearsal of training.

    Args:
        model: The model.
        dataset: The data set.
        cfg: The config.
    """

    def __init__(self, model: BaseModel, dataset: Any, cfg: Mapping[str, Any]) -> None:
        self.model = model
        self.dataset = dataset
        self.cfg = cfg
        option = "train_dataloader.dataset"
        loader = cfg.get("train_dataloader")
        leaves = [place for place, _ in leaf_datasets(loader, "train_dataloader")]
        self.leaves = list(innermost(dataset))
        if len(leaves) != len(self.leaves):
            leaves = [option] * len(self.leaves)
        self.places = [f"{leaf}.pipeline" for leaf in leaves]
        self.named = {id(module): f"model.{name}" for name, module in model.named_modules() if name}
        self.named[id(model)] = "model"
        steps = getattr(dataset, "pipeline", None)
        if isinstance(steps, list):  # of a mix of several images
            pairs = name_steps(steps, f"{option}.pipeline")
            self.named |= {id(step): place for place, step in pairs}

    def run(self, collate: Callable, size: int) -> list[str]:
        """Run it; see :func:`rehearse_training`."""
        for leaf, place in zip(self.leaves, self.places, strict=True):
            pipeline = getattr(leaf, "pipeline", None)
            if not callable(pipeline):
                continue
            # the guard would note what it leaves out
            guard = pipeline if isinstance(pipeline, GuardedPipeline) else None
            pipeline = guard.original if guard else pipeline
            leaf.pipeline = CheckedPipeline(pipeline, leaf, place=place)
            if guard is not None and guard.policy == "warn":
                leaf.pipeline.complain = _pass
        samples = self._samples(size)
        with self._explained("the samples of a batch do not go together", samples):
            batch = collate(samples)
        self.model.train()
        with self._explained("the images do not fit model.data_preprocessor", samples):
            data = self.model.data_preprocessor(batch, True)
        unusual = _look_at_numbers(batch, data, self.model.data_preprocessor)
        with self._explained("the loss fails", samples, data):
            try:
                with torch.no_grad():
                    self._lose(data)
            except RuntimeError as error:
                if not re.search(r"\bgrad", str(error)):
                    raise
                self._lose(data)  # of a loss that needs gradients
        return unusual

    def _lose(self, data: Any) -> None:
        """Compute the loss."""
        self.model.parse_losses(self.model._run_forward(data, mode="loss"))

    def _samples(self, size: int) -> list[Any]:
        """Load samples, and choose those with annotations and of different sizes."""
        total = len(self.dataset)
        found, failures = [], []
        for number in dict.fromkeys(n * total // TRIED for n in range(TRIED)):
            seed_process(number, devices=False)
            try:
                found.append(self.dataset[number])
            except Exception as error:  # of some samples only: training leaves them out
                failures.append(error)
        if not found:
            raise self._error(failures[0], "no sample can be loaded", [])
        found.sort(key=_richness, reverse=True)
        first, *others = found
        others.sort(key=lambda sample: _shape(sample) == _shape(first))
        return (found[:1] + others + found)[:size]

    @contextmanager
    def _explained(self, what: str, samples: Sequence[Any], data: Any = None) -> Iterator[None]:
        """Turn errors into sentences; ``data`` is what the model gets of the samples."""
        try:
            yield
        except Exception as error:
            raise self._error(error, what, samples, data) from error

    def _error(
        self, error: Exception, what: str, samples: Sequence[Any], data: Any = None
    ) -> Exception:
        """Return what to raise for an error."""
        cause = root_cause(error)
        if isinstance(error, BadSampleError):
            failure = error.failure
            if failure is not None:
                reason = "; ".join(filter(None, (failure.reason, failure.advice)))
                return RehearsalError(failure.place, reason)
            return RehearsalError(self.places[0].rpartition(".")[0], str(error))
        if isinstance(cause, UserError) or describe_accident(error) is not None:
            return error
        log_traceback(error)
        missing = _find_missing(samples, self.model)
        if missing:
            return RehearsalError(self.places[0], missing)
        place = locate(error, self.named) or "train_dataloader.dataset"
        packed = data.get("data_samples") if isinstance(data, Mapping) else None
        if not isinstance(packed, (list, tuple)):
            packed = list(map(_data_sample, samples))
        facts = [_describe_labels(packed)]
        for outer in _outwards(place):
            count = next(
                (m.num_classes for m in self._at(outer) if hasattr(m, "num_classes")), None
            )
            if isinstance(count, int):
                facts.append(f"{outer}.num_classes={count}")
                break
        known = ", ".join(filter(None, facts))
        return RehearsalError(
            _place_in_config(self.cfg, place),
            f"{what} in a rehearsal with training samples{f' ({known})' * bool(known)}: "
            f"{describe(cause)}; look at this part of the config, and at {self.places[0]}",
        )

    def _at(self, place: str) -> list[nn.Module]:
        """Return the module at a place, if there is one."""
        return [module for module in self.model.modules() if self.named.get(id(module)) == place]


def _pass(problem: Problem) -> None:
    """Use a sample as it is, as the policy 'warn' does."""


def _outwards(place: str) -> Iterator[str]:
    """Yield a place and those around it."""
    while place:
        yield place
        place = place.rpartition(".")[0]


def _place_in_config(cfg: Mapping[str, Any], place: str) -> str:
    """Return as much of a module's place as the config has."""
    node: Any = cfg
    found = []
    for part in place.split("."):
        if isinstance(node, (Mapping, Config)) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            break
        found.append(part)
    return ".".join(found) if place.startswith("model") and found else place


def _data_sample(sample: Any) -> Any:
    """Return what is known of a sample beside its image, None if it is not packed."""
    found = sample.get("data_samples") if isinstance(sample, Mapping) else None
    return found[0] if isinstance(found, (list, tuple)) and found else found


def _shape(sample: Any) -> Any:
    """Return the shape of a sample's image."""
    image = sample.get("inputs") if isinstance(sample, Mapping) else None
    return getattr(image, "shape", None)


def _richness(sample: Any) -> tuple[int, int]:
    """Return how many objects a sample has, and its largest class number."""
    known = _data_sample(sample)
    objects = getattr(known, "gt_instances", None)
    count = len(objects) if objects is not None else 0
    return count, max(_labels(known), default=0)


def _kind(model: nn.Module) -> str:
    """Return the word for a model's task in the name of the step that packs its samples."""
    return "Seg" if hasattr(model, "decode_head") else "" if hasattr(model, "head") else "Det"


def _find_unpacked(samples: Sequence[Any], model: nn.Module) -> str:
    """Say which step is missing when samples are dicts as transforms pass them on, else ''."""
    sample = samples[0] if samples else None
    if not isinstance(sample, Mapping) or "inputs" in sample or "img" not in sample:
        return ""
    found = ", ".join(map(str, list(sample)[:6]))
    pack = f"Pack{_kind(unwrap_model(model))}Inputs"
    return f"the samples are not packed (they have {found}): end it with dict(type={pack!r})"


def _find_missing(samples: Sequence[Any], model: nn.Module) -> str:
    """Say which part of the samples is not there that the model's task needs, '' if all is."""
    if not samples or not isinstance(samples[0], Mapping):
        return ""
    if unpacked := _find_unpacked(samples, model):
        return unpacked
    kind, known = _kind(model), _data_sample(samples[0])
    pack = f"Pack{kind}Inputs"
    if known is None:
        return f"the samples have no annotations: end it with dict(type={pack!r})"
    if kind == "Seg":
        absent = "gt_sem_seg" not in known and "label map: put LoadAnnotations in front of " + pack
    elif not kind:
        absent = "gt_label" not in known and (
            "class number (gt_label): has the data set annotations (ann_file, or a folder a class)?"
        )
    else:
        objects = known.get("gt_instances")
        needs = {"bboxes": "with_bbox", "labels": "with_label"}
        if getattr(model, "with_mask", False):
            needs["masks"] = "with_mask"
        absent = objects is not None and next(
            (
                f"{key}: LoadAnnotations must be there, with {option}=True"
                for key, option in needs.items()
                if key not in objects
            ),
            "",
        )
    return f"its samples have no {absent}" if absent else ""


def _labels(known: Any) -> set[int]:
    """Return the class numbers of a packed sample."""
    numbers: set[int] = set()
    for owner, key in (
        (known, "gt_label"),
        (getattr(known, "gt_instances", None), "labels"),
        (getattr(known, "gt_sem_seg", None), "data"),
    ):
        value = getattr(owner, key, None)
        if isinstance(value, Tensor) and value.numel():
            numbers |= set(map(int, value.unique()))
    return numbers


def _describe_labels(samples: Sequence[Any]) -> str:
    """Say which class numbers packed samples have."""
    numbers = sorted(set().union(*map(_labels, samples)))
    listed = ", ".join(map(str, numbers[:12]))
    return f"labels {listed}{', ...' * (len(numbers) > 12)}" if numbers else ""


def _look_at_numbers(batch: Any, data: Any, preprocessor: nn.Module) -> list[str]:
    """Say whether images are normalised not at all, or twice."""
    before = batch.get("inputs") if isinstance(batch, Mapping) else None
    after = data.get("inputs") if isinstance(data, Mapping) else None
    images = list(before) if isinstance(before, (list, tuple)) else [before]
    if not all(isinstance(image, Tensor) and image.numel() for image in (after, *images)):
        return []
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    mean = getattr(preprocessor, "mean", None)
    subtracts = isinstance(mean, Tensor) and float(mean.abs().max()) > 1.5
    is_float = all(image.is_floating_point() for image in images)
    if subtracts and is_float and high > low and (low < 0 or high <= 1) and high - low < NARROW:
        return [
            f"the images are {low:.2f} to {high:.2f} already when model.data_preprocessor "
            "subtracts its mean, so that they are normalised twice: take Normalize out of "
            "train_pipeline (and of test_pipeline), or mean and std out of model.data_preprocessor"
        ]
    largest = float(after.abs().max())
    if largest > FAR:
        return [
            f"numbers of up to {largest:.0f} reach the network, where about 3 is usual: give "
            "model.data_preprocessor mean and std of the images as they are loaded (0 to 255)"
        ]
    return []


def rehearse_validation(
    model: nn.Module,
    loader: Any,
    evaluator: Evaluator,
    cfg: Mapping[str, Any],
    is_half: bool = False,
) -> Mapping[str, Any]:
    """Take a batch through a validation and its evaluator, and leave no trace.

    Args:
        model: The model.
        loader: That of the validation.
        evaluator: Its evaluator.
        cfg: The config, for the places of what fails.
        is_half: Use mixed precision.

    Returns:
        The scores, perhaps none; they mean nothing.

    Raises:
        UserError: It fails.
    """
    is_training = model.training
    # FSDP and DeepSpeed keep the weights to themselves
    is_open = isinstance(model, DistributedDataParallel) or not is_model_wrapper(model)
    try:
        # scores that mean nothing, and that nothing was found
        with (
            untouched(*[model] * is_open),
            redirect_stdout(io.StringIO()),
            quiet_logger(logging.CRITICAL),
        ):
            return _validate(model, loader, evaluator, is_half)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, UserError) or describe_accident(error) is not None:
            raise
        log_traceback(error)
        named = {id(module): f"model.{name}" for name, module in model.named_modules() if name}
        raise RehearsalError(
            _place_in_config(cfg, locate(error, named) or "val_dataloader"),
            "the validation fails in a rehearsal with one batch, as it would after training: "
            f"{describe(cause)}; look at val_dataloader, val_evaluator and the model",
        ) from error
    finally:
        model.train(is_training)


@torch.no_grad()
def _validate(
    model: nn.Module, loader: Any, evaluator: Evaluator, is_half: bool
) -> Mapping[str, Any]:
    """Return the scores of a batch, perhaps none."""
    size = min(loader.batch_size or 1, len(loader.dataset))
    samples = [loader.dataset[number] for number in range(size)]
    if isinstance(unwrap_model(model), BaseModel) and (absent := _find_unpacked(samples, model)):
        raise RehearsalError("val_dataloader.dataset.pipeline", absent)
    batch = loader.collate_fn(samples)
    model.eval()
    with autocast(enabled=is_half):
        outputs = model.val_step(batch)
    metrics = evaluator.metrics
    kept = [(metric, getattr(metric, "img_ids", None)) for metric in metrics]
    ids = [_image_id(output) for output in outputs]
    try:
        evaluator.process(data_samples=outputs, data_batch=batch)
        for metric, _ in kept:
            if hasattr(metric, "img_ids") and None not in ids:
                metric.img_ids = ids  # COCO's: of the others nothing was predicted
        return evaluator.evaluate(size)
    finally:
        for metric, images in kept:
            metric.results.clear()
            if hasattr(metric, "img_ids"):
                metric.img_ids = images


def _image_id(output: Any) -> Any:
    """Return the id of a predicted image, None where it has none."""
    if isinstance(output, Mapping):
        return output.get("img_id")
    return getattr(output, "img_id", None)
