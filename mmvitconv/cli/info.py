"""Show everything about one architecture, and the lines that put it into your own config.

mmvitconv info fcvit_s12
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmvitconv.weights.index import Weights, weights_of

if TYPE_CHECKING:
    from mmvitconv.zoo.table import Arch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("arch", nargs="+", help="e.g. fcvit_s12, 'FCViT s12', s12, or a config")


def run(options: argparse.Namespace) -> None:
    """Find the architecture and print its facts."""
    from mmvitconv.zoo.catalogue import find_arch

    print_arch(find_arch(" ".join(options.arch)), Console())


def print_arch(arch: Arch, console: Console) -> None:
    """Print what is known about an architecture.

    Args:
        arch: The architecture.
        console: Where to print.
    """
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(arch):
        facts.add_row(name, text)
    console.print(facts, highlight=False)
    for config in arch.configs:
        console.print(f"\n{config.path} ({config.task})", highlight=False)
        for result in config.results:
            value = f"{result.metric} {result.value}"
            console.print(f"    {result.dataset}: {value} ({result.source})", highlight=False)
    console.print("\nIn your own mmdet config, with its neck:\n", highlight=False)
    # code to copy: not wrapped
    console.print(arch.snippet, highlight=False, markup=False, soft_wrap=True)


def _facts(arch: Arch) -> list[tuple[str, str]]:
    """Return names and texts of the upper part."""
    facts = [("architecture", f"{arch.type}, arch={arch.arch!r}")]
    if arch.aliases:
        facts.append(("other names", ", ".join(arch.aliases)))
    if arch.paper is not None:
        facts.append(("paper", f"{arch.paper.title}, {arch.paper.url}"))
        facts.append(("original code", arch.paper.code or "none is public"))
    facts.append(("parameters", f"{arch.parameters:,} (backbone, without a classifier's head)"))
    outside = arch.parameters - sum(arch.part_parameters)
    facts.append((f"in its {arch.unit}", _per_part(arch.part_parameters, outside)))
    for size, macs in arch.macs.items():
        text = "this size is not legal" if macs is None else f"{macs / 1e9:.3f} G (backbone)"
        facts.append((f"multiply-adds at {size.replace('x', ' x ')}", text))
    facts.append(("output strides", ", ".join(map(str, arch.strides))))
    facts.append(("output channels", ", ".join(map(str, arch.out_channels))))
    facts.append(("tasks", ", ".join(arch.tasks) or "no shipped config uses it"))
    facts += [("weights", _weights(entry)) for entry in weights_of(f"{arch.family}:{arch.arch}")]
    return facts


def _weights(entry: Weights) -> str:
    """Return a name of published weights and what is known about them."""
    kind = "" if entry.loads else "a link only; "
    return (
        f"{entry.uri} ({kind}{entry.dataset}: {entry.figures()}; licence: {entry.licence}; "
        f"{entry.sources[0].address})"
    )


def _per_part(counts: Sequence[int], rest: int) -> str:
    """Return the parameters of each stage or block; equal neighbours together."""
    parts, first = [], 0
    for count, group in groupby(counts):
        last = first + len(list(group)) - 1
        parts.append(f"{first if first == last else f'{first}-{last}'}: {count:,}")
        first = last + 1
    return "; ".join([*parts, *([f"outside: {rest:,}"] if rest else [])])
