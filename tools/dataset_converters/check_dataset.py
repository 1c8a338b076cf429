"""Check the data of a config (as mmvitconv check), or a COCO, ADE20K or ImageNet folder.

python tools/dataset_converters/check_dataset.py CONFIG [--workers N] [--splits train val]
    [--sample N] [--cfg-options KEY=VALUE ...]
python tools/dataset_converters/check_dataset.py coco data/coco [--splits train2017 val2017]
python tools/dataset_converters/check_dataset.py ade20k data/ade/ADEChallengeData2016
python tools/dataset_converters/check_dataset.py imagenet data/imagenet

A folder is checked like the data of a config that names it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmvitconv.cli import execute, run
from mmvitconv.cli.check import print_report, sample_size
from mmvitconv.errors import UserError

LOAD = [{"type": "LoadImageFromFile"}]


def coco(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the splits of a folder like COCO's, and the settings of their datasets."""
    from mmdet.evaluation import get_classes

    for split in options.splits:
        yield (
            split,
            {
                "type": "mmdet.CocoDataset",
                "ann_file": f"annotations/instances_{split}.json",
                "data_prefix": {"img": f"{split}/"},
                "metainfo": {"classes": tuple(options.classes or get_classes("coco"))},
                "pipeline": LOAD,
            },
        )


def ade20k(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the splits of a folder like ADE20K's, and the settings of their datasets."""
    for split in ("training", "validation"):
        folder = options.root / "images" / split
        suffixes = {path.suffix for path in folder.iterdir()} if folder.is_dir() else ()
        yield (
            split,
            {
                "type": "mmseg.BaseSegDataset",
                "img_suffix": ".png" if suffixes == {".png"} else ".jpg",
                "data_prefix": {
                    "img_path": f"images/{split}",
                    "seg_map_path": f"annotations/{split}",
                },
                "pipeline": [*LOAD, {"type": "mmseg.LoadAnnotations"}],
            },
        )


def imagenet(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the splits of a folder like ImageNet's, and the settings of their datasets."""
    for split in ("train", "val"):
        listing = f"meta/{split}.txt"  # mmpretrain prefers the list to the folders
        yield (
            split,
            {
                "type": "mmpretrain.CustomDataset",
                "data_prefix": split,
                "ann_file": listing if (options.root / listing).is_file() else "",
                "pipeline": LOAD,
            },
        )


FOLDERS = {"coco": coco, "ade20k": ade20k, "imagenet": imagenet}


def check_folder(parser: argparse.ArgumentParser) -> int:
    """Parse the command line that names a kind of folder, and check the folder."""
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in FOLDERS:
        kind = kinds.add_parser(name)
        kind.add_argument("root", type=Path, help="folder of the data set")
        kind.add_argument(
            "--sample",
            type=sample_size,
            default=200,
            help="images per split that are opened, or 'all' (default: %(default)s)",
        )
    names = kinds.choices
    names["coco"].add_argument("--splits", nargs="+", default=["train2017", "val2017"])
    names["coco"].add_argument("--classes", nargs="+", help="class names; default: the 80 of COCO")
    names["ade20k"].add_argument(
        "--max-label", type=int, default=150, help="largest legal label (default: %(default)s)"
    )
    names["imagenet"].add_argument(
        "--num-classes", type=int, default=1000, help="class folders (default: %(default)s)"
    )
    options = parser.parse_args()
    if not options.root.is_dir():
        raise UserError(f"ROOT {options.root} is not a folder; give the folder of the data set")
    from mmvitconv.checks.config import check_datasets
    from mmvitconv.engine.quiet import quiet_logger

    num_classes = getattr(options, "num_classes", None)
    if options.kind == "ade20k":
        num_classes = options.max_label + 1
    datasets = [
        (split, split, {"data_root": str(options.root), **settings})
        for split, settings in FOLDERS[options.kind](options)
    ]
    with quiet_logger():
        report = check_datasets(datasets, num_classes, options.sample)
    return print_report(report, f"{options.kind}: {options.root}")


if __name__ == "__main__":
    program = Path(__file__).name
    if sys.argv[1:2] and sys.argv[1] in FOLDERS:
        parser = argparse.ArgumentParser(
            program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sys.exit(execute(parser, lambda: check_folder(parser)))
    sys.exit(run("check", *sys.argv[1:], program=program))
