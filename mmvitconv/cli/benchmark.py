"""Measure the speed and memory of backbones beside models of timm.

All are measured in one process, taking turns. They are backbones with the features of all stages,
without heads, with random weights unless others are named.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mmvitconv.cli.arguments import add_memory_argument, at_least, parse_shape, positive
from mmvitconv.errors import UserError, shorten

if TYPE_CHECKING:
    from mmvitconv.analysis.benchmark import Plan
    from mmvitconv.analysis.benchmark_results import Row

DEFAULT_PEERS = ("resnet50", "convnext_tiny", "swin_tiny", "convmixer")
# Options that were not given are as in the earlier run of --regress, else as of --quick, else
# these, else as Plan has them. On a CPU a call takes so long that few say as much.
DEFAULTS = {
    "cpu": {"rounds": 20, "warm_up": 2, "seconds": 120.0},
    "cuda": {"rounds": 100, "warm_up": 20, "seconds": None},
}
QUICK = {"layout": ["nchw"], "rounds": 10, "warm_up": 1, "seconds": 20.0}
CONFIRMATIONS = 2  # how often --regress measures again what seems slower; the median of all counts
WIDTH = 150  # of the table where the output is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("models", nargs="*", metavar="ARCH",
        help="FAMILY:ARCH, mmvitconv://NAME for published weights, or timm:NAME (default: the "
        "smallest of each family)")  # fmt: skip
    add("--checkpoint", help="file or address of the weights of the one ARCH that is given "
        "(default: random weights)")  # fmt: skip
    add("--all", action="store_true", help="every architecture of ours")
    add("--peers", nargs="*", metavar="NAME",
        help="models of timm beside them; without a name none "
        f"(default: {' '.join(DEFAULT_PEERS)})")  # fmt: skip
    add("--shapes", nargs="+", type=parse_shape, metavar="HxW", dest="shape",
        help="image sizes, such as 224 800x1280 512x2048")  # fmt: skip
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes")
    add("--dtypes", "--precision", nargs="+", dest="dtype",
        choices=("fp32", "bf16", "fp16", "int8"),
        help="bf16, fp16 of eager and compiled code: autocast; int8: openvino only")  # fmt: skip
    add("--layouts", nargs="+", dest="layout", choices=("nchw", "nhwc"), help="nhwc: channels_last")
    add("--modes", "--runtime", nargs="+", dest="mode", type=_mode,
        choices=("eager", "compiled", "openvino", "onnxruntime"),
        help="compiled (or inductor): torch.compile")  # fmt: skip
    add("--passes", nargs="+", dest="pass_", choices=("inference", "training"),
        help="training: with a step of AdamW")  # fmt: skip
    add("--no-fold", action="store_false", dest="folds",
        help="measure inference of models as they are trained, not folded")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--threads", type=positive, metavar="N", help="of the CPU (default: torch's)")
    add("--rounds", type=positive, metavar="N", help="default: 20, on a GPU 100")
    add("--warm-up", type=at_least(int, 0), metavar="N", help="default: 2, on a GPU 20")
    add("--seconds", type=at_least(float, 1e-9), metavar="S",
        help="go on to the next size, batch and pass after so long in calls that count, but not "
        "before five rounds (default: 120, on a GPU no limit)")  # fmt: skip
    add("--quick", action="store_true", help="nchw, 10 rounds, 20 seconds, where not given")
    add("--out", type=Path, metavar="DIR", help="write CSV, JSON and plots there")
    add("--plot", choices=("macs", "accuracy"), default="macs",
        help="what the plots show over latency (default: %(default)s)")  # fmt: skip
    add("--regress", type=Path, metavar="FILE",
        help="compare with an earlier results.csv or .json; what is not given is measured as "
        "there; exit code 1 if something became slower or could not be measured")  # fmt: skip
    add("--calibration", default="resnet50", metavar="NAME",
        help="model to which times are compared (default: %(default)s)")  # fmt: skip
    add("--tolerance", type=at_least(float, 1), default=1.25,
        help="with --regress: a model may take so many times longer, measured in times of the "
        "calibration model (default: %(default)s)")  # fmt: skip
    add_memory_argument(parser)


def _mode(text: str) -> str:
    """Return the name that results have for a mode."""
    return "compiled" if text == "inductor" else text


def run(options: argparse.Namespace) -> int:
    """Measure; return 1 if ``--regress`` found something slower, or that no longer runs."""
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {str(options.out)!r} is a file; give a folder")
    from mmvitconv.analysis.benchmark_results import read_results

    before = read_results(options.regress) if options.regress else []
    plan = _plan(options, before)
    rows = _measure(plan, options)
    if not rows:
        raise UserError("nothing could be measured; the lines above say why")
    return _regress(options, plan, before, rows) if before else 0


def _plan(options: argparse.Namespace, before: Sequence[Row]) -> Plan:
    """Return what to measure; ``options.calibration`` becomes the name that results have."""
    import torch

    from mmvitconv.analysis.benchmark import Plan, all_archs, build, find_models, smallest_archs
    from mmvitconv.analysis.benchmark_results import KEY

    [options.calibration] = find_models([options.calibration], peers=True)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    values = DEFAULTS[options.device] | (QUICK if options.quick else {})
    models, peers = list(options.models), options.peers
    if before:
        found = sorted({row.model for row in before})
        if options.calibration not in found:
            raise UserError(
                f"{str(options.regress)!r} has no row of the calibration model "
                f"{options.calibration!r}; give --calibration one of {', '.join(found)}"
            )
        values |= {name: list(dict.fromkeys(getattr(row, name) for row in before)) for name in KEY}
        values |= {"shape": list(map(parse_shape, values["shape"])), "threads": before[0].threads}
    if options.all:
        models += all_archs()
    elif before and not models:
        models = [name if ":" in name else f"timm:{name}" for name in values["model"]]
        peers = peers or ()
    others = find_models(DEFAULT_PEERS if peers is None else peers, peers=True)
    others += [options.calibration] if before else []
    models = [*find_models(models or smallest_archs()), *others]
    given = {name: value for name, value in vars(options).items() if value is not None}
    makers = {name: partial(build, name) for name in models}
    if options.checkpoint is not None:
        named = find_models(options.models)
        if len(named) != 1:
            raise UserError(
                f"--checkpoint has the weights of one model, but {len(named)} are named; name the "
                "one ARCH that it belongs to, others as --peers"
            )
        makers[named[0]] = partial(build, named[0], checkpoint=options.checkpoint)
    values |= given | {"models": makers}
    return Plan(**{one.name: values[one.name] for one in fields(Plan) if one.name in values})


def _measure(plan: Plan, options: argparse.Namespace) -> list[Row]:
    """Run a plan; write and show each part when it is done."""
    from rich.console import Console

    from mmvitconv.analysis import benchmark_results as results
    from mmvitconv.analysis.benchmark import PEER_ACCURACY, run_benchmark
    from mmvitconv.zoo.catalogue import published_accuracies

    about = {"command": shlex.join(["mmvitconv", "benchmark", *options.arguments])}
    if options.out is not None:
        about |= results.environment()
    rows, left_out = [], []
    screen = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for group in run_benchmark(plan, left_out):
        rows += group
        if options.out is not None:
            results.write_results(options.out, rows, about, left_out)
        if group:
            screen.print(results.table_of(group, options.calibration))
    if options.out is not None and rows:
        print(f"wrote results.csv, results.json to {options.out}")
        accuracies = published_accuracies() | PEER_ACCURACY if options.plot == "accuracy" else None
        pictures = results.plot_results(rows, options.out, accuracies)
        print(f"wrote {', '.join(path.name for path in pictures)} to {options.out}")
    return rows


def _regress(
    options: argparse.Namespace, plan: Plan, before: Sequence[Row], rows: Sequence[Row]
) -> int:
    """Compare, measure again what is slower, and say what remains; return the exit code."""
    from mmvitconv.analysis.benchmark import run_benchmark, tell
    from mmvitconv.analysis.benchmark_results import compare

    comparison = compare(before, rows, options.calibration)
    suspects = {change.row.model for change in comparison.changes
                if change.verdict(options.tolerance) == "slower"}  # fmt: skip
    if suspects:
        tell(f"measured again: {', '.join(sorted(suspects))}")
        names = suspects | {options.calibration}
        part = replace(plan, models={name: plan.models[name] for name in names})
        again = [chain(*run_benchmark(part, [])) for _ in range(CONFIRMATIONS)]
        comparison = compare(before, rows, options.calibration, *again)
    for warning in comparison.warnings:
        print(f"warning: {warning}")
    asked = plan.keys()
    lost = [row for row in comparison.missing if row.key in asked]
    not_asked = [row for row in comparison.missing if row.key not in asked]
    for text, rows in (("missing here", not_asked), ("new here", comparison.new)):
        if rows:
            print(f"{text}, not compared: {shorten([row.label for row in rows], limit=10)}")
    for row in lost:
        print(f"could not be measured as in the earlier run: {row.label}")
    verdicts = []
    for change in comparison.changes:
        verdicts.append(change.verdict(options.tolerance))
        if verdicts[-1] == "slower":
            print(
                f"slower: {change.row.label}: {change.now:.2f} times {options.calibration}, was "
                f"{change.before:.2f}: x {change.factor:.2f}"
            )
        elif verdicts[-1] == "unclear":
            print(
                f"unclear: {change.row.label}: x {change.factor:.2f}, but its times vary as much "
                f"(x {change.noise:.2f}) or its fastest calls do not show it (x "
                f"{change.fastest:.2f}); give more --rounds"
            )
    count, slower = len(verdicts), verdicts.count("slower")
    print(
        f"{count - slower} of {count} measurements are not slower than in {options.regress} "
        f"(by the ratio to {options.calibration}; tolerance x {options.tolerance:g}, worst x "
        f"{comparison.changes[0].factor:.2f})"
    )
    return 1 if slower or lost else 0
