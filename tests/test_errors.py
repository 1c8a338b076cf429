"""Which exception is named, and in which words."""

import errno
import io
import os

import pytest

from mmvitconv.errors import (
    CheckpointError,
    UserError,
    describe_accident,
    message_of,
    root_cause,
)


def while_handling(handled: Exception, error: Exception, **cause: Exception | None) -> Exception:
    """Raise ``error`` while another is handled, ``from`` the cause where there is one."""
    error.__context__ = handled
    if cause:
        error.__cause__ = cause["cause"]  # what ``raise ... from`` does; it hides the context
    return error


def wrapped_like_mmengine(error: Exception) -> Exception:
    return while_handling(error, type(error)(f"class `X` in a/b.py: {error}"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (wrapped_like_mmengine(ValueError("unknown arch 'x'")), "unknown arch 'x'"),
        (wrapped_like_mmengine(UserError("unknown arch")), "unknown arch"),
        (
            while_handling(KeyError("x"), RuntimeError("outer"), cause=OSError("inner one")),
            "inner one",
        ),
        (while_handling(KeyError("x"), CheckpointError("no"), cause=OSError("inner one")), "no"),
        (while_handling(ValueError("nice"), ValueError("a nice word"), cause=None), "a nice word"),
        (while_handling(KeyError("x"), ValueError("nice words")), "nice words"),
        (KeyError("metric not found"), "metric not found"),
        (KeyError("metric"), "KeyError: metric"),
        (TypeError("f() got an argument"), "TypeError: f() got an argument"),
        (AssertionError(), "AssertionError"),
        (ValueError("two\n  lines"), "two lines"),
        (UserError("two\nlines"), "two\nlines"),
    ],
)
def test_the_cause_is_named(error: Exception, text: str) -> None:
    assert message_of(root_cause(error)) == text


IN_WORKER = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call"
OF_WORKER = "DataLoader worker (pid 7) is killed by signal: "


@pytest.mark.parametrize(
    ("error", "words", "advice"),
    [
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a/b"), "'a/b'", "removed"),
        (IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "x"), "'x'", "in its place"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "x"), "Read-only", "another place"),
        (OSError("img file does not exist"), "img file does not exist", ""),
        (OSError(f"{IN_WORKER}):\n  f\nOSError: [Errno 5] x"), "[Errno 5] x", ""),
        (RuntimeError("unable to write </t>: No space left on device (28)"), "</t>", "make room"),
        (RuntimeError(f"{OF_WORKER}Killed."), "pid 7", "num_workers"),
        (RuntimeError(f"{OF_WORKER}Bus error. It is possible"), "pid 7", "/dev/shm"),
        (
            while_handling(None, RuntimeError("exited"), cause=RuntimeError(f"{OF_WORKER}Killed.")),
            "pid 7",
            "memory",
        ),
        (RuntimeError("[1] gloo/pair.cc:534] Connection closed by peer"), "[1]", "has ended"),
        (wrapped_like_mmengine(OSError("no file 'x'")), "no file 'x'", ""),
        (MemoryError(), "out of memory", "smaller"),
        (MemoryError("Unable to allocate 9 GiB"), "9 GiB", "smaller"),
    ],
)
def test_accidents_of_the_machine_keep_its_words(error: Exception, words: str, advice: str) -> None:
    text = describe_accident(error)
    assert words in text
    assert advice in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("No space left on device"),
        RuntimeError("shapes differ"),
        io.UnsupportedOperation("not readable"),
        while_handling(FileNotFoundError(2, "No such file"), TypeError("f() takes 1 argument")),
    ],
)
def test_mistakes_of_the_code_are_no_accidents(error: Exception) -> None:
    assert describe_accident(error) is None
