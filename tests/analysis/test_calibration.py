"""Calibration: rules follow what was measured, and only where it was measured."""

import json
from collections.abc import Sequence

import pytest
import torch

from mmvitconv.analysis import calibration
from mmvitconv.analysis.calibration import Cell
from mmvitconv.ops.circular_conv import rules
from mmvitconv.ops.machine import calibration_file, read_calibration


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))


def fastest(cell: Cell) -> str:
    """A machine on which everything decides."""
    if cell.dense:
        return "concat" if cell.length < 12 or cell.batch < 5 else "fft"
    if not rules.is_fast(cell.length):
        return "dft" if cell.axis == 2 else "circulant"
    if cell.channels_last:
        return "concat" if cell.length < 50 else "dft"
    border = 30 + 60 * (cell.axis == 2) + 20 * (cell.use == "training") + 100 * cell.is_half
    return "concat" if cell.length < 9 else "circulant" if cell.length < border else "fft"


def pretend(cell: Cell, forms: Sequence[str], **_: float) -> dict[str, float]:
    return {form: 1.0 if form == fastest(cell) else 2.0 for form in forms}


def test_rules_choose_the_fastest_form(monkeypatch):
    monkeypatch.setattr(calibration, "measure_cell", pretend)
    lines = []
    measured = calibration.calibrate(report=lines.append)
    monkeypatch.setattr(rules, "RULES", rules.rules_of("amx", measured))
    series = list(calibration._series())
    assert len(lines) == len(series)
    for cell in (cell for cells, _ in series for cell in cells):
        dtype = torch.bfloat16 if cell.is_half else torch.float32
        shape = (8, 8, cell.length) if cell.dense else (8, cell.length)
        where = (cell.batch, shape, cell.axis, cell.dense, cell.use, bool(cell.channels_last))
        choose = rules.choose_form.__wrapped__
        assert choose("cpu", dtype, *where) == fastest(cell), cell
        assert choose("meta", dtype, *where) == "concat"  # nothing was measured there


def test_hopeless_forms_are_given_up_and_time_is_kept(monkeypatch):
    seen = []

    def measure(cell: Cell, forms: Sequence[str]) -> dict[str, float]:
        seen.append((cell.length, tuple(forms)))
        return {"concat": 9.0, "circulant": 1.0, "fft": 9.0, "dft": 2.0}

    monkeypatch.setattr(calibration, "measure_cell", measure)
    calibration.calibrate(report=lambda line: None)
    first, second = seen[:2]
    assert set(first[1]) == set(rules.FORMS)
    assert set(second[1]) == {"circulant", "fft", "dft"}
    seen.clear()
    assert calibration.calibrate(seconds=0, report=lambda line: None) == []
    assert seen == []


def test_stored_rules_are_read_on_this_machine_only(monkeypatch):
    assert rules._read_measured() == []
    measured = [rules.Rule("fft", "cpu", axis=2), rules.Rule("dft", max_length=9, max_batch=5)]
    file = calibration.store(measured)
    assert file == calibration_file()
    assert rules._read_measured() == measured
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"machine": "another"}))
    assert rules._read_measured() == []


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", "{}", "null", '"circular_conv"', "\x00"], ids=repr
)
def test_broken_files_are_as_good_as_none(broken: str):
    calibration.store([])
    calibration_file().write_text(broken)
    assert read_calibration("circular_conv") == []


@pytest.mark.parametrize("rule", [{"algorithm": "ntt"}, {"size": 3}, {}, 7], ids=repr)
def test_rules_of_other_versions_are_left_out(rule: object):
    file = calibration.store([])
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"circular_conv": [rule]}))
    assert rules._read_measured() == []


@pytest.mark.parametrize("use", ["inference", "training"])
@pytest.mark.parametrize("dense", [False, True])
def test_cells_are_measured(use: str, dense: bool):
    times = calibration.measure_cell(Cell(5, 3, use, dense), rules.FORMS, rounds=1)
    assert set(times) == set(rules.FORMS)
    assert min(times.values()) > 0
