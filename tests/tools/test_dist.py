"""The launch scripts: torchrun and slurm, two processes on a machine without GPUs."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

# SyncBN does not exist on the CPU: the run must cope with a config written for GPUs.
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['rank_spy'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8,
                  norm_cfg=dict(type='SyncBN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, topk=(1,),
              loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[64.0] * 3)
dataset = dict(type='CustomDataset', data_root={data!r}, data_prefix='images', with_label=True,
               pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=4, num_workers=0, dataset=dataset,
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='Accuracy', topk=(1,))
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
env_cfg = dict(dist_cfg=dict(backend='nccl'))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
auto_scale_lr = dict(base_batch_size=4)
custom_hooks = [dict(type='RankSpy', folder={data!r})]
randomness = dict(seed=0, diff_rank_seed=True)
"""

SPY = """
import json, torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class RankSpy(Hook):
    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen += [sample.img_path for sample in data_batch['data_samples']]

    def after_train(self, runner):
        name = f'{self.folder}/rank{runner.rank}_of_{runner.world_size}'
        parameters = dict(runner.model.module.named_parameters())
        torch.save({key: value.detach() for key, value in parameters.items()}, name + '.pt')
        with open(name + '.json', 'w') as file:
            json.dump(dict(seen=self.seen, wrapper=type(runner.model).__name__), file)
"""

# Stands for slurm: notes its arguments and starts every task on this machine.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$SRUN_LOG"
while [[ "$1" != */python* ]]; do
    case "$1" in --ntasks=*) tasks=${1#--ntasks=} ;; -p) shift ;; esac
    shift
done
export SLURM_NTASKS=$tasks SLURM_NODELIST=here SLURM_JOB_NODELIST=here
for rank in $(seq 0 $((tasks - 1))); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
done
code=0
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two classes, a config and its spy."""
    generator = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(6):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{label}{index}.png")
    (tmp_path / "rank_spy.py").write_text(SPY)
    (tmp_path / "with space.py").write_text(CONFIG.format(data=str(tmp_path)))
    return tmp_path


def start(script: str, *arguments: object, folder: Path, **environment: str):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    result = subprocess.run(
        ["bash", f"tools/{script}", *map(str, arguments)],
        cwd=ROOT,
        env={
            **clean,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(folder),
            "PYTHON": sys.executable,
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result


def check_ranks(folder: Path) -> None:
    """Two ranks, disjoint samples, equal weights."""
    ranks = [json.loads((folder / f"rank{rank}_of_2.json").read_text()) for rank in (0, 1)]
    seen = [set(rank["seen"]) for rank in ranks]
    assert [len(paths) for paths in seen] == [6, 6]
    assert not seen[0] & seen[1]
    assert ranks[0]["wrapper"] == "CPUDistributedDataParallel"
    first, second = (torch.load(folder / f"rank{rank}_of_2.pt") for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_torchrun_trains_and_tests_on_two_cpu_processes(folder: Path) -> None:
    config, work = folder / "with space.py", folder / "my work"
    trained = start("dist_train.sh", config, 2, "--work-dir", work, folder=folder)
    assert trained.returncode == 0, trained.stdout[-2000:] + trained.stderr[-3000:]
    check_ranks(folder)
    # base_batch_size 4 = 2 processes x 2 images; printed by one process only
    assert "meant for a total batch" not in trained.stdout
    assert trained.stdout.count("work directory: ") == 1

    out = folder / "predictions.pkl"
    checkpoint = work / "epoch_1.pth"
    options = ("--work-dir", work, "--out", out)
    tested = start("dist_test.sh", config, checkpoint, 2, *options, folder=folder)
    assert tested.returncode == 0, tested.stdout[-2000:] + tested.stderr[-3000:]
    assert len(pickle.loads(out.read_bytes())) == 12


def test_slurm_trains_on_two_cpu_tasks(folder: Path) -> None:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    result = start(
        *("slurm_train.sh", "debug", "my job", folder / "with space.py", folder / "my work"),
        folder=folder,
        GPUS="2",
        GPUS_PER_NODE="0",
        CPUS_PER_TASK="1",
        SRUN_ARGS="--exclusive --time=5",
        SRUN_LOG=str(folder / "srun.log"),
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    check_ranks(folder)
    arguments = (folder / "srun.log").read_text().splitlines()
    assert {"--job-name=my job", "--exclusive", "--time=5", "--ntasks=2"} <= set(arguments)
    assert not any(argument.startswith("--gres") for argument in arguments)
    assert arguments[-3:] == [str(folder / "my work"), "--launcher", "slurm"]


def test_an_error_is_printed_once(folder: Path) -> None:
    options = ("--cfg-options", "model.backbone.depht=50")
    result = start("dist_train.sh", folder / "with space.py", 2, *options, folder=folder)
    assert result.returncode == 1
    assert result.stderr.count("train.py: error: ") == 1


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("dist_train.sh", ["config.py"]),
        ("dist_test.sh", ["config.py", "checkpoint.pth"]),
        ("slurm_train.sh", ["partition", "job", "config.py"]),
        ("slurm_test.sh", ["partition", "job", "config.py"]),
    ],
)
def test_usage_line_when_arguments_are_missing(script: str, arguments: list[str]) -> None:
    result = start(script, *arguments, folder=ROOT)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert script in result.stderr
