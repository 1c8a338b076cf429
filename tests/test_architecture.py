"""The package is built as docs/architecture.md says: imports point down, and never in a circle."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools/misc/write_architecture.py"
    spec = importlib.util.spec_from_file_location("write_architecture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def upward(tool, imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports between parts that do not lead to a lower row."""
    return [
        (source, target)
        for source, target in tool.find_arrows(imports)
        if tool.height_of(source) >= tool.height_of(target)
    ]


def test_imports_point_down(tool):
    imports = tool.read_imports()
    assert len(imports) > 100
    assert upward(tool, imports) == []


def test_no_modules_import_each_other(tool):
    assert tool.find_circles(tool.read_imports()) == []


def test_the_page_is_up_to_date(tool):
    assert tool.main(["--check"]) == 0
    page = tool.PAGE.read_text("utf-8")
    named = {part for parts in tool.LAYERS for part in parts}
    assert all(f"`{part}/`" in page or f"`{part}.py`" in page for part in named)


def test_wrong_arrows_are_found(tool, tmp_path: Path):
    shutil.copytree(ROOT / "mmvitconv", tmp_path / "mmvitconv", ignore=lambda *_: ["__pycache__"])
    source = tmp_path / "mmvitconv/ops/attention.py"
    text = source.read_text("utf-8")
    source.write_text(f"{text}\n\ndef lazy():\n    from mmvitconv.models import FCViT\n")
    imports = tool.read_imports(tmp_path)
    assert ("ops", "models") in upward(tool, imports)
    circles = tool.find_circles(imports)
    assert any("mmvitconv.ops.attention" in circle for circle in circles)
    # a type checker's imports are not executed
    typed = "if TYPE_CHECKING:\n    from mmvitconv.models import FCViT\n"
    source.write_text(f"{text}\nfrom typing import TYPE_CHECKING\n\n{typed}")
    assert upward(tool, tool.read_imports(tmp_path)) == upward(tool, tool.read_imports())


def test_models_ask_nothing_about_who_runs_them():
    """A forward pass has one path; rules of devices, layouts and gradients belong to operators."""
    question = re.compile("is_plain|is_grad_enabled|_forward_hooks|is_compiling|device.type")
    files = sorted((ROOT / "mmvitconv/models").rglob("*.py"))
    assert len(files) > 30
    assert [str(file) for file in files if question.search(file.read_text("utf-8"))] == []
