"""The doctor's judgement of fake environments, and one real run."""

import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import SimpleNamespace

import pytest
from processes import run_python

from mmvitconv import doctor
from mmvitconv.cli import run
from mmvitconv.doctor import Probes, find_problems

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
        ({**UPSTREAM, "torch": "2.6.0+cu124"}, WELL),
    ],
)
def test_healthy_environments(installed, probes):
    assert find_problems(installed, probes) == []


@pytest.mark.parametrize(
    ("installed", "probes", "what", "fix"),
    [
        ({**UPSTREAM, "onedl-mmcv": "2.3.6"}, WELL, "mixed", "pip uninstall -y .*onedl-mmcv"),
        ({**UPSTREAM, "torch": "2.5.1+cpu"}, WELL, "2.5.1.* too old: 2.6", "--upgrade torch"),
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
def test_one_problem_and_the_line_that_fixes_it(installed, probes, what, fix):
    (problem,) = find_problems(installed, probes)
    assert re.search(what, problem.what), problem.what
    assert re.search(fix, problem.fix), problem.fix
    assert "\n" not in problem.fix


def test_several_problems_are_all_listed():
    installed = {**without(UPSTREAM, "ftfy", "timm"), "torch": "1.13.1"}
    problems = find_problems(installed, WELL)
    assert len(problems) == 3
    screen = doctor.report(installed, WELL, problems)
    assert "3 problems:" in screen
    assert all(f"fix: {problem.fix}" in screen for problem in problems)


def test_fixing_lines_never_mix_the_stacks():
    for installed in ({**ONEDL, "mmseg": "1"}, without(ONEDL, "onedl-mmcv"), ONEDL):
        for problem in find_problems(installed, Probes()):
            for word in problem.fix.replace("==", " ").split():
                assert word not in doctor.UPSTREAM, problem.fix


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
    monkeypatch.setattr(doctor, "probe", lambda installed, full: Probes())
    assert run("doctor") == 1
    assert "no OpenMMLab package" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "installed_versions", lambda: UPSTREAM)
    monkeypatch.setattr(doctor, "probe", lambda installed, full: WELL)
    assert run("doctor") == 0


@pytest.mark.parametrize(
    ("information", "version", "text"),
    [
        ("", "cuda = None", "no GPU: CPU only"),
        (
            "Model: \t\t NVIDIA H200\nIRQ: 3",
            "cuda: Optional[str] = '13.0'",
            "CUDA 13.0: 2 x NVIDIA H200",
        ),
        ("Model: NVIDIA H200", "cuda = None", "2 x NVIDIA H200, but this torch is for CPUs only"),
    ],
)
def test_gpus_are_found_without_torch(tmp_path, monkeypatch, information, version, text):
    for gpu in ("0000:01", "0000:02") if information else ():
        (tmp_path / gpu).mkdir()
        (tmp_path / gpu / "information").write_text(information)
    (tmp_path / "version.py").write_text(f"debug = False\n{version}\nhip = '1.0'\n")
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(doctor.util, "find_spec", {"torch": origin}.get)
    assert doctor._find_gpus(tmp_path) == text


def test_compiled_operators_are_found_by_their_file(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mmcv", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text("")
    assert doctor._find_operators() == "stand-in"
    (tmp_path / "mmcv" / f"_ext{EXTENSION_SUFFIXES[0]}").write_text("")
    assert doctor._find_operators() == "compiled"


def test_packages_without_files_and_the_state_of_the_start_up_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    folder = SimpleNamespace(origin=None)
    monkeypatch.setattr(doctor.util, "find_spec", {"mmcv": folder}.get)
    probes = doctor.probe({"mmengine": "0.10.7", "mmcv-lite": "2.1.0"})
    assert probes.import_errors["mmengine"] == "its files are missing"
    assert probes.import_errors["mmcv"] == "its files are missing"
    assert probes.start_up == "none: import mmvitconv before mmcv.ops"
    (tmp_path / "mmvitconv.pth").touch()
    assert doctor._find_start_up() == str(tmp_path / "mmvitconv.pth")
    monkeypatch.setenv("MMVITCONV_NO_STARTUP", "1")
    assert doctor._find_start_up() == "off by MMVITCONV_NO_STARTUP"


@pytest.mark.smoke
def test_real_environment():
    done = run_python("-m", "mmvitconv.doctor", "--full")
    screen = done.stdout
    assert done.stderr == ""
    assert "nms and roi_align tried" in screen
    assert len(screen.splitlines()) <= 24


def test_only_the_full_report_imports_packages():
    """Importing torch takes seconds."""
    code = (
        "import sys; from mmvitconv.cli import run; run('doctor')\n"
        "print(sorted({'torch', 'mmcv', 'mmengine', 'numpy', 'rich'} & set(sys.modules)))"
    )
    *screen, imported = run_python("-c", code).stdout.splitlines()
    assert imported == "[]"
    assert screen[-1].startswith("'mmvitconv doctor --full' imports all packages")
    assert any(line.startswith("mmcv operators") and "not tried" in line for line in screen)
