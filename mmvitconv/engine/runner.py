"""Training and testing: from a config to MMEngine's runner.

Functions that return nothing change the config.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict

from mmvitconv.datasets.listing import what_is_there
from mmvitconv.engine.configuration import find_class, walk
from mmvitconv.engine.resume import find_resumable, is_file
from mmvitconv.engine.torchrun import STARTED_VARIABLE
from mmvitconv.errors import UserError
from mmvitconv.weights.addresses import SCHEMES, address_of
from mmvitconv.weights.downloads import fetch

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = [
    "build",
    "check_batch_size",
    "check_checkpoint",
    "check_pretrained",
    "choose_exact_loop",
    "choose_start",
    "enable_amp",
    "enable_learning_rate_scaling",
    "leave_process_group",
    "require",
    "require_writable",
    "summarise",
]


def require(cfg: Config, keys: Sequence[str], purpose: str) -> None:
    """Raise unless a config has all of ``keys``.

    Args:
        cfg: The config.
        keys: Names of top-level settings.
        purpose: What the settings are for, e.g. ``'to train'``.

    Raises:
        UserError: When one is missing or ``None``.
    """
    missing = [key for key in ("model", *keys) if cfg.get(key) is None]
    if missing:
        raise UserError(f"the config has no {', '.join(missing)}, which it needs {purpose}")


def check_checkpoint(path: str, role: str) -> str:
    """Raise unless a checkpoint exists; one that has an address is fetched.

    Args:
        path: Local path or address; those that only MMEngine reads (``s3://``) pass unchecked.
        role: What the checkpoint is called in the message.

    Returns:
        The path.

    Raises:
        UserError: When there is no such file.
    """
    address = address_of(path)
    if address:
        if address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
            fetch(address)
        return address
    local = os.path.expanduser(path)
    if is_file(local):
        return path
    folder = os.path.dirname(local) or "."
    files = Path(folder).glob("*.pth") if os.path.isdir(folder) else []
    others = sorted(file.name for file in files if is_file(file))
    hint = f"; {folder} holds {', '.join(others[:6])}" if others else ""
    what = what_is_there(local)
    problem = f"{path!r} is {what}, no checkpoint" if what else f"there is no file {path!r}"
    raise UserError(f"{role}: {problem}{hint}")


def require_writable(folder: Path, option: str) -> None:
    """Create a folder, or raise when it cannot be written.

    Args:
        folder: The folder.
        option: The command-line option that names it.

    Raises:
        UserError: When the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: the folder {str(folder)!r} cannot be written ({error.strerror}); "
            "give another one"
        ) from error


def choose_start(cfg: Config, resume: str | None) -> list[str]:
    """Set ``resume`` and ``load_from`` of the config.

    Args:
        cfg: Config of a training.
        resume: Path of a checkpoint or of a work directory that holds one; ``'auto'`` for the last
            checkpoint of this run's work directory, if any; None for what the config says.

    Returns:
        Lines for the user: from where the training goes on, and warnings.

    Raises:
        UserError: There is no such checkpoint.
    """
    if STARTED_VARIABLE in os.environ:
        # this may be a start after a process died: go on from what this run has written, not from
        # what an earlier one had left in the work directory (torchrun's own count of restarts does
        # not grow on the machines that survived)
        begin = float(os.environ[STARTED_VARIABLE])
        written, _ = find_resumable(cfg.work_dir, begin, _checkpoint_folder(cfg, cfg.work_dir))
        resume = resume if written is None else str(written)
    if resume is None and not cfg.get("resume"):
        if cfg.get("load_from"):
            check_checkpoint(cfg.load_from, "load_from")
        return []
    named = {None: cfg.get("load_from"), "auto": None}.get(resume, resume)
    if named and address_of(named).startswith(("mmvitconv://", "timm://")):
        raise UserError(
            f"--resume goes on from a checkpoint of a training run, and {named} is none; to start "
            f"from these weights give --cfg-options load_from={named}"
        )
    if named and not os.path.isdir(named):
        cfg.load_from = check_checkpoint(named, "--resume")
        cfg.resume = True
        return [f"resuming from {cfg.load_from}"]
    place = Path(named or cfg.work_dir)
    found, warnings = find_resumable(place, out_dir=_checkpoint_folder(cfg, place))
    if named and found is None:  # what was asked for by name is never passed over
        role = "load_from" if resume is None else "--resume"
        problems = "".join(f"; {warning}" for warning in warnings[:3])
        raise UserError(
            f"{role}: the folder {named!r} holds no checkpoint to go on from{problems}; give a "
            "file or the work directory of a run, or --resume alone, which starts anew where there "
            "is none"
        )
    notes = [f"warning: {warning}" for warning in warnings]
    cfg.resume = found is not None
    if found is not None:
        cfg.load_from = str(found)
        return [*notes, f"resuming from {found}"]
    source = "from scratch"
    if cfg.get("load_from"):
        source = f"from {check_checkpoint(cfg.load_from, 'load_from')}"
    return [*notes, f"no checkpoint to resume from in {place}: training starts {source}"]


