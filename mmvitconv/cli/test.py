"""``mmvitconv test``: evaluate a checkpoint of a classifier, detector or segmentor."""

from __future__ import annotations

from collections.abc import Sequence

from mmvitconv.engine.launch import run_testing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    return run_testing(arguments, program="mmvitconv test")
