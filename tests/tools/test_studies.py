"""The commands of the studies and of the table of mixers, as a user runs them and as functions."""

import csv
import subprocess
import sys
from pathlib import Path

import mixer_studies as studies
import mixer_table as compare
import pytest
from shared import command_line

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "analysis_tools"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_study_in_processes_and_in_this_one(tmp_path: Path, mnist_root: Path, monkeypatch):
    assert (mnist_root.parent / ".cache").is_dir()
    monkeypatch.chdir(ROOT)
    options = ["--presets", "deit", "ln_relu", "--seeds", "3", "--epochs", "1"]
    options += ["--train-images", "50"]
    command = [sys.executable, str(TOOLS / "study_activation.py"), *options, "--threads", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ln_relu" in done.stdout
    one = [*options, "--threads", "1", "--out", str(tmp_path / "one")]
    assert studies.main(studies.ACTIVATION, one) == 0
    rows = {name: _read(tmp_path / name / "results.csv") for name in ("one", "two")}
    assert [(r["preset"], r["seed"], r["epoch"]) for r in rows["two"]] == [
        (preset, "3", "1") for preset in ("deit", "ln_relu")
    ]
    for key in ("train_loss", "test_accuracy"):
        assert [r[key] for r in rows["one"]] == [r[key] for r in rows["two"]]
    assert [r["preset"] for r in _read(tmp_path / "two" / "summary.csv")] == ["deit", "ln_relu"]
    assert (tmp_path / "two" / "curves.png").stat().st_size > 20_000
    report = (tmp_path / "two" / "report.md").read_text()
    assert report.startswith("# Study 1")
    assert "--train-images 50 --threads 2" in report
    assert "2 runs at a time" in report


def test_default_mixers_of_the_depthwise_study_can_be_built():
    for preset in studies.DEPTHWISE.presets:
        params, macs = studies.count_costs(studies.build_model(preset))
        assert min(params, macs) > 0


def test_mistakes_are_one_sentence(capsys):
    assert studies.main(studies.DEPTHWISE, ["--presets", "deit", "nothing"]) == 1
    assert "error: preset 'nothing' cannot be built" in capsys.readouterr().err
    for name, *values in (["--epochs", "0"], ["--threads", "0"], ["--seeds", "1", "1"]):
        with pytest.raises(SystemExit, match="2"):
            studies.main(studies.DEPTHWISE, [name, *values])
        assert name in capsys.readouterr().err.splitlines()[-1]


def test_compare_mixers(tmp_path: Path, capsys):
    names = ["deit", "dwvit", "ParC pair"]
    options = ["--sizes", "7", "14", "--channels", "24", "--rounds", "1", "--device", "cpu"]
    options += ["--mixers", *names, "--no-checks", "--out", str(tmp_path)]
    assert compare.main(options) == 0
    assert "dwvit" in capsys.readouterr().out
    rows = _read(tmp_path / "mixers.csv")
    assert [(row["side"], row["mixer"]) for row in rows] == [
        (side, name) for side in ("7", "14") for name in names
    ]
    assert rows[0]["macs"] == str(4 * 49 * 24**2 + 2 * 49**2 * 24)
    assert rows[0]["activation"] == "softmax"
    text = (tmp_path / "mixers.md").read_text()
    assert "| mixer | kernel made from |" in text
    assert "### 14 x 14, 196 tokens" in text
    assert "What was asked" not in text
    assert "reproduc" not in text.lower()
    assert (tmp_path / "mixers.png").stat().st_size > 20_000


def test_checks_are_sentences():
    memory = {None: 400 * 2**20, "auto": 100 * 2**20}
    row = {"side": 56, "dwvit": 2.0, "swin": 3.0, "swin, shifted": 4.0}
    row |= {"ratio": 1.5, "ratio_of_pair": 1.75}
    first, second = compare.sentences_of_checks(memory, [row])
    assert "400 MiB" in first
    assert "0.250 of that (100 MiB) with query_chunk='auto'" in first
    assert "`dwvit` is 1.50 times as fast" in second
    assert "1.75 times as fast as both" in second


@pytest.mark.parametrize(
    "options", [["--batch", "1"], ["--channels", "20"], ["--sizes", "0"], ["--mixers", "nothing"]]
)
def test_mistakes_of_compare_mixers(options: list[str], capsys):
    with pytest.raises(SystemExit, match="2"):
        compare.main(options)
    assert f"{options[0]}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "python tool.py"),
        (["--seeds", "0", "1"], "python tool.py --seeds 0 1"),
        (["--out", "/tmp/x y", "--threads", "2"], "python tool.py --threads 2"),
        (["--threads", "2", "--out=/tmp/x"], "python tool.py --threads 2"),
    ],
)
def test_a_command_leaves_the_folder_of_one_machine_out(arguments: list[str], expected: str):
    assert command_line("tool.py", arguments) == expected
