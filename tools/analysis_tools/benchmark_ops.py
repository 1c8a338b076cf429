"""The algorithms of an operator, measured: the source of its rules.

python tools/analysis_tools/benchmark_ops.py --op circular_conv [--device cpu|cuda] [--out DIR]

Prints a table, and writes every measurement to DIR/OP.csv and a log-log picture to DIR/OP.png.
"""

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvitconv import ops
from mmvitconv.analysis.benchmark import LAYOUTS
from mmvitconv.ops import depthwise_conv as depthwise_module
from mmvitconv.ops import depthwise_conv2d

mpl.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
from shared import measure

circular_module = sys.modules["mmvitconv.ops.circular_conv"]  # the function has its name

KERNEL_SIZES = (3, 5, 7, 8, 9, 11, 13, 15, 21, 31)
LENGTHS, CHANNELS = (7, 14, 28, 56, 112, 224), (64, 128, 256)


def depthwise_conv(args: argparse.Namespace) -> list[dict]:
    """Measure all algorithms over kernel sizes, layouts and passes."""
    rows = []
    channels = (args.channels or [256])[0]
    cases = [(size, layout) for size in args.sizes or KERNEL_SIZES for layout in LAYOUTS]
    for kernel_size, layout in track(cases, description="depthwise_conv", transient=True):
        shape = (args.batch, channels, args.side, args.side)
        x = torch.randn(shape, device=args.device).contiguous(memory_format=LAYOUTS[layout])
        weight = torch.randn(channels, 1, kernel_size, kernel_size, device=args.device)
        for title in ("forward", "training"):
            x = x.detach().requires_grad_(title == "training")
            weight = weight.detach().requires_grad_(title == "training")

            def run(algorithm: str, x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                out = depthwise_conv2d(x, weight, algorithm=algorithm)
                if out.requires_grad:
                    torch.autograd.grad(out, (x, weight), out.detach())

            names = [n for n in depthwise_module.ALGORITHMS if n != "unfold" or kernel_size <= 15]
            functions = {name: (lambda name=name: run(name)) for name in names}
            medians = measure(functions, args.rounds)
            chosen = depthwise_module._choose(x, kernel_size, None)
            for name, value in medians.items():
                row = {"kernel_size": kernel_size, "layout": layout, "pass": title}
                row |= {"algorithm": name, "ms": round(value, 3), "rule": name == chosen}
                rows.append(row)
    return rows


def plain_fft(x: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the Fourier form as one would write it down, for comparison."""
    spectrum = torch.fft.rfft(weight.unsqueeze(4 - axis), dim=axis - 1).conj()
    return torch.fft.irfft(torch.fft.rfft(x, dim=axis) * spectrum, n=x.shape[axis], dim=axis)


def circular_conv(args: argparse.Namespace) -> list[dict]:
    """Measure all algorithms over lengths, channels, directions and passes, on square maps."""
    rows = []
    cases = list(itertools.product(args.sizes or LENGTHS, args.channels or CHANNELS, "HW"))
    for length, channels, direction in track(cases, description="circular_conv", transient=True):
        x = torch.randn(args.batch, channels, length, length, device=args.device)
        weight = torch.randn(channels, length, device=args.device)
        for title in ("forward", "training"):
            x = x.detach().requires_grad_(title == "training")
            weight = weight.detach().requires_grad_(title == "training")

            def run(
                name: str,
                x: torch.Tensor = x,
                weight: torch.Tensor = weight,
                direction: str = direction,
            ) -> None:
                with torch.set_grad_enabled(x.requires_grad):
                    if name == "plain fft":
                        out = plain_fft(x, weight, 2 if direction == "H" else 3)
                    else:
                        out = ops.circular_conv(x, weight, direction, algorithm=name)
                    if out.requires_grad:
                        torch.autograd.grad(out, (x, weight), out.detach())

            names = ["auto", *circular_module.ALGORITHMS, "plain fft"]
            functions = {name: (lambda name=name: run(name)) for name in names}
            medians = measure(functions, args.rounds, least=2e-3)
            use = "training" if title == "training" else "inference"
            axis = 2 if direction == "H" else 3
            chosen = circular_module._choose(x, weight.shape, axis, False, use, "auto")
            for name, value in medians.items():
                row = {"length": length, "channels": channels, "direction": direction}
                row |= {"pass": title, "algorithm": name, "ms": round(value, 4)}
                rows.append(row | {"rule": name == chosen})
    return rows


def summary_of_circular_conv(rows: list[dict]) -> None:
    """Print how far the rules are from the best of our forms in each case, and what they save."""
    cases: dict[tuple, dict[str, float]] = {}
    for row in rows:
        case = (row["length"], row["channels"], row["direction"], row["pass"])
        cases.setdefault(case, {})[row["algorithm"]] = row["ms"]
    total = {name: sum(times[name] for times in cases.values()) for name in cases[case]}
    forms = circular_module.ALGORITHMS
    ratios = {
        case: times["auto"] / min(times[name] for name in forms) for case, times in cases.items()
    }
    for case, ratio in sorted(ratios.items(), key=lambda item: -item[1])[:5]:
        print(f"auto over best: {ratio:.2f} at {' '.join(map(str, case))}: {cases[case]}")
    print(f"cells: {len(cases)}, of which auto is beyond 1.15x of the best in "
          f"{sum(ratio > 1.15 for ratio in ratios.values())}")  # fmt: skip
    for name, value in total.items():
        print(f"sum of {name}: {value:.1f} ms, {value / total['auto']:.2f} times auto's")


# Function, what its cases are made of (the first on the x axis), its own summary.
OPERATORS = {
    "depthwise_conv": (depthwise_conv, ("kernel_size", "layout", "pass"), None),
    "circular_conv": (
        circular_conv,
        ("length", "channels", "direction", "pass"),
        summary_of_circular_conv,
    ),
}


def print_table(rows: list[dict], keys: Sequence[str], title: str) -> None:
    """Print a table with a line for each case; the rule's choice is bold."""
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    cases: dict[tuple, dict[str, str]] = {}
    for row in rows:
        text = f"[bold]{row['ms']}[/bold]" if row["rule"] else str(row["ms"])
        cases.setdefault(tuple(row[key] for key in keys), {})[row["algorithm"]] = text
    table = Table(*keys, *names, title=f"{title}, ms (bold: the rule's choice)")
    for case, cells in cases.items():
        table.add_row(*map(str, case), *[cells.get(name, "-") for name in names])
    Console(width=140).print(table)


def plot(rows: list[dict], keys: Sequence[str], path: Path, title: str) -> None:
    """Draw time over size, one panel for each combination of the other keys.

    Where a size is the length of an axis the time is that of one row of the map, and two dashed
    lines show how it grows with the length squared and with length times logarithm.
    """
    x_axis, others = keys[0], [key for key in keys[1:] if key != "channels"]
    most = {row["channels"] for row in rows if "channels" in row}
    if most:  # one of several widths, the middle one
        rows = [row for row in rows if row["channels"] == sorted(most)[len(most) // 2]]
    panels = list(dict.fromkeys(tuple(row[key] for key in others) for row in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 4), sharey=True, layout="constrained"
    )
    for axis, panel in zip(axes, panels, strict=True):
        part = [row for row in rows if tuple(row[key] for key in others) == panel]
        for name in dict.fromkeys(row["algorithm"] for row in part):
            points = [
                (row[x_axis], 1e3 * row["ms"] / row[x_axis] if most else row["ms"])
                for row in part
                if row["algorithm"] == name
            ]
            axis.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axis.set(title=", ".join(panel), xlabel=x_axis.replace("_", " "))
        axis.grid(alpha=0.3)
        sizes = sorted({row[x_axis] for row in part})
        if most:
            for growth, label in ((lambda n: n * n, "n²"), (lambda n: n * math.log2(n), "n log n")):
                start = min(
                    1e3 * row["ms"] / row[x_axis] for row in part if row[x_axis] == sizes[-1]
                )
                values = [start * growth(n) / growth(sizes[-1]) for n in sizes]
                axis.loglog(sizes, values, "k--" if label == "n²" else "k:", label=label)
        axis.set_xticks(sizes, [str(size) for size in sizes], rotation=60)
        axis.minorticks_off()
    axes[0].set_ylabel("microseconds for one row of all channels and images" if most else "ms")
    figure.suptitle(title)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", choices=OPERATORS, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, nargs="+", help="several for circular_conv")
    parser.add_argument("--side", type=int, default=32, help="map of depthwise_conv")
    parser.add_argument("--sizes", type=int, nargs="+", help="kernel sizes or lengths")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark_ops"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run, keys, summary = OPERATORS[args.op]
    rows = run(args)
    where = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    )
    title = f"{args.op}, batch {args.batch}, {where}, torch {torch.__version__}"
    print_table(rows, keys, title)
    if summary is not None:
        summary(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.op}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, keys, args.out / f"{args.op}.png", title)
    print(f"wrote {args.out / args.op}.csv and .png")


if __name__ == "__main__":
    main()
