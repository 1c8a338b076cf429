"""The Makefile's choice of stack, without installing anything, and the stacks' requirements."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from mmvitconv import doctor

ROOT = Path(__file__).resolve().parents[1]


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make as from a shell of its own: the suite itself may have been started by make."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "STACK", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if key not in inherited}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pins(stack: str) -> dict[str, str]:
    """Version by distribution name, of the requirements without conditions."""
    text = (ROOT / "requirements" / f"{stack}.txt").read_text("utf-8")
    return dict(re.findall(r"^([\w-]+)==([\w.]+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("stack", ["upstrem", "", "onedl upstream"])
def test_unknown_stack_is_one_sentence(stack: str):
    done = make("test", f"STACK={stack}")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert f"STACK='{stack}' is unknown" in line
    assert "STACK=upstream" in line
    assert "STACK=onedl" in line


def test_help_names_the_stack_and_the_tests():
    said = make("help").stdout
    for words in ("STACK=onedl", "make test ", "make test-all ", "make test-cpus ", "QUICK=1"):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "stack", "folder"),
    [
        ((), "upstream", ".venv"),
        (("STACK=upstream",), "upstream", ".venv"),
        (("STACK=onedl",), "onedl", ".venv-onedl"),
    ],
)
def test_each_stack_has_an_environment_of_its_own(arguments, stack, folder):
    done = make("--dry-run", "test", *arguments)
    assert done.returncode == 0, done.stderr
    command = done.stdout.replace("\\\n", " ").splitlines()[-1]
    assert f" {folder}/bin/python -m pytest " in command
    assert command.endswith("-m 'smoke'") == (stack == "onedl")
    assert set(re.findall(r"requirements/(\w+)\.txt", done.stdout)) == {stack, "dev"}
    assert set(re.findall(r"\.venv[\w-]*(?=/)", done.stdout)) == {folder}


def test_what_is_slow_is_run_by_test_all_alone():
    quick, full = (make("--dry-run", goal).stdout.splitlines()[-1] for goal in ("test", "test-all"))
    assert "not slow" in quick
    assert "slow" not in full


def test_continuous_integration_ends_with_all_tests():
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line.partition(" #")[0] for line in lines if line.startswith("make ")]
    assert commands == ["make lint", "make test-cpus QUICK=1", "make test-all"]
    assert lines[-1].startswith(commands[-1])


@pytest.mark.parametrize("option", ["", "--quick"])
def test_other_instruction_sets(option: str):
    done = make("--dry-run", "test-cpus", *["QUICK=1"] * bool(option))
    command = done.stdout.splitlines()[-1]
    assert command.split() == [".venv/bin/python", "tests/cpus.py", *option.split()]


@pytest.mark.parametrize("stack", ["upstream", "onedl"])
def test_requirements_never_mix_the_stacks(stack: str):
    assert doctor.stack_of(pins(stack)) == stack


@pytest.mark.parametrize("stack", ["upstream", "onedl"])
def test_the_doctor_installs_what_is_tested(stack: str):
    advised = dict(re.findall(r"([\w-]+)==([\w.]+)", doctor.INSTALL[stack]))
    assert len(advised) == 5
    assert advised.items() <= pins(stack).items()
