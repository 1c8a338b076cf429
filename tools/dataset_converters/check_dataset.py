"""Check a COCO, ADE20K or ImageNet folder before a long training.

python tools/dataset_converters/check_dataset.py coco data/coco [--splits train2017 val2017]
python tools/dataset_converters/check_dataset.py ade20k data/ade/ADEChallengeData2016
python tools/dataset_converters/check_dataset.py imagenet data/imagenet

Prints the counts and every kind of problem; the exit code is 1 when there are errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmvitconv.datasets.check import Report, check_ade20k, check_coco, check_imagenet
from mmvitconv.errors import UserError

SHOWN_EXAMPLES = 10


def sample_size(text: str) -> int | None:
    """Parse ``--sample``: a number >= 0, or 'all' (None)."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number >= 0 nor 'all'")
    return int(text)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    coco, ade20k, imagenet = (kinds.add_parser(name) for name in ("coco", "ade20k", "imagenet"))
    for kind in (coco, ade20k, imagenet):
        kind.add_argument("root", type=Path, help="folder of the data set")
        kind.add_argument(
            "--sample",
            type=sample_size,
            default=200,
            help="images per split that are opened, or 'all' (default: %(default)s)",
        )
    coco.add_argument("--splits", nargs="+", default=["train2017", "val2017"])
    coco.add_argument("--classes", nargs="+", help="class names; default: the 80 of COCO")
    ade20k.add_argument(
        "--max-label", type=int, default=150, help="largest legal label (default: %(default)s)"
    )
    imagenet.add_argument(
        "--num-classes", type=int, default=1000, help="class folders (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> Report:
    """Run the check that the command line asks for."""
    if options.kind == "ade20k":
        return check_ade20k(options.root, options.max_label, options.sample)
    if options.kind == "imagenet":
        return check_imagenet(options.root, options.num_classes, options.sample)
    if options.classes is None:
        # Only here: mmdet takes seconds to import.
        from mmdet.evaluation import get_classes

        options.classes = get_classes("coco")
    return check_coco(options.root, options.splits, options.classes, options.sample)


def show(report: Report, options: argparse.Namespace) -> None:
    """Print the table and the problems."""
    # One line per problem: a path that is broken into lines cannot be copied.
    console = Console(soft_wrap=True, highlight=False)
    counted = "class folders" if options.kind == "imagenet" else "annotations"
    table = Table("split", "images", counted, title=f"{options.kind}: {options.root}")
    for split, images, count in report.rows:
        table.add_row(split, str(images), str(count))
    console.print(table)
    for word, problems in (("error", report.errors), ("warning", report.warnings)):
        for kind, examples in problems.items():
            console.print(escape(f"{word}: {kind} ({len(examples)}x)"))
            for example in examples[:SHOWN_EXAMPLES]:
                console.print(escape(f"    {example}"))
            if len(examples) > SHOWN_EXAMPLES:
                console.print(f"    and {len(examples) - SHOWN_EXAMPLES} more")
    total = sum(len(examples) for examples in report.errors.values())
    console.print(f"{total} errors" if total else "no errors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and print; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        report = check(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(report, options)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
