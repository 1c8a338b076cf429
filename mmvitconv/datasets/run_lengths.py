"""Run lengths of masks, as COCO writes them, counted before C code reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["size_in", "total_of"]

MOST_GROUPS = 7  # of five bits in a number of C


def size_in(mask: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of run lengths; (-1, 1) where they have none."""
    size = mask.get("size")
    is_size = isinstance(size, list) and len(size) == 2
    if not is_size or not all(type(side) is int and side > 0 for side in size):
        return -1, 1
    return size[0], size[1]


def total_of(counts: Any) -> int | None:
    """Return the sum of run lengths.

    Args:
        counts: Numbers, or the text that COCO makes of them: five bits a character, the sixth for
            numbers that go on, from the fourth number on as the difference from the last but one.

    Returns:
        The sum, which is the number of pixels; None for what pycocotools cannot read.
    """
    if isinstance(counts, list):
        return sum(counts) if all(type(n) is int and n >= 0 for n in counts) else None
    if isinstance(counts, str):
        counts = counts.encode("utf-8")
    if not isinstance(counts, bytes) or not counts:
        return None
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    goes_on = codes & 32 > 0
    if goes_on[-1] or codes.min() < 0 or codes.max() > 63:
        return None
    last = np.flatnonzero(~goes_on)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > MOST_GROUPS:
        return None
    place = np.arange(len(codes)) - np.repeat(first, groups)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * groups), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return int(numbers.sum()) if numbers.min() >= 0 else None
