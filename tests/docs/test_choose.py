"""docs/choose.md shows the ledger's and the benchmark's numbers, and nothing else."""

import importlib.util
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools/misc/write_choose.py"
    spec = importlib.util.spec_from_file_location("write_choose", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look
    spec.loader.exec_module(module)
    return module


def test_nothing_is_out_of_date(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_the_text_names_figures_of_the_tables_and_the_ledger_alone(tool):
    text, tables = tool.PAGE.read_text("utf-8").split("<!-- choose: begin -->")
    named = re.findall(r"\b\d\d\.\d+\b", text)  # accuracies; times have one digit before the point
    assert len(named) > 20
    cells = {cell.strip() for line in tables.splitlines() for cell in re.split(r"[|/(]", line)}
    macs = {cell.removesuffix(" G") for cell in cells if cell.endswith(" G")}
    ledger = yaml.safe_load((ROOT / "configs/sources.yml").read_text("utf-8"))
    published = {
        str(value)
        for source in ledger
        for figures in source.get("figures", {}).values()
        for value in figures.values()
    }
    assert set(named) - cells - published <= {f"{float(value):.1f}" for value in macs}


def test_old_numbers_are_found(tool, monkeypatch, tmp_path, capsys):
    page = tmp_path / "choose.md"
    page.write_text(tool.PAGE.read_text("utf-8").replace("| 79.0 |", "| 97.0 |"))
    monkeypatch.setattr(tool, "PAGE", page)
    monkeypatch.setattr(tool, "PICTURE", tmp_path / "choose.png")
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().out.count("out of date") == 2
    assert "| 97.0 |" in page.read_text("utf-8")
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0


def test_every_ledger_entry_of_others_and_all_of_ours_are_rows(tool):
    names = [choice.name for choice in tool.read_choices()]
    assert len(set(names)) == len(names)
    assert {"fcvit_s12", "parcnet_s", "deit_tiny", "TransNeXt-T", "VAN-B1"} <= set(names)
    by_name = {choice.name: choice for choice in tool.read_choices()}
    assert by_name["fcvit_s24"].boxes == "44.1 / 39.9"
    assert by_name["lightvit_tiny"].boxes == "37.8 / 35.9", "of 1x, not of 3x"
    assert by_name["fcvit_s24"].pixels == "45.5 (Semantic FPN)"
    assert by_name["InternImage-T"].pixels == "47.9"


@pytest.mark.parametrize("values", [[3, 2, 1], [2, 2, 2], [5, 1.1, 1, 0.9, 0], [1]])
def test_labels_are_moved_apart(tool, values):
    placed = tool.spread(values, 0.5)
    assert all(above - below > 0.5 - 1e-9 for above, below in pairwise(placed))
    assert sum(placed) == pytest.approx(sum(values))
