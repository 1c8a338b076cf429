"""``tools/dist_train.sh`` and ``tools/dist_test.sh``: a tool in several processes by torchrun."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvitconv.cli import UsageError, execute
from mmvitconv.engine.torchrun import DEFAULT_PORT, HIGHEST_PORT, start

INPUTS = {"train.py": ("CONFIG",), "test.py": ("CONFIG", "CHECKPOINT")}


def main(tool: str, script: str, *arguments: str) -> int:
    """Start the processes and wait for them.

    Args:
        tool: A key of :data:`INPUTS`.
        script: Path of the shell script, beside the tool.
        *arguments: What it was given: inputs, the number of processes, arguments of the tool.

    Returns:
        Exit code: 0, 1 when a process failed, 2 for a wrong command line, 128 + N after signal N.
    """
    usage = (
        "[NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 MAX_RESTARTS=0 PYTHON=python] "
        f"bash {script} {' '.join(INPUTS[tool])} GPUS [arguments of tools/{tool}]"
    )
    parser = argparse.ArgumentParser(Path(script).name, usage=usage)

    def work() -> int:
        settings = _read_settings(tool, arguments, os.environ)
        count = len(INPUTS[tool])
        words = (*arguments[:count], "--launcher", "pytorch", *arguments[count + 1 :])
        number = start(Path(script).with_name(tool), words, **settings)
        if number:
            print(f"{parser.prog}: stopped by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number if number else 0

    return execute(parser, work)


def _read_settings(
    tool: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of :func:`start`; an empty variable is as none."""
    names = INPUTS[tool]
    if len(arguments) <= len(names):
        raise UsageError(f"{' and '.join((*names, 'GPUS'))} must be given")

    def read(name: str, default: int, lowest: int, highest: int | None = None) -> int:
        return _read_number(name, environment.get(name) or str(default), lowest, highest)

    nodes = read("NNODES", 1, 1)
    is_chosen = nodes > 1 or environment.get("PORT")
    return {
        "processes": _read_number(
            "GPUS (the number of processes on each machine)", arguments[len(names)], 1
        ),
        "nodes": nodes,
        "rank": read("NODE_RANK", 0, 0, nodes - 1),
        "restarts": read("MAX_RESTARTS", 0, 0),
        "address": (environment.get("MASTER_ADDR") if nodes > 1 else None) or "127.0.0.1",
        "port": read("PORT", DEFAULT_PORT, 1, HIGHEST_PORT) if is_chosen else None,
    }


def _read_number(name: str, text: str, lowest: int, highest: int | None = None) -> int:
    """Return a whole number within bounds, or raise."""
    # not str.isdigit: int() refuses some of its digits
    if text.isdecimal() and lowest <= int(text) and (highest is None or int(text) <= highest):
        return int(text)
    bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
    raise UsageError(f"{name} must be a whole number {bounds}, got {text!r}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
