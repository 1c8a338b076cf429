"""The finder of the stand-in: order, laziness, errors; mostly in a fresh interpreter."""

from pathlib import Path

import pytest
from processes import ROOT, run_python

from mmvitconv import compat
from mmvitconv.errors import UserError


def run_code(code: str, *search_path: Path, options: tuple[str, ...] = ()) -> str:
    """Run code in a fresh interpreter that finds our package, and return what it prints."""
    prelude = f"import sys; sys.path[:0] = {[str(path) for path in (*search_path, ROOT)]!r}\n"
    return run_python(*options, "-W", "ignore", "-c", prelude + code).stdout.strip()


def fake_mmcv(folder: Path, *, compiled: bool) -> Path:
    (folder / "mmcv").mkdir()
    (folder / "mmcv" / "__init__.py").write_text("")
    if compiled:
        (folder / "mmcv" / "_ext.py").write_text("ORIGIN = 'compiled'\n")
    return folder


def test_import_is_light():
    heavy = run_code(
        "before = set(sys.modules)\nimport mmvitconv\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))",
        options=("-S",),  # without the start-up file of an installation
    )
    assert heavy == "['mmvitconv']"


def test_provide_operators_is_idempotent_and_asked_last():
    out = run_code(
        "import importlib, mmvitconv.compat as compat\n"
        "compat.provide_operators(); importlib.reload(compat).provide_operators()\n"
        "names = [getattr(f, '__name__', type(f).__name__) for f in sys.meta_path]\n"
        "print(names.count('StandInFinder'), names[-1])"
    )
    assert out == "1 StandInFinder"


@pytest.mark.parametrize("name", ["mmcv", "mmcv._ext2", "mmcv.ops", "_ext", "other._ext"])
def test_finder_answers_for_one_name_only(name):
    assert compat.StandInFinder.find_spec(name) is None


def test_compiled_mmcv_is_preferred(tmp_path):
    code = "import mmvitconv, mmcv._ext\nprint(mmcv._ext.ORIGIN)"
    assert run_code(code, fake_mmcv(tmp_path, compiled=True)) == "compiled"


def test_stand_in_when_nothing_is_compiled(tmp_path):
    code = "import mmvitconv, mmcv._ext\nprint(mmcv._ext.__name__, mmcv._ext.__file__)"
    out = run_code(code, fake_mmcv(tmp_path, compiled=False))
    assert out == f"mmcv._ext {ROOT / 'mmvitconv' / 'compat' / 'ext.py'}"


def test_no_mmcv_at_all_says_so(tmp_path):
    out = run_code(
        "import mmvitconv\nsys.modules['mmcv'] = None\n"
        "try:\n import mmcv._ext\nexcept ModuleNotFoundError as error: print(error)"
    )
    assert "mmcv" in out


@pytest.mark.slow
def test_cold_start_from_mmdet_and_mmcv_checks():
    out = run_code(
        "import mmvitconv\n"
        "from mmdet.registry import MODELS\nimport mmdet.models, mmcv.ops\n"
        "from mmcv.utils.ext_loader import check_ops_exist\n"
        "from mmcv.utils.env import collect_env\n"
        "from mmengine.utils.dl_utils import mmcv_full_available\n"
        "print(check_ops_exist(), mmcv_full_available(), 'MaskRCNN' in MODELS)\n"
        "print(collect_env()['MMCV Compiler'])"
    )
    assert out.splitlines() == ["True True True", "none (operators by mmvitconv on torchvision)"]


def test_missing_operator_names_itself_and_the_install_line():
    from mmcv import _ext

    assert hasattr(_ext, "border_align_forward")
    with pytest.raises(
        compat.MissingOperatorError, match=r"'border_align_forward'.*pip install"
    ) as info:
        _ext.border_align_forward(1, group=2)
    assert isinstance(info.value, UserError)


def test_private_names_do_not_exist():
    from mmcv import _ext

    assert not hasattr(_ext, "__path__")
    assert not hasattr(_ext, "_anything")


@pytest.mark.parametrize(
    ("installed", "named"),
    [({"mmcv-lite"}, "mmcv==2.1.0"), ({"onedl-mmcv"}, "onedl-mmcv==2.3.6")],
)
def test_install_line_stays_within_the_stack(monkeypatch, installed, named):
    from importlib import metadata

    def version(name):
        if name in installed:
            return "1"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    line = compat.install_line_of_compiled_mmcv()
    assert line.count(named) >= 1
    assert ("onedl" in line) == ("onedl" in named)
