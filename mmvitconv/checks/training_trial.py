"""A few samples through pipeline and loss before a training: no mistake waits for it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmvitconv.checks.bad_data import GuardedPipeline
from mmvitconv.checks.samples import BadSampleError, CheckedPipeline, Problem, innermost
from mmvitconv.checks.steps import describe, locate, name_steps
from mmvitconv.checks.trial_samples import (
    RehearsalError,
    data_sample,
    describe_labels,
    find_missing,
    place_in_config,
    richness,
    shape_of,
)
from mmvitconv.checks.untouched import untouched
from mmvitconv.datasets.layout import leaf_datasets
from mmvitconv.engine.loops import SeededDataset
from mmvitconv.engine.quiet import log_traceback, quiet_logger
from mmvitconv.engine.randomness import seed_process
from mmvitconv.errors import UserError, describe_accident, root_cause

__all__ = ["rehearse_training"]

TRIED = 8  # samples of which the batch is chosen
SIZE = 2  # of the batch, at most
FAR = 50.0  # numbers beyond this in an image that was normalised
NARROW = 25.0  # the width of one that was normalised


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
        found.sort(key=richness, reverse=True)
        first, *others = found
        others.sort(key=lambda sample: shape_of(sample) == shape_of(first))
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
        missing = find_missing(samples, self.model)
        if missing:
            return RehearsalError(self.places[0], missing)
        place = locate(error, self.named) or "train_dataloader.dataset"
        packed = data.get("data_samples") if isinstance(data, Mapping) else None
        if not isinstance(packed, (list, tuple)):
            packed = list(map(data_sample, samples))
        facts = [describe_labels(packed)]
        for outer in _outwards(place):
            count = next(
                (m.num_classes for m in self._at(outer) if hasattr(m, "num_classes")), None
            )
            if isinstance(count, int):
                facts.append(f"{outer}.num_classes={count}")
                break
        known = ", ".join(filter(None, facts))
        return RehearsalError(
            place_in_config(self.cfg, place),
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
