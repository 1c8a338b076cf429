"""Print parameters and multiply-adds of the model of a config, on the CPU, without weights or data.

mmvitconv flops CONFIG [--shape H W] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmvitconv.cli.arguments import SidesAction, add_config_arguments, read_config

if TYPE_CHECKING:
    from mmvitconv.zoo.config_costs import ConfigComplexity
    from mmvitconv.zoo.costs import Macs

RULE = (
    "One multiplication with its addition counts 1; figures in FLOPs are about twice as large. "
    "layers: convolutions and linear layers. products: attention, similarities and FFT. Bias, "
    "norms, activations, softmax, pooling and RoIAlign are free."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument(
        "--shape",
        action=SidesAction,
        help="height and width of the image in pixels, or one number for a square; default: the "
        "test size of the config, 800 1280 for the usual COCO pipeline",
    )


def print_costs(result: ConfigComplexity, console: Console) -> None:
    """Print the table, the rule it was counted by and what is not in it.

    Args:
        result: What was measured.
        console: Where to print.
    """
    height, width = result.shape
    table = Table(title=f"Parameters, and multiply-adds in 10^9 for an image of {height} x {width}")
    table.add_column("part", overflow="fold")
    for column in ("parameters", "layers", "products", "total"):
        table.add_column(column, justify="right")

    def add(name: str, params: int, macs: Macs) -> None:
        costs = (f"{count / 1e9:.3f}" for count in (macs.layers, macs.products, macs.total))
        table.add_row(name, f"{params:,}", *costs)

    for part in result.parts:
        add(f"{part.name} ({part.kind})", part.params, part.macs)
    table.add_section()
    add("whole model", result.model.params, result.model.macs)
    console.print(table)
    for sentence in (RULE, *result.notes):
        console.print(sentence, highlight=False)
    idle = [part.name for part in result.parts if part.params and not part.macs.total]
    if idle:
        console.print(f"Without multiply-adds, or not run at inference: {', '.join(idle)}.")
    if result.model.uncounted:
        calls = ", ".join(f"{name} ({count}x)" for name, count in result.model.uncounted.items())
        console.print(f"[bold]Not counted[/bold], no formula: {calls}.")
    else:
        console.print("Every operator that ran is counted or free.")


def run(options: argparse.Namespace) -> None:
    """Count and print."""
    from mmvitconv.zoo.config_costs import count_config

    print_costs(count_config(read_config(options), options.shape), Console())
