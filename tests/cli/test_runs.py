"""Errors before the loop over the data, and after it has begun."""

from functools import partial

import pytest

from mmvitconv.cli.runs import errors_before_loop, need_all
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


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ([None, "no weights"], "no weights"),
        (["no data", None], "no data"),
        (
            ["no data", "no weights"],
            "2 things stop this run:\n  error: no data\n  error: no weights",
        ),
    ],
)
def test_data_and_weights_are_missed_together(missing: list[str | None], shown: str) -> None:
    def step(text: str | None) -> None:
        if text:
            raise UserError(text)

    with pytest.raises(UserError) as caught:
        need_all(*(partial(step, text) for text in missing))
    assert str(caught.value) == shown
