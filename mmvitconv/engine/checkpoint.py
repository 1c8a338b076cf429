"""Reading checkpoints without running code from them, and writing such that this is possible."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import OrderedDict, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvitconv.engine.hook_state import RUN_STATE, VERSION, HookStates, name_hooks
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.engine.resume import compare_configs
from mmvitconv.engine.run_state import (
    GRADIENTS,
    check_run_state,
    check_tensors,
    checkpoint_folder,
    optimizers_of,
)
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.registry import HOOKS
from mmvitconv.weights import adapt_checkpoint, check_match, load_file
from mmvitconv.weights.addresses import SCHEMES
from mmvitconv.weights.match import own_entries

KIND = "__mmvitconv_kind__"  # marks a plain dict that stands for an object
TENSOR_STATES = ("state_dict", "ema_state_dict", "optimizer", GRADIENTS)
PARTIAL_NAME = "checkpoint.partial"
NUMBER_TYPES = {np.dtype(kind).name for kind in "?bBhHiIlLqQefdFD"}  # of arrays in a checkpoint
PLAIN_TYPES = (
    *(bool, int, float, complex, str, bytes),
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
)


def use_safe_loading() -> None:
    """Make every checkpoint reader of MMEngine refuse files that carry code.

    Local files, names of published weights, timm's and http(s) addresses go through
    :func:`mmvitconv.weights.load_file`, whichever door they come through: ``init_cfg`` of any
    module, ``load_from``, resume or a test checkpoint. All other ``torch.load`` calls of the
    process (MMEngine's remaining schemes, and the fall-back of onedl-mmengine to unsafe reading)
    are bound to ``weights_only=True`` by PyTorch's own switch.
    """
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    schemes = ("", *(f"{scheme}://" for scheme in SCHEMES))
    CheckpointLoader.register_scheme(schemes, load_from_file, force=True)


def load_from_file(filename: str, map_location: Any = "cpu") -> dict:
    """:func:`mmvitconv.weights.load_file`, under a name that MMEngine's log line expects."""
    return load_file(filename, map_location=map_location)


def to_plain(value: Any) -> Any:
    """Turn a value into tensors, containers, numbers and strings, which every safe reader takes.

    Args:
        value: Nested containers with numbers, strings, tensors, numpy values, paths, or MMEngine's
            history buffers.

    Returns:
        The same with history buffers and arrays as marked dicts, numpy scalars as Python's, paths
        as strings, and other containers as list, tuple or dict.

    Raises:
        TypeError: When something inside is of another kind.
    """
    if value is None or type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = value.data
        return {
            KIND: "HistoryBuffer",
            "logs": torch.from_numpy(np.asarray(logs, dtype=np.float64).copy()),
            "counts": torch.from_numpy(np.asarray(counts, dtype=np.float64).copy()),
            "max_length": value.max_length,
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biufc" and value.dtype != np.longdouble:
            # older PyTorch has no unsigned tensors wider than a byte; the name restores the type
            wide = value.astype(np.int64) if value.dtype.kind == "u" else value
            return {
                KIND: "ndarray",
                "values": torch.from_numpy(np.ascontiguousarray(wide).copy()),
                "shape": list(value.shape),
                "dtype": value.dtype.name,
            }
        return to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):  # a subclass would be pickled as a reference to its class
        return str(value)
    if isinstance(value, dict):
        kind = OrderedDict if type(value) is OrderedDict else dict
        return kind((to_plain(key), to_plain(item)) for key, item in value.items())
    if isinstance(value, tuple):
        return tuple(to_plain(item) for item in value)
    if isinstance(value, (list, deque, set, frozenset)):
        return [to_plain(item) for item in value]
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def from_plain(value: Any, place: str = "it") -> Any:
    """Undo :func:`to_plain`: rebuild history buffers and arrays.

    Args:
        value: What :func:`to_plain` returned; other values pass unchanged.
        place: Its name in the file, for messages.

    Returns:
        The value with all marked dicts replaced by their objects.
    """
    if isinstance(value, dict):
        if KIND in value:
            return _rebuild(value, place)
        return type(value)(
            (key, from_plain(item, f"{place}[{str(key)[:80]!r}]")) for key, item in value.items()
        )
    if type(value) in (list, tuple):
        items = enumerate(value)
        return type(value)(from_plain(item, f"{place}[{number}]") for number, item in items)
    if type(value).__name__ == "HistoryBuffer" and not isinstance(value, HistoryBuffer):
        # the inert stand-in of load_file, for a checkpoint that plain MMEngine wrote
        names = ("_log_history", "_count_history", "max_length")
        return _curve(place, *(vars(value).get(name) for name in names))
    return value


def _rebuild(marked: dict, place: str) -> Any:
    """Make the object that a marked dict stands for, if it has what the object needs."""
    if marked[KIND] == "HistoryBuffer":
        return _curve(place, *(marked.get(name) for name in ("logs", "counts", "max_length")))
    values, shape, dtype = (marked.get(name) for name in ("values", "shape", "dtype"))
    values = _to_numpy(values)
    is_array = marked[KIND] == "ndarray" and values is not None
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    # nothing is made larger than the file has it
    fits = is_array and is_shape and math.prod(shape) == values.size
    known = fits and isinstance(dtype, str) and dtype in NUMBER_TYPES
    if not known or np.dtype(dtype).itemsize > values.itemsize:
        raise CheckpointError(f"{place}: an array of {dtype!r} is not what a run has saved")
    return values.astype(dtype).reshape(shape)


def _to_numpy(value: Any) -> np.ndarray | None:
    """Return a tensor or an array as an array; None of what is neither."""
    if not isinstance(value, Tensor):
        return value if isinstance(value, np.ndarray) else None
    with suppress(TypeError, RuntimeError):  # a type that NumPy lacks
        return value.detach().cpu().numpy()
    return None


def _curve(place: str, logs: Any, counts: Any, max_length: Any) -> HistoryBuffer:
    """Make a history buffer of two lists of numbers."""
    arrays = [_to_numpy(value) for value in (logs, counts)]
    if not all(a is not None and a.ndim == 1 and a.dtype.kind in "iuf" for a in arrays):
        raise CheckpointError(f"{place} is marked as the curve of a log and is none")
    if len(arrays[0]) != len(arrays[1]) or type(max_length) is not int or max_length < 1:
        raise CheckpointError(f"{place}: the curve has other numbers of values and of counts")
    return HistoryBuffer(*arrays, max_length)


def _require_no_folders(place: Path, **progress: int) -> None:
    """Make sure that no folder bears a name that a run will give to a checkpoint."""
    for path in sorted(place.glob("*.pth")):
        name = re.fullmatch(r"(?:best_.*_)?(epoch|iter)_(\d{1,18})\.pth", path.name)
        if name and int(name[2]) > progress[name[1]] and path.is_dir():
            raise CheckpointError(
                f"{path} is a folder, where this run may write a checkpoint: move it away, or give "
                "another --work-dir"
            )


class LateRemoval:
    """A file backend that removes only files of one folder, and only when told to.

    MMEngine's ``CheckpointHook`` removes the checkpoint that is no longer wanted (the oldest, the
    best until now) before it writes the new one: a run killed in between has lost it. It also
    removes a folder of that name with all that it holds; here folders stay.
    """

    def __init__(self, backend: Any, folder: str) -> None:
        self.backend = backend
        self.folder = folder
        self.pending: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "backend":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Remember a file."""
        self.pending.append(path)

    def rmtree(self, path: str) -> None:
        """Leave a folder where it is."""
        print_log(f"the folder {path} is left where it is", "current", logging.WARNING)

    def remove_pending(self, kept: str) -> None:
        """Remove what was remembered, but for the path that was written since."""
        for path in self.pending:
            if path != kept and os.path.dirname(path) == str(self.folder).rstrip("/"):
                self.backend.remove(path)
        self.pending.clear()


def sync_to_disk(path: Path) -> None:
    """Return only when a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Writes checkpoints that survive a crash and can be read safely; checks those that are loaded.

    Saving: MMEngine's history buffers and numpy values become plain data, so that
    ``torch.load(weights_only=True)`` reads the file; with PyTorch >= 2.6 MMEngine could not resume
    from its own checkpoints otherwise. A file is written under a temporary name, brought to the
    disk and then renamed, and what it replaces is removed only afterwards: whenever a run is killed
    a whole checkpoint exists, once there was one. For that the disk needs room for one checkpoint
    more than ``max_keep_ckpts``. No folder is removed, and nothing outside the run's own. Where
    ``accumulative_counts`` is in the middle of a step, the gradients so far of each process are
    saved too, and so is what hooks have learnt (:mod:`mmvitconv.engine.hook_state`). MMEngine's
    hook comes last of all, so that a checkpoint holds what the others do at the same event.

    Loading: the plain data become objects again, files in the layout of an architecture's original
    authors are translated, and the keys are compared with the model's. When resuming or testing all
    must agree, for ``load_from`` in training those of the backbone. When resuming, all that the
    file says about the run is checked before anything is touched, see
    :mod:`mmvitconv.engine.run_state`.

    Args:
        resume_schedule: When resuming, whose rates and schedules count where they differ: 'config'
            or 'checkpoint'. The length of the run is always the config's.

    Raises:
        CheckpointError: While loading, when keys or shapes differ, or when a file to resume from
            holds weights only. While saving, when the file cannot be written.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.SafeCheckpointHook")]
    """

    # Before every other hook: EMAHook exchanges the weights in its own after_load_checkpoint.
    priority = "VERY_HIGH"

    def __init__(self, resume_schedule: str = "config") -> None:
        if resume_schedule not in ("config", "checkpoint"):
            raise UserError(
                "SafeCheckpointHook: resume_schedule must be 'config' or 'checkpoint', got "
                f"{resume_schedule!r}"
            )
        self.resume_schedule = resume_schedule
        self.gradients: list[dict[str, Tensor]] = []
        self.hook_states: HookStates | None = None
        self.restored: list[dict] = []  # the states of hooks from a checkpoint, by process
        self.collected: list[dict] = []
        self.unsaved: list[str] = []

    def before_run(self, runner: Runner) -> None:
        """Make the runner write its checkpoints atomically, and after all other hooks."""
        if getattr(runner.save_checkpoint, "atomic", False):
            return
        # a new list: the runner is walking through the old one
        runner._hooks = sorted(runner.hooks, key=lambda hook: isinstance(hook, CheckpointHook))
        save_checkpoint = runner.save_checkpoint

        def save_atomically(out_dir: str, filename: str, *args, **kwargs) -> None:
            self.gradients = collect_gradients(runner)
            self._collect_hooks(runner)
            if "://" in str(out_dir):  # an object store has no half-written files
                save_checkpoint(out_dir, filename, *args, **kwargs)
                return
            partial, target = Path(out_dir, PARTIAL_NAME), Path(out_dir, filename)
            try:
                save_checkpoint(out_dir, PARTIAL_NAME, *args, **kwargs)
                if is_main_process():
                    sync_to_disk(partial)
                    os.replace(partial, target)
                    sync_to_disk(target.parent)
            except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter
                if not is_disk_error(error):
                    raise
                partial.unlink(missing_ok=True)
                raise CheckpointError(
                    f"the checkpoint {target} cannot be written ({error}): make room or repair the "
                    "disk and go on with --resume from the checkpoint before it"
                ) from error
            for hook in find_checkpoint_hooks(runner):
                if isinstance(hook.file_backend, LateRemoval):
                    hook.file_backend.remove_pending(kept=str(target))

        save_atomically.atomic = True
        runner.save_checkpoint = save_atomically

    def _collect_hooks(self, runner: Runner) -> None:
        """Gather what the hooks of all processes have learnt."""
        own, unsaved = self.hook_states.collect() if self.hook_states else ({}, [])
        for name in set(unsaved) - set(self.unsaved):
            runner.logger.warning(
                f"{name} changes while training and cannot be saved: resuming may be inexact"
            )
        self.unsaved = unsaved
        self.collected = all_gather_object(to_plain(own))

    def before_train(self, runner: Runner) -> None:
        """Tell MMEngine's hook that the checkpoint from which the run goes on is its last one.

        Otherwise a best score that is found before the next checkpoint is not added to it. Folders
        in the places of later checkpoints are named before an epoch is lost to them.
        """
        last = runner.message_hub.runtime_info.get("last_ckpt")
        for hook in (hook for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            folder = str(checkpoint_folder(hook, runner.work_dir))
            if "://" not in folder:
                _require_no_folders(Path(folder), epoch=runner.epoch, iter=runner.iter)
            if hook.last_ckpt is None:
                hook.last_ckpt = last
        pointer = Path(runner.work_dir, "last_checkpoint")
        if is_main_process() and pointer.is_symlink():  # of a copy made of links
            pointer.unlink()

    def before_train_epoch(self, runner: Runner) -> None:
        """Make MMEngine's hook write first and remove then, and give hooks their states back."""
        if self.hook_states is None:
            self.hook_states = HookStates(runner)
            if self.restored:
                rank = get_rank() if len(self.restored) == get_world_size() else 0
                self.hook_states.restore(self.restored[rank])
        for hook in find_checkpoint_hooks(runner):  # which opens its backend in before_train
            if not isinstance(hook.file_backend, LateRemoval):
                hook.file_backend = LateRemoval(hook.file_backend, hook.out_dir)
            if is_main_process():  # what a killed run left behind
                Path(hook.out_dir, PARTIAL_NAME).unlink(missing_ok=True)

    # a run that goes on may begin with a validation
    before_val = before_train_epoch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace everything in the checkpoint that a safe reader refuses."""
        if any(self.gradients):
            checkpoint[GRADIENTS] = self.gradients
        checkpoint["meta"][RUN_STATE] = VERSION
        checkpoint[RUN_STATE] = self._describe_run(runner, checkpoint)
        if "param_schedulers" in checkpoint:  # functions in them are settings, made from the config
            checkpoint["param_schedulers"] = _without_functions(checkpoint["param_schedulers"])
        for key in checkpoint.keys() - set(TENSOR_STATES) - {"message_hub"}:
            checkpoint[key] = to_plain(checkpoint[key])
        hub = dict(checkpoint["message_hub"])
        information = {}
        for key, value in hub["runtime_info"].items():
            try:
                information[key] = to_plain(value)
            except TypeError as error:
                runner.logger.warning(
                    f"message hub entry {key!r} is left out of the checkpoint: {error}"
                )
        hub["runtime_info"] = information
        # a resumed key without its value would only cause a warning at the next start
        known = information.keys() | hub["log_scalars"].keys()
        hub["resumed_keys"] = {k: keep for k, keep in hub["resumed_keys"].items() if k in known}
        checkpoint["message_hub"] = to_plain(hub)

    def _describe_run(self, runner: Runner, checkpoint: dict) -> dict[str, Any]:
        """Return what this hook adds to a checkpoint."""
        names = list(name_hooks(runner))
        ranks = self.collected[: 1 if self.collected[1:] == self.collected[:-1] else None]
        entries = {}
        for place in optimizers_of(runner) if "optimizer" in checkpoint else ():
            state: Any = checkpoint
            for key in place.split("."):
                state = state[key]
            if "state" in state:
                entries[place] = len(state["state"])
        hooks = {name: [rank.get(name, {}) for rank in ranks] or [{}] for name in names}
        return {
            "names": names,
            "hooks": hooks,
            "attributes": sum(len(state) for states in hooks.values() for state in states),
            "unsaved": self.unsaved,
            "stop_training": bool(getattr(runner.train_loop, "stop_training", False)),
            "accumulating": GRADIENTS in checkpoint,
            "entries": entries,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Translate the checkpoint into the model's layout and compare the keys."""
        model = unwrap_model(runner.model)
        resuming = bool(runner._resume)
        missing = {"meta", "message_hub", "optimizer"} - checkpoint.keys()
        if resuming and missing:
            raise CheckpointError(
                f"{runner._load_from} holds weights only and no state of a run "
                f"(no {', '.join(sorted(missing))}): start from it with "
                "--cfg-options load_from=PATH instead of --resume"
            )
        # under FSDP a process has its own part of each tensor only
        sharded = any(isinstance(m, FullyShardedDataParallel) for m in runner.model.modules())
        if resuming and not sharded:
            check_tensors(checkpoint, str(runner._load_from))
        training = isinstance(runner._train_loop, BaseLoop)
        scope = "backbone" if training and not resuming else "all"
        try:
            adapted = dict(checkpoint)
            # of a run of this very model nothing is translated
            if not sharded and not (resuming and _has_keys_of(model, checkpoint)):
                adapted = adapt_checkpoint(checkpoint, model)
            if not sharded:
                source = str(runner._load_from)
                check_match(adapted["state_dict"], model, scope=scope, source=source)
        except CheckpointError as error:
            raise CheckpointError(f"{runner._load_from}: {error}") from error
        if isinstance(adapted.get("meta"), dict):
            # MMEngine runs this text as a config when it resumes
            adapted["meta"] = {k: v for k, v in adapted["meta"].items() if k != "config"}
        for key in adapted.keys() - set(TENSOR_STATES):
            try:
                adapted[key] = from_plain(adapted[key], key)
            except CheckpointError as error:
                raise CheckpointError(f"{runner._load_from}: {error}") from error
        if resuming:
            file = str(runner._load_from)
            notes = check_run_state(runner, adapted, file, self.resume_schedule)
            text = (adapted.get("meta") or {}).get("cfg")
            for note in [*notes, *compare_configs(text, runner.cfg)]:
                runner.logger.warning(note)
            restore_gradients(model, adapted.pop(GRADIENTS, []))
            state = adapted.pop(RUN_STATE, None)
            if state is not None:
                runner.train_loop.stop_training = state["stop_training"]
                length = max(map(len, state["hooks"].values()), default=0)
                self.restored = [
                    {name: ranks[rank] for name, ranks in state["hooks"].items()}
                    for rank in range(length)
                ]
        checkpoint.clear()  # the runner goes on with the very dict it passed
        checkpoint.update(adapted)

        if sharded:
            runner.logger.info("checkpoint: not compared with the model, which is sharded by FSDP")
            return
        own = own_entries(model)
        given = adapted["state_dict"]
        fitting = sum(own[key].shape == given[key].shape for key in own.keys() & given.keys())
        runner.logger.info(
            f"checkpoint: {fitting} of the model's {len(own)} tensors are loaded; "
            f"checked: {'the backbone' if scope == 'backbone' else 'all keys'}"
        )


def _without_functions(value: Any) -> Any:
    """Return nested lists and dicts without entries that are functions."""
    if isinstance(value, dict):
        return {key: _without_functions(v) for key, v in value.items() if not callable(v)}
    return [_without_functions(item) for item in value] if isinstance(value, list) else value


def _has_keys_of(model: nn.Module, checkpoint: dict) -> bool:
    """Tell whether weights have the names that a model's have."""
    return checkpoint["state_dict"].keys() == own_entries(model).keys()


def find_checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    """List MMEngine's checkpoint hooks of a runner that have opened their backend."""
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return [hook for hook in hooks if getattr(hook, "file_backend", None) is not None]


def is_disk_error(error: Exception) -> bool:
    """Tell whether the operating system or PyTorch's file writer failed to write."""
    words = ("PytorchStreamWriter", "file write", "No space left", "unexpected pos")
    return isinstance(error, OSError) or any(word in str(error) for word in words)


def collect_gradients(runner: Runner) -> list[dict[str, Tensor]]:
    """Return the gradients that wait for a step, as those of a step that is accumulated.

    Each process has a part of its own until the last iteration of the step; only with the very
    parts do the sums come out the same again.

    Returns:
        By process on the main one, [] on the others and where nothing is accumulated.
    """
    left = [p.grad is not None for p in runner.model.parameters()]
    if not any(all_gather_object(any(left))):  # the normal case: a step clears them
        return []
    parts: list[dict[str, Tensor]] = [{} for _ in range(get_world_size())]
    for name, parameter in unwrap_model(runner.model).named_parameters():
        own = parameter.grad
        gradients = [None if own is None else own.detach().cpu().clone()]
        if len(parts) > 1:  # one parameter at a time: memory for one more only
            (gradient,), gradients = gradients, [None] * len(parts)
            distributed.gather_object(gradient, gradients if is_main_process() else None)
        for part, gradient in zip(parts, gradients, strict=True):
            if gradient is not None:
                part[name] = gradient
    return parts if is_main_process() else []


def restore_gradients(model: nn.Module, parts: list[dict[str, Tensor]] | dict) -> None:
    """Give parameters the gradients that :func:`collect_gradients` returned.

    Args:
        model: The model.
        parts: By process. With another number of processes each gets the mean of all; so it is
            with the one dict that earlier versions saved.
    """
    parts = [parts] if isinstance(parts, dict) else parts
    if len(parts) == get_world_size():
        parts = [parts[get_rank()]]
    for name, parameter in model.named_parameters():
        gradients = [part[name].to(parameter) for part in parts if name in part]
        if gradients:
            total = gradients[0]  # alone it stays as it is to the last bit
            for gradient in gradients[1:]:
                total = total + gradient
            parameter.grad = total / len(parts) if len(parts) > 1 else total
