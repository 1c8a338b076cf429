"""What training and testing have in common: arguments, the config, and errors before the loop.

The order is: arguments, config, ``--cfg-options``, data, checkpoints, and only then the imports and
the building that take long, so that a mistake is named at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmvitconv.cli import speaks
from mmvitconv.cli.arguments import (
    add_config_arguments,
    add_debug_argument,
    add_memory_argument,
    read_config,
)
from mmvitconv.datasets.layout import prepare_config
from mmvitconv.engine.torchrun import follow_launcher
from mmvitconv.errors import UserError, describe_accident, message_of, root_cause

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmvitconv.engine.quiet import QuietStart

__all__ = [
    "Loop",
    "add_run_arguments",
    "check",
    "errors_before_loop",
    "make_say",
    "need_all",
    "start",
]

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, the work directory, how processes are started, and how to run."""
    add_config_arguments(parser)
    parser.add_argument(
        "--work-dir", help="where logs and checkpoints go (default: work_dirs/NAME-OF-CONFIG)"
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="how the processes of a distributed run are started",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="start without checking the config and its data"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    add_memory_argument(parser)
    add_debug_argument(parser)
    # old launchers pass the rank on the command line
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def make_say(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints a line, from one process per machine."""

    def say(text: str) -> None:
        if speaks(options):
            print(text, flush=True)

    return say


def start(options: argparse.Namespace) -> Config:
    """Load the config of a run and merge the command line into it.

    Args:
        options: From :func:`add_run_arguments`.

    Returns:
        The config, with a work directory and the launcher.
    """
    follow_launcher()
    os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    say = make_say(options)
    cfg = read_config(options, lambda note: say(f"warning: {note}"))
    if options.work_dir is not None:
        cfg.work_dir = options.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs", Path(cfg.filename).stem))
    cfg.launcher = options.launcher
    prepare_config(cfg)
    return cfg


def check(options: argparse.Namespace, cfg: Config, splits: Sequence[str], loop: Loop) -> None:
    """Check the config and its data; in a distributed run the first process does it.

    Args:
        options: From :func:`add_run_arguments`.
        cfg: The config.
        splits: Those that the run uses.
        loop: Keeps the console quiet, and the warnings for the time when the run begins.

    Raises:
        UserError: There are errors.
    """
    say = make_say(options)
    loop.keep_quiet(say)
    if options.no_check or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    from mmvitconv.checks.start import check_before_run

    report = check_before_run(cfg, splits)
    for name, images, labels in report.rows:
        say(f"{name}: {images} images, {labels} labels")
    for text in report.sentences("warnings"):
        loop.quiet.warn(text)


def need_all(*steps: Callable[[], None]) -> None:
    """Take all steps, and name together what they miss: data and weights, for example.

    Args:
        *steps: Functions that raise a UserError where something is missing.

    Raises:
        UserError: A step does, or several.
    """
    errors = []
    for step in steps:
        try:
            step()
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = "".join(f"\n  error: {error}" for error in errors)
        raise UserError(f"{len(errors)} things stop this run:{lines}")


@dataclass
class Loop:
    """What is known about the loop over the data when an error arrives."""

    quiet: QuietStart | None = None  # holds back what MMEngine says before the loop
    running: bool = False  # everything is built
    begun: bool = False  # the loop has dealt with its first batch
    explain: Callable[[], str] = str  # what may have caused an error before it, '' if unknown

    def keep_quiet(self, say: Callable[[str], None]) -> None:
        """Hold back what MMEngine says until the first batch has passed."""
        from mmvitconv.engine.quiet import QuietStart  # imports torch

        self.quiet = QuietStart(say)
        self.quiet.begin()

    def get_ready(self) -> None:
        """Note that everything is built."""
        self.running = True

    def begin(self) -> None:
        """Note that the first batch has passed."""
        self.begun = True
        self.speak()

    def speak(self) -> None:
        """Let the console speak again, first of the warnings."""
        if self.quiet is not None:
            self.quiet.end()

    def explain_by_annotations(self, cfg: Config, splits: Sequence[str]) -> None:
        """Look into the annotations from now on when something fails before the loop."""
        from mmvitconv.checks.annotations import explain_annotations  # imports Pillow

        self.explain = partial(explain_annotations, cfg, splits)


@contextmanager
def errors_before_loop() -> Iterator[Loop]:
    """Turn whatever fails before the loop over the data begins into a UserError.

    Until its first batch has passed, every exception is a mistake in the input or the config;
    afterwards only a :class:`~mmvitconv.errors.UserError` is, and any other keeps its traceback.

    Yields:
        Where to note that the loop begins.

    Raises:
        UserError: Something failed before.
    """
    loop = Loop()
    try:
        yield loop
    except Exception as error:
        cause = root_cause(error)
        if loop.begun or isinstance(cause, UserError):
            raise
        if loop.running and describe_accident(error) is not None:
            raise
        if loop.quiet is not None:
            from mmvitconv.engine.quiet import log_traceback

            log_traceback(error)
        raise UserError(loop.explain() or message_of(cause)) from error
    finally:
        if loop.quiet is not None:
            loop.quiet.close()
