"""Measure what can be exported and write the tables of docs/export.md.

python tools/misc/write_export.py

Backbones are the smallest architecture of each family with one block of each kind per stage: what
can be traced does not depend on how often a block is repeated. Classifiers, the segmentor and the
detectors are whole configs. All weights are random, with norms and layer scales that count.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mmvitconv.cli import execute
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError
from mmvitconv.export.graphs import FORMATS, GRAPHS
from mmvitconv.export.run import export_subject
from mmvitconv.export.subject import Subject, backbone_subject, fill_statistics, load_subject
from mmvitconv.models.base import Backbone
from mmvitconv.zoo.archs import list_families, table_of
from mmvitconv.zoo.table import read_table

ROOT = Path(__file__).resolve().parents[2]
DENSE = (
    ROOT / "configs/fcvit/upernet_fcvit_tiny_nuclei.py",
    ROOT / "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py",
    ROOT / "configs/fcvit/retinanet_fcvit_tiny_trees.py",
)
# Families that are mostly linear layers, and one of convolutions to compare with.
INT8 = ("DynConvViT", "LightViT", "ConvMixer")
HEADERS = {
    "support": "| Model | Format | Dynamic | Sides from | Largest difference |\n"
    "| --- | --- | --- | --- | --- |\n",
    "int8": "| Model | File | Time of a call | Difference | Cosine | Same class |\n"
    "| --- | --- | --- | --- | --- | --- |\n",
}


def build_backbone(name: str, cls: type[Backbone]) -> Subject:
    """Build the family's smallest architecture with one block of each kind per stage."""
    smallest = min(read_table()[name].archs, key=lambda arch: arch.parameters).arch
    arch = table_of(cls)[smallest]
    sizes: dict[str, Any] = {field.name: getattr(arch, field.name) for field in fields(arch)}
    if "depth" in sizes:
        sizes["depth"] = 1
    else:
        parc = [min(1, count) for count in sizes.get("num_parc", [0] * len(sizes["depths"]))]
        if "num_parc" in sizes:
            sizes["num_parc"] = tuple(parc)
        sizes["depths"] = tuple(1 + count for count in parc)
    torch.manual_seed(0)
    backbone = cls(sizes).eval()
    fill_statistics(backbone)
    return backbone_subject(backbone, f"{name} {smallest}")


def find_classifiers() -> list[Path]:
    """Return each folder's first classifier config of the small data sets, else of ImageNet."""
    found = []
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.name[0] != "_"):
        configs = sorted(folder.glob("*_mnist.py")) or sorted(folder.glob("*_imagenet.py"))
        found += configs[:1]
    return found


def support_row(subject: Subject, format: str, folder: Path) -> tuple[str, list[str]]:
    """Export once; returns the table's row and what could not be had."""
    name = subject.metadata["source"]
    try:
        report = export_subject(subject, folder / "graph", format)
    except UserError as error:
        reason = " ".join(str(error).split())
        return f"| {name} | {format} | not exported | - | - |\n", [f"{name}: {reason}"]
    label = format if report.opset is None else f"{format} (opset {report.opset})"
    side = report.least_side or "x".join(map(str, report.shape)) + " only"
    row = f"| {name} | {label} | {report.dynamic} | {side} | {report.difference:.0e} |\n"
    return row, [f"{name}: {note}" for note in report.notes if "cannot be had" in note]


def int8_row(subject: Subject, folder: Path) -> str:
    """Export in 8 bits; returns the table's row."""
    name = subject.metadata["source"]
    try:
        report = export_subject(subject, folder / "graph", "onnx", dynamic="batch", int8=True)
    except UserError as error:
        return f"| {name} | not quantised: {' '.join(str(error).split())[:90]} | - | - | - | - |\n"
    int8 = report.int8
    same = "-" if int8.agreement is None else f"{int8.agreement:.0%}"
    return (
        f"| {name} | x {int8.size:.2f} | x {int8.latency:.2f} "
        f"| {int8.relative:.1%} | {int8.cosine:.4f} | {same} |\n"
    )


def replace_table(text: str, name: str, content: str) -> str:
    """Put a table between its markers."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"docs/export.md must have the lines {begin.strip()} and {end} once")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: begin + content + end, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, or 1 after an error that the user can fix.
    """
    parser = argparse.ArgumentParser(
        "write_export.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/export.md", help="file with the markers"
    )

    def work() -> None:
        update(parser.parse_args(arguments).page)

    return execute(parser, work)


def update(page: Path) -> None:
    """Export and quantise everything, and write the tables of a page.

    Args:
        page: File with the markers.

    Raises:
        UserError: A model cannot be built, or a marker is missing.
    """
    text = page.read_text("utf-8")
    for table in HEADERS:  # before the slow work
        replace_table(text, table, "")
    families = list_families()
    builders: list[Callable[[], Subject]] = [
        lambda item=item: build_backbone(*item) for item in families.items()
    ]
    builders += [
        lambda path=path: load_subject(str(path)) for path in (*find_classifiers(), *DENSE)
    ]
    rows, notes, small = "", [], ""
    with tempfile.TemporaryDirectory() as scratch:
        for build in progress(builders, "exporting"):
            subject = build()
            for format in FORMATS if subject.has_batch else GRAPHS:
                row, reasons = support_row(subject, format, Path(scratch))
                rows += row
                notes += reasons
                print(row, end="", file=sys.stderr, flush=True)
        for name in progress(INT8, "quantising"):
            small += int8_row(build_backbone(name, families[name]), Path(scratch))
    text = page.read_text("utf-8")
    reasons = "\n".join(f"- {note}" for note in dict.fromkeys(notes))
    text = replace_table(text, "support", f"{HEADERS['support']}{rows}\n{reasons}\n")
    page.write_text(replace_table(text, "int8", HEADERS["int8"] + small), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
