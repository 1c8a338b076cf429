import pytest
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmvitconv.engine.launch import (
    Session,
    choose_exact_loop,
    describe,
    root_cause,
    run_tool,
)
from mmvitconv.errors import CheckpointError, UserError


def wrapped_like_mmengine(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            raise type(inner)(f"class `X` in a/b.py: {inner}")  # noqa: B904
    except Exception as outer:
        return outer


def raised_from(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


def raised_while_handling(error: Exception, handled: Exception) -> Exception:
    try:
        try:
            raise handled
        except Exception:
            raise error  # noqa: B904
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (wrapped_like_mmengine(ValueError("unknown arch 'x'")), "unknown arch 'x'"),
        (wrapped_like_mmengine(UserError("unknown arch")), "unknown arch"),
        (raised_from(RuntimeError("outer words"), OSError("inner words")), "inner words"),
        (raised_from(CheckpointError("refused it"), OSError("inner words")), "refused it"),
        (raised_while_handling(ValueError("nice words"), KeyError("x")), "nice words"),
        (KeyError("metric not found"), "metric not found"),
        (KeyError("metric"), "KeyError: metric"),
        (TypeError("f() got an argument"), "TypeError: f() got an argument"),
        (AssertionError(), "AssertionError"),
        (ValueError("two\n  lines"), "two lines"),
        (UserError("two\nlines"), "two\nlines"),
    ],
)
def test_the_cause_is_named(error: Exception, text: str) -> None:
    assert describe(root_cause(error)) == text


@pytest.mark.parametrize(
    ("error", "running", "shown"),
    [
        (ValueError("bad words"), False, True),
        (UserError("bad words"), True, True),
        (ValueError("bad words"), True, False),
    ],
)
def test_errors_of_the_loop_keep_their_traceback(
    error: Exception, running: bool, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def tool(session: Session, argv: object) -> None:
        session.running = running
        raise error

    if shown:
        assert run_tool("x.py", tool, []) == 1
        expected = "x.py: error: bad words (--debug shows the traceback)\n"
        assert capsys.readouterr().err == expected
    else:
        with pytest.raises(ValueError, match="bad words"):
            run_tool("x.py", tool, [])


def test_only_the_first_process_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tool(session: Session, argv: object) -> None:
        session.launcher = "pytorch"
        raise UserError("bad")

    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert run_tool("x.py", tool, []) == 1
        assert bool(capsys.readouterr().err) == (rank == "0")


def test_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    def tool(session: Session, argv: object) -> None:
        session.advice = "Go on: x --resume"
        raise KeyboardInterrupt

    assert run_tool("x.py", tool, []) == 130
    assert capsys.readouterr().out == "\nx.py: interrupted. Go on: x --resume\n"


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"by_epoch": True, "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"by_epoch": False, "max_iters": 2}, "mmvitconv.ResumableIterLoop"),
        ({"type": "EpochBasedTrainLoop", "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"type": "mmengine.IterBasedTrainLoop", "max_iters": 2}, "mmvitconv.ResumableIterLoop"),
        ({"type": EpochBasedTrainLoop, "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"type": "TeacherStudentLoop", "max_epochs": 2}, "TeacherStudentLoop"),
    ],
)
def test_loops_that_resume_exactly_are_chosen(given: dict, chosen: str) -> None:
    cfg = Config({"train_cfg": given})
    choose_exact_loop(cfg)
    assert cfg.train_cfg.type == chosen
    assert "by_epoch" not in cfg.train_cfg
    assert cfg.train_cfg.get("max_epochs", cfg.train_cfg.get("max_iters")) == 2
