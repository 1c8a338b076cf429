"""The launch scripts: torchrun and slurm, two processes on a machine without GPUs."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow

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
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
auto_scale_lr = dict(base_batch_size=4)
custom_hooks = [dict(type='RankSpy', folder={data!r})]
randomness = dict(seed=0, diff_rank_seed=True)
"""

SPY = """
import json, os, signal, time, torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class RankSpy(Hook):
    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if os.environ.get('HANG'):
            open(f"{os.environ['HANG']}/{runner.rank}", 'w').close()
            time.sleep(1000)
        self.seen += [sample.img_path for sample in data_batch['data_samples']]
        marker = os.environ.get('DIE_ONCE')
        if marker and runner.rank == 1 and runner.iter == 4 and not os.path.exists(marker):
            open(marker, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train(self, runner):
        name = f'{self.folder}/rank{runner.rank}_of_{runner.world_size}'
        parameters = dict(runner.model.module.named_parameters())
        torch.save({key: value.detach() for key, value in parameters.items()}, name + '.pt')
        with open(name + '.json', 'w') as file:
            json.dump(dict(seen=self.seen, wrapper=type(runner.model).__name__,
                           node=os.environ.get('GROUP_RANK')), file)
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two classes, a config and its spy."""
    tmp_path = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(6):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{label}{index}.png")
    (tmp_path / "rank_spy.py").write_text(SPY)
    (tmp_path / "with space.py").write_text(CONFIG.format(data=str(tmp_path)))
    return tmp_path


