"""Telling a mistake in a config from a failure in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner


class LoopMarker(Hook):
    """Reports that everything is built and the loop over the data begins.

    Args:
        report: Called without arguments when training or testing begins.
    """

    priority = "VERY_HIGH"

    def __init__(self, report: Callable[[], None]) -> None:
        self.report = report

    def before_train(self, runner: Runner) -> None:
        """Report the beginning of training."""
        self.report()

    def before_test(self, runner: Runner) -> None:
        """Report the beginning of a test."""
        self.report()
