"""Distributed training on CPUs, which MMEngine's own start-up does not allow."""

from __future__ import annotations

import os
import shutil
import subprocess

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from torch import distributed, nn

from mmvitconv.errors import UserError
from mmvitconv.registry import MODEL_WRAPPERS

DEFAULT_PORT = "29500"
# what each launcher calls torch.distributed's variables
LAUNCHER_VARIABLES = {
    "pytorch": {"RANK": "RANK", "WORLD_SIZE": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_RANK"},
    "slurm": {
        "RANK": "SLURM_PROCID",
        "WORLD_SIZE": "SLURM_NTASKS",
        "LOCAL_RANK": "SLURM_LOCALID",
    },
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
    """

    def __init__(self, module: nn.Module, **kwargs) -> None:
        kwargs.pop("device_ids", None)
        kwargs.pop("output_device", None)
        if any(isinstance(child, nn.SyncBatchNorm) for child in module.modules()):
            print_log("SyncBN needs GPUs: plain BN is used on the CPU", logger="current")
            module = revert_sync_batchnorm(module)
        super().__init__(module=module, **kwargs)


def prepare_distributed(cfg: Config, launcher: str) -> None:
    """Get a distributed run ready; to be called before the runner is built.

    With GPUs it checks that every process has its own and leaves the rest to MMEngine. Without, it
    starts the gloo process group, sets ``env_cfg.dist_cfg.backend`` and chooses
    :class:`CPUDistributedDataParallel` in ``model_wrapper_cfg``.

    Args:
        cfg: Config of the run, changed in place.
        launcher: ``'none'`` (nothing happens), ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: When the launcher's environment variables are missing, or there are fewer GPUs
            than processes.
    """
    if launcher == "none":
        return
    environment = _read_environment(launcher)
    device = get_device()
    if device == "cuda":
        local_rank, gpus = int(environment["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank + 1} on this machine has no GPU of its own: there are "
                f"{gpus}; start at most {gpus} processes per machine"
            )
    if device != "cpu":
        return
    os.environ.update(environment)
    os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_slurm_host() if launcher == "slurm" else "127.0.0.1"
    if not distributed.is_initialized():
        distributed.init_process_group(backend="gloo")
    cfg.setdefault("env_cfg", {}).setdefault("dist_cfg", {})["backend"] = "gloo"
    if cfg.get("model_wrapper_cfg") is None:
        cfg.model_wrapper_cfg = {
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
        }
    if cfg.model_wrapper_cfg.get("type") in (None, "MMDistributedDataParallel"):
        cfg.model_wrapper_cfg["type"] = "mmvitconv.CPUDistributedDataParallel"


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
