"""Kill a training run again and again and see whether it ends as if nothing had happened.

python tools/misc/chaos_train.py configs/fcvit/fcvit_tiny_mnist.py --kills 5 [--processes 2]
    [--combine [all]] [--seed 0] [--work-dir work_dirs/chaos] [--cfg-options KEY=VALUE ...]

The config is trained twice with the same seed and deterministic operators: once in one go, once
with all its processes killed (SIGKILL) K times, at random places, and started again with
``--resume``. Every second kill comes at a moment at which a checkpoint is being written. Then the
two last checkpoints are compared bit by bit: weights, averages, optimizer, schedules, all
curves. The exit code is 1 when anything differs. Linux only.

With ``--combine``, short trainings of a config with epochs combine weight averages, accumulated
gradients, two processes, early stopping and a loop of iterations: as few as it takes for any two of
these to meet in all four ways, or with ``--combine all`` each of the 32.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import combinations, compress, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmvitconv.cli import execute, parse
from mmvitconv.cli.arguments import positive, read_config
from mmvitconv.engine.checkpoint import PARTIAL_NAME
from mmvitconv.engine.resume import NUMBERED, find_resumable
from mmvitconv.errors import UserError
from mmvitconv.weights import load_file

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "MMVITCONV_CHAOS"  # in the environment of every process of a run
# what depends on the clock, the machine's load or the state of a git folder, not on the training
CLOCK = re.compile(r"time|\beta\b|memory|last_ckpt|best_ckpt|experiment_name|mmengine_version")
FEATURES = ("EMA", "accumulation", "two processes", "early stopping", "iteration loop")
# A metric for early stopping, by the task's scope
MONITORS = {"mmpretrain": "accuracy/top1", "mmdet": "coco/bbox_mAP", "mmseg": "mIoU"}
BATCHES, ROUNDS = 10, 6  # of a combined training


@dataclass
class Report:
    """What happened."""

    config: str
    processes: int
    features: list[str] = field(default_factory=list)  # of FEATURES
    end: int = 0  # iterations that were trained
    seconds: float = 0.0  # of the run in one go
    first_checkpoint: float = 0.0  # seconds from its start
    kills: int = 0
    kills_while_writing: int = 0
    starting_points: list[str] = field(default_factory=list)  # from which the killed run went on
    compared: int = 0  # tensors, numbers, words
    differing: list[str] = field(default_factory=list)  # their places


class Run:
    """One start of ``tools/train.py`` with all processes that belong to it."""

    def __init__(self, options: argparse.Namespace, work_dir: Path) -> None:
        self.token = uuid.uuid4().hex
        self.log = work_dir.with_suffix(".log")
        command = [sys.executable, str(ROOT / "tools/train.py"), options.config]
        if options.processes > 1:
            script = str(ROOT / "tools/dist_train.sh")
            command = ["bash", script, options.config, str(options.processes)]
        # shortened runs end in the middle of their schedules
        command += ["--work-dir", str(work_dir), "--no-check", "--resume", "--cfg-options"]
        command += [f"randomness.seed={options.seed}", "randomness.deterministic=True"]
        command += options.cfg_options
        environment = {**os.environ, TOKEN: self.token, "PYTHON": sys.executable}
        work_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill all processes until none is left: one may just have been started."""
        while pids := list(find_processes(self.token)):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()

    def finish(self) -> None:
        """Wait for the end; raise if the run failed without being killed."""
        if self.process.wait() != 0:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise UserError(f"the run failed without being killed; the end of {self.log}:\n{tail}")


def find_processes(token: str) -> Iterator[int]:
    """Yield the living processes whose environment holds a token."""
    wanted = f"{TOKEN}={token}".encode()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            # a zombie's is empty; this process, whose own environment lacks the token, is not found
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes():
                yield int(folder.name)


def last_number(work_dir: Path) -> int:
    """Return the epoch or iteration of the newest checkpoint in a work directory, or 0."""
    matches = (NUMBERED.fullmatch(path.name) for path in work_dir.glob("*.pth"))
    return max((int(match[2]) for match in matches if match), default=0)


