"""The progress bar of the converters and checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import track

__all__ = ["progress"]


def progress(items: Iterable[Any], description: str) -> Iterator[Any]:
    """Go through the items with a progress bar on stderr that vanishes at the end.

    Args:
        items: anything iterable.
        description: what is being done, in a few words.

    Yields:
        The items.
    """
    console = Console(stderr=True)
    # In a log file or a pipe a bar would only leave empty lines.
    quiet = not console.is_terminal
    yield from track(items, description, console=console, transient=True, disable=quiet)
