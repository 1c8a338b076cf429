"""Finding the checkpoint from which a stopped run can go on."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pth")


def find_resumable(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the latest checkpoint of a work directory that can be read.

    MMEngine's file ``last_checkpoint`` names it. When that file is missing or names a checkpoint
    that is gone or incomplete, the newest readable ``epoch_*.pth`` or ``iter_*.pth`` is taken.

    Args:
        work_dir: Directory of an earlier run; it need not exist.

    Returns:
        The checkpoint, ``None`` when there is none, and warnings for the user.
    """
    work_dir = Path(work_dir)
    warnings = []
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        named = Path(pointer.read_text().strip() or "(nothing)")
        # the second place is for a work directory that was moved
        for candidate in (named, work_dir / named.name):
            if is_complete(candidate):
                return candidate, warnings
        state = "damaged" if named.is_file() else "missing"
        warnings.append(f"{pointer} names {named}, which is {state}")
    numbered = [path for path in work_dir.glob("*.pth") if NUMBERED.fullmatch(path.name)]
    for candidate in sorted(numbered, key=_age, reverse=True):
        if is_complete(candidate):
            if warnings:
                warnings.append(f"resuming from {candidate} instead")
            return candidate, warnings
        warnings.append(f"{candidate} is damaged")
    return None, warnings


def is_complete(path: Path) -> bool:
    """Tell whether a file is a checkpoint that was written to its end.

    Args:
        path: A file, which may be missing.

    Returns:
        True when it is a whole zip archive, as ``torch.save`` writes them; the directory of such an
        archive is its end, so a cut file has none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _age(path: Path) -> tuple[float, int]:
    """Sort key: time of the last change, then the number in the name."""
    return path.stat().st_mtime, int(NUMBERED.fullmatch(path.name)[2])
