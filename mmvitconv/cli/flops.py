"""Print parameters and multiply-adds of the model of a config, on the CPU, without weights or data.

mmvitconv flops CONFIG [--shape H W] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmvitconv.engine.configuration import add_config_arguments, apply_options, load_config

if TYPE_CHECKING:
    from mmvitconv.zoo.config_costs import ConfigComplexity
    from mmvitconv.zoo.costs import Macs

RULE = (
    "One multiplication with its addition counts 1; figures in FLOPs are about twice as large. "
    "layers: convolutions and linear layers. products: attention, similarities and FFT. Bias, "
    "norms, activations, softmax, pooling and RoIAlign are free."
)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Its options.
    """
    parser = argparse.ArgumentParser(
        "mmvitconv flops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="height and width of the image in pixels, or one number for a square; default: the "
        "test size of the config, 800 1280 for the usual COCO pipeline",
    )
    options = parser.parse_args(arguments)
    if options.shape is not None:
        if len(options.shape) > 2:
            parser.error(f"--shape takes one or two numbers, got {len(options.shape)}")
        options.shape = (options.shape[0], options.shape[-1])
    return options


def show(result: ConfigComplexity, console: Console) -> None:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code 0.

    Raises:
        UserError: The config, an option or the shape cannot work.
    """
    options = parse_args(arguments)
    from mmvitconv.zoo.config_costs import count_config

    config = load_config(options.config)
    for note in apply_options(config, options.cfg_options):
        print(note, file=sys.stderr)
    show(count_config(config, options.shape), Console())
    return 0