def _checkpoint_folder(cfg: Config, work_dir: str | Path) -> Path | None:
    """Return where the runs of a config write their checkpoints, None for the work directory."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    out_dir = hook.get("out_dir")
    return Path(out_dir, Path(work_dir).name) if out_dir else None


def check_pretrained(cfg: Config, advice: str = "") -> None:
    """Raise unless the checkpoint of every ``init_cfg`` in the model is there or can be fetched.

    Args:
        cfg: Config of a training. One that resumes needs no other checkpoint.
        advice: What else the user can do when one is missing, for the end of the message.

    Raises:
        UserError: A file is missing.
    """
    if cfg.get("resume") and cfg.get("load_from"):
        return
    for place, value in walk(cfg.model, "model"):
        if isinstance(value, str) and re.search(r"\binit_cfg(\.\d+)?\.checkpoint$", place):
            try:
                check_checkpoint(value, place.removesuffix(".checkpoint"))
            except UserError as error:
                raise UserError(f"{error}{advice}") from error


def enable_learning_rate_scaling(cfg: Config) -> None:
    """Let MMEngine multiply the learning rate by total batch / base batch.

    Args:
        cfg: Config of a training.

    Raises:
        UserError: It does not say for which batch its learning rate is meant.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the total "
            "batch for which its learning rate is meant"
        )
    cfg.auto_scale_lr.enable = True


