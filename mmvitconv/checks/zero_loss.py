"""Ending a run in which nothing can be learnt, because its loss is exactly 0 from the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitconv.errors import UserError
from mmvitconv.registry import HOOKS

__all__ = ["ZeroLossHook"]


@HOOKS.register_module()
class ZeroLossHook(Hook):
    """Stops training when the losses of all first iterations are exactly 0.

    A loss of exactly 0 has no gradient. It is the loss of a single class in a softmax, of labels
    that are all ignored, of boxes that were all left out.

    Args:
        iterations: How many are looked at, >= 1; only in these the device is waited for.

    Raises:
        UserError: While training, after so many iterations without a loss.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.ZeroLossHook", iterations=10)]
    """

    priority = "LOWEST"
    keeps_state = False

    def __init__(self, iterations: int = 5) -> None:
        self.iterations = iterations
        self.seen = 0

    def before_train(self, runner: Runner) -> None:
        """Begin to count."""
        self.seen = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the losses of an iteration, unless one was seen already."""
        if not 0 <= self.seen < self.iterations or not isinstance(outputs, Mapping):
            return
        found = [
            value.detach().abs().sum()
            for key, value in outputs.items()
            if "loss" in key and isinstance(value, torch.Tensor)
        ]
        if not found:
            return
        total = torch.stack([value.float() for value in found]).sum()
        all_reduce(total, op="max")  # the other processes' data may have labels
        if total.item() != 0:
            self.seen = -1  # never again
            return
        self.seen += 1
        if self.seen == self.iterations:
            names = ", ".join(key for key in outputs if "loss" in key)
            raise UserError(
                f"all losses ({names}) and so all gradients were exactly 0 in the first "
                f"{self.iterations} iterations, so that nothing is learnt: are all labels ignored "
                "or left out (iscrowd, ignore_index, reduce_zero_label), or is there a single "
                "class with a softmax? 'mmvitconv check CONFIG' counts what is left"
            )
