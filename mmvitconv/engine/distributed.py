"""Distributed training on CPUs, which MMEngine's own start-up does not allow."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import distributed, nn

from mmvitconv.engine.torchrun import DEFAULT_PORT, HIGHEST_PORT, is_free
from mmvitconv.errors import UserError
from mmvitconv.registry import HOOKS, MODEL_WRAPPERS

# Slurm jobs without MASTER_PORT: below the ports that the system gives to outgoing connections.
SLURM_PORTS = range(20000, 32000)
# what each launcher calls torch.distributed's variables
LAUNCHER_VARIABLES = {
    "pytorch": {"RANK": "RANK", "WORLD_SIZE": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_RANK"},
    "slurm": {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"},
    "mpi": {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    },
}


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's distributed wrapper for a model that lives on the CPU.

    MMEngine's runner always passes ``device_ids``, which PyTorch refuses for CPU modules. SyncBN,
    which works on accelerators only, becomes BN.

    Args:
        module: The model to train; its SyncBN layers are replaced in place.
        **kwargs: Arguments of ``MMDistributedDataParallel``; ``device_ids`` and ``output_device``
            are dropped.

    Examples:
        >>> model_wrapper_cfg = dict(type="mmvitconv.CPUDistributedDataParallel")
    """

    def __init__(self, module: nn.Module, **kwargs) -> None:
        kwargs.pop("device_ids", None)
        kwargs.pop("output_device", None)
        if any(isinstance(child, nn.SyncBatchNorm) for child in module.modules()):
            print_log("SyncBN needs GPUs: plain BN is used on the CPU", logger="current")
            module = revert_sync_batchnorm(module)
        super().__init__(module=module, **kwargs)


@HOOKS.register_module()
class SharedBuffersHook(Hook):
    """Gives all processes the buffers of the first before they validate together.

    Running statistics differ by process, and a checkpoint holds those of the first. So the metrics
    describe what is saved, and are the same after the run was resumed from it.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.SharedBuffersHook")]
    """

    priority = "VERY_LOW"  # after EMAHook has exchanged the weights

    def before_val_epoch(self, runner: Runner) -> None:
        """Share the buffers."""
        for buffer in runner.model.buffers():
            broadcast(buffer)


def prepare_distributed(cfg: Config, launcher: str) -> None:
    """Get a distributed run ready; to be called before the runner is built.

    With GPUs it checks that every process has its own and leaves the start to MMEngine. Without, it
    starts the gloo process group (``env_cfg.dist_cfg.timeout`` in seconds counts), sets
    ``env_cfg.dist_cfg.backend`` and chooses :class:`CPUDistributedDataParallel` in
    ``model_wrapper_cfg``. In both cases evaluation is made to count every sample, see
    :func:`share_evenly`.

    Args:
        cfg: Config of the run, changed in place.
        launcher: ``'none'`` (nothing happens), ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: When the launcher's environment variables are missing, there are fewer GPUs than
            processes, or ``MASTER_PORT`` is in use on the first machine.
    """
    if launcher == "none":
        return
    environment = _read_environment(launcher)
    share_evenly(cfg)
    device = get_device()
    local_rank, gpus = int(environment["LOCAL_RANK"]), torch.cuda.device_count()
    if device == "cuda" and local_rank >= gpus:
        raise UserError(
            f"process {local_rank + 1} on this machine has no GPU of its own: there are "
            f"{gpus}; start at most {gpus} processes per machine"
        )
    started = distributed.is_initialized()
    if not started and launcher != "pytorch":  # torchrun chooses a port by itself
        _choose_port(launcher, is_first=environment["RANK"] == "0")
    if device != "cpu":
        return
    os.environ.update(environment)
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_slurm_host() if launcher == "slurm" else "127.0.0.1"
    settings = cfg.setdefault("env_cfg", {}).setdefault("dist_cfg", {})
    settings["backend"] = "gloo"
    if not started:
        seconds = settings.get("timeout")
        limits = {} if seconds is None else {"timeout": timedelta(seconds=seconds)}
        distributed.init_process_group(backend="gloo", **limits)
    if cfg.get("model_wrapper_cfg") is None:
        cfg.model_wrapper_cfg = {
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
    if cfg.model_wrapper_cfg.get("type") in (None, "MMDistributedDataParallel"):
        cfg.model_wrapper_cfg["type"] = "mmvitconv.CPUDistributedDataParallel"
    strategy = cfg.get("strategy") or {}
    if str(strategy.get("type")).endswith("FSDPStrategy"):
        wrapper = strategy.setdefault("model_wrapper", {})
        if wrapper.get("type") in (None, "MMFullyShardedDataParallel"):
            wrapper["type"] = "mmvitconv.CPUFullyShardedDataParallel"


def share_evenly(cfg: Config) -> None:
    """Give every process the same number of samples in validation and test.

    MMEngine's evaluators merge the results of the processes in turns and stop at the end of the
    shortest list. With a sampler that does not round up, the results of the last samples would be
    lost without a word. What rounding up adds is cut off again by the evaluator.
    """
    for name in ("val_dataloader", "test_dataloader"):
        sampler = (cfg.get(name) or {}).get("sampler")
        if isinstance(sampler, dict) and sampler.get("round_up") is False:
            print_log(f"{name}: sampler.round_up=True, so that no result is lost", logger="current")
            sampler["round_up"] = True


def _choose_port(launcher: str, is_first: bool) -> None:
    """Set MASTER_PORT where it is missing, and raise when it is in use."""
    if "MASTER_PORT" not in os.environ:
        job = os.environ.get("SLURM_JOB_ID", "") if launcher == "slurm" else ""
        # the same in all processes of a job, another one for the next job on the machine
        port = SLURM_PORTS[int(job) % len(SLURM_PORTS)] if job.isdecimal() else DEFAULT_PORT
        os.environ["MASTER_PORT"] = str(port)
    text = os.environ["MASTER_PORT"]
    if not (text.isdecimal() and int(text) <= HIGHEST_PORT):
        raise UserError(f"MASTER_PORT must be a number from 0 to {HIGHEST_PORT}, got {text!r}")
    if is_first and not is_free(int(text)):
        raise UserError(
            f"MASTER_PORT={text} is in use on this machine: give another one, the same to all "
            "processes, in the environment"
        )


def _read_environment(launcher: str) -> dict[str, str]:
    """Return RANK, WORLD_SIZE and LOCAL_RANK as the launcher set them."""
    if launcher not in LAUNCHER_VARIABLES:
        raise UserError(
            f"--launcher must be none, {', '.join(LAUNCHER_VARIABLES)}, got {launcher!r}"
        )
    variables = LAUNCHER_VARIABLES[launcher]
    missing = [source for source in variables.values() if source not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} finds no {', '.join(missing)} in the environment: start the "
            f"run with tools/dist_train.sh (torchrun) or tools/slurm_train.sh (srun)"
        )
    return {target: os.environ[source] for target, source in variables.items()}


def _first_slurm_host() -> str:
    """Return the name of the first machine of the slurm job."""
    nodes = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    if shutil.which("scontrol") is None:
        return nodes
    shown = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    )
    return shown.stdout.split()[0]
