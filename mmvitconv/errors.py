"""Errors that a user can fix: the command line prints their message and no traceback."""

from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot work; the message says what, what is legal and what to do.

    Attributes:
        of_one_process: In a distributed run one process may raise it alone, so that it is printed
            whichever process that is.
    """

    of_one_process = False


class CheckpointError(UserError):
    """A checkpoint file that is unsafe, damaged, or does not belong to the model."""


def describe_mismatch(missing: Iterable[str], left_over: Iterable[str], what: str) -> str:
    """Return one sentence that lists keys, for a CheckpointError."""
    parts = []
    for keys, label in ((missing, "missing"), (left_over, "unexpected")):
        keys = sorted(keys)
        if keys:
            parts.append(f"{len(keys)} {label}: {shorten(keys)}")
    return f"{what}: {'; '.join(parts)}"


def shorten(keys: list[str], limit: int = 20) -> str:
    """Return the first keys, comma separated, and how many more there are."""
    more = f", ... ({len(keys) - limit} more)" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def root_cause(error: BaseException) -> BaseException:
    """Return the exception that says what is wrong.

    MMEngine wraps an exception of a class it builds in another of the same type whose message
    contains the original one.

    Args:
        error: The exception that arrived.

    Returns:
        The innermost wrapped exception, but no deeper than a :class:`UserError` that was raised
        from another exception on purpose.
    """
    while True:
        cause, context, hidden = error.__cause__, error.__context__, error.__suppress_context__
        if cause is not None:
            if isinstance(error, UserError):
                return error
            error = cause
        elif context and str(context) and str(context) in str(error) and not hidden:
            error = context
        else:
            return error


def message_of(error: BaseException) -> str:
    """Return the message of an exception, with its type where that is needed.

    Args:
        error: Any exception.

    Returns:
        The message; all but a :class:`UserError`, which may show a folder, on one line.
    """
    if isinstance(error, UserError):
        return str(error)
    # str() of a KeyError is the repr of its message
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split())
    if not text or " " not in text or isinstance(error, (TypeError, ImportError)):
        return f"{type(error).__name__}: {text}".rstrip(": ")
    return text