def kill_once(
    run: Run, work_dir: Path, from_number: float, delay: float, while_writing: bool
) -> str | None:
    """Kill a run that has just started.

    Args:
        run: The run.
        work_dir: Where it writes its checkpoints.
        from_number: Wait for a checkpoint of this epoch or iteration,
        delay: then for so many seconds,
        while_writing: then, if wanted, until a checkpoint is being written.

    Returns:
        ``'writing'`` or ``'running'``, or None when the run came to its end before.
    """
    begin = None
    while run.process.poll() is None:
        if begin is None and last_number(work_dir) >= from_number:
            begin = time.monotonic()
        is_time = begin is not None and time.monotonic() - begin >= delay
        is_writing = (work_dir / PARTIAL_NAME).exists()
        if is_time and (is_writing or not while_writing):
            run.kill()
            return "writing" if is_writing else "running"
        time.sleep(0.0005 if is_time else 0.01)
    run.finish()
    return None


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield what is inside nested containers with its place, but nothing that CLOCK names."""
    if CLOCK.search(place):
        return
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{place}.{key}")
    else:
        yield place, value


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same, tensors bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        one, other = (x.contiguous().flatten().view(torch.uint8) for x in (one, other))
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def compare(one: Mapping[str, Any], other: Mapping[str, Any], report: Report) -> None:
    """Compare the checkpoints of two runs, see :func:`state_of`, and report what differs."""
    first, second = (dict(leaves(state, "checkpoint")) for state in (one, other))
    for place in sorted(first.keys() | second.keys()):
        if place not in first or place not in second:
            report.differing.append(f"{place} (in one run only)")
            continue
        report.compared += 1
        if not is_same(first[place], second[place]):
            report.differing.append(place)


def state_of(work_dir: Path) -> dict[str, Any]:
    """Return a finished run's last checkpoint without what says when and where it was written."""
    path, _ = find_resumable(work_dir)
    if path is None:
        raise UserError(f"no whole checkpoint in {work_dir}")
    checkpoint = load_file(path)
    meta = {key: checkpoint["meta"][key] for key in ("epoch", "iter", "seed")}
    hub = checkpoint["message_hub"]
    # settings and paths are kept in the hub as text
    curves = {"curves": hub["log_scalars"], "notes": hub["runtime_info"]}
    curves["notes"].pop("cfg", None)
    return {**checkpoint, "meta": meta, "message_hub": curves, "file": path.name}


def choose_combinations(seed: int, every: bool) -> list[tuple[bool, ...]]:
    """Choose for which of :data:`FEATURES` to train together.

    Args:
        seed: Of the order in which they are tried.
        every: All of them, instead of as few as it takes for any two features to meet in all ways.

    Returns:
        Which features are on, for one training after the other; first all of them.
    """
    rows = list(product((True, False), repeat=len(FEATURES)))
    if every:
        return rows

    def pairs(row: tuple[bool, ...]) -> set[tuple]:
        return set(combinations(enumerate(row), 2))

    chosen, rest = rows[:1], random.Random(seed).sample(rows[1:], len(rows) - 1)
    wanted = set().union(*map(pairs, rows)) - pairs(rows[0])
    while wanted:
        best = max(rest, key=lambda row: len(wanted & pairs(row)))
        chosen.append(best)
        wanted -= pairs(best)
    return chosen


