"""The algorithms of an operator, measured: the source of its rules.

python tools/analysis_tools/benchmark_ops.py --op depthwise_conv [--device cpu|cuda] [--out DIR]

Prints a table, and writes every measurement to DIR/OP.csv and a log-log picture to DIR/OP.png.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvitconv.ops import depthwise_conv as depthwise_module
from mmvitconv.ops import depthwise_conv2d

mpl.use("Agg")
import matplotlib.pyplot as plt

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def measure(functions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict:
    """Median milliseconds of each function; they take turns."""
    sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-1, rounds):
        for name, function in functions.items():
            sync()
            start = time.perf_counter()
            function()
            sync()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def depthwise_conv(args: argparse.Namespace) -> list[dict]:
    """All algorithms over kernel sizes, layouts and passes."""
    rows = []
    cases = [(size, layout) for size in args.sizes for layout in LAYOUTS]
    for kernel_size, layout in track(cases, description="depthwise_conv", transient=True):
        shape = (args.batch, args.channels, args.side, args.side)
        x = torch.randn(shape, device=args.device).contiguous(memory_format=LAYOUTS[layout])
        weight = torch.randn(args.channels, 1, kernel_size, kernel_size, device=args.device)
        for title in ("forward", "training"):
            x = x.detach().requires_grad_(title == "training")
            weight = weight.detach().requires_grad_(title == "training")

            def run(algorithm: str, x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                out = depthwise_conv2d(x, weight, algorithm=algorithm)
                if out.requires_grad:
                    torch.autograd.grad(out, (x, weight), out.detach())

            names = [n for n in depthwise_module.ALGORITHMS if n != "unfold" or kernel_size <= 15]
            functions = {name: (lambda name=name: run(name)) for name in names}
            medians = measure(functions, args.rounds, args.device)
            chosen = depthwise_module._choose(x, kernel_size, None)
            for name, value in medians.items():
                row = {"kernel_size": kernel_size, "layout": layout, "pass": title}
                row |= {"algorithm": name, "ms": round(value, 3), "rule": name == chosen}
                rows.append(row)
    return rows


OPERATORS = {"depthwise_conv": (depthwise_conv, "kernel_size")}


def show(rows: list[dict], x_axis: str, title: str) -> None:
    """A table with a line for each case; the rule's choice is bold."""
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    cases: dict[tuple, dict[str, str]] = {}
    for row in rows:
        text = f"[bold]{row['ms']}[/bold]" if row["rule"] else str(row["ms"])
        cases.setdefault((row[x_axis], row["layout"], row["pass"]), {})[row["algorithm"]] = text
    table = Table(x_axis, "input", "pass", *names, title=f"{title}, ms (bold: the rule's choice)")
    for case, cells in cases.items():
        table.add_row(*map(str, case), *[cells.get(name, "-") for name in names])
    Console(width=140).print(table)


def plot(rows: list[dict], x_axis: str, path: Path, title: str) -> None:
    """Time over size, one panel for each layout and pass."""
    panels = list(dict.fromkeys((row["layout"], row["pass"]) for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), sharey=True)
    for axis, (layout, which) in zip(axes, panels, strict=True):
        part = [row for row in rows if (row["layout"], row["pass"]) == (layout, which)]
        for name in dict.fromkeys(row["algorithm"] for row in part):
            points = [(row[x_axis], row["ms"]) for row in part if row["algorithm"] == name]
            axis.loglog(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=f"{which}, input {layout}", xlabel=x_axis.replace("_", " "))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[-1].legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", choices=OPERATORS, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--side", type=int, default=32, help="height and width of the map")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 5, 7, 8, 9, 11, 13, 15, 21, 31])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark_ops"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run, x_axis = OPERATORS[args.op]
    rows = run(args)
    where = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    )
    shape = f"{args.batch}x{args.channels}x{args.side}x{args.side}"
    title = f"{args.op} of {shape}, {where}, torch {torch.__version__}"
    show(rows, x_axis, title)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.op}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, x_axis, args.out / f"{args.op}.png", title)
    print(f"wrote {args.out / args.op}.csv and .png")


if __name__ == "__main__":
    main()
