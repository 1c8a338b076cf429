"""The command line's first lines: ``mmvitconv COMMAND`` and ``python -m mmvitconv COMMAND``.

Ctrl-C while the rest is imported ends the process, without Python's traceback.
"""

from __future__ import annotations

import os
import signal
import sys


def leave(*_: object) -> None:
    """End the process as after Ctrl-C; :class:`mmvitconv.cli.interruption.CtrlC` takes over."""
    os._exit(130)


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
        signal.signal(signal.SIGINT, leave)
    from mmvitconv.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
