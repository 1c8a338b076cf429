"""Measure what docs/reliability.md claims, and write its tables.

python tools/misc/write_reliability.py [--only killed combined tests] [--kills 3] [--seed 0]

Kills trainings of the three tasks and of combined features (tools/misc/chaos_train.py) and runs the
tests of reliability, which count what they try. Takes about 40 minutes on two cores. The exit code
is 1, and nothing is written, when a run differs or a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from rich.progress import track

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    *("train_dataloader.num_workers=2", "val_dataloader.num_batch_per_epoch=2"),
    "model.backbone.drop_path_rate=0.1",
)
EPOCHS = (
    *COMMON,
    *("train_dataloader.num_batch_per_epoch=10", "train_dataloader.batch_size=2"),
    *("train_cfg.max_epochs=3", "train_cfg.val_interval=1"),
    *("default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=4"),
)
ITERATIONS = (
    *COMMON,
    *("train_cfg.max_iters=30", "train_cfg.val_interval=12"),
    "default_hooks.checkpoint.interval=4",
)
# config, processes, settings
RUNS = (
    ("configs/fcvit/fcvit_tiny_mnist.py", 1, EPOCHS),
    ("configs/convmixer/convmixer_256_8_mnist.py", 2, EPOCHS),
    ("configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py", 1, EPOCHS),
    ("configs/fcvit/upernet_fcvit_tiny_nuclei.py", 1, ITERATIONS),
)
# with epochs; small, as it is trained often
COMBINED = "configs/convmixer/convmixer_256_8_mnist.py"
TESTS = (
    "tests/engine/test_loops.py",
    "tests/engine/test_resume.py",
    "tests/checks/test_non_finite.py",
    "tests/checks/test_bad_data.py",
    "tests/checks/test_annotations.py",
    "tests/checks/test_config.py",
    "tests/weights/test_strangers.py",
    "tests/models/backbones/test_properties.py",
    "tests/models/backbones/test_autocast_range.py",
    "tests/models/plugin/test_replace_properties.py",
    "tests/models/necks/test_properties.py",
)


def run_chaos(kills: int, seed: int, folder: Path) -> list[dict]:
    """Kill every run of :data:`RUNS`.

    Args:
        kills: Kills per run.
        seed: Of the trainings and the kills.
        folder: Where they write.

    Returns:
        The reports of ``chaos_train.py``.
    """
    reports = []
    for config, processes, settings in track(RUNS, "killed trainings"):
        work_dir = folder / str(processes)
        report = work_dir / Path(config).stem / "report.json"
        command = [sys.executable, "tools/misc/chaos_train.py", config, "--seed", str(seed)]
        command += ["--kills", str(kills), "--processes", str(processes)]
        command += ["--work-dir", str(work_dir), "--cfg-options", *settings]
        if not report.is_file():
            subprocess.run(command, cwd=ROOT, check=True)
        reports.append(json.loads(report.read_text()))
    return reports


def run_tests(folder: Path) -> tuple[dict[str, int], str]:
    """Run the tests of :data:`TESTS`.

    Args:
        folder: Where they leave their counts.

    Returns:
        The counts, and pytest's last line.
    """
    path, summary = folder / "counts.json", folder / "tests.txt"
    if path.is_file() and summary.is_file():
        return json.loads(path.read_text()), summary.read_text().strip()
    environment = {**os.environ, "MMVITCONV_TEST_COUNTS": str(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-n", "auto", "--maxprocesses=4", *TESTS]
    command += ["--dist=loadfile"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE, text=True
    )
    last = done.stdout.strip().splitlines()[-1].strip("= ")
    if done.returncode != 0:
        print(done.stdout[-5000:])
        raise subprocess.CalledProcessError(done.returncode, command)
    summary.write_text(last)
    return json.loads(path.read_text()), last


def run_combined(kills: int, seed: int, folder: Path) -> list[dict]:
    """Kill trainings of :data:`COMBINED` with combined features.

    Args:
        kills: Kills per run.
        seed: Of the trainings and the kills, and of the choice.
        folder: Where they write.

    Returns:
        The reports of ``chaos_train.py --combine``, those with the most features first.
    """
    command = [sys.executable, "tools/misc/chaos_train.py", COMBINED, "--combine"]
    command += ["--kills", str(kills), "--seed", str(seed), "--work-dir", str(folder)]
    command += ["--cfg-options", "train_dataloader.batch_size=4", *COMMON]
    done = folder / "combined.done"
    if not done.is_file():
        subprocess.run(command, cwd=ROOT, check=True)
        done.touch()
    reports = [json.loads(path.read_text()) for path in folder.glob("*_with_*/report.json")]
    return sorted(reports, key=lambda report: (-len(report["features"]), report["features"]))


def make_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


KILLS_HEAD = ("kills", "while writing", "resumed from", "compared", "differing")


def describe_kills(report: dict) -> tuple[object, ...]:
    """Return the columns of :data:`KILLS_HEAD` for a training; raise if it ended differently."""
    if report["differing"]:
        raise subprocess.CalledProcessError(1, ["chaos_train.py", report["config"]])
    counts = (report["kills"], report["kills_while_writing"])
    return (*counts, ", ".join(report["starting_points"]), report["compared"], 0)


def describe_killed(options: argparse.Namespace, folder: Path) -> str:
    """Measure and return the table of killed trainings."""
    rows = [
        (Path(r["config"]).stem, r["processes"], f"{r['seconds']} s", *describe_kills(r))
        for r in run_chaos(options.kills, options.seed, folder)
    ]
    return make_table(("config", "processes", "in one go", *KILLS_HEAD), rows)


def describe_combined(options: argparse.Namespace, folder: Path) -> str:
    """Measure and return the table of combined features."""
    rows = [
        (", ".join(r["features"]) or "none", r["end"], *describe_kills(r))
        for r in run_combined(options.kills, options.seed, folder)
    ]
    return make_table(("features", "iterations", *KILLS_HEAD), rows)


def describe_tests(_: argparse.Namespace, folder: Path) -> str:
    """Run the tests and return the table of what they tried."""
    counts, passed = run_tests(folder)
    return f"{make_table(('what', 'number'), [*counts.items()])}\n\npytest says: {passed}."


SECTIONS = {"killed": describe_killed, "combined": describe_combined, "tests": describe_tests}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="default: all of them"
    )
    parser.add_argument("--kills", type=int, default=3, help="per run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="work there and do not repeat what is finished there (default: a temporary folder)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    options = parser.parse_args(arguments)
    page = options.out.read_text("utf-8")
    machine = (
        f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            folder = (options.work_dir or Path(temporary)).resolve() / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                table = SECTIONS[name](options, folder)
            except subprocess.CalledProcessError as error:
                print(f"failed, or ended differently: {' '.join(error.cmd)}", file=sys.stderr)
                return 1
            command = f"write_reliability.py --only {name} --kills {options.kills}"
            source = (
                f"Measured by `python tools/misc/{command} --seed {options.seed}`\n"
                f"on {date.today().isoformat()}: {machine}."
            )
            begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
            before, _, rest = page.partition(begin)
            after = rest.partition(end)[2]
            page = f"{before}{begin}\n\n{source}\n\n{table}\n\n{end}{after}"
    options.out.write_text(page, "utf-8")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
