import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, MODEL_WRAPPERS, STRATEGIES
from torch import distributed, nn

from mmvitconv.engine.distributed import LAUNCHER_VARIABLES, prepare_distributed
from mmvitconv.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MASK_RCNNS = sorted(path.stem for path in ROOT.glob("configs/*/maskrcnn_*_nuclei.py"))


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, no GPU, and no process group left over."""
    for variables in LAUNCHER_VARIABLES.values():
        for target, source in variables.items():
            monkeypatch.setenv(target, "0")  # restored afterwards
            monkeypatch.delenv(target)
            monkeypatch.delenv(source, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("mmvitconv.engine.distributed.get_device", lambda: "cpu")
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture
def pretend(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Set a launcher's variables; the process group is noted instead of started."""

    def set_variables(launcher: str, rank: int = 0) -> list[dict]:
        started: list[dict] = []
        monkeypatch.setattr(distributed, "init_process_group", lambda **kw: started.append(kw))
        values = {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
        for target, value in values.items():
            monkeypatch.setenv(LAUNCHER_VARIABLES[launcher][target], value)
        return started

    return set_variables


@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_gloo_and_the_wrapper_are_chosen(launcher: str, pretend: Callable) -> None:
    started = pretend(launcher, rank=3)
    cfg = Config({"env_cfg": {"dist_cfg": {"backend": "nccl"}}})
    prepare_distributed(cfg, launcher)
    assert started == [{"backend": "gloo"}]
    assert cfg.env_cfg.dist_cfg.backend == "gloo"
    assert cfg.model_wrapper_cfg.type == "mmvitconv.CPUDistributedDataParallel"
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["3", "4", "1"]


def test_the_timeout_of_the_config_counts(pretend: Callable) -> None:
    started = pretend("pytorch")
    prepare_distributed(Config({"env_cfg": {"dist_cfg": {"timeout": 90}}}), "pytorch")
    assert started == [{"backend": "gloo", "timeout": timedelta(seconds=90)}]


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_a_port_in_use_is_named(
    launcher: str, monkeypatch: pytest.MonkeyPatch, pretend: Callable
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        started = pretend(launcher)
        with pytest.raises(UserError, match=rf"MASTER_PORT={port} is in use.*give another one"):
            prepare_distributed(Config({}), launcher)
        assert not started
        pretend(launcher, rank=1)  # the others connect to it
        prepare_distributed(Config({}), launcher)


def test_slurm_jobs_have_ports_of_their_own(
    monkeypatch: pytest.MonkeyPatch, pretend: Callable
) -> None:
    ports = []
    for job in ("1000", "1001", "1000"):
        monkeypatch.delenv("MASTER_PORT")
        monkeypatch.setenv("SLURM_JOB_ID", job)
        pretend("slurm", rank=1)
        prepare_distributed(Config({}), "slurm")
        ports.append(int(os.environ["MASTER_PORT"]))
    assert ports[0] == ports[2] != ports[1]
    assert all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize("text", ["http", "70000", "-1", ""])
def test_a_port_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch, pretend: Callable) -> None:
    monkeypatch.setenv("MASTER_PORT", text)
    pretend("slurm")
    with pytest.raises(UserError, match="MASTER_PORT must be a number"):
        prepare_distributed(Config({}), "slurm")


def test_evaluation_rounds_up_so_that_no_result_is_lost(pretend: Callable) -> None:
    pretend("pytorch")
    sampler = {"type": "DefaultSampler", "shuffle": False, "round_up": False}
    loaders = {
        f"{name}_dataloader": {"sampler": dict(sampler)} for name in ("train", "val", "test")
    }
    cfg = Config(loaders)
    prepare_distributed(cfg, "pytorch")
    assert cfg.val_dataloader.sampler.round_up
    assert cfg.test_dataloader.sampler.round_up
    assert not cfg.train_dataloader.sampler.round_up


def test_fsdp_gets_a_wrapper_for_cpus(pretend: Callable) -> None:
    pretend("pytorch")
    cfg = Config.fromfile(ROOT / "configs/_base_/strategies/fsdp.py")
    prepare_distributed(cfg, "pytorch")
    assert cfg.strategy.model_wrapper.type == "mmvitconv.CPUFullyShardedDataParallel"
    assert MODEL_WRAPPERS.get(cfg.strategy.model_wrapper.type) is not None


@pytest.mark.usefixtures("clean_environment")
def test_nothing_happens_without_a_launcher() -> None:
    cfg = Config({"a": 1})
    prepare_distributed(cfg, "none")
    assert cfg.to_dict() == {"a": 1}


@pytest.mark.usefixtures("clean_environment")
def test_missing_variables_are_named() -> None:
    with pytest.raises(UserError, match=r"SLURM_PROCID.*slurm_train\.sh"):
        prepare_distributed(Config({}), "slurm")


@pytest.mark.usefixtures("clean_environment")
def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmvitconv.engine.distributed.get_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="there are 2; start at most 2 processes"):
        prepare_distributed(Config({}), "pytorch")


@pytest.mark.usefixtures("clean_environment")
def test_wrapper_drops_devices_and_synchronised_norms(tmp_path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))
    wrapped = MODEL_WRAPPERS.build(
        {
            "type": "mmvitconv.CPUDistributedDataParallel",
            "module": model,
            "device_ids": [0],
            "output_device": 0,
        }
    )
    assert not any(isinstance(child, nn.SyncBatchNorm) for child in wrapped.modules())
    wrapped(torch.rand(2, 3, 5, 5)).sum().backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("strategy", sorted(ROOT.glob("configs/_base_/strategies/*.py")))
@pytest.mark.parametrize("task", ["maskrcnn_fcvit_s48_coco", "upernet_fcvit_s12_ade20k"])
def test_strategies_go_with_a_config(strategy: Path, task: str, tmp_path: Path) -> None:
    leaf = tmp_path / "leaf.py"
    bases = [str(ROOT / f"configs/fcvit/{task}.py"), str(strategy)]
    leaf.write_text(f"_base_ = {bases!r}\n")
    cfg = Config.fromfile(leaf)
    assert cfg.runner_type == "FlexibleRunner"
    with STRATEGIES.switch_scope_and_registry(None):
        assert STRATEGIES.get(cfg.strategy.type) is not None
    policy = cfg.strategy.get("model_wrapper", {}).get("auto_wrap_policy")
    assert policy is None or callable(FUNCTIONS.get(policy.type))


@pytest.mark.slow
@pytest.mark.usefixtures("nuclei_root")
@pytest.mark.parametrize("name", MASK_RCNNS)
def test_mask_rcnn_trains_in_two_processes(name: str, tmp_path: Path) -> None:
    (config,) = ROOT.glob(f"configs/*/{name}.py")
    options = {
        "find_unused_parameters": False,
        "train_cfg.max_epochs": 1,
        "train_cfg.val_begin": 2,  # never
        # A parameter without a gradient in the first step is an error at the start of the second.
        "train_dataloader.num_batch_per_epoch": 2,
        # One image is too few for ParC-Net's norms of one value per image.
        "train_dataloader.batch_size": 2,
        "default_hooks.logger.interval": 1,
        "default_hooks.checkpoint.interval": -1,
        "default_hooks.checkpoint.save_last": False,
    }
    done = subprocess.run(
        ["bash", "tools/dist_train.sh", config, "2", "--work-dir", tmp_path, "--cfg-options"]
        + [f"{key}={value}" for key, value in options.items()],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    log = next(tmp_path.rglob("*.log")).read_text()
    assert "GPU number: 2" in log, "MMEngine's word for processes"
    assert "Epoch(train) [1][2/2]" in log
