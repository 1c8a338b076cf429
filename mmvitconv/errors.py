"""Errors that a user can fix: the command line prints their message and no traceback."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterable, Iterator

# What to do when the operating system refuses, by the number of its error. PyTorch passes on the
# words alone, in a RuntimeError.
REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there"),
    **dict.fromkeys(
        (errno.ENOENT, errno.ESTALE, errno.ELOOP),
        "it was removed, renamed, or never there",
    ),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
        "something else is in its place: move that away",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "get the right to it, or give another place"
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "raise the limit (ulimit -n), or use fewer workers"
    ),
    errno.ENOMEM: "memory ran out: use smaller batches, smaller images or fewer workers",
    errno.EIO: "the disk fails",
    **dict.fromkeys(
        (errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
        "the other process has ended or cannot be reached",
    ),
}
MEMORY = REFUSALS[errno.ENOMEM]
# The same by words, first what PyTorch words itself: that says more.
ACCIDENTS = {
    r"DataLoader worker .*(Bus error|shared memory)": "its shared memory is full: enlarge /dev/shm "
    "(docker run --shm-size=8g), or use fewer workers (train_dataloader.num_workers)",
    r"DataLoader worker .*(killed by signal|exited unexpectedly)": "if the system did that, memory "
    "ran out: use fewer workers (train_dataloader.num_workers; 0 shows any other reason), smaller "
    "batches or smaller images",
    r"received \d+ items of ancdata": REFUSALS[errno.EMFILE],
    r"out of memory|can't allocate memory": MEMORY,
    r"PytorchStreamWriter failed|unexpected pos|file write failed": REFUSALS[errno.ENOSPC],
    r"Parent directory .* does not exist": REFUSALS[errno.ENOENT],
    r"gloo|NCCL|Connection closed by peer": REFUSALS[errno.ECONNRESET],
    **{re.escape(os.strerror(number)): advice for number, advice in REFUSALS.items()},
}


class UserError(ValueError):
    """Something the user gave cannot work; the message says what, what is legal and what to do.

    Attributes:
        of_one_process: In a distributed run one process may raise it alone, so that it is printed
            whichever process that is.
    """

    of_one_process = False


class CheckpointError(UserError):
    """A checkpoint file that is unsafe, damaged, or does not belong to the model."""


class AccidentError(UserError):
    """The machine failed, not the code: a full disk, a folder that is gone, a killed worker."""

    of_one_process = True


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


def printable(text: object, limit: int = 200) -> str:
    r"""Return a name from a file such that it can be printed, drawn and written.

    Args:
        text: Whatever the file has for a name.
        limit: Most characters, >= 1; of longer ones the last kept one becomes an ellipsis.

    Returns:
        One line: control characters and parts of characters are replaced by a question mark.

    Examples:
        >>> printable("a\n\x1b[31mb\ud800")
        'a ?[31mb?'
    """
    text = str(text)
    clipped = text[: limit + 1]
    line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in clipped).strip()
    return line if len(text) <= limit else line[: limit - 1] + "…"


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
    return [*_causes(error)][-1]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from on purpose, or wraps."""
    yield error
    cause, context, hidden = error.__cause__, error.__context__, error.__suppress_context__
    if cause is not None:
        if not isinstance(error, UserError):
            yield from _causes(cause)
    elif context and str(context) and str(context) in str(error) and not hidden:
        yield from _causes(context)


def describe_accident(error: BaseException) -> str | None:
    """Say what the machine, not the code, has done wrong.

    Args:
        error: Any exception, or one that was raised from another.

    Returns:
        The words of the operating system or of PyTorch and what to do; None for any other error.
    """
    kinds = (OSError, MemoryError, RuntimeError)
    causes = [cause for cause in _causes(error) if isinstance(cause, kinds)]
    texts = []
    for cause in reversed(causes):
        text = str(cause).strip()
        if isinstance(cause, MemoryError):
            text = f"{text}: out of memory".removeprefix(": ")
        # PyTorch sends a worker's error with its traceback; the last line is the error
        if "in DataLoader worker process" in text:
            text = text.splitlines()[-1].partition(": ")[2]
        texts.append(" ".join(text.split()) or type(cause).__name__)
    for words, advice in ACCIDENTS.items():
        for text in texts:
            if re.search(words, text):
                return f"{text.rstrip('. ')}: {advice}"
    # the code makes an UnsupportedOperation itself, although it is an OSError
    is_told = any(
        isinstance(cause, OSError) and not isinstance(cause, io.UnsupportedOperation)
        for cause in causes
    )
    return texts[0] if is_told else None


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
