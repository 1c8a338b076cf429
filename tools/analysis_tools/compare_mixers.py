"""The token mixers of all families side by side: what they are, and what they cost.

python tools/analysis_tools/compare_mixers.py [--sizes SIDE ...] [--channels C] [--heads H]
    [--batch N] [--device cpu|cuda] [--mixers NAME ...] [--out DIR]

Prints tables, and writes DIR/mixers.md, mixers.csv and mixers.png. The rows are data in
mmvitconv/analysis/mixers.py. Times are medians of mixers that take turns in one process.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvitconv.analysis.mixers import (
    COLUMNS,
    KNOWN_ELSEWHERE,
    ROWS,
    Cost,
    MemoryCheck,
    attention_memory,
    describe,
    measure_costs,
    plot,
    window_ratios,
)
from mmvitconv.analysis.studies import markdown_table
from mmvitconv.analysis.timing import command_line, threads

COSTS = {
    "params": "parameters",
    "macs": "10^6 multiply-adds",
    "forward_ms": "inference ms",
    "training_ms": "training ms",
    "memory": "training MiB",
}
NAMES = [row.name for row in ROWS]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Its options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[14, 28, 56], metavar="SIDE")
    parser.add_argument("--channels", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--heads", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--batch", type=int, default=2, help="at least 2, for BatchNorm; default: %(default)s"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--mixers", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="default: all"
    )
    parser.add_argument(
        "--no-checks",
        action="store_true",
        help="leave out the memory of LN+ReLU attention at 64 x 64 tokens, and DW-ViT against "
        "windows at 56 x 56 to 128 x 128",
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/compare_mixers"))
    options = parser.parse_args(arguments)
    if options.batch < 2:
        parser.error(
            f"--batch {options.batch}: BatchNorm cannot train on one value; give 2 or more"
        )
    if options.channels % options.heads or options.channels % 8:
        parser.error(f"--channels {options.channels} must be a multiple of --heads and of 8")
    if min(options.sizes) < 1 or options.rounds < 1:
        parser.error("--sizes and --rounds take at least 1")
    return options


def cost_cells(cost: Cost) -> list[str]:
    """A cost as the tables show it."""
    return [
        f"{cost.params:,}",
        f"{cost.macs / 1e6:.2f}",
        f"{cost.forward_ms:.3f}",
        f"{cost.training_ms:.3f}",
        f"{cost.memory / 2**20:.1f}",
    ]


def sentences_of_checks(memory: MemoryCheck, ratios: Sequence[Mapping[str, float]]) -> list[str]:
    """What was asked of the mixers, and what was measured."""
    side = memory.side
    found = ", ".join(
        f"{size / memory.whole:.3f} of that ({size / 2**20:.0f} MiB) with query_chunk={chunk!r}"
        for chunk, size in memory.chunks.items()
    )
    sentences = [
        f"LN+ReLU attention over {side} x {side} tokens, one image, forward and backward: "
        f"{memory.whole / 2**20:.0f} MiB at the peak with all queries at once, {found}. Asked: at "
        "most 0.25."
    ]
    for row in ratios:
        size = f"{row['side']} x {row['side']}"
        sentences.append(
            f"Inference at {size}, one image: `dwvit` {row['dwvit']:.2f} ms, `swin` "
            f"{row['swin']:.2f} ms, with shifted windows {row['swin, shifted']:.2f} ms: `dwvit` is "
            f"{row['ratio']:.2f} times as fast as `swin` without a shift, and "
            f"{row['ratio_of_pair']:.2f} times as fast as both in turns, as a stage has them. "
            "Asked on CPUs: 1.3."
        )
    return sentences


def report(
    source: str,
    descriptions: Mapping[str, Mapping[str, str]],
    costs: Sequence[Cost],
    checks: Sequence[str],
    batch: int,
    device: str,
) -> str:
    """Everything in markdown."""
    memory = (
        "what the allocator had at most beyond module and input"
        if device == "cuda"
        else "the storages of tensors alive at the peak, beyond module and input; scratch space "
        "inside an operator is not seen, so the number is the same at every run"
    )
    parts = [
        "# Token mixers side by side",
        source,
        "Reading mixers as convolutions with stored or generated kernels follows the abstract of "
        "arXiv:2309.10713. Only the abstract is known to us: columns and rows are ours, and "
        "nothing here is compared with the paper.",
        "## What they are",
        markdown_table(
            ["mixer", *COLUMNS.values()],
            [[name, *columns.values()] for name, columns in descriptions.items()],
        ),
        "For orientation, mixers that this package does not have:",
        markdown_table(
            ["mixer", *COLUMNS.values()],
            [[name, *columns.values()] for name, columns in KNOWN_ELSEWHERE.items()],
        ),
        "## What they cost",
        f"Multiply-adds are for one image, in closed form. Times and memory are for batches of "
        f"{batch}, float32, each mixer in the layout its backbone works in. Training is a forward "
        f"and a backward pass for the input and all parameters. Memory is that of training: "
        f"{memory}. Mind the 1x1 layers: some mixers have none, and their blocks have them "
        "elsewhere.",
    ]
    for side in dict.fromkeys(cost.side for cost in costs):
        rows = [[cost.mixer, *cost_cells(cost)] for cost in costs if cost.side == side]
        table = markdown_table(["mixer", *COSTS.values()], rows)
        parts += [f"### {side} x {side}, {side**2} tokens", table]
    parts += ["### Time over the number of tokens", "![Time over tokens](mixers.png)"]
    if checks:
        parts += ["## What was asked", "\n".join(f"- {check}" for check in checks)]
    return "\n\n".join(parts) + "\n"


def show(
    console: Console, descriptions: Mapping[str, Mapping[str, str]], costs: Sequence[Cost]
) -> None:
    """Print the tables."""
    table = Table("mixer", *COLUMNS.values(), title="Token mixers side by side")
    for name, columns in descriptions.items():
        table.add_row(name, *columns.values())
    console.print(table)
    for side in dict.fromkeys(cost.side for cost in costs):
        table = Table("mixer", title=f"{side} x {side}, {side**2} tokens")
        for title in COSTS.values():
            table.add_column(title, justify="right")
        for cost in costs:
            if cost.side == side:
                table.add_row(cost.mixer, *cost_cells(cost))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code 0.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_args(given)
    rows = [row for row in ROWS if row.name in options.mixers]
    sizes = (options.channels, options.heads)
    descriptions = {row.name: describe(row, *sizes, options.sizes[0]) for row in rows}
    errors = Console(stderr=True)
    costs, checks = [], []
    with threads(options.threads) as num_threads:
        for side in track(
            options.sizes,
            "measuring",
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        ):
            measured = (*sizes, options.batch, options.device, options.rounds)
            costs += measure_costs(rows, side, *measured)
        if not options.no_checks:
            checks = sentences_of_checks(
                attention_memory(*sizes, device=options.device),
                window_ratios(
                    channels=options.channels, heads=options.heads, device=options.device
                ),
            )
    where = f"CPU ({platform.machine()}), threads: {num_threads}"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    setting = f"{options.channels} channels, {options.heads} heads, batches of {options.batch}"
    command = command_line("tools/analysis_tools/compare_mixers.py", given)
    source = (
        f"Written by `{command}`: {setting}, {where}, torch {torch.__version__}; medians of "
        f"{options.rounds} turns."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    text = report(source, descriptions, costs, checks, options.batch, options.device)
    (options.out / "mixers.md").write_text(text, encoding="utf-8")
    with (options.out / "mixers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["mixer", "side", "tokens", *COSTS, *COLUMNS])
        writer.writeheader()
        for cost in costs:
            numbers = {**cost._asdict(), "tokens": cost.side**2}
            numbers |= {key: f"{numbers[key]:.4f}" for key in ("forward_ms", "training_ms")}
            writer.writerow({**numbers, **descriptions[cost.mixer]})
    plot(rows, costs, f"Token mixers: {setting}, {where}", options.out / "mixers.png")
    console = Console(width=150)
    show(console, descriptions, costs)
    for sentence in checks:
        console.print(sentence, highlight=False, markup=False)
    print(f"wrote mixers.md, mixers.csv and mixers.png to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
