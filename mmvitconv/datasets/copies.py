"""Files of the same content, found by their sizes and then by what is in them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Copies", "find_copies"]

MOST_FILES = 10_000  # of equal sizes that are opened
MOST_BYTES = 256 << 20  # that are read to be certain
PIECE = 4096  # bytes at the middle and the end, which tell most files apart


class Copies(NamedTuple):
    """What was found.

    Attributes:
        pairs: Two files of the same content, of different groups; each file once as the second.
        left: Files of equal sizes that were not compared, because there are too many.
    """

    pairs: list[tuple[str, str]]
    left: int = 0


def find_copies(groups: Mapping[str, Hashable]) -> Copies:
    """Find files that are in two groups, whatever they are called.

    Args:
        groups: The group of each file, by its path; links and missing files are left out.

    Returns:
        The pairs, in the order of the files.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path, size in _sizes(groups).items():
        by_size[size].append(path)
    waiting = [
        paths
        for size, paths in by_size.items()
        if size and len(paths) > 1 and len({groups[path] for path in paths}) > 1
    ]
    files, bytes_left, left = 0, MOST_BYTES, 0
    order = {path: number for number, path in enumerate(groups)}
    pairs = []
    for paths in sorted(waiting, key=len):  # rare sizes say most
        if files + len(paths) > MOST_FILES:
            left += len(paths)
            continue
        files += len(paths)
        alike: dict[bytes, list[str]] = defaultdict(list)
        for path in paths:
            with suppress(OSError):
                alike[_piece(path)].append(path)
        for same in alike.values():
            if len({groups[path] for path in same}) < 2:
                continue
            bytes_left -= sum(map(os.path.getsize, same))
            if bytes_left < 0:
                left += len(same)
                continue
            whole: dict[bytes, str] = {}
            for path in sorted(same, key=order.__getitem__):
                first = whole.setdefault(_digest(path), path)
                if groups[first] != groups[path]:
                    pairs.append((first, path))
    return Copies(sorted(pairs, key=lambda pair: order[pair[1]]), left)


def _sizes(groups: Mapping[str, Hashable]) -> dict[str, int]:
    """Return the sizes of files in bytes, with one listing a folder."""
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for path in groups:
        folder, name = os.path.split(path)
        wanted[folder or "."][name] = path
    found = {}
    for folder, names in wanted.items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in names and entry.is_file(follow_symlinks=False):
                    found[names[entry.name]] = entry.stat().st_size
    return {path: found[path] for path in groups if path in found}


def _piece(path: str) -> bytes:
    """Return bytes of the middle and the end of a file."""
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        file.seek(size // 2)
        middle = file.read(PIECE)
        file.seek(max(0, size - PIECE))
        return middle + file.read(PIECE)


def _digest(path: str) -> bytes:
    """Return a digest of a whole file."""
    return hashlib.sha256(Path(path).read_bytes()).digest()
