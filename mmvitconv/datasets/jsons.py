"""Json files of others: the only way in which they are read."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmvitconv.errors import UserError

__all__ = ["read_json", "without_collections"]

MOST_DIGITS = 18  # of a whole number: what 64 bits hold
MOST_KEPT = 500_000  # numbers that are shared; of more, each is made anew


def read_json(path: str | os.PathLike, what: str = "json file", encoding: str = "utf-8") -> Any:
    """Read a json file.

    Args:
        path: The file.
        what: What it is for the user, for the message.
        encoding: ``'utf-8-sig'`` to take a mark of the byte order, which other readers refuse.

    Returns:
        Its content: dicts, lists, texts, numbers, True, False and None. Whole numbers of more than
        18 digits become floating-point numbers, perhaps infinite, as other readers have them.

    Raises:
        UserError: There is no such file, or it is no json; one sentence that names the file.

    Examples:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "a.json")
        >>> _ = file.write_text('{"a": [1, 2.5]}')
        >>> read_json(file)
        {'a': [1, 2.5]}
    """
    if not os.path.isfile(path):
        there = "is no file" if os.path.lexists(path) else "does not exist"
        raise UserError(f"the {what} {os.fspath(path)!r} {there}; give the path of one")
    try:
        with open(path, encoding=encoding) as file:
            text = file.read()
        with without_collections():
            fractions, whole = _Numbers(float), _Numbers(_whole)
            return json.loads(text, parse_float=fractions.__getitem__, parse_int=whole.__getitem__)
    except RecursionError as error:
        reason = "its lists are nested without end"
        raise UserError(f"the {what} {os.fspath(path)!r} is not valid json: {reason}") from error
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
        raise UserError(f"the {what} {os.fspath(path)!r} is not valid json: {reason}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"the {what} {os.fspath(path)!r} is not valid json: {error}") from error


@contextmanager
def without_collections() -> Iterator[None]:
    """Make millions of objects without looking for circles among them again and again.

    Yields:
        Nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Numbers(dict[str, "int | float"]):
    """Numbers by their digits, each made once: most coordinates of a data set are equal to others.

    Args:
        kind: Makes a number of its digits.
    """

    def __init__(self, kind: Callable[[str], int | float]) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, digits: str) -> int | float:
        number = self.kind(digits)
        if len(self) < MOST_KEPT:
            self[digits] = number
        return number


def _whole(digits: str) -> int | float:
    """Return a whole number, or a floating-point number if it has too many digits."""
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)
