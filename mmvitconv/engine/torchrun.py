"""A program in several processes, on one or several machines, by torchrun.

Processes meet by torchrun's c10d rendezvous, whose store is hosted by the first machine. Restarts
need two settings beyond torchrun's defaults:

- Each start gets its own store (``TORCH_DISABLE_SHARE_RDZV_TCP_STORE``). By default workers share
  the agent's, and a second start would find the addresses of dead processes in it.
- c10d numbers the machines in the order of their addresses. The first gets its address and the
  others a name that sorts behind it, so that ``NODE_RANK`` counts and rank 0 stays where it is.

Processes end with their launcher, however that ends (:func:`follow_launcher`): torchrun starts each
in a session of its own, where no signal of a terminal arrives, and only ends them itself when it
still can.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmvitconv.errors import UserError

DEFAULT_PORT = 29500
HIGHEST_PORT = 65535
# Machines are started by hand, one after the other: how long the first waits for the last.
PATIENCE_SECONDS = 600
LAUNCHER_VARIABLE = "MMVITCONV_LAUNCHER"  # its process id
LOOK_SECONDS = 1.0  # how often a process looks for its launcher
# on which torchrun ends its processes
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
STARTED_VARIABLE = "MMVITCONV_STARTED"  # seconds since 1970; training resumes what is newer


def start(
    program: Path,
    arguments: Sequence[str],
    *,
    processes: int,
    nodes: int,
    rank: int,
    address: str,
    port: int | None,
    restarts: int,
) -> int:
    """Run a Python program in several processes and wait for them.

    Args:
        program: Its file.
        arguments: Its command line.
        processes: How many run on each machine.
        nodes: How many machines there are.
        rank: Number of this machine, from 0.
        address: Of the first machine.
        port: Of the first machine; None for any free one.
        restarts: How often all processes start again when one dies.

    Returns:
        0, or the number of the signal that stopped all.

    Raises:
        UserError: A process failed, the machines did not come together, or the port of the first of
            several is in use.
    """
    port = _choose_port(nodes, rank, port)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    # what nohup ignores stays ignored
    obeyed = [number.name for number, handler in handlers.items() if handler is not signal.SIG_IGN]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(obeyed)
    if restarts:
        os.environ.setdefault(STARTED_VARIABLE, str(int(time.time())))
    options = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={address}:{port}",
        f"--rdzv-conf=is_host={int(rank == 0)},read_timeout={PATIENCE_SECONDS}",
        "--rdzv-id=mmvitconv",
        f"--local-addr={address if rank == 0 else f'~{rank:06d}'}",
    ]

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args([*options, str(program), *arguments]))
    except ChildFailedError as error:
        raise UserError(_describe_failure(error)) from error
    except RendezvousError as error:
        raise UserError(
            f"the machines did not come together ({error}): start the same command on each, with "
            "the same NNODES, MASTER_ADDR and PORT and its own NODE_RANK, within "
            f"{PATIENCE_SECONDS // 60} minutes"
        ) from error
    except SignalException as error:
        return error.sigval
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def follow_launcher() -> None:
    """End this process, and its data-loader workers, as soon as its launcher is gone.

    It does nothing in a process that :func:`start` has not started.
    """
    launcher = os.environ.pop(LAUNCHER_VARIABLE, None)  # not for what this process may start
    if launcher is not None:
        threading.Thread(target=_follow, args=(int(launcher),), daemon=True).start()


def _follow(launcher: int) -> None:
    """Wait until the parent is another than the launcher, and end everything."""
    while os.getppid() == launcher:
        time.sleep(LOOK_SECONDS)
    for worker in multiprocessing.active_children():
        worker.kill()
    with suppress(OSError):  # the terminal may be gone, too
        os.write(2, f"process {os.getpid()}: its launcher (pid {launcher}) is gone\n".encode())
    os._exit(1)


def _choose_port(nodes: int, rank: int, port: int | None) -> int:
    """Return the port that is wanted, 0 for any free one, so that several runs fit on a machine."""
    if port is None:
        return 0
    if rank != 0 or is_free(port):
        return port
    if nodes > 1:
        raise UserError(
            f"port {port} is in use on this machine: give a free one, the same on all {nodes} "
            "machines, as PORT=N"
        )
    print(f"port {port} is in use, another one is taken", flush=True)
    return 0


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


def _describe_failure(error: Any) -> str:
    """Say how the process that was killed ended, or the first that failed, and how to go on."""
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
