"""Finding the checkpoint from which a stopped run can go on."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pth")


def find_resumable(
    work_dir: str | Path, written_after: float = 0.0, out_dir: str | Path | None = None
) -> tuple[Path | None, list[str]]:
    """Find the latest checkpoint of a work directory that is whole.

    MMEngine's file ``last_checkpoint`` names it. An ``epoch_*.pth`` or ``iter_*.pth`` of a higher
    number and no earlier date wins: the run was killed before it could name that one. When the
    named checkpoint is gone or damaged, the newest whole one is taken. Of the path in
    ``last_checkpoint`` the name counts alone: in a copy of a work directory it is that of the
    original.

    Args:
        work_dir: Directory of an earlier run; it need not exist.
        written_after: Leave out older files, in seconds since 1970.
        out_dir: Where the run writes its checkpoints, if that is another directory.

    Returns:
        The checkpoint, ``None`` when there is none, and warnings for the user.
    """
    work_dir = Path(work_dir)
    folder = Path(work_dir if out_dir is None else out_dir)
    # no folders, pipes or links that point nowhere
    numbered = [p for p in folder.glob("*.pth") if NUMBERED.fullmatch(p.name) and p.is_file()]
    candidates = sorted(numbered, key=_age, reverse=True)
    warnings = []
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        text = pointer.read_text(errors="replace").strip()
        named = folder / Path(text).name
        if text and is_file(named):
            later = [path for path in candidates if _is_later(path, named)]
            rest = [path for path in candidates if path not in later and not path.samefile(named)]
            candidates = [*later, named, *rest]
        else:
            warnings.append(
                f"{pointer} names {text[:300] or '(nothing)'}, which is missing in {folder}"
            )
    for candidate in candidates:
        if candidate.stat().st_mtime < written_after:
            continue
        damage = find_damage(candidate)
        if damage is None:
            if warnings:
                warnings.append(f"resuming from {candidate} instead")
            return candidate, warnings
        warnings.append(f"{candidate} is damaged ({damage})")
    return None, warnings


def find_damage(path: Path) -> str | None:
    """Check whether a checkpoint is as it was written, by the checksums that it contains.

    Args:
        path: A file, which may be missing; it is read as a whole.

    Returns:
        What is wrong in a few words, or None when it is whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "no PyTorch checkpoint"
            part = archive.testzip()
            return None if part is None else f"wrong checksum of {part}"
    except zipfile.BadZipFile as error:
        return "incomplete" if "not a zip" in str(error) else str(error)
    except (OSError, EOFError, NotImplementedError, zlib.error) as error:
        return str(error)


def is_file(path: str | Path) -> bool:
    """Tell whether there is a regular file, whatever the path is made of."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _is_later(path: Path, named: Path) -> bool:
    """Tell whether a checkpoint was written after the one that is named as the last."""
    match = NUMBERED.fullmatch(named.name)
    kind, number = NUMBERED.fullmatch(path.name).groups()
    if match is None or match[1] != kind or int(number) <= int(match[2]):
        return False
    return path.stat().st_mtime >= named.stat().st_mtime


def _age(path: Path) -> tuple[float, int]:
    """Return a sort key: time of the last change, then the number in the name."""
    return path.stat().st_mtime, int(NUMBERED.fullmatch(path.name)[2])
