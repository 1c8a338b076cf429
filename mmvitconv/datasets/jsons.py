"""Json files of others: the only way in which they are read."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmvitconv.errors import UserError

__all__ = ["read_json", "without_collections"]

MOST_DIGITS = 18  # of a whole number: what 64 bits hold


def read_json(path: str | os.PathLike, what: str = "json file") -> Any:
    """Read a json file.

    Args:
        path: The file.
        what: What it is for the user, for the message.

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
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with without_collections():
            # the common case in C alone
            is_plain = re.search(rf"\d{{{MOST_DIGITS + 1}}}", text) is None
            return json.loads(text) if is_plain else json.loads(text, parse_int=_whole)
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


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)
