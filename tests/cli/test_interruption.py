"""Ctrl-C at any moment: exit code 130, one line, no traceback."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st
from processes import ROOT, run_python

from mmvitconv.cli import execute
from mmvitconv.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def _heard():
    """Ctrl-C arrives, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def turn_into(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        try:
            press()
        except KeyboardInterrupt:
            raise error from None

    return work


def leave_exec() -> None:
    exec("import signal; signal.raise_signal(signal.SIGINT)")


def lose_it() -> None:
    class Sink:
        def __del__(self) -> None:
            press()

    del [Sink()][0]
    time.sleep(100)  # until it comes back


def swallow_it() -> None:
    with suppress(BaseException):
        press()
    time.sleep(100)


@pytest.mark.parametrize(
    "work",
    [
        press,
        turn_into(KeyboardInterrupt()),
        turn_into(UserError("the config is wrong")),
        turn_into(RuntimeError("a worker died")),
        turn_into(SystemExit(2)),
        leave_exec,
        lose_it,
        swallow_it,
    ],
)
def test_whatever_becomes_of_it(work, capsys):
    options = argparse.Namespace(advice="Go on: x --resume")
    assert execute(argparse.ArgumentParser("x.py"), work, options) == 130
    assert capsys.readouterr() == ("\nx.py: interrupted. Go on: x --resume\n", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


PROGRAM = """
import argparse, os, signal, sys, time
from multiprocessing import get_context
from mmvitconv.cli import execute, interruption
interruption.PATIENCE_SECONDS = 1

def press():
    signal.raise_signal(signal.SIGINT)

def deaf():
    while True:
        try:
            press()
        except BaseException:
            time.sleep({pause})

def slow():
    try:
        press()
    finally:
        time.sleep(0.7)
        print("cleared up", end="", file=sys.stderr)

def child():
    press()
    os._exit(7)

def parent():
    process = get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode

class Sink:
    def __del__(self):
        press()

def sink():  # where Python forgets it, and says so
    try:
        raise ValueError
    except ValueError:
        try:
            del [Sink()][0]
            time.sleep(100)
        finally:
            print("cleared up", end="", file=sys.stderr)

def leaving():
    import atexit
    atexit.register(press)
    return 3

code = execute(argparse.ArgumentParser("x.py"), {work})
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("work", "pause", "code", "error"),
    [
        ("deaf", 0, 130, "\nx.py: interrupted\n"),  # pressed again
        ("deaf", 1000, 130, "\nx.py: interrupted\n"),  # only once
        ("slow", 0, 130, "cleared up\nx.py: interrupted\n"),
        ("sink", 0, 130, "cleared up\nx.py: interrupted\n"),
        ("parent", 0, 7, ""),  # only the child is told
        ("leaving", 0, 3, ""),
        ("leave_exec", 0, 130, "\nx.py: interrupted\n"),
    ],
)
def test_the_process_ends(work: str, pause: int, code: int, error: str) -> None:
    program = PROGRAM.format(work=work, pause=pause)
    program = program.replace("leave_exec", "lambda: exec('press()')")
    # as a module, since Python itself then ends by the signal
    done = run_python("-c", program, check=False)
    assert (done.returncode, done.stderr) == (code, error)


FIRST = """
import runpy, signal, sys

class Press:  # while anything is imported after the first lines
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Press())
sys.argv = ["mmvitconv", "list"]
{start}
"""
STARTS = {
    "module": 'runpy.run_module("mmvitconv", run_name="__main__", alter_sys=True)',
    "script": "from mmvitconv.__main__ import main; sys.exit(main())",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("mmvitconv.cli", ""),
        ("argparse", ""),
        ("mmvitconv.cli.interruption", ""),
        ("mmvitconv.cli.list", "\nmmvitconv list: interrupted\n"),
    ],
)
def test_the_first_moments(start: str, moment: str, error: str) -> None:
    program = FIRST.format(moment=moment, start=STARTS[start])
    done = run_python("-c", program, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", error)


@pytest.mark.parametrize("start", STARTS)
def test_what_nohup_ignores_stays_ignored(start: str) -> None:
    program = FIRST.format(moment="mmvitconv.cli", start=STARTS[start])
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    assert "FCViT" in run_python("-c", ignore + program).stdout


# says when Ctrl-C is looked after
COMMAND = """
import sys
from mmvitconv.cli import interruption, main

begin = interruption.CtrlC.begin

def begin_and_say(ctrl_c):
    begin(ctrl_c)
    print("begin", flush=True)

interruption.CtrlC.begin = begin_and_say
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interrupted")


@pytest.mark.slow
def test_commands(search, mnist_root: Path, folder: Path) -> None:
    """Ctrl-C in a terminal, which reaches all processes, after a part of the command's time."""
    config = str(ROOT / "configs/convmixer/convmixer_256_8_mnist.py")
    short = ["--cfg-options", "train_dataloader.num_workers=2", "val_dataloader.num_workers=1"]
    short += ["train_dataloader.num_batch_per_epoch=4", "train_dataloader.batch_size=2"]
    short += ["val_dataloader.num_batch_per_epoch=1", "train_cfg.max_epochs=30"]
    image = str(next((mnist_root / "val").rglob("*.png")))
    commands = {
        "train": ["train", config, "--work-dir", str(folder / "work"), *short],
        "predict": ["predict", config, "none", image, "--out", str(folder)],
        "print-config": ["print-config", config],
        "flops": ["flops", config],
        "erf": ["erf", "ConvMixer:256_8", "--out", str(folder / "erf.png")],
    }

    def check(case: tuple[str, float]) -> None:
        name, seconds = case
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *commands[name]],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        output, errors = process.stdout.readline(), ""
        assert output == "begin\n"
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        # the command may have been quicker, on some machine
        assert process.returncode in (0, 130), errors
        assert "Traceback" not in output + errors
        assert "error: " not in output + errors
        assert ("interrupted" in output + errors) == (process.returncode == 130)

    seconds = st.floats(0, 12)
    cases = st.sampled_from(sorted(commands)).flatmap(
        lambda name: st.tuples(st.just(name), seconds)
    )
    search(check, cases, 5, known=[("train", 0.0), ("train", 4.0), ("print-config", 0.3)])
