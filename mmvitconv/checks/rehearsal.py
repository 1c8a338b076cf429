"""A rehearsal of training and evaluation before the first iteration: no mistake waits for it."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any
from warnings import catch_warnings, simplefilter

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.steps import describe
from mmvitconv.checks.training_trial import rehearse_training
from mmvitconv.checks.trial_samples import (
    RehearsalError,
)
from mmvitconv.checks.validation_trial import rehearse_validation
from mmvitconv.compat.absent import check_model
from mmvitconv.datasets.layout import as_items
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import UserError, root_cause
from mmvitconv.registry import HOOKS

__all__ = ["RehearsalHook", "rehearse_config"]

SPLITS = ("train", "val", "test")
PARTS = ("dataloader", "evaluator")


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


def rehearse_config(report: Report, cfg: Config, splits: Sequence[str] | None = None) -> None:
    """Rehearse a training and its evaluations with a model of random weights.

    Args:
        report: Gets the problems.
        cfg: The config.
        splits: Those to rehearse; default: all, where what is wrong with the test is a warning, as
            a training does not need it.
    """
    wanted = [
        name for name in SPLITS if cfg.get(f"{name}_dataloader") and name in (splits or SPLITS)
    ]
    if all(cfg.get(f"test_{what}") == cfg.get(f"val_{what}") for what in PARTS) and "val" in wanted:
        wanted = [name for name in wanted if name != "test"]
    if not isinstance(cfg.get("model"), Mapping) or not wanted:
        return
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        model = None
        for split in wanted:
            found = Report()
            try:
                model = model or _build_model(cfg)
                _rehearse_split(found, model, cfg, split)
            except Exception as error:
                cause = root_cause(error)
                if isinstance(cause, RehearsalError):
                    found.error(cause.reason, cause.place)
                else:
                    found.error(f"it cannot be used: {describe(cause)}", "config")
            is_needed = split != "test" or splits
            report.take(found, errors_as="errors" if is_needed else "warnings")
            if report.errors:
                return


def _rehearse_split(report: Report, model: nn.Module, cfg: Config, split: str) -> None:
    """Rehearse a split in the config's scope, see :func:`rehearse_config`."""
    settings = dict(cfg[f"{split}_dataloader"], num_workers=0, persistent_workers=False)
    for key in ("prefetch_factor", "pin_memory"):
        settings.pop(key, None)
    evaluator = cfg.get(f"{split}_evaluator")
    if split != "train" and (not evaluator or _writes_only(evaluator)):
        return
    with quiet_logger(logging.CRITICAL), redirect_stdout(io.StringIO()):
        loader = Runner.build_dataloader(settings, seed=0)
        metrics = Evaluator(evaluator) if split != "train" else None
    if metrics is None:
        for text in rehearse_training(model, loader, cfg):
            report.warn(text, f"{split}_dataloader")
        return
    metrics.dataset_meta = getattr(loader.dataset, "metainfo", None)
    rehearse_validation(model, loader, metrics, cfg, split=split)


def _writes_only(evaluator: Any) -> bool:
    """Tell whether an evaluator writes files instead of scores."""
    return any(metric.get("format_only") for _, metric in as_items(evaluator, ""))


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
