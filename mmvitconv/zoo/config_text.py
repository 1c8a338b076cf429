"""Writes a config as Python that people read: reasons beside values, lines of at most 100."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Name", "Why", "to_text"]

WIDTH = 100


@dataclass(frozen=True)
class Why:
    """A value and the reason for it, which becomes a comment."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Name:
    """A variable of the config, defined further up."""

    name: str


def to_text(settings: Mapping[str, Any]) -> str:
    """Return the assignments of a config.

    Args:
        settings: Values by name: dicts, lists, tuples, texts, numbers, None, :class:`Why` and
            :class:`Name`, in the order in which they are written.

    Returns:
        Python, formatted as the shipped configs are.

    Examples:
        >>> print(to_text({"train_cfg": {"max_epochs": Why(12, "short")}}), end="")
        train_cfg = dict(
            max_epochs=12,  # short
        )
    """
    lines: list[str] = []
    for name, value in settings.items():
        lines += _entry(f"{name} = ", value, "", 0)
    return "\n".join(lines) + "\n"


def _entry(start: str, value: Any, end: str, indent: int) -> Iterator[str]:
    """Yield the lines of ``start`` + value + ``end``, its reason before or behind it."""
    reason = ""
    if isinstance(value, Why):
        value, reason = value.value, value.reason
    space = " " * indent
    short = f"{space}{start}{_inline(value)}{end}"
    if not _has_reason(value) and len(short) <= WIDTH:
        if reason and len(short) + len(reason) + 4 <= WIDTH:
            yield f"{short}  # {reason}"
            return
        yield from _comment(reason, space)
        yield short
        return
    yield from _comment(reason, space)
    opening, closing, entries = _parts(value)
    if entries is None:
        yield short
        return
    yield f"{space}{start}{opening}"
    for prefix, item in entries:
        yield from _entry(prefix, item, ",", indent + 4)
    yield f"{space}{closing}{end}"


def _comment(reason: str, space: str) -> list[str]:
    if not reason:
        return []
    return [f"{space}# {line}" for line in textwrap.wrap(reason, WIDTH - len(space) - 2)]


def _has_reason(value: Any) -> bool:
    if isinstance(value, Why):
        return True
    items = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, (Mapping, list, tuple)) and any(map(_has_reason, items))


def _parts(value: Any) -> tuple[str, str, list[tuple[str, Any]] | None]:
    """Return what opens and closes a container, and its entries with what stands before them."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return "dict(", ")", [(f"{key}=", item) for key, item in value.items()]
        return "{", "}", [(f"{_inline(key)}: ", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)) and value:
        marks = "[]" if isinstance(value, list) else "()"
        return marks[0], marks[1], [("", item) for item in value]
    return "", "", None


def _inline(value: Any) -> str:
    if isinstance(value, Why):
        return _inline(value.value)
    if isinstance(value, Name):
        return value.name
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    opening, closing, entries = _parts(value)
    if entries is None:
        return repr(value)
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return opening + ", ".join(start + _inline(item) for start, item in entries) + comma + closing
