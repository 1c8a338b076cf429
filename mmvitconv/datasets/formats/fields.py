"""Fields of files that tools of others write: of the kind that their format says, or a sentence.

All readers take their values through these functions, so that a wrong one is named in one way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmvitconv.errors import printable

__all__ = [
    "FieldError",
    "get_list",
    "get_object",
    "id_of",
    "name_of",
    "number_of",
    "points_of",
    "take",
    "whole_of",
]

A_LIST, AN_OBJECT = "a list [...]", "an object {...}"
A_NUMBER, A_NAME = "a number", "a text"


class FieldError(ValueError):
    """A value of another kind than its format says.

    Args:
        where: Which field of which object, as ``shapes[3].points``.
        legal: What may stand there.
        given: What does.
    """

    def __init__(self, where: str, legal: str, given: object) -> None:
        shown = "nothing" if given is None else printable(repr(given), 60)
        super().__init__(f"{where} must be {legal}, got {shown}")


def take(node: Any, key: str, where: str) -> Any:
    """Return a field of an object.

    Args:
        node: What should be an object.
        key: Of the field.
        where: The object's place in the file.

    Returns:
        The field; None where it is missing.

    Raises:
        FieldError: It is no object.
    """
    return get_object(node, where).get(key)


def get_object(value: Any, where: str) -> Mapping[str, Any]:
    """Return an object; see :func:`take`."""
    if not isinstance(value, Mapping):
        raise FieldError(where, AN_OBJECT, value)
    return value


def get_list(value: Any, where: str) -> list[Any]:
    """Return a list; see :func:`take`."""
    if not isinstance(value, list):
        raise FieldError(where, A_LIST, value)
    return value


def number_of(value: Any, where: str) -> float:
    """Return a number, also of one that is written as a text; NaN and infinity are some.

    Args:
        value: What should be a number.
        where: Its place in the file.

    Returns:
        The number.

    Raises:
        FieldError: It is none.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise FieldError(where, A_NUMBER, value)


def whole_of(value: Any, where: str) -> int:
    """Return a number without its fraction; see :func:`number_of`."""
    number = number_of(value, where)
    if not math.isfinite(number):
        raise FieldError(where, "a whole number", value)
    return int(number)


def points_of(value: Any, where: str) -> list[tuple[float, float]]:
    """Return points; see :func:`number_of`."""
    points = []
    for number, point in enumerate(get_list(value, where)):
        place = f"{where}[{number}]"
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise FieldError(place, "a point [x, y]", point)
        points.append((number_of(point[0], place), number_of(point[1], place)))
    return points


def id_of(value: Any, where: str) -> Any:
    """Return what one entry calls another: a number or a text, or None where it is missing."""
    if isinstance(value, (list, Mapping)):
        raise FieldError(where, "a number or a text", value)
    return value


def name_of(value: Any, where: str) -> str:
    """Return a name without blanks around it; '' of nothing, and a number as its digits.

    Raises:
        FieldError: It is another thing.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise FieldError(where, A_NAME, value)
    return str(value).strip()
