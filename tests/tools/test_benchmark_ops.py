"""The measurement of operators runs, and writes what it measured."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mmvitconv.ops.depthwise_conv import ALGORITHMS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "algorithms", "cases"),
    [
        (
            ["--op", "circular_conv", "--sizes", "3", "5", "--channels", "2", "4"],
            {"auto", "concat", "circulant", "fft", "dft", "plain fft"},
            2 * 2 * 2 * 2,
        ),
        (
            ["--op", "depthwise_conv", "--sizes", "3", "5", "--side", "4"],
            set(ALGORITHMS),
            2 * 2 * 2,
        ),
    ],
)
def test_benchmark(tmp_path: Path, arguments: list[str], algorithms: set[str], cases: int):
    script = ROOT / "tools" / "analysis_tools" / "benchmark_ops.py"
    command = [sys.executable, str(script), *arguments, "--rounds", "1", "--device", "cpu"]
    run = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with (tmp_path / f"{arguments[1]}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["algorithm"] for row in rows} == algorithms
    assert len(rows) == cases * len(algorithms)
    assert all(float(row["ms"]) > 0 for row in rows)
    assert sum(row["rule"] == "True" for row in rows) == cases  # one choice for each
    assert (tmp_path / f"{arguments[1]}.png").stat().st_size > 10_000
    if arguments[1] == "circular_conv":
        assert f"cells: {cases}," in run.stdout
