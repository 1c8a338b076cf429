"""The start-up file: present after both kinds of installation, harmless, gone after removal."""

import runpy
import shutil
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, make_environment, run

COLD_IMPORT = (
    "import sys; before = 'mmvitconv' in sys.modules\n"
    "import mmcv.ops; print(before, 'mmvitconv' in sys.modules, mmcv._ext.__file__)"
)
MODULES = "import sys; print(sorted(sys.modules))"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what a build needs: building writes into the source folder."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(
        ROOT / "mmvitconv", folder / "mmvitconv", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True])
def test_installation(tmp_path, sources, editable):
    python, site = make_environment(tmp_path / "env")
    pip = (sys.executable, "-m", "pip", "--python", python)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run(*pip, "install", *options, *(("-e",) if editable else ()), sources)

    assert (site / "mmvitconv.pth").is_file()
    assert (site / "mmvitconv").is_dir() != editable
    origin = run(python, "-I", "-c", "import mmvitconv; print(mmvitconv.__file__)").stdout
    assert origin.startswith(str(sources if editable else site))
    # Nothing of ours is imported by hand here.
    cold = run(python, "-I", "-W", "ignore", "-c", COLD_IMPORT).stdout.split()
    assert cold == ["False", "True", str(Path(origin).parent / "compat" / "ext.py")]
    imported = run(python, "-I", "-c", MODULES).stdout
    off = {"MMVITCONV_NO_STARTUP": "1"}
    assert run(python, "-I", "-c", MODULES, **off).stdout == imported
    refused = "try: import mmcv.ops\nexcept ModuleNotFoundError as error: print(error.name)"
    assert run(python, "-I", "-W", "ignore", "-c", refused, **off).stdout.strip() == "mmcv._ext"

    # The package vanishes without pip (a deleted clone): no word about it.
    moved = (sources if editable else site) / "mmvitconv"
    shutil.move(moved, tmp_path / "moved")
    silent = run(python, "-I", "-c", "print('alive')")
    shutil.move(tmp_path / "moved", moved)
    assert (silent.stdout, silent.stderr) == ("alive\n", "")

    run(*pip, "uninstall", "--yes", "--quiet", "mmvitconv")
    assert not list(site.glob("*mmvitconv*"))


def test_the_line_takes_less_than_three_tenths_of_a_millisecond(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["setup.py", "--name"])
    line = runpy.run_path(str(ROOT / "setup.py"))["START_LINE"]
    assert line.count("\n") == 1  # Python executes the lines of such files one by one
    monkeypatch.setattr(sys, "meta_path", [])
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        exec(line, {})
        times.append(time.perf_counter() - begin)
    assert len(sys.meta_path) == 50
    assert sys.meta_path[0].find_spec("mmcv.ops") is None
    assert min(times) < 0.3e-3  # the least: other programs on the machine do not count
