"""Measure the speed and memory of backbones, all in one process and taking turns.

They are backbones with the features of all stages, without heads and with random weights, beside
models of timm.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from mmvitconv.analysis.benchmark import Plan
    from mmvitconv.analysis.benchmark_models import Entry
    from mmvitconv.analysis.benchmark_regression import Comparison
    from mmvitconv.analysis.benchmark_results import Row
    from mmvitconv.analysis.timing import Timer

DEFAULT_PEERS = ("resnet50", "convnext_tiny", "swin_tiny", "convmixer")
# On a CPU a call takes so long that few say as much.
DEFAULTS = {
    "cpu": {"rounds": 20, "warm_up": 2, "seconds": 120.0},
    "cuda": {"rounds": 100, "warm_up": 20, "seconds": None},
}
QUICK = {"layouts": ["nchw"], "rounds": 10, "warm_up": 1, "seconds": 20.0}
GRID = {
    "shapes": [(224, 224)],
    "batch": [1],
    "dtypes": ["fp32"],
    "layouts": ["nchw", "nhwc"],
    "modes": ["eager"],
    "passes": ["inference"],
}
CONFIRMATIONS = 2  # how often --regress measures again what seems slower; the median of all counts
WIDTH = 150  # of the table where the output is no terminal


def parse_shape(text: str) -> tuple[int, int]:
    """``(800, 1280)`` for ``'800x1280'``, ``(224, 224)`` for ``'224'``.

    Raises:
        UserError: It is neither.
    """
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if match is None or 0 in (sizes := [int(size) for size in match.groups() if size]):
        raise UserError(
            f"the shape {text!r} is illegal; give HEIGHTxWIDTH, such as 800x1280, or 224"
        )
    return sizes[0], sizes[-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="ARCH",
        help="FAMILY:ARCH or timm:NAME (default: the smallest of each family)",
    )
    parser.add_argument("--all", action="store_true", help="every architecture of ours")
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help="models of timm beside them; without a name none "
        f"(default: {' '.join(DEFAULT_PEERS)})",
    )
    parser.add_argument(
        "--shapes", nargs="+", metavar="HxW", help="image sizes, such as 224 800x1280 512x2048"
    )
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="batch sizes")
    parser.add_argument(
        "--dtypes", nargs="+", metavar="TYPE", help="fp32, bf16, fp16 (the latter two: autocast)"
    )
    parser.add_argument("--layouts", nargs="+", metavar="LAYOUT", help="nchw, nhwc (channels_last)")
    parser.add_argument("--modes", nargs="+", metavar="MODE", help="eager, compiled")
    parser.add_argument(
        "--passes", nargs="+", metavar="PASS", help="inference, training (with an AdamW step)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's)")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 20, on a GPU 100")
    parser.add_argument("--warm-up", type=int, metavar="N", help="default: 2, on a GPU 20")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="go on to the next size, batch and pass after so long in calls that count, but not "
        "before five rounds "
        "(default: 120, on a GPU no limit)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="nchw, 10 rounds, 20 seconds, where not given"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write CSV, JSON and plots there")
    parser.add_argument(
        "--plot",
        choices=("macs", "accuracy"),
        default="macs",
        help="what the plots show over latency (default: %(default)s)",
    )
    parser.add_argument(
        "--regress",
        type=Path,
        metavar="FILE",
        help="compare with an earlier results.csv or .json; what is not given is measured as "
        "there; exit code 1 if something became slower or could not be measured",
    )
    parser.add_argument(
        "--calibration",
        default="resnet50",
        metavar="NAME",
        help="model to which times are compared (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.25,
        help="with --regress: a model may take so many times longer, measured in times of the "
        "calibration model (default: %(default)s)",
    )


def run(options: argparse.Namespace, timer: Timer | None = None) -> int:
    """Run the command.

    Args:
        options: The command line.
        timer: Takes the time of a call; None for the device's clock.

    Returns:
        Exit code: 1 if ``--regress`` found something slower, or something that no longer runs.

    Raises:
        UserError: Something that was given cannot work.
    """
    if not options.tolerance >= 1:
        raise UserError(f"--tolerance {options.tolerance} is illegal; give a factor from 1 on")
    shapes = [parse_shape(text) for text in options.shapes or ()]
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {str(options.out)!r} is a file; give a folder")

    from mmvitconv.analysis.benchmark import check_plan
    from mmvitconv.analysis.benchmark_models import find_models
    from mmvitconv.analysis.benchmark_regression import check_calibration
    from mmvitconv.analysis.benchmark_results import read_results

    calibration = find_models([options.calibration], peers=True)[0]
    before = read_results(options.regress) if options.regress else []
    if before:
        check_calibration(before, calibration.name, options.regress)
    plan = _plan(options, shapes, before, calibration)
    check_plan(plan)
    rows = _measure(plan, options, calibration, timer)
    if not rows:
        raise UserError("nothing could be measured; the lines above say why")
    if not before:
        return 0
    return _regress(options, plan, before, rows, calibration, timer)


def _plan(
    options: argparse.Namespace,
    shapes: Sequence[tuple[int, int]],
    before: Sequence[Row],
    calibration: Entry,
) -> Plan:
    """What to measure: as given, else as in the earlier run, else quick, else the defaults."""
    import torch

    from mmvitconv.analysis.benchmark import Plan
    from mmvitconv.analysis.benchmark_models import all_archs, find_models, smallest_archs

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    earlier: dict[str, Any] = {}
    if before:
        names = {"batch": "batch", "dtypes": "dtype", "layouts": "layout", "modes": "mode"}
        names |= {"passes": "pass_"}
        earlier = {
            key: list(dict.fromkeys(getattr(row, name) for row in before))
            for key, name in names.items()
        }
        earlier["shapes"] = list(dict.fromkeys(parse_shape(row.shape) for row in before))
        earlier["threads"] = before[0].threads
    layers = [
        {key: value for key, value in vars(options).items() if value is not None},
        earlier,
        QUICK if options.quick else {},
        DEFAULTS[device],
        GRID,
    ]
    layers[0].pop("shapes", None)
    if shapes:
        layers[0]["shapes"] = shapes

    def choose(name: str) -> Any:
        return next((layer[name] for layer in layers if name in layer), None)

    models = list(options.models)
    peers = options.peers
    if before and not models and not options.all:
        models = [_name_in_file(row) for row in before]
        peers = peers or ()
    elif options.all:
        models += all_archs()
    elif not models:
        models = smallest_archs()
    if peers is None:
        peers = DEFAULT_PEERS
    entries = list(dict.fromkeys([*find_models(models), *find_models(peers, peers=True)]))
    if before and calibration not in entries:
        entries.append(calibration)
    return Plan(
        models=entries,
        batches=choose("batch"),
        device=device,
        **{name: choose(name) for name in ("shapes", "dtypes", "layouts", "modes", "passes")},
        **{name: choose(name) for name in ("threads", "rounds", "warm_up", "seconds")},
    )


def _name_in_file(row: Row) -> str:
    return row.model if ":" in row.model else f"timm:{row.model}"


def _measure(
    plan: Plan,
    options: argparse.Namespace,
    calibration: Entry,
    timer: Timer | None,
) -> list[Row]:
    """Run a plan with a progress bar; write and show each part when it is done."""
    import shlex

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from mmvitconv.analysis.benchmark import Listener, run_benchmark
    from mmvitconv.analysis.benchmark_results import environment, table_of, write_results

    about = environment(plan.device) | {
        "command": shlex.join(["mmvitconv", "benchmark", *options.arguments])
    }
    rows: list[Row] = []
    left_out: list[str] = []
    screen = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} calls"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=None)

        def begin(title: str, calls: int) -> None:
            bar.reset(task, description=title, total=calls)
            if bar.disable:
                print(f"{title} ...", file=sys.stderr, flush=True)

        def say(line: str) -> None:
            left_out.append(line)
            bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

        listener = Listener(say, begin, lambda: bar.advance(task))
        for group in run_benchmark(plan, listener, timer):
            rows += group
            if options.out is not None:
                write_results(options.out, rows, about, left_out)
            if group:
                screen.print(table_of(group, calibration.name))
    if options.out is not None and rows:
        _plot(rows, plan, options)
    return rows


def _plot(rows: Sequence[Row], plan: Plan, options: argparse.Namespace) -> None:
    from mmvitconv.analysis.benchmark_models import published_accuracies

    try:
        from mmvitconv.analysis.benchmark_plot import plot_results
    except ImportError as error:
        raise UserError(
            f"plots need matplotlib: pip install 'mmvitconv[analysis]' ({error}); "
            f"the numbers are in {options.out}"
        ) from error
    accuracies = published_accuracies() if options.plot == "accuracy" else None
    ours = [entry.name for entry in plan.models if entry.ours]
    pictures = plot_results(rows, options.out, ours, accuracies)
    names = ", ".join(["results.csv", "results.json", *(path.name for path in pictures)])
    print(f"wrote {names} to {options.out}")


def _regress(
    options: argparse.Namespace,
    plan: Plan,
    before: Sequence[Row],
    rows: Sequence[Row],
    calibration: Entry,
    timer: Timer | None,
) -> int:
    """Compare, measure again what is slower, and say what remains."""
    from mmvitconv.analysis.benchmark import Listener, run_benchmark
    from mmvitconv.analysis.benchmark_regression import compare, keep_confirmed

    comparison = compare(before, rows, calibration.name)
    if suspects := comparison.slower(options.tolerance):
        names = {change.row.model for change in suspects}
        print(f"measured again: {', '.join(sorted(names))}", file=sys.stderr)
        kept = [entry for entry in plan.models if entry.name in names | {calibration.name}]
        silent = Listener(say=lambda line: None)
        again = []
        for _ in range(CONFIRMATIONS):
            groups = run_benchmark(replace(plan, models=kept), silent, timer)
            repeated = [row for group in groups for row in group]
            again.append(compare(before, repeated, calibration.name))
        comparison = keep_confirmed(comparison, again)
    return _report(comparison, options, plan, calibration)


def _report(
    comparison: Comparison, options: argparse.Namespace, plan: Plan, calibration: Entry
) -> int:
    """Print what changed.

    Returns:
        Exit code.
    """
    from mmvitconv.errors import shorten

    for warning in comparison.warnings:
        print(f"warning: {warning}")
    lost = [row for row in comparison.missing if plan.asks_for(row)]
    not_asked = [row for row in comparison.missing if not plan.asks_for(row)]
    for text, rows in (("missing here", not_asked), ("new here", comparison.new)):
        if rows:
            print(f"{text}, not compared: {shorten([row.label for row in rows], limit=10)}")
    for row in lost:
        print(f"could not be measured as in the earlier run: {row.label}")
    slower = comparison.slower(options.tolerance)
    for change in slower:
        print(
            f"slower: {change.row.label}: {change.now:.2f} times {calibration.name}, was "
            f"{change.before:.2f}: x {change.factor:.2f}"
        )
    for change in comparison.unclear(options.tolerance):
        print(
            f"unclear: {change.row.label}: x {change.factor:.2f}, but its times vary as much "
            f"(x {change.noise:.2f}) or its fastest calls do not show it (x {change.fastest:.2f}); "
            "give more --rounds"
        )
    count = len(comparison.changes)
    worst = max(change.factor for change in comparison.changes)
    print(
        f"{count - len(slower)} of {count} measurements are not slower than in {options.regress} "
        f"(by the ratio to {calibration.name}; tolerance x {options.tolerance:g}, worst x "
        f"{worst:.2f})"
    )
    return 1 if slower or lost else 0
