"""Errors before the loop over the data, and after it has begun."""

import pytest

from mmvitconv.cli.runs import errors_before_loop
from mmvitconv.errors import UserError


def fail(error: Exception, begun: bool, explanation: str = "") -> None:
    with errors_before_loop() as loop:
        loop.explain = lambda: explanation
        if begun:
            loop.begin()
        raise error


@pytest.mark.parametrize(
    ("error", "begun", "explanation", "shown"),
    [
        (ValueError("bad words"), False, "", "bad words"),
        (KeyError("metric"), False, "", "KeyError: metric"),
        (IndexError("out of range"), False, "annotations are wrong", "annotations are wrong"),
        (UserError("bad words"), False, "annotations are wrong", "bad words"),
        (UserError("bad words"), True, "", "bad words"),
    ],
)
def test_mistakes_in_the_input_are_errors_of_the_user(error, begun, explanation, shown) -> None:
    with pytest.raises(UserError) as caught:
        fail(error, begun, explanation)
    assert str(caught.value) == shown


def test_errors_of_the_loop_stay_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError(), begun=True, explanation="annotations are wrong")
