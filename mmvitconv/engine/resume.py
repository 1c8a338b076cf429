"""Finding the checkpoint from which a stopped run can go on."""

from __future__ import annotations

import ast
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["compare_configs", "find_damage", "find_resumable", "is_file"]

# what of a config the user may have changed between two parts of a run, besides its schedules
COMPARED = (
    *("train_cfg.max_epochs", "train_cfg.max_iters", "optim_wrapper.optimizer.type"),
    *("optim_wrapper.accumulative_counts", "train_dataloader.batch_size"),
    *(
        f"{split}_dataloader.dataset.{key}"
        for split in ("train", "val")
        for key in ("type", "data_root", "ann_file", "data_prefix", "metainfo.classes", "pipeline")
    ),
)
MOST_TEXT = 1_000_000  # characters of a config
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


def compare_configs(text: Any, cfg: Mapping[str, Any]) -> list[str]:
    """Compare the config that a checkpoint holds as text with that of the run that goes on.

    Args:
        text: As MMEngine writes it; nothing of it is executed.
        cfg: The config of the run.

    Returns:
        A sentence for each setting that differs; empty where the text cannot be read.
    """
    if isinstance(text, str) and len(text) > MOST_TEXT:  # a syntax tree takes 500 times as much
        return [
            f"the checkpoint's config of {len(text):,} characters is not compared with that of "
            f"this run, since it has more than {MOST_TEXT:,}"
        ]
    try:
        tree = ast.parse(text) if isinstance(text, str) else ast.parse("")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    before: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                before[node.targets[0].id] = _literal(node.value)
            except (ValueError, TypeError, RecursionError, SyntaxError):
                continue
    notes = []
    for key in COMPARED:
        old, new = _at(before, key), _at(cfg, key)
        if old is None or new is None or _plain(old) == _plain(new):
            continue
        values = "" if key.endswith("pipeline") else f": {_short(old)} before, {_short(new)} now"
        notes.append(f"{key} is another than in the checkpoint{values}; the config's counts")
    return notes


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, in which dicts may be written as calls."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {item.arg: _literal(item.value) for item in node.keywords if item.arg}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    return ast.literal_eval(node)


def _at(node: Any, key: str) -> Any:
    """Return a value by its dotted key; None where there is none."""
    for part in key.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return node


def _plain(value: Any) -> Any:
    """Return a value with lists in the place of tuples, to compare it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _short(value: Any) -> str:
    """Return a value in few letters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