def popen(script: str, *arguments: object, folder: Path, **environment: str) -> subprocess.Popen:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.Popen(
        ["bash", f"tools/{script}", *map(str, arguments)],
        cwd=ROOT,
        env={
            **clean,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "PYTHON": sys.executable,
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen) -> subprocess.CompletedProcess:
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start(script: str, *arguments: object, folder: Path, **environment: str):
    return wait(popen(script, *arguments, folder=folder, **environment))


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


def train_longer(folder: Path, work: Path, **environment: str) -> subprocess.Popen:
    """Start three epochs of three iterations; the spies write to the work directory."""
    options = ("custom_hooks.0.folder=" + str(work), "train_cfg.max_epochs=3")
    arguments = ("--work-dir", work, "--cfg-options", *options)
    count = 2 // int(environment.get("NNODES", 1))
    config = folder / "with space.py"
    return popen("dist_train.sh", config, count, *arguments, folder=folder, **environment)


def train_on_two_machines(folder: Path, work: Path, **environment: str) -> list:
    """Run two torchrun agents that stand for two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "PORT": port, **environment}
    # the second machine comes first: the order of arrival must not matter
    agents = [train_longer(folder, work, NODE_RANK="1", **common)]
    time.sleep(1)
    agents.insert(0, train_longer(folder, work, NODE_RANK="0", **common))
    return [wait(agent) for agent in agents]


def weights(work: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(work / f"rank{rank}_of_2.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Weights of both ranks after three epochs in one go."""
    work = folder / "undisturbed"
    result = wait(train_longer(folder, work))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "resuming from" not in result.stdout
    return weights(work)


def check_equal(work: Path, expected: list[dict[str, torch.Tensor]]) -> None:
    found = weights(work)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_process_that_dies_is_started_again(folder: Path, undisturbed: list) -> None:
    work = folder / "restarted"
    # a checkpoint of an earlier run that must not be taken
    work.mkdir()
    (work / "epoch_3.pth").write_bytes((folder / "undisturbed" / "epoch_3.pth").read_bytes())
    os.utime(work / "epoch_3.pth", (1, 1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {"MAX_RESTARTS": "1", "DIE_ONCE": str(work / "died"), "PORT": port}
        result = wait(train_longer(folder, work, **environment))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert f"port {port} is in use, another one is taken" in result.stdout
    assert (work / "died").exists()
    assert f"resuming from {work / 'epoch_1.pth'}" in result.stdout
    check_equal(work, undisturbed)


def test_two_machines_train_as_one(folder: Path, undisturbed: list) -> None:
    work = folder / "two-machines"
    results = train_on_two_machines(folder, work)
    for result in results:
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    check_equal(work, undisturbed)
    nodes = [json.loads((work / f"rank{rank}_of_2.json").read_text())["node"] for rank in (0, 1)]
    assert nodes == ["0", "1"]
    # the first process of the first machine writes
    assert "Saving checkpoint" in results[0].stdout + results[0].stderr
    assert "Saving checkpoint" not in results[1].stdout + results[1].stderr
    assert (work / "epoch_3.pth").is_file()


def test_two_machines_start_again(folder: Path, undisturbed: list) -> None:
    work = folder / "two-machines-restarted"
    environment = {"MAX_RESTARTS": "1", "DIE_ONCE": str(folder / "died on the second machine")}
    for result in train_on_two_machines(folder, work, **environment):
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        assert f"resuming from {work / 'epoch_1.pth'}" in result.stdout
    check_equal(work, undisturbed)


def test_a_death_without_restarts_is_told_and_ends_the_run(folder: Path) -> None:
    result = wait(train_longer(folder, folder / "dead", DIE_ONCE=str(folder / "died for good")))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("dist_train.sh: error: process 1 (pid ")
    assert "was killed by SIGKILL" in last
    assert "MAX_RESTARTS=N" in last


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
)
def test_all_processes_end_with_their_launcher(
    folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    options = ("--cfg-options", "train_dataloader.num_workers=1")
    arguments = (folder / "with space.py", 2, "--work-dir", tmp_path, *options)
    process = popen("dist_train.sh", *arguments, folder=folder, HANG=str(tmp_path))
    while process.poll() is None and not all((tmp_path / rank).exists() for rank in "01"):
        time.sleep(0.1)
    process.send_signal(number)
    # which ends when nobody can write to its output any more: no process, no worker
    result = wait(process)
    assert result.returncode == code
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.usefixtures("undisturbed")
def test_sharded_training_resumes_and_ends_where_unsharded_training_does(folder: Path) -> None:
    work, config = folder / "sharded", folder / "sharded.py"
    text = (ROOT / "configs/_base_/strategies/fsdp.py").read_text()
    text = text.replace("min_num_params=1_000_000", "min_num_params=1000")  # several shards
    config.write_text(CONFIG.format(data=str(folder)) + text + "\ncustom_hooks = []\n")
    for epochs in (1, 3):
        options = ("--resume", "--cfg-options", f"train_cfg.max_epochs={epochs}")
        result = start("dist_train.sh", config, 2, "--work-dir", work, *options, folder=folder)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert f"resuming from {work / 'epoch_1.pth'}" in result.stdout
    found, expected = (
        torch.load(path / "epoch_3.pth", weights_only=True)["state_dict"]
        for path in (work, folder / "undisturbed")
    )
    torch.testing.assert_close(dict(found), dict(expected))


def test_a_port_in_use_is_named_before_several_machines_wait(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for script, inputs in (("dist_train.sh", ["c.py"]), ("dist_test.sh", ["c.py", "c.pth"])):
            result = start(script, *inputs, 1, folder=folder, NNODES="2", PORT=port)
            assert result.returncode == 1
            assert result.stderr.startswith(f"{script}: error: port {port} is in use")
            assert result.stderr.count("\n") == 1


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


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "culprit"),
    [
        ("dist_train.sh", ["c.py", "0"], {}, "GPUS"),
        ("dist_train.sh", ["c.py", "--resume"], {}, "GPUS"),
        ("dist_test.sh", ["c.py", "c.pth", "-1"], {}, "GPUS"),
        ("dist_train.sh", ["c.py", "2"], {"PORT": "http"}, "PORT"),
        ("dist_test.sh", ["c.py", "c.pth", "2"], {"PORT": "65536"}, "PORT"),
        ("dist_train.sh", ["c.py", "2"], {"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK"),
        ("dist_train.sh", ["c.py", "2"], {"MAX_RESTARTS": "often"}, "MAX_RESTARTS"),
        ("slurm_train.sh", ["p", "j", "c.py", "w"], {"GPUS": "many"}, "GPUS"),
        ("slurm_test.sh", ["p", "j", "c.py", "c.pth"], {"GPUS_PER_NODE": "-1"}, "GPUS_PER_NODE"),
    ],
)
def test_usage_line_when_a_number_is_none(
    script: str, arguments: list[str], environment: dict[str, str], culprit: str
) -> None:
    result = start(script, *arguments, folder=ROOT, **environment)
    assert result.returncode == 2
    usage, error = result.stderr.splitlines()
    assert usage.startswith("usage: ")
    assert error.startswith(f"{script}: error: {culprit} ")
    assert f"'{(arguments + list(environment.values()))[-1]}'" in error
