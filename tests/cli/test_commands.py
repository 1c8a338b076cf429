"""The command line as a whole: every command loads, explains itself and names mistakes."""

import argparse
import sys

import pytest
from processes import run_python

from mmvitconv import __version__
from mmvitconv.cli import COMMANDS, UsageError, execute, main, run
from mmvitconv.errors import UserError, describe_accident


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_gives_it_quickly(name):
    code = (
        "import sys\nfrom mmvitconv.cli import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit as ended: print(ended.code)\n"
        "print(sorted({'torch', 'mmdet', 'gradio', 'matplotlib', 'onnx'} & set(sys.modules)))"
    )
    printed = run_python("-c", code).stdout
    assert printed.startswith(f"usage: mmvitconv {name}")
    assert printed.splitlines()[-2:] == ["0", "[]"]


def test_usage_lists_all(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_package_that_is_missing_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "mmvitconv.cli.list", raising=False)
    assert run("list") == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "mmvitconv list: error: rich is not installed; 'mmvitconv doctor' says what to install"
    ]


@pytest.mark.parametrize(("name", "hint"), [("trian", "'train'"), ("xyz", "use one of doctor")])
def test_unknown_command_is_one_sentence(name, hint, capsys):
    assert main([name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"there is no command {name!r}" in line
    assert hint in line


@pytest.mark.parametrize("name", ["train", "test"])
def test_training_and_testing_bear_the_name_of_the_command(name, capsys):
    checkpoint = ["none.pth"] if name == "test" else []
    assert run(name, "fcvit_tny_mnist", *checkpoint) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"mmvitconv {name}: error: there is no config file 'fcvit_tny_mnist'")
    assert "configs/fcvit/fcvit_tiny_mnist.py" in error
    with pytest.raises(SystemExit) as ended:
        run(name)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: mmvitconv {name} ")


def raising(error: BaseException, **options: object) -> tuple:
    """Arguments of ``execute`` for a program that raises an error."""

    def work() -> None:
        raise error

    return argparse.ArgumentParser("x.py"), work, argparse.Namespace(**options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "x.py: error: bad words\n"),
        ({"debug": False}, "x.py: error: bad words (--debug shows the traceback)\n"),
    ],
)
def test_errors_are_one_line(options, line, capsys):
    assert execute(*raising(UserError("bad words"), **options)) == 1
    assert capsys.readouterr().err == line


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        execute(*raising(ZeroDivisionError()))
    for error in (UserError("bad"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            execute(*raising(error, debug=True))


def test_wrong_usage_shows_it(capsys):
    with pytest.raises(SystemExit) as ended:
        execute(*raising(UsageError("give two")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "usage: x.py [-h]\nx.py: error: give two\n"


def test_a_worker_may_die_while_an_error_is_explained(monkeypatch, capsys):
    """PyTorch tells it out of a signal's handler, wherever the program is."""
    died = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    answers = [died, describe_accident(died)]

    def describe(error: BaseException) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("mmvitconv.cli.describe_accident", describe)
    assert execute(*raising(ConnectionResetError("reset"))) == 1
    assert "DataLoader worker (pid 7) is killed" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_prints(rank, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", rank)
    alone = UserError("bad")
    alone.of_one_process = True
    for error, printed in ((UserError("bad"), rank == "0"), (alone, True)):
        assert execute(*raising(error, launcher="pytorch")) == 1
        assert bool(capsys.readouterr().err) == printed
