"""A rehearsal of the validation before the first iteration, so that no mistake waits for it."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from mmvitconv.checks.non_finite import random_states, set_random_states
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import UserError, describe_accident, message_of, root_cause
from mmvitconv.registry import HOOKS

__all__ = ["RehearsalHook"]


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Runs one batch through the validation and its evaluator before training begins.

    Nothing is left of it: no scores, no random numbers that were drawn, no statistics of norms.

    Raises:
        UserError: The batch cannot be validated, or the score that is to choose the best checkpoint
            is none of the evaluator's.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.RehearsalHook")]
    """

    priority = "LOWEST"
    keeps_state = False

    def before_train(self, runner: Runner) -> None:
        """Validate one batch."""
        loop = runner.val_loop
        if loop is None or not hasattr(loop, "evaluator"):
            return
        states = random_states()
        is_training = runner.model.training
        try:
            # scores that mean nothing, and that nothing was found
            with redirect_stdout(io.StringIO()), quiet_logger(logging.CRITICAL):
                scores = self._validate(runner, loop)
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, UserError) or describe_accident(error) is not None:
                raise
            raise UserError(
                "the validation fails in a rehearsal with one batch, as it would after training: "
                f"{message_of(cause)}; look at val_dataloader, val_evaluator and the model, or "
                "start without it: --no-rehearsal"
            ) from error
        finally:
            runner.model.train(is_training)
            set_random_states(states)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and scores:
                self._check_score(hook, scores)

    @torch.no_grad()
    def _validate(self, runner: Runner, loop: Any) -> Mapping[str, Any]:
        """Return the scores of a batch, perhaps none."""
        loader = loop.dataloader
        size = min(loader.batch_size or 1, len(loader.dataset))
        batch = loader.collate_fn([loader.dataset[number] for number in range(size)])
        runner.model.eval()
        with autocast(enabled=getattr(loop, "fp16", False)):
            outputs = runner.model.val_step(batch)
        metrics = loop.evaluator.metrics
        kept = [(metric, getattr(metric, "img_ids", None)) for metric in metrics]
        ids = [_image_id(output) for output in outputs]
        try:
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
            for metric, _ in kept:
                if hasattr(metric, "img_ids") and None not in ids:
                    metric.img_ids = ids  # COCO's: of the others nothing was predicted
            return loop.evaluator.evaluate(size)
        finally:
            for metric, images in kept:
                metric.results.clear()
                if hasattr(metric, "img_ids"):
                    metric.img_ids = images

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


def _image_id(output: Any) -> Any:
    """Return the id of a predicted image, None where it has none."""
    if isinstance(output, Mapping):
        return output.get("img_id")
    return getattr(output, "img_id", None)
