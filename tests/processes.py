"""Programs in processes and environments of their own, as a user starts them."""

import os
import subprocess
import sys
import venv
from datetime import timedelta
from pathlib import Path

from torch import distributed

ROOT = Path(__file__).resolve().parents[1]


def run(
    *command: object, folder: Path = ROOT, check: bool = True, **environment: str | None
) -> subprocess.CompletedProcess:
    """Run a command and wait for it.

    Args:
        *command: Its words.
        folder: Where it runs.
        check: Demand the exit code 0.
        **environment: Variables besides those of this process; None takes one away.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def run_ranks(script: Path, folder: Path) -> list[Path]:
    """Run a script in two processes at once, as ``python SCRIPT RANK`` in a folder.

    They find each other through :func:`join_ranks`, and each writes ``rank{RANK}.pt``.

    Returns:
        The two files.
    """
    paths = (ROOT, ROOT / "tests", *filter(None, [os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank)],
            cwd=folder,  # MMEngine collects results in a folder of the current one
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [folder / f"rank{rank}.pt" for rank in (0, 1)]


def join_ranks(rank: int) -> None:
    """Join the process group of :func:`run_ranks`, on CPUs."""
    store = Path("store").absolute().as_uri()
    distributed.init_process_group(
        "gloo", store, rank=rank, world_size=2, timeout=timedelta(seconds=600)
    )


def run_python(*arguments: object, **settings: object) -> subprocess.CompletedProcess:
    """Run a fresh interpreter of this environment; see :func:`run`."""
    return run(sys.executable, *arguments, **settings)


def make_environment(folder: Path) -> tuple[Path, Path]:
    """Create an environment in which everything but mmvitconv comes from the running one.

    The start-up files of the running environment are not run there.

    Returns:
        Its interpreter, and its ``site-packages``.
    """
    venv.create(folder, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_outer.pth").write_text("\n".join(outer) + "\n")
    return folder / "bin" / "python", site
