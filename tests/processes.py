"""Programs in processes and environments of their own, as a user starts them."""

import os
import subprocess
import sys
import venv
from pathlib import Path

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
