"""tools/misc/peers.py: counts, reasons, pages, and detectors in processes of their own."""

import runpy
import time
from pathlib import Path

import pytest
from processes import ROOT

peers = runpy.run_path(str(ROOT / "tools/misc/peers.py"))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("MissingOperatorError: mmvitconv has no stand-in for this one", "absent operator"),
        ("AssertionError: Torch not compiled with CUDA enabled", "needs a GPU"),
        ("RuntimeError: skimage is not installed, please install it", "needs another package"),
        ("ModuleNotFoundError: No module named 'lap'", "needs another package"),
        ("URLError: <urlopen error [Errno -2]>", "needs the network or files"),
        ("AssertionError: 1 != 2", peers["UNKNOWN"]),
        ("the process died", peers["UNKNOWN"]),
    ],
)
def test_reasons(message: str, reason: str) -> None:
    assert peers["find_reason"](message) == reason


def test_results(tmp_path) -> None:
    path = tmp_path / "results.json"
    results = peers["Results"](path, resume=True)
    for name, message in {"b": "CUDA", "a": "CUDA", "c": "", "d": ""}.items():
        results.add(name, message)
    table, is_known = results.write_table("tests")
    assert table.split("\n")[2:] == ["| passed | 2 | |", "| needs a GPU | 2 | a, b |"]
    assert is_known
    results.add("e", "1 != 2")
    assert not results.write_table("tests")[1]
    assert peers["Results"](path, resume=True).messages == {"c": "", "d": ""}
    assert peers["Results"](path, resume=False).messages == {}


def fail(path: Path) -> None:
    raise ValueError(path.name)


def wait(path: Path) -> None:
    time.sleep(60)


def die(path: Path) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "message"),
    [(fail, "ValueError: a.py"), (wait, peers["TOO_LONG"]), (die, peers["DIED"]), (Path, "")],
)
def test_a_failure_stays_alone(function, message, monkeypatch) -> None:
    monkeypatch.setitem(peers["run_alone"].__globals__, "SECONDS", 60 if function != wait else 0.1)
    assert peers["run_alone"](function, Path("a.py")) == message
