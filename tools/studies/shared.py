"""What the studies and the table of mixers share: tables and styles of lines."""

from __future__ import annotations

import csv
import math
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmvitconv.analysis.timing import clock, take_turns

__all__ = [
    "FOLDER",
    "command_line",
    "counted",
    "line_styles",
    "markdown_table",
    "measure",
    "print_table",
    "threads",
    "write_csv",
]

FOLDER = Path(__file__).resolve().parent  # of the templates and tables
# Distinct in grey too: each line has its own marker and dashes. The colours are Okabe and Ito's.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#882255"]
_DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (5, 2)))
_REFERENCE = {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.3}


def line_styles(names: Sequence[str], reference: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each name with the options of its line; the reference's is black and thick."""
    styles = zip(_COLOURS, "s^DvPX*<", _DASHES, strict=True)
    for name in names:
        if name == reference:
            yield name, {**_REFERENCE, "label": f"{name} (softmax, global)"}
        else:
            style = dict(zip(("color", "marker", "linestyle"), next(styles), strict=True))
            yield name, {**style, "linewidth": 1.4, "label": name}


def measure(
    functions: Mapping[str, Callable[[], object]], rounds: int, least: float = 0.0
) -> dict[str, float]:
    """Return the median milliseconds of functions that take turns.

    Args:
        functions: What to measure, by name.
        rounds: Turns of each, at least 1.
        least: A turn repeats its function until it takes about this many seconds.
    """
    repeats = {name: math.ceil(least / clock(run)) or 1 for name, run in functions.items()}

    def repeat(name: str) -> None:
        for _ in range(repeats[name]):
            functions[name]()

    turns = {name: partial(repeat, name) for name in functions}
    times = take_turns(turns, rounds, warm_up=0)  # the calls above warm up
    return {name: 1e3 * statistics.median(times[name]) / repeats[name] for name in functions}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> None:
    """Print a table."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


def counted(number: int, noun: str) -> str:
    """Return ``'1 run'`` or ``'2 runs'``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a number of threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def command_line(script: str, arguments: Sequence[str]) -> str:
    """Return the command that gives the same numbers elsewhere: without the folder it wrote to."""
    kept: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not (argument.startswith("--out") or before == "--out"):
            kept.append(argument)
    return shlex.join(["python", script, *kept])
