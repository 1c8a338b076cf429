"""Errors that a user can mend: the command-line tools print their message and no traceback."""

from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot work; the message says what, what is legal and what to do.

    Attributes:
        of_one_process: In a distributed run one process may raise it alone, so that it is printed
            whichever that is.
    """

    of_one_process = False


class CheckpointError(UserError):
    """A checkpoint file that is unsafe, damaged, or does not belong to the model."""


def describe_mismatch(missing: Iterable[str], left_over: Iterable[str], what: str) -> str:
    """One sentence that lists keys, for a CheckpointError."""
    parts = []
    for keys, label in ((missing, "missing"), (left_over, "unexpected")):
        keys = sorted(keys)
        if keys:
            parts.append(f"{len(keys)} {label}: {shorten(keys)}")
    return f"{what}: {'; '.join(parts)}"


def shorten(keys: list[str], limit: int = 20) -> str:
    """The first keys, comma separated, and how many more there are."""
    more = f", ... ({len(keys) - limit} more)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
