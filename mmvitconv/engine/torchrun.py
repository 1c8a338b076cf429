"""``tools/dist_train.sh`` and ``tools/dist_test.sh``: a tool in several processes by torchrun.

Processes meet by torchrun's c10d rendezvous, whose store is hosted by the first machine. Restarts
need two settings beyond torchrun's defaults:

- Each start gets a store of its own (``TORCH_DISABLE_SHARE_RDZV_TCP_STORE``). From PyTorch 2.5 on
  workers share the agent's by default, and a second start would find the addresses of dead
  processes in it.
- c10d numbers the machines in the order of their addresses. The first gets its address and the
  others a name that sorts behind it, so that ``NODE_RANK`` counts and rank 0 stays where it is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvitconv.errors import UserError

INPUTS = {"train.py": ("CONFIG",), "test.py": ("CONFIG", "CHECKPOINT")}
DEFAULT_PORT = 29500
HIGHEST_PORT = 65535
# Machines are started by hand, one after the other: how long the first waits for the last.
PATIENCE_SECONDS = 600
STARTED_VARIABLE = "MMVITCONV_STARTED"  # seconds since 1970; tools/train.py resumes what is newer


class UsageError(UserError):
    """The command line or a variable cannot be read."""


def main(argv: Sequence[str]) -> int:
    """Run ``tools/dist_train.sh`` or ``tools/dist_test.sh``.

    Args:
        argv: The tool (a key of :data:`INPUTS`), the path of the script, then its arguments.

    Returns:
        Exit code: 0, 1 when a process failed, 2 for a wrong command line, 128 + N after signal N.
    """
    tool, script = argv[0], Path(argv[1])
    try:
        options = build_options(argv, os.environ)
    except UsageError as error:
        usage = (
            "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 MAX_RESTARTS=0 "
            f"PYTHON=python] bash {script} {' '.join(INPUTS[tool])} GPUS "
            f"[arguments of tools/{tool}]"
        )
        print(f"{usage}\n{script.name}: error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"{script.name}: error: {error}", file=sys.stderr)
        return 1
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if os.environ.get("MAX_RESTARTS"):
        os.environ.setdefault(STARTED_VARIABLE, str(int(time.time())))

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(options))
    except ChildFailedError as error:
        print(f"{script.name}: error: {describe_failure(error)}", file=sys.stderr)
        return 1
    except RendezvousError as error:
        print(
            f"{script.name}: error: the machines did not come together ({error}): start the same "
            "command on each, with the same NNODES, MASTER_ADDR and PORT and its own NODE_RANK, "
            f"within {PATIENCE_SECONDS // 60} minutes",
            file=sys.stderr,
        )
        return 1
    except SignalException as error:
        print(f"{script.name}: stopped by {signal.Signals(error.sigval).name}", file=sys.stderr)
        return 128 + error.sigval
    return 0


def build_options(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Turn the command line into torchrun's.

    Args:
        argv: The tool (a key of :data:`INPUTS`), the path of the script, then its arguments.
        environment: NNODES, NODE_RANK, MASTER_ADDR, PORT and MAX_RESTARTS, all optional; an empty
            value is as none.

    Returns:
        Arguments of torchrun, the tool and its arguments included.

    Raises:
        UsageError: When arguments are missing or a number is none.
        UserError: When the port of the first of several machines is in use.
    """
    tool, script, arguments = argv[0], Path(argv[1]), argv[2:]
    names = INPUTS[tool]
    if len(arguments) <= len(names):
        raise UsageError(f"{' and '.join((*names, 'GPUS'))} must be given")
    inputs, processes, rest = (
        arguments[: len(names)],
        arguments[len(names)],
        arguments[len(names) + 1 :],
    )
    count = _read_number("GPUS (the number of processes on each machine)", processes, 1)

    def read(name: str, default: int, lowest: int, highest: int | None = None) -> int:
        return _read_number(name, environment.get(name) or str(default), lowest, highest)

    nodes = read("NNODES", 1, 1)
    rank = read("NODE_RANK", 0, 0, nodes - 1)
    restarts = read("MAX_RESTARTS", 0, 0)
    port = read("PORT", DEFAULT_PORT, 1, HIGHEST_PORT)
    address = environment.get("MASTER_ADDR") or "127.0.0.1"
    if nodes == 1:
        address = "127.0.0.1"
        if not environment.get("PORT"):
            port = 0  # any free one, so that several runs fit on one machine
        elif not is_free(port):
            print(f"{script.name}: port {port} is in use, another one is taken", flush=True)
            port = 0
    elif rank == 0 and not is_free(port):
        raise UserError(
            f"port {port} is in use on this machine: give a free one, the same on all "
            f"{nodes} machines, as PORT=N"
        )
    return [
        f"--nnodes={nodes}",
        f"--nproc-per-node={count}",
        f"--max-restarts={restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={address}:{port}",
        f"--rdzv-conf=is_host={int(rank == 0)},read_timeout={PATIENCE_SECONDS}",
        "--rdzv-id=mmvitconv",
        f"--local-addr={address if rank == 0 else f'~{rank:06d}'}",
        *(str(script.parent / tool), *inputs, "--launcher", "pytorch", *rest),
    ]


def is_free(port: int) -> bool:
    """Tell whether nothing listens at a port of this machine.

    Args:
        port: 1 to 65535.

    Returns:
        True when a server could be started there.
    """
    with socket.socket() as probe:
        # as PyTorch's store does: connections that have just been closed do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def describe_failure(error: Any) -> str:
    """Say which process failed and how to go on.

    Args:
        error: torchrun's ``ChildFailedError``.

    Returns:
        One sentence about the process that was killed if there is one, else about the first that
        failed.
    """
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    # SIGTERM is how torchrun ends the others
    killed = [
        item for item in failures if item[1].exitcode < 0 and item[1].signal_name() != "SIGTERM"
    ]
    rank, failure = (killed or failures)[0]
    if failure.exitcode >= 0:
        return f"process {rank} ended with exit code {failure.exitcode}: see its error above"
    return (
        f"process {rank} (pid {failure.pid}) was killed by {failure.signal_name()} and the others "
        "were stopped: --resume goes on from the last checkpoint of a training, and MAX_RESTARTS=N "
        "does so by itself up to N times"
    )


def _read_number(name: str, text: str, lowest: int, highest: int | None = None) -> int:
    """Return a whole number within bounds, or raise."""
    # not str.isdigit: int() refuses some of its digits
    if text.isdecimal() and lowest <= int(text) and (highest is None or int(text) <= highest):
        return int(text)
    bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
    raise UsageError(f"{name} must be a whole number {bounds}, got {text!r}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
