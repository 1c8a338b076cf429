"""A batch through an evaluation and its metrics before a training."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner.amp import autocast
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvitconv.checks.steps import describe, locate
from mmvitconv.checks.trial_samples import (
    RehearsalError,
    find_unpacked,
    place_in_config,
)
from mmvitconv.checks.untouched import untouched
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.engine.quiet import log_traceback, quiet_logger
from mmvitconv.errors import UserError, describe_accident, root_cause

__all__ = ["rehearse_validation"]

WORDS = {"val": "validation", "test": "test"}


def rehearse_validation(
    model: nn.Module,
    loader: Any,
    evaluator: Evaluator,
    cfg: Mapping[str, Any],
    is_half: bool = False,
    split: str = "val",
) -> Mapping[str, Any]:
    """Take a batch through an evaluation and its metrics, and leave no trace.

    Args:
        model: The model.
        loader: That of the validation.
        evaluator: Its evaluator.
        cfg: The config, for the places of what fails.
        is_half: Use mixed precision.
        split: 'val', or 'test' for its loader and evaluator.

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
            return _validate(model, loader, evaluator, is_half, split)
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, UserError) or describe_accident(error) is not None:
            raise
        log_traceback(error)
        named = {id(module): f"model.{name}" for name, module in model.named_modules() if name}
        raise RehearsalError(
            place_in_config(cfg, locate(error, named) or f"{split}_dataloader"),
            f"the {WORDS[split]} fails in a rehearsal with one batch, as it would after training: "
            f"{describe(cause)}; look at {split}_dataloader, {split}_evaluator and the model",
        ) from error
    finally:
        model.train(is_training)


@torch.no_grad()
def _validate(
    model: nn.Module, loader: Any, evaluator: Evaluator, is_half: bool, split: str
) -> Mapping[str, Any]:
    """Return the scores of a batch, perhaps none."""
    size = min(loader.batch_size or 1, len(loader.dataset))
    samples = [loader.dataset[number] for number in range(size)]
    if isinstance(unwrap_model(model), BaseModel) and (absent := find_unpacked(samples, model)):
        raise RehearsalError(f"{split}_dataloader.dataset.pipeline", absent)
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
