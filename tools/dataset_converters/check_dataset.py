"""Check the data of a config, or a COCO, ADE20K or ImageNet folder, before a long training.

python tools/dataset_converters/check_dataset.py CONFIG [--workers N] [--splits train val]
    [--sample N] [--cfg-options KEY=VALUE ...]
python tools/dataset_converters/check_dataset.py coco data/coco [--splits train2017 val2017]
python tools/dataset_converters/check_dataset.py ade20k data/ade/ADEChallengeData2016
python tools/dataset_converters/check_dataset.py imagenet data/imagenet

With a config, every file is opened as in training (docs/bad_data.md says what is an error).
Prints the counts and every kind of problem; the exit code is 1 when there are errors.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmvitconv.checks.annotations import Report, check_ade20k, check_coco, check_imagenet
from mmvitconv.cli.arguments import add_config_arguments
from mmvitconv.engine.configuration import apply_options, load_config
from mmvitconv.errors import UserError

FOLDERS = ("coco", "ade20k", "imagenet")
SPLITS = ("train", "val", "test")
SHOWN_EXAMPLES = 10


def sample_size(text: str) -> int | None:
    """Parse ``--sample``: a number >= 0, or 'all' (None)."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number >= 0 nor 'all'")
    return int(text)


def number_of_workers(text: str) -> int:
    """Parse ``--workers``: a number >= 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return int(text)


def parse_config_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line that names a config."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        help="default: those that the config has",
    )
    parser.add_argument(
        "--workers",
        type=number_of_workers,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        help="processes that open files, 0 for none besides this one (default: %(default)s)",
    )
    parser.add_argument(
        "--sample",
        type=sample_size,
        default=None,
        help="files per dataset that are opened, or 'all' (default: all)",
    )
    return parser.parse_args(arguments)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line that names a kind of folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    coco, ade20k, imagenet = (kinds.add_parser(name) for name in FOLDERS)
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


def check_data_of_config(options: argparse.Namespace) -> Report:
    """Run the check of a config."""
    cfg = load_config(options.config)
    for note in apply_options(cfg, options.cfg_options):
        print(f"warning: {note}", file=sys.stderr)
    # Only here: mmdet, mmseg and mmpretrain take seconds to import.
    from mmvitconv.checks.config import check_config
    from mmvitconv.engine.quiet import quiet_logger

    with quiet_logger():
        return check_config(cfg, options.splits, options.sample, options.workers)


def show(report: Report, title: str, counted: str) -> None:
    """Print the table and the problems."""
    # One line per problem: a path that is broken into lines cannot be copied.
    console = Console(soft_wrap=True, highlight=False)
    table = Table("split", "images", counted, title=escape(title))
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
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in FOLDERS:
            options = parse_arguments(arguments)
            report = check(options)
            counted = "class folders" if options.kind == "imagenet" else "annotations"
            show(report, f"{options.kind}: {options.root}", counted)
        else:
            options = parse_config_arguments(arguments)
            report = check_data_of_config(options)
            show(report, options.config, "labels")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # annotations can be wrong in more ways than anyone has thought of
        text = " ".join(str(error).split())
        print(f"error: the check failed: {type(error).__name__}: {text}", file=sys.stderr)
        return 1
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
