"""Measure what docs/reliability.md claims, and write it.

python tools/misc/write_reliability.py [--kills 6] [--seed 0] [--out docs/reliability.md]

Kills trainings of the three tasks (tools/misc/chaos_train.py) and runs the tests of reliability,
which count what they try. Takes about half an hour on two cores. The exit code is 1, and nothing is
written, when a run differs or a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
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
PAGE = """# Reliability

Written by `python tools/misc/write_reliability.py {arguments}` on {date}: {machine}.

## Killed trainings

Each config is trained twice: once in one go, and once with SIGKILL to all its processes at random
times, every second kill while a checkpoint is being written. The last checkpoints are compared bit
by bit: weights, optimizer, schedules, random seeds, curves and best scores. To try it on your
own config: `python tools/misc/chaos_train.py CONFIG --kills 5`.

| config | processes | in one go | kills | while writing | resumed from | compared | differing |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

## Tried by the tests

| what | number |
| --- | --- |
{counts}

{passed} Other random cases: `pytest FILE --hypothesis-seed=N`, ten times as many:
`--hypothesis-profile=explore`.

## What is promised

- A run resumes from its last complete checkpoint and ends with the same bits, on the same machine
  with `randomness.deterministic=True`, with any number of workers (`mmvitconv/engine/loops.py`),
  also in the middle of an accumulated step of several processes. Numbers that hooks learn on the
  way (`EarlyStoppingHook` and any other) are in the checkpoint. What cannot be saved, such as flags
  and objects of a hook of your own, is named in the log when a run goes on.
- A checkpoint is either complete or absent; the one that it replaces is removed afterwards.
- A checkpoint says where a run was, not what to do. Before anything is touched, all of it is
  compared with the run that goes on; what does not fit is one sentence with the file and the field
  (`mmvitconv/engine/run_state.py`). Settings come from the config, and where those in the file
  differ the log says so. A run removes files of its own in its own work directory and no folder: a
  copy of a work directory, or `--resume A/epoch_2.pth --work-dir B`, leaves the original as it is.
- Files from strangers are read as data only ([SECURITY.md](../SECURITY.md)).
- Bad samples are named, counted, and skipped or refused ([bad_data.md](bad_data.md)).
- Non-finite gradients never reach the weights, and weights, averages or optimizer states that
  are not finite never reach a checkpoint: the last finite one stays.
- Ctrl-C ends every command with exit code 130 and without a traceback, whatever it is doing.
- Accidents of the machine (a full disk or `/dev/shm`, a folder that is gone, a killed worker) end a
  run with exit code 1 and one sentence.
- Several processes and machines: [distributed.md](distributed.md).
- Two stacks: [stacks.md](stacks.md).
"""


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


def keep_peers(path: Path, page: str) -> str:
    """Return the page with the section that tools/misc/peers.py has written into the old one."""
    heading = "## What is promised"
    old = path.read_text() if path.is_file() else ""
    section = re.search(rf"^## On the stand-in.*?(?=^{heading})", old, re.DOTALL | re.MULTILINE)
    return page.replace(heading, f"{section.group()}{heading}") if section else page


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=6, help="per run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="work there and do not repeat what is finished there (default: a temporary folder)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = options.work_dir or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            reports = run_chaos(options.kills, options.seed, place)
            counts, passed = run_tests(place)
        except subprocess.CalledProcessError as error:
            print(f"failed: {' '.join(error.cmd)}", file=sys.stderr)
            return 1
    if any(report["differing"] for report in reports):
        print(f"runs differ: see the report.json files in {place}", file=sys.stderr)
        return 1
    rows = [
        f"| {Path(r['config']).stem} | {r['processes']} | {r['seconds']} s | {r['kills']} | "
        f"{r['kills_while_writing']} | {', '.join(r['starting_points'])} | {r['compared']} | "
        f"{len(r['differing'])} |"
        for r in reports
    ]
    page = PAGE.format(
        arguments=f"--kills {options.kills} --seed {options.seed}",
        date=date.today().isoformat(),
        machine=f"{os.cpu_count()} CPU cores, {platform.system()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}",
        rows="\n".join(rows),
        counts="\n".join(f"| {name} | {number} |" for name, number in counts.items()),
        passed=f"pytest says: {passed}.",
    )
    options.out.write_text(keep_peers(options.out, page))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
