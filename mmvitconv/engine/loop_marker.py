"""Telling a mistake in a config from a failure in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class LoopMarker(Hook):
    """Reports that everything is built, and that the first batch has passed.

    Args:
        report: Called after each batch of training, and when a test begins.
        ready: Called when training begins, before its first batch.
    """

    priority = "VERY_HIGH"  # before the first line of the log
    keeps_state = False

    def __init__(self, report: Callable[[], None], ready: Callable[[], None]) -> None:
        self.report = report
        self.ready = ready

    def before_train(self, runner: Runner) -> None:
        """Report the beginning of training."""
        self.ready()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Report that a batch was trained."""
        self.report()

    def before_test(self, runner: Runner) -> None:
        """Report the beginning of a test."""
        self.report()