def combine(options: argparse.Namespace, features: Sequence[str]) -> argparse.Namespace:
    """Write a short training of a config with some of :data:`FEATURES`.

    Args:
        options: Of the command line; their config has epochs.
        features: Which.

    Returns:
        The options for this training alone.
    """
    given = ["--cfg-options", *options.cfg_options] if options.cfg_options else []
    cfg = read_config(parse("train", options.config, *given))
    cfg.train_dataloader.num_batch_per_epoch = BATCHES
    # not a divisor of the batches, nor a multiple of what is accumulated
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    cfg.train_cfg.update(max_epochs=ROUNDS, val_interval=1)
    hooks = list(cfg.get("custom_hooks") or [])
    if "EMA" in features:
        hooks.append({"type": "EMAHook", "momentum": 0.01})
    if "early stopping" in features:  # after the fourth validation: nothing improves that much
        monitor = MONITORS[cfg.default_scope]
        settings = {"monitor": monitor, "rule": "greater", "min_delta": 1e6, "patience": 3}
        hooks.append({"type": "EarlyStoppingHook", **settings})
    if "accumulation" in features:
        cfg.optim_wrapper.accumulative_counts = 3
    if "iteration loop" in features:
        iterations = BATCHES * ROUNDS
        cfg.train_cfg = {"by_epoch": False, "max_iters": iterations, "val_interval": BATCHES}
        cfg.log_processor = {"by_epoch": False}
        cosine = {"type": "CosineAnnealingLR", "T_max": iterations, "by_epoch": False}
        cfg.param_scheduler = [cosine]
    cfg.custom_hooks = hooks
    name = "_".join([Path(options.config).stem, "with", *(features or ["nothing"])])
    path = Path(options.work_dir, "configs", name.replace(" ", "_") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(path)
    processes = 2 if "two processes" in features else 1
    changes = {"config": str(path), "cfg_options": [], "processes": processes}
    return argparse.Namespace(**{**vars(options), **changes})


def shake(options: argparse.Namespace, features: Sequence[str] = ()) -> Report:
    """Train a config with and without kills, compare, and write the report."""
    name = Path(options.config).stem
    folder = Path(options.work_dir, name)
    shutil.rmtree(folder, ignore_errors=True)
    report = Report(options.config, options.processes, list(features))
    begin = time.monotonic()
    run = Run(options, folder / "whole")
    while run.process.poll() is None and not last_number(folder / "whole"):
        time.sleep(0.05)
    report.first_checkpoint = round(time.monotonic() - begin, 1)
    run.finish()
    report.seconds = round(time.monotonic() - begin, 1)
    print(f"{name}: in one go {report.seconds} s")
    total = last_number(folder / "whole")
    chance = random.Random(f"{options.seed} {name}")  # other places for each of several
    share = 0.8 * total / max(options.kills, 1)  # one in each, so that none comes too late
    places = [(number + chance.random()) * share for number in range(options.kills)]
    work_dir = folder / "killed"
    while True:
        found, _ = find_resumable(work_dir)
        report.starting_points.append(found.name if found else "the start")
        run = Run(options, work_dir)
        if report.kills == options.kills:
            run.finish()
            break
        delay = chance.uniform(0, 0.1 * (report.seconds - report.first_checkpoint))
        # after a restart, not before something new was written: killing the start-up tests nothing
        done = last_number(work_dir)
        place = max(places[report.kills], done + 1 if done else 0)
        killed = kill_once(run, work_dir, place, delay, while_writing=report.kills % 2 == 1)
        if killed is None:
            print(f"the run came to its end before kill {report.kills + 1}")
            break
        report.kills += 1
        report.kills_while_writing += killed == "writing"
        print(f"kill {report.kills} while {killed}; began from {report.starting_points[-1]}")
    whole = state_of(folder / "whole")
    report.end = whole["meta"]["iter"]
    compare(whole, state_of(work_dir), report)
    (folder / "report.json").write_text(json.dumps(asdict(report), indent=2))
    return report


def tell(report: Report) -> int:
    """Print what happened; returns the exit code."""
    for place in report.differing[:20]:
        print(f"differs: {place}")
    print(
        f"{report.kills} kills, {report.kills_while_writing} of them while a checkpoint was "
        f"written; {len(report.differing)} of {report.compared} values differ"
    )
    return int(bool(report.differing))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "chaos_train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config to train, better a short one")
    parser.add_argument("--kills", type=positive, default=5, help="default: %(default)s")
    parser.add_argument("--processes", type=positive, default=1, help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the training and of the kills (default: 0)"
    )
    parser.add_argument("--work-dir", default="work_dirs/chaos", help="default: %(default)s")
    parser.add_argument(
        "--combine",
        nargs="?",
        const="pairs",
        choices=("pairs", "all"),
        help="train short combinations of features instead",
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")

    def work() -> int:
        options = parser.parse_args(arguments)
        if options.combine is None:
            return tell(shake(options))
        code = 0
        for row in choose_combinations(options.seed, every=options.combine == "all"):
            features = [*compress(FEATURES, row)]
            code |= tell(shake(combine(options, features), features))
        return code

    return execute(parser, work)


if __name__ == "__main__":
    sys.exit(main())
