"""Write docs/stacks.md's lists of mmcv's operators: those that the stand-in offers, and the others.

Usage: ``python tools/misc/write_operators.py [--check]``
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmvitconv.compat.absent import list_operators

PAGE = Path(__file__).resolve().parents[2] / "docs/stacks.md"
BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"


def write_table(operators: Mapping[str, Sequence[str]]) -> str:
    """Return a Markdown table of operators by the file of ``mmcv.ops`` that calls them."""
    rows = [f"| `{file}` | {', '.join(names)} |" for file, names in sorted(operators.items())]
    return "\n".join(("| file of `mmcv.ops` | operators |", "| --- | --- |", *rows))


def replace_section(page: str) -> str:
    """Return the page with the lists written anew.

    Args:
        page: Text of the page, with both markers.
    """
    offered, absent = map(write_table, list_operators())
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\nOffered:\n\n{offered}\n\nAbsent:\n\n{absent}\n\n{END}{after}"


def main(args: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` only compare it.

    Args:
        args: Command line, ``sys.argv`` by default.

    Returns:
        Exit code: 1 if the page was checked and is out of date.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    is_check = parser.parse_args(args).check
    old = PAGE.read_text()
    new = replace_section(old)
    if is_check and new != old:
        print("error: docs/stacks.md is out of date: python tools/misc/write_operators.py")
        return 1
    if not is_check:
        PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
