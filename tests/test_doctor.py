"""The doctor's judgement of fake environments, and one real run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmvitconv import doctor
from mmvitconv.doctor import Probes, find_problems

ROOT = Path(__file__).resolve().parents[1]
BASE = {"torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.31", "setuptools": "81.0.0"}
SMALL = {"ftfy": "6.3.1", "regex": "2026.11.15"}
UPSTREAM = {
    **BASE,
    **SMALL,
    "mmengine": "0.10.7",
    "mmcv-lite": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
    "mmpretrain": "1.2.0",
}
ONEDL = {
    **BASE,
    **SMALL,
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "onedl-mmsegmentation": "1.4.2",
    "onedl-mmpretrain": "1.3.6",
}
WELL = Probes(operators="stand-in")


def without(installed: dict, *names: str) -> dict:
    return {name: version for name, version in installed.items() if name not in names}


@pytest.mark.parametrize(
    ("installed", "probes"),
    [
        (UPSTREAM, WELL),
        (ONEDL, WELL),
        (ONEDL, Probes(operators="stand-in", has_pkg_resources=False)),
        ({**without(UPSTREAM, "mmcv-lite"), "mmcv": "2.1.0"}, Probes(operators="compiled")),
        (without(UPSTREAM, "mmdet", "mmsegmentation", "ftfy", "regex"), WELL),
        ({**without(UPSTREAM, "mmdet", "mmsegmentation"), "mmcv-lite": "2.2.0"}, WELL),
        ({**UPSTREAM, "torch": "2.4.0+cu121"}, WELL),
    ],
)
def test_healthy_environments(installed, probes):
    assert find_problems(installed, probes) == []


@pytest.mark.parametrize(
    ("installed", "probes", "what", "mend"),
    [
        ({**UPSTREAM, "onedl-mmcv": "2.3.6"}, WELL, "mixed", "pip uninstall -y .*onedl-mmcv"),
        ({**UPSTREAM, "torch": "2.3.1+cpu"}, WELL, "2.3.1.* too old", "--upgrade torch"),
        (without(UPSTREAM, "torch"), Probes(), "torch is not inst", "pip install torch torchv"),
        (
            without(UPSTREAM, "torchvision"),
            WELL,
            "torchvision is not installed",
            "pip install torchvision torch==2.14.1",
        ),
        (
            UPSTREAM,
            Probes(import_errors={"torchvision": "RuntimeError: no nms", "mmdet": "same"}),
            "torchvision 0.29.1 cannot be imported .*no nms",
            "--force-reinstall torch torchvision",
        ),
        (
            {**UPSTREAM, "mmseg": "1.3.0"},
            WELL,
            "Chinese word segmenter",
            "uninstall -y mmseg && .*mmsegmentation==1.2.2",
        ),
        (
            {**ONEDL, "mmseg": "1.3.0"},
            WELL,
            "Chinese word segmenter",
            "uninstall -y mmseg && .* onedl-mmsegmentation==1.4.2",
        ),
        (BASE, Probes(), "no OpenMMLab", "mmengine==0.10.7 mmcv-lite==2.1.0"),
        (without(UPSTREAM, "mmcv-lite"), Probes(), "mmcv is not inst", "mmcv-lite==2.1.0"),
        (without(ONEDL, "onedl-mmcv"), Probes(), "mmcv is not inst", "onedl-mmcv==2.3.6"),
        (without(UPSTREAM, "mmengine"), Probes(), "mmengine is not", "mmengine==0.10.7"),
        ({**UPSTREAM, "mmcv": "2.1.0"}, WELL, "both installed", "uninstall -y mmcv mmcv-lite"),
        ({**UPSTREAM, "mmcv-full": "1.7.2"}, WELL, "1.x", "uninstall -y mmcv-full"),
        (
            {**UPSTREAM, "mmcv-lite": "2.2.0"},
            WELL,
            "2.2.0 is refused by mmdet and mmsegmentation",
            "mmcv-lite==2.1.0",
        ),
        (
            {**UPSTREAM, "setuptools": "84.0.0"},
            Probes(operators="stand-in", has_pkg_resources=False),
            "84.0.0 has no pkg_resources",
            "'setuptools<82'",
        ),
        (without(UPSTREAM, "ftfy", "regex"), WELL, "ftfy regex", "^pip install ftfy regex$"),
        (without(ONEDL, "regex"), WELL, "imports regex", "^pip install regex$"),
        (without(UPSTREAM, "timm"), WELL, "timm is not", "pip install timm"),
        (
            {**without(UPSTREAM, "mmcv-lite"), "mmcv": "2.1.0"},
            Probes(operators_error="undefined symbol", import_errors={"mmdet": "same"}),
            "operators of mmcv 2.1.0 do not work .undefined symbol",
            "uninstall -y mmcv && .*mmcv-lite==2.1.0",
        ),
        (
            ONEDL,
            Probes(import_errors={"mmcv": "ImportError: broken"}),
            "operators of onedl-mmcv 2.3.6 .*ImportError: broken",
            "uninstall -y onedl-mmcv && .*onedl-mmcv==2.3.6",
        ),
        (
            UPSTREAM,
            Probes(operators="stand-in", import_errors={"mmseg": "ImportError: this"}),
            "mmsegmentation 1.2.2 cannot be imported .ImportError: this",
            "mmsegmentation==1.2.2",
        ),
    ],
)
def test_one_problem_and_the_line_that_mends_it(installed, probes, what, mend):
    (problem,) = find_problems(installed, probes)
    import re

    assert re.search(what, problem.what), problem.what
    assert re.search(mend, problem.mend), problem.mend
    assert "\n" not in problem.mend


def test_several_problems_are_all_listed():
    installed = {**without(UPSTREAM, "ftfy", "timm"), "torch": "1.13.1"}
    problems = find_problems(installed, WELL)
    assert len(problems) == 3
    screen = doctor.report(installed, WELL, problems)
    assert "3 problems:" in screen
    assert all(f"mend: {problem.mend}" in screen for problem in problems)


def test_mending_lines_never_mix_the_stacks():
    for installed in ({**ONEDL, "mmseg": "1"}, without(ONEDL, "onedl-mmcv"), ONEDL):
        for problem in find_problems(installed, Probes()):
            for word in problem.mend.replace("==", " ").split():
                assert word not in doctor.UPSTREAM, problem.mend


@pytest.mark.parametrize(
    ("installed", "stack"),
    [(UPSTREAM, "upstream"), (ONEDL, "onedl"), (BASE, "none"), (UPSTREAM | ONEDL, "mixed")],
)
def test_stack(installed, stack):
    assert doctor.stack_of(installed) == stack


@pytest.mark.parametrize(
    ("version", "parts"), [("2.1.0rc1+cpu", (2, 1, 0)), ("2.14.1", (2, 14, 1)), ("unknown", ())]
)
def test_release(version, parts):
    assert doctor.release(version) == parts


def test_screen_names_what_is_not_installed():
    installed = without(UPSTREAM, "mmdet")
    screen = doctor.report(installed, WELL, [])
    assert "mmdet ([det])" in screen
    assert "No problems." in screen
    assert "mmdet" not in doctor.report(UPSTREAM, WELL, []).replace("mmdet  ", "")


def test_exit_code_follows_the_problems(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "installed_versions", lambda: BASE)
    monkeypatch.setattr(doctor, "probe", lambda installed: Probes())
    assert doctor.main([]) == 1
    assert "no OpenMMLab package" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "installed_versions", lambda: UPSTREAM)
    monkeypatch.setattr(doctor, "probe", lambda installed: WELL)
    assert doctor.main([]) == 0


@pytest.mark.smoke
def test_real_environment():
    done = subprocess.run(
        [sys.executable, "-m", "mmvitconv.doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mmcv operators" in done.stdout
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) <= 24