def enable_amp(cfg: Config) -> None:
    """Make the optimizer wrapper use bfloat16.

    Args:
        cfg: Config of a training.

    Raises:
        UserError: It has another wrapper.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp cannot replace optim_wrapper.type={kind!r}: it needs OptimWrapper")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("dtype", "bfloat16")


def choose_exact_loop(cfg: Config) -> None:
    """Put a loop that resumes exactly in the place of MMEngine's; one of another kind stays.

    Args:
        cfg: Config of a training.
    """
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

    kind = cfg.train_cfg.get("type")
    if kind is None:
        kind = EpochBasedTrainLoop if cfg.train_cfg.get("by_epoch") else IterBasedTrainLoop
    exact = {
        EpochBasedTrainLoop: "mmvitconv.ResumableEpochLoop",
        IterBasedTrainLoop: "mmvitconv.ResumableIterLoop",
    }
    name = exact.get(find_class(kind, cfg.get("default_scope")))
    if name is not None:
        cfg.train_cfg.type = name
        cfg.train_cfg.pop("by_epoch", None)


def build(
    cfg: Config,
    on_loop: Callable[[], None],
    hooks: Sequence[str | Mapping[str, Any]] = (),
    *,
    compile_backbone: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> Runner:
    """Import what is heavy and build the runner.

    Args:
        cfg: The config, with ``work_dir`` and ``launcher``.
        on_loop: Called after each batch of training, and when a test begins.
        hooks: Types of hooks, or their settings, besides those that every run has.
        compile_backbone: Run the backbone through ``torch.compile``.
        on_ready: Called when training begins, before its first batch.

    Returns:
        MMEngine's runner, with our hooks and our readers of checkpoints.

    Raises:
        UserError: The work directory cannot be written, ``custom_hooks`` is no list of dicts, or
            the model calls operators of mmcv that are absent.
    """
    require_writable(Path(cfg.work_dir), "--work-dir")
    cfg.custom_hooks = list(cfg.get("custom_hooks") or [])
    if not all(isinstance(hook, dict) for hook in cfg.custom_hooks):
        raise UserError(
            f"custom_hooks must be a list of dicts with a type, got {cfg.custom_hooks!r}"
        )
    from mmengine.device import get_device
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmvitconv.compat.absent import check_model
    from mmvitconv.engine.checkpoint import use_safe_loading
    from mmvitconv.engine.distributed import prepare_distributed
    from mmvitconv.engine.loop_marker import LoopMarker
    from mmvitconv.engine.workers import send_errors_of_workers

    use_safe_loading()
    send_errors_of_workers()
    prepare_distributed(cfg, cfg.launcher)
    wanted = ["mmvitconv.SafeCheckpointHook", "mmvitconv.BadDataHook", "mmvitconv.NonFiniteHook"]
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper":
        wanted.append("mmvitconv.Float32BoxesHook")
        if get_device() == "cpu":
            wrapper["type"] = "mmvitconv.CPUAmpOptimWrapper"
    if cfg.launcher != "none":
        wanted.append("mmvitconv.SharedBuffersHook")
    if compile_backbone:
        wanted.append("mmvitconv.CompileBackboneHook")
    present = {hook.get("type") for hook in cfg.custom_hooks}
    settings = [{"type": hook} if isinstance(hook, str) else hook for hook in (*wanted, *hooks)]
    wanted = {hook["type"]: ConfigDict(hook) for hook in settings}
    cfg.custom_hooks += [hook for kind, hook in wanted.items() if kind not in present]
    clear_names(Path(cfg.work_dir), Path(cfg.filename or "").name)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    if not isinstance(runner.model, dict):  # FlexibleRunner builds it when the loop begins
        check_model(runner.model)
    end_run_when_log_fails(runner.logger)
    runner.register_hook(LoopMarker(on_loop, on_ready))
    return runner


def clear_names(work_dir: Path, config: str) -> None:
    """Make sure that what a run writes under fixed names stays in its work directory.

    Args:
        work_dir: The work directory.
        config: Name of the file that the config is written to; ``''`` for a new one.

    Raises:
        UserError: A name belongs to something that is no file.
    """
    dumped = work_dir / config
    if config and dumped.is_symlink():  # of a copy made of links: the original stays as it is
        dumped.unlink(missing_ok=True)
    for path in (dumped, work_dir / "last_checkpoint"):
        if path != work_dir and path.exists() and not path.is_file():
            raise UserError(
                f"{path} is {what_is_there(path)}, where this run writes a file: move it away, or "
                "give another --work-dir"
            )


def end_run_when_log_fails(logger: logging.Logger) -> None:
    """Raise what goes wrong with a log's file, instead of a traceback for each of its lines.

    Args:
        logger: Its handlers are changed.
    """

    def handle_error(record: logging.LogRecord, others: Callable[..., None]) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            raise
        others(record)

    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(handle_error, others=handler.handleError)


def check_batch_size(runner: Runner) -> None:
    """Compare the total batch with the one that the learning rate is meant for.

    Args:
        runner: Its learning rate is scaled where that is enabled, else a difference is logged.
    """
    settings = getattr(runner, "auto_scale_lr", None) or {}  # FlexibleRunner has none
    base = settings.get("base_batch_size")
    per_process = runner.cfg.train_dataloader.get("batch_size")
    if base is None or per_process is None:
        return
    accumulated = runner.cfg.optim_wrapper.get("accumulative_counts", 1)
    total = runner.world_size * per_process * accumulated
    if settings.get("enable"):
        # MMEngine's scaling leaves accumulation out
        runner.auto_scale_lr = dict(settings, base_batch_size=base / accumulated)
        runner.logger.info(f"learning rate x {total / base:g} (total batch {total}, config {base})")
    elif total != base:
        runner.logger.warning(
            f"the learning rate of this config is meant for a total batch of {base}, this run has "
            f"{total} ({runner.world_size} process(es) x {per_process} images x {accumulated} "
            "accumulated): --auto-scale-lr adapts the learning rate"
        )


def summarise(runner: Runner, config: str = "") -> str:
    """Return where a finished run left its results.

    Args:
        runner: After training.
        config: The config, as the user named it.

    Returns:
        Lines for the user: work directory, best and last checkpoint, how to predict.
    """
    lines = [f"work directory: {runner.work_dir}"]
    information = runner.message_hub.runtime_info
    checkpoint = ""
    for key in sorted(information):
        if key.startswith("best_ckpt"):
            score = information.get(key.replace("best_ckpt", "best_score"))
            name = key.removeprefix("best_ckpt").strip("_")
            what = f"score {score}" if not name else f"{name} {score}"
            lines.append(f"best checkpoint: {information[key]} ({what})")
            checkpoint = checkpoint or str(information[key])
    pointer = Path(runner.work_dir, "last_checkpoint")
    if pointer.is_file():
        last = pointer.read_text().strip()
        lines.append(f"last checkpoint: {last}")
        checkpoint = checkpoint or last
    if checkpoint and config:
        words = " ".join(map(shlex.quote, (str(config), checkpoint)))
        lines.insert(0, f"predict with it: mmvitconv predict {words} IMAGES --out predicted")
    return "\n".join(lines)


def leave_process_group() -> None:
    """Leave the process group of a distributed run."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        # Else a process may abort while Python ends: cycles of objects (DDP, patched methods) still
        # hold the group and its threads then, or the process that holds the store leaves first.
        distributed.barrier()
        gc.collect()
        distributed.destroy_process_group()
