"""List every registered architecture with its size, cost and published accuracy.

mmvitconv list [--family FAMILY] [--task TASK] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mmvitconv.zoo.table import Arch

RULE = (
    "Parameters and multiply-adds (MACs: one multiplication with its addition counts 1, for one "
    "image of 224 x 224) are those of the backbone alone with its default arguments. Published: "
    "the best of the shipped configs, in %; 'mmvitconv info ARCH' has all. Weights: the name after "
    "'mmvitconv://'; 'mmvitconv weights list' has all."
)
NARROWEST = 100  # columns, where the output goes to a file or a pipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--family", help="only this one, e.g. FCViT, or a folder of configs: parc")
    parser.add_argument("--task", help="only what configs use: classification, detection, ...")
    parser.add_argument("--json", action="store_true", help="print JSON, with all configs")


def run(options: argparse.Namespace) -> None:
    """Print the table or JSON."""
    from mmvitconv.zoo.catalogue import list_archs

    archs = list_archs(options.family, options.task)
    if options.json:
        json.dump([arch.to_dict() for arch in archs], sys.stdout, indent=1)
        print()
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(NARROWEST, console.width))
        print_table(archs, console)


def print_table(archs: Sequence[Arch], console: Console) -> None:
    """Print the table, what its numbers are and where they come from.

    Args:
        archs: What to show.
        console: Where to print.
    """
    sources: dict[str, int] = {}
    table = Table(title=f"{len(archs)} architectures")
    for column, justify in (("arch", "left"), ("parameters", "right"), ("MACs", "right")):
        table.add_column(column, justify=justify, no_wrap=True)
    table.add_column("stride: channels", width=8)
    table.add_column("tasks", no_wrap=True)
    table.add_column("published", overflow="fold")
    table.add_column("weights", overflow="fold")
    previous = None
    for arch in archs:
        if arch.family != previous:
            table.add_section()
            table.add_row(f"[bold]{arch.family}[/bold]")
        previous = arch.family
        maps = dict.fromkeys(zip(arch.strides, arch.out_channels, strict=True))
        table.add_row(
            "\n".join([arch.arch, *(f"= {alias}" for alias in arch.aliases)]),
            f"{arch.parameters / 1e6:.2f} M",
            f"{arch.macs_224 / 1e9:.2f} G",
            "\n".join(f"{stride}: {channels}" for stride, channels in maps),
            "\n".join(arch.tasks) or "-",
            "\n".join(best_results(arch, sources)) or "-",
            _weights(arch.weights) or "-",
        )
    console.print(table)
    console.print(RULE, highlight=False)
    for source, number in sources.items():
        console.print(f"({number}) {source}", highlight=False)


def _weights(names: Sequence[str]) -> str:
    """Return the first name, and how many more there are."""
    return "\n".join([*names[:1], *([f"and {len(names) - 1} more"] if names[1:] else [])])


def best_results(arch: Arch, sources: dict[str, int]) -> list[str]:
    """Return the best published value of each metric, one line per data set.

    Args:
        arch: The architecture.
        sources: Numbers of the sources, extended by those that are new.

    Returns:
        Lines such as ``'COCO: box AP 42.3, mask AP 38.6 (1)'``.
    """
    best: dict[str, dict[str, tuple[float, str]]] = {}
    for result in (result for config in arch.configs for result in config.results):
        metrics = best.setdefault(result.dataset, {})
        # of every metric in our metafiles more is better
        if result.value > metrics.get(result.metric, (float("-inf"), ""))[0]:
            metrics[result.metric] = (result.value, result.source)
    lines = []
    for dataset, metrics in best.items():
        values = ", ".join(
            f"{metric.removesuffix(' Accuracy')} {value}" for metric, (value, _) in metrics.items()
        )
        used = {
            source: sources.setdefault(source, len(sources) + 1) for _, source in metrics.values()
        }
        lines.append(f"{dataset}: {values} ({', '.join(map(str, used.values()))})")
    return lines
