"""The algorithms of an operator, measured: the source of its rules.

python tools/analysis_tools/benchmark_ops.py --op circular_conv [--device cpu|cuda] [--out DIR]

Prints a table, and writes every measurement to DIR/OP.csv and a log-log picture to DIR/OP.png.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch
from rich.progress import track

from mmvitconv import ops
from mmvitconv.analysis.benchmark import LAYOUTS
from mmvitconv.ops import depthwise_conv as depthwise_module
from mmvitconv.ops import depthwise_conv2d

mpl.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
from shared import measure, print_table, write_csv

circular_module = sys.modules["mmvitconv.ops.circular_conv"]  # the function has its name

KERNEL_SIZES = (3, 5, 7, 8, 9, 11, 13, 15, 21, 31)
AXES = {"H": 2, "W": 3}
LENGTHS, CHANNELS = (7, 14, 28, 56, 112, 224), (64, 128, 256)


class Operator(NamedTuple):
    """What is measured of an operator."""

    keys: tuple[str, ...]  # what its cases are made of, the first on the x axis
    cases: Callable[[argparse.Namespace], Iterable[tuple]]
    shapes: Callable[..., tuple[tuple[int, ...], tuple[int, ...]]]  # of input and weight
    names: Callable[..., Iterable[str]]  # algorithms of a case
    call: Callable[..., torch.Tensor]  # of an algorithm, input, weight and case
    choose: Callable[..., str]  # the algorithm of the rule for input, weight, pass and case
    summary: Callable[[list[dict]], None] = lambda rows: None

    def measure(self, args: argparse.Namespace) -> list[dict]:
        """Measure all algorithms over cases and passes."""
        rows = []
        for case in track(list(self.cases(args)), description=args.op, transient=True):
            x, weight = (
                torch.randn(shape, device=args.device) for shape in self.shapes(args, case)
            )
            if case[1] in LAYOUTS:
                x = x.contiguous(memory_format=LAYOUTS[case[1]])
            for title in ("forward", "training"):
                x, weight = (t.detach().requires_grad_(title == "training") for t in (x, weight))
                functions = {
                    name: partial(run, partial(self.call, name, x, weight, case), (x, weight))
                    for name in self.names(case)
                }
                medians = measure(functions, args.rounds, least=2e-3)
                chosen = self.choose(x, weight, title, case)
                known = {**dict(zip(self.keys, case, strict=False)), "pass": title}
                for name, value in medians.items():
                    row = {"algorithm": name, "ms": round(value, 4), "rule": name == chosen}
                    rows.append(known | row)
        return rows


def run(call: Callable[[], torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> None:
    """Call an operator, and its backward pass where the inputs need gradients."""
    with torch.set_grad_enabled(inputs[0].requires_grad):
        out = call()
    if out.requires_grad:
        torch.autograd.grad(out, inputs, out.detach())


def plain_fft(x: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the Fourier form as one would write it down, for comparison."""
    spectrum = torch.fft.rfft(weight.unsqueeze(4 - axis), dim=axis - 1).conj()
    return torch.fft.irfft(torch.fft.rfft(x, dim=axis) * spectrum, n=x.shape[axis], dim=axis)


def call_circular(name: str, x: torch.Tensor, weight: torch.Tensor, case: tuple) -> torch.Tensor:
    """Run an algorithm of circular convolution."""
    if name == "plain fft":
        return plain_fft(x, weight, AXES[case[2]])
    return ops.circular_conv(x, weight, case[2], algorithm=name)


def choose_circular(x: torch.Tensor, weight: torch.Tensor, title: str, case: tuple) -> str:
    """Return what the rule takes."""
    use = "training" if title == "training" else "inference"
    return circular_module._choose(x, weight.shape, AXES[case[2]], False, use, "auto")


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


OPERATORS = {
    "depthwise_conv": Operator(
        ("kernel_size", "layout", "pass"),
        lambda args: itertools.product(args.sizes or KERNEL_SIZES, LAYOUTS),
        lambda args, case: (
            (args.batch, (args.channels or [256])[0], args.side, args.side),
            ((args.channels or [256])[0], 1, case[0], case[0]),
        ),
        lambda case: [n for n in depthwise_module.ALGORITHMS if n != "unfold" or case[0] <= 15],
        lambda name, x, weight, case: depthwise_conv2d(x, weight, algorithm=name),
        lambda x, weight, title, case: depthwise_module._choose(x, case[0], None),
    ),
    "circular_conv": Operator(
        ("length", "channels", "direction", "pass"),
        lambda args: itertools.product(args.sizes or LENGTHS, args.channels or CHANNELS, AXES),
        lambda args, case: ((args.batch, case[1], case[0], case[0]), (case[1], case[0])),
        lambda case: ["auto", *circular_module.ALGORITHMS, "plain fft"],
        call_circular,
        choose_circular,
        summary_of_circular_conv,
    ),
}


def show(rows: list[dict], keys: Sequence[str], title: str) -> None:
    """Print a table with a line for each case; the rule's choice is bold."""
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    cases: dict[tuple, dict[str, str]] = {}
    for row in rows:
        text = f"[bold]{row['ms']}[/bold]" if row["rule"] else str(row["ms"])
        cases.setdefault(tuple(row[key] for key in keys), {})[row["algorithm"]] = text
    cells = [[*map(str, case), *(c.get(n, "-") for n in names)] for case, c in cases.items()]
    print_table(f"{title}, ms (bold: the rule's choice)", [*keys, *names], cells, width=140)


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
    operator = OPERATORS[args.op]
    rows, keys = operator.measure(args), operator.keys
    where = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    )
    title = f"{args.op}, batch {args.batch}, {where}, torch {torch.__version__}"
    show(rows, keys, title)
    operator.summary(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / f"{args.op}.csv", list(rows[0]), [list(row.values()) for row in rows])
    plot(rows, keys, args.out / f"{args.op}.png", title)
    print(f"wrote {args.out / args.op}.csv and .png")


if __name__ == "__main__":
    main()
