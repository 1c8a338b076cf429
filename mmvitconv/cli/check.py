"""Check a config and its data before a long training: every file is opened as in training.

mmvitconv check CONFIG [--workers N] [--splits train val] [--sample N] [--cfg-options KEY=VALUE ...]

Prints the counts and every kind of problem; docs/bad_data.md says what is an error. The exit code
is 1 when there are errors.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mmvitconv.cli.arguments import add_config_arguments, read_config
from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from mmvitconv.checks.annotations import Report

SPLITS = ("train", "val", "test")
SHOWN_EXAMPLES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, help="default: those that the config has"
    )
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    parser.add_argument(
        "--workers",
        type=whole_number,
        default=len(usable(0)),
        help="processes that open files, 0 for none besides this one (default: %(default)s)",
    )
    parser.add_argument(
        "--sample",
        type=sample_size,
        help="files per dataset that are opened, or 'all' (default: all)",
    )
    parser.add_argument(
        "--no-rehearsal",
        action="store_true",
        help="check without a trial of the model with a batch of training and of validation",
    )


def whole_number(text: str) -> int:
    """Return a number >= 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return int(text)


def sample_size(text: str) -> int | None:
    """Return a number >= 0, or None for 'all', for argparse."""
    return None if text == "all" else whole_number(text)


def run(options: argparse.Namespace) -> int:
    """Check the data and print what was found."""
    cfg = read_config(options, lambda note: print(f"warning: {note}", file=sys.stderr))
    from mmvitconv.checks.config import check_config  # imports torch
    from mmvitconv.engine.quiet import quiet_logger

    try:
        with quiet_logger():
            report = check_config(cfg, options.splits, options.sample, options.workers)
        if not report.errors and not options.no_rehearsal:
            from mmvitconv.checks.rehearsal import rehearse_config

            rehearse_config(report, cfg, options.splits)
    except UserError:
        raise
    except Exception as error:  # annotations can be wrong in more ways than anyone has thought of
        raise UserError(f"the check failed: {type(error).__name__}: {error}") from error
    return print_report(report, options.config)


def print_report(report: Report, title: str) -> int:
    """Print a table of the datasets and the problems.

    Args:
        report: What was found.
        title: Of the table.

    Returns:
        Exit code: 1 when there are errors.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # One line per problem: a path that is broken into lines cannot be copied.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table("split", "images", "labels", title=escape(title))
    for split, images, labels in report.rows:
        table.add_row(escape(split), str(images), str(labels))
    console.print(table)
    for word, problems in (("error", report.errors), ("warning", report.warnings)):
        for kind, examples in problems.items():
            console.print(f"{word}: {kind} ({len(examples)}x)")
            for example in examples[:SHOWN_EXAMPLES]:
                console.print(f"    {example}")
            if kind in report.advice:
                console.print(f"    => {report.advice[kind]}")
            if len(examples) > SHOWN_EXAMPLES:
                console.print(f"    and {len(examples) - SHOWN_EXAMPLES} more")
    for note in report.notes:
        console.print(note)
    total = sum(map(len, report.errors.values()))
    console.print(f"{total} errors" if total else "no errors")
    return int(total > 0)
