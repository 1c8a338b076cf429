"""Memory that is freed stays with the process, where that is faster."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_MOST = 2**31 - 1  # bytes; its arguments are 32 bits wide


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the rest of the process.

    By default glibc maps a block of 32 MB or more for each use, gives it back to the system, and
    the next use waits for a page fault for each 4 KB. Large feature maps pay for that at every
    layer. Afterwards the process keeps its peak of memory until it ends.

    Returns:
        Whether the C library has such a setting (glibc, so most Linux distributions).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
