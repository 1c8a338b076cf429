"""Which exception is named, and in which words."""

import pytest

from mmvitconv.errors import CheckpointError, UserError, message_of, root_cause


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
