"""What a checkpoint says about a run, compared with the run that it is to continue.

A file is data, not orders. :func:`check_run_state` reads all that MMEngine would take from a
checkpoint when it resumes: counters, curves and notes of the message hub, optimizers, schedules,
averages, gradients, states of hooks. What does not fit this run is refused before anything is
touched. What is a setting comes from this run's config, and paths count only inside its folder.
"""

from __future__ import annotations

import dis
import inspect
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from types import FunctionType
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, ParamSchedulerHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvitconv.engine.hook_state import RUN_STATE, VERSION, check_value, name_hooks
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.engine.resume import is_file
from mmvitconv.errors import CheckpointError
from mmvitconv.weights import check_values

__all__ = [
    "GRADIENTS",
    "Field",
    "check_run_state",
    "check_tensors",
    "checkpoint_folder",
    "optimizers_of",
]

GRADIENTS = "accumulated_gradients"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_SEED = 2**32 - 1  # all that NumPy takes
LONGEST_EPOCH = 100_000  # iterations that an epoch may have had with other data


class Field:
    """A value in a checkpoint, with its place.

    Its methods return what they have checked, or raise a sentence with the file and the place.

    Args:
        value: The value.
        file: Name of the file.
        place: Where in the file it stands, e.g. ``'meta.epoch'``.
    """

    def __init__(self, value: Any, file: str, place: str = "") -> None:
        self.value = value
        self.file = file
        self.place = place

    def fail(self, problem: str) -> NoReturn:
        """Raise the sentence."""
        raise CheckpointError(
            f"{self.file}: {self.place} {problem}, so this run cannot go on from it: take another "
            "checkpoint, or start from its weights alone with --cfg-options load_from=PATH"
        )

    def wrong(self, wanted: str) -> NoReturn:
        """Say what the value is and what it should be."""
        self.fail(f"is {_describe(self.value)}, not {wanted}")

    def __contains__(self, key: Any) -> bool:
        return key in self.mapping()

    def __getitem__(self, key: Any) -> Field:
        is_name = isinstance(key, str) and key.isidentifier()
        inner = f".{key}" if is_name else f"[{str(key)[:80]!r}]" if isinstance(key, str) else None
        place = (self.place + (inner or f"[{str(key)[:80]}]")).lstrip(".")
        if not isinstance(self.value, (dict, list, tuple)):
            self.wrong("a dict or a list")
        try:
            return Field(self.value[key], self.file, place)
        except (KeyError, IndexError, TypeError):
            Field(None, self.file, place).fail("is missing")

    def items(self, keys: type = str) -> Iterator[tuple[Any, Field]]:
        """Yield what a mapping holds."""
        return ((key, self[key]) for key in self.mapping(keys))

    def mapping(self, keys: type = str) -> dict:
        """Return a dict with keys of one type."""
        if not isinstance(self.value, dict):
            self.wrong("a dict")
        for key in self.value:
            if type(key) is not keys:
                self.fail(f"has the key {_describe(key)}, not a {keys.__name__}")
        return self.value

    def sequence(self, length: int | None = None) -> list[Field]:
        """Return the items of a list or tuple, of a given length."""
        if not isinstance(self.value, (list, tuple)):
            self.wrong("a list")
        if length is not None and len(self.value) != length:
            self.fail(f"has {len(self.value)} entries instead of {length}")
        return [self[index] for index in range(len(self.value))]

    def text(self) -> str:
        """Return a string."""
        return self.value if isinstance(self.value, str) else self.wrong("a string")

    def whole(self, low: int = 0, high: float = math.inf, why: str = "") -> int:
        """Return a whole number within limits."""
        wanted = f"a whole number from {low}" + (f" to {high}" if high < math.inf else " on") + why
        if not isinstance(self.value, (int, np.integer)) or isinstance(self.value, bool):
            self.wrong(wanted)
        return int(self.value) if low <= self.value <= high else self.wrong(wanted)

    def number(self, low: float = -math.inf, finite: bool = True) -> Any:
        """Return a number, or a tensor that holds one."""
        value = self.value
        wanted = "a finite number" if low == -math.inf else f"a finite number from {low:g} on"
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            if value.is_floating_point() and value.dtype not in _FLOATS:
                self.wrong(wanted)
            value = value.item()
        if not isinstance(value, (int, float, np.number)) or isinstance(value, (bool, complex)):
            self.wrong(wanted)
        if finite and not (abs(value) <= 1e300 and value >= low):  # NaN is neither
            self.wrong(wanted)
        return self.value

    def tensor(self, shape: torch.Size, not_negative: bool = False, finite: bool = True) -> Tensor:
        """Return a floating-point tensor of a shape."""
        value = self.value
        if not isinstance(value, Tensor) or value.dtype not in _FLOATS or value.is_sparse:
            self.wrong("a tensor of floating-point numbers of 16 bits or more")
        if value.shape != shape:
            self.fail(f"has the shape {tuple(value.shape)} where this run has {tuple(shape)}")
        if any(n > 1 and step == 0 for n, step in zip(value.shape, value.stride(), strict=True)):
            self.fail("has entries that share a place in memory, so that they cannot be updated")
        if finite and not bool(torch.isfinite(value).all()):
            self.fail("holds NaN or infinity")
        if not_negative and bool((value < 0).any()):
            self.fail("holds negative numbers, which it never does")
        return value

    def weight(self) -> Tensor:
        """Return a tensor of whatever a run's weights and counts are."""
        if not isinstance(self.value, Tensor):
            self.wrong("a tensor")
        if self.value.is_floating_point() and self.value.dtype not in _FLOATS:
            self.fail(f"holds numbers of less than 16 bits ({self.value.dtype})")
        return self.value

    def like(self, own: Any) -> Any:
        """Return a value of the same kind as one of this run; of None any kind is."""
        if isinstance(own, bool):
            return self.value if isinstance(self.value, bool) else self.wrong("True or False")
        if isinstance(own, (int, float, np.number)):
            return self.number(finite=math.isfinite(own))
        if isinstance(own, Tensor):
            if own.numel() == 1:
                return self.number()
            return self.tensor(own.shape)
        if isinstance(own, str):
            return self.text()
        if isinstance(own, (list, tuple)):
            fields = self.sequence(len(own))
            return type(own)(f.like(item) for f, item in zip(fields, own, strict=True))
        if isinstance(own, dict):
            self.mapping()
            return {key: self[key].like(item) for key, item in own.items()}
        if own is None and self.value is not None and not isinstance(self.value, str):
            return self.number(finite=False)
        return self.value


def check_tensors(checkpoint: Mapping[str, Any], file: str) -> None:
    """Make sure that weights are tensors, before their names and shapes are looked at.

    Args:
        checkpoint: The content of a file.
        file: Its name.

    Raises:
        CheckpointError: Something else is among them.
    """
    for _, field in Field(checkpoint, file)["state_dict"].items():
        if not isinstance(field.value, Tensor):
            field.wrong("a tensor")


def check_run_state(
    runner: Runner, checkpoint: dict, file: str, schedule: str = "config"
) -> list[str]:
    """Make sure that a run can go on from a checkpoint; bring what it says into this run's terms.

    Args:
        runner: The run, with everything built and nothing loaded.
        checkpoint: The content of the file, with the weights in the model's layout. Settings of
            optimizers and schedules become the run's own, and paths point into its folder or go.
        file: Name of the file.
        schedule: Whose rates and schedules count where they differ: 'config' or 'checkpoint'.

    Returns:
        Notes for the user.

    Raises:
        CheckpointError: Something is missing, of another kind than this run's, or no number that
            it could be; the message names it.
    """
    root, notes = Field(checkpoint, file), []
    epoch, iteration = _check_counters(root, runner)
    is_ours = RUN_STATE in root.value["meta"]
    _check_hub(root["message_hub"], epoch, iteration, is_ours)
    if _is_plain(runner):
        progress = {True: epoch, False: iteration}
        for node, wrapper, schedulers in _pair(root, runner):
            check = _check_optimizer(node, wrapper, schedulers, iteration, schedule)
            notes += [f"{file}: {note}" for note in check]
        changed = len(notes)
        for node, scheduler in _pair_schedulers(root, runner):
            check = _check_scheduler(node, scheduler, runner, progress, schedule)
            notes += [f"{file}: {note}" for note in check]
        _check_rates(root, runner)
        if schedule == "config":
            is_other = len(notes) > changed or any(".initial_" in note for note in notes)
            notes += _set_rates(root, runner, epoch, iteration, is_other)
    _check_average(root, runner, iteration)
    if not _is_sharded(runner):
        for _, weight in root["state_dict"].items():
            weight.weight()
    has_gradients = GRADIENTS in root
    _check_kept(root, runner, iteration)
    notes += _check_gradients(root, runner, iteration)
    _check_apart(_updated(root, runner))
    notes += _check_hooks(root, runner, has_gradients)
    notes += _check_best(root["message_hub"])
    notes += _own_paths(root, runner, max(epoch, iteration))
    return notes


def optimizers_of(runner: Runner) -> dict[str, Any]:
    """Return the run's optimizer wrappers by the place of their state in a checkpoint."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return {f"optimizer.{name}": inner for name, inner in wrapper.items()}
    return {"optimizer": wrapper}


def checkpoint_folder(hook: CheckpointHook, work_dir: str) -> str:
    """Return where a checkpoint hook writes, before it has found that out itself."""
    if hook.out_dir is None or getattr(hook, "file_backend", None) is not None:
        return hook.out_dir or work_dir
    if str(hook.out_dir) == work_dir:
        return work_dir
    return os.path.join(hook.out_dir, os.path.basename(work_dir.rstrip(os.sep)))


def _is_sharded(runner: Runner) -> bool:
    """Return whether FSDP names the optimizer's entries by parameter instead of by number."""
    return any(isinstance(module, FullyShardedDataParallel) for module in runner.model.modules())


def _is_plain(runner: Runner) -> bool:
    """Return whether the optimizers' state is the whole of what PyTorch itself would save."""
    if _is_sharded(runner):
        return False
    return all(isinstance(wrapper, OptimWrapper) for wrapper in optimizers_of(runner).values())


def _check_counters(root: Field, runner: Runner) -> tuple[int, int]:
    """Check where the run was; return its epoch and its iteration."""
    meta, info = root["meta"], root["message_hub"]["runtime_info"]
    if meta.mapping().get("seed") is not None:
        meta["seed"].whole(0, LARGEST_SEED)
    loop = runner.train_loop
    by_epoch = not isinstance(loop, IterBasedTrainLoop)
    known = {k: info[k].whole(1) for k in ("max_epochs", "max_iters") if k in info}
    epochs, length = int(loop.max_epochs), len(loop.dataloader) if by_epoch else int(loop.max_iters)
    # the length of an epoch differs with another batch size or number of processes
    if len(known) == 2:
        length = known["max_iters"] // known["max_epochs"]
    if by_epoch:
        longest = max(len(loop.dataloader), len(loop.dataloader.dataset), LONGEST_EPOCH)
        if length > longest:
            info["max_iters"].fail(f"makes epochs of {length} iterations; {longest} are the most")
    limit = " (train_cfg.max_epochs)" if by_epoch else ""
    epoch = meta["epoch"].whole(0, epochs if by_epoch else math.inf, limit)
    if by_epoch:
        iteration = meta["iter"].whole(0)
    else:
        iteration = meta["iter"].whole(0, int(loop.max_iters), " (train_cfg.max_iters)")
    begin, end = epoch * length, (epoch + 1) * length
    meta["iter"].whole(begin, end, f", as epoch {epoch} of {length} iterations was reached")
    for name, value in (("epoch", epoch), ("iter", iteration)):
        if name in info:  # as it was in the iteration before
            info[name].whole(max(value - 1, 0), value)
    return epoch, iteration


def _check_hub(hub: Field, epoch: int, iteration: int, is_ours: bool) -> None:
    """Check curves and notes, and that all of them are written again."""
    curves, info, kept = hub["log_scalars"], hub["runtime_info"], hub["resumed_keys"]
    for name, curve in curves.items():
        if not isinstance(curve.value, HistoryBuffer):
            curve.wrong("a curve of a log")
        logs, counts = curve.value.data
        if logs.ndim != 1 or logs.shape != counts.shape or not len(logs):
            curve.fail(f"has {logs.shape} values and {counts.shape} counts")
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            curve.fail("has counts that are no numbers from 0 on")
        Field(curve.value.max_length, hub.file, f"{curve.place}.max_length").whole(len(logs))
        if name.startswith("train/loss") and len(logs) > max(iteration, 1):
            curve.fail(f"has {len(logs)} values after {iteration} iterations")
    count = lambda field: field.whole(0, iteration)  # noqa: E731
    rules: dict[str, Callable[[Field], Any]] = {
        r"cfg|experiment_name|mmengine_version|loop_stage": Field.text,
        r"(last|best)_ckpt.*": Field.text,
        r"best_score.*|eta": Field.number,
        r"seed": lambda field: field.whole(0, LARGEST_SEED),
        r"iter_of_last_validation|non_finite_skips.*": count,
        r"keep_ckpt_ids": lambda field: [
            item.whole(0, max(epoch, iteration)) for item in field.sequence()
        ],
    }
    for name, field in info.items():
        for pattern, rule in rules.items():
            if re.fullmatch(pattern, name):
                rule(field)
        if name.startswith("best_ckpt"):
            info[name.replace("best_ckpt", "best_score", 1)].number()
    for name in (*curves.value, *info.value):
        if kept[name].value is not True:
            kept[name].wrong("True")
    if is_ours:  # MMEngine's own files list what was taken out again as well
        for name in kept.value.keys() - curves.value.keys() - info.value.keys():
            kept[name].fail("stands for what is in neither log_scalars nor runtime_info")
    hub.value["resumed_keys"] = dict.fromkeys((*curves.value, *info.value), True)


def _pair(root: Field, runner: Runner) -> Iterator[tuple[Field, OptimWrapper, list]]:
    """Yield what the file has for each optimizer, its wrapper and its schedules."""
    node, wrapper, schedulers = root["optimizer"], runner.optim_wrapper, runner.param_schedulers
    if isinstance(wrapper, OptimWrapperDict):
        if extra := node.mapping().keys() - set(wrapper.keys()):
            node.fail(f"is for other optimizers than this run's: {sorted(extra)}")
        for name, inner in wrapper.items():
            yield node[name], inner, (schedulers or {}).get(name, [])
    else:
        yield node, wrapper, schedulers or []


def _pair_schedulers(root: Field, runner: Runner) -> Iterator[tuple[Field, Any]]:
    """Yield what the file has for each schedule, and the schedule."""
    own = runner.param_schedulers
    if not own:
        if root.value.get("param_schedulers"):
            root["param_schedulers"].fail("holds schedules, of which this run has none")
        return
    node = root["param_schedulers"]
    if isinstance(own, dict) and (extra := node.mapping().keys() - own.keys()):
        node.fail(f"is for other optimizers than this run's: {sorted(extra)}")
    for part, mine in (
        [(node[k], v) for k, v in own.items()] if isinstance(own, dict) else [(node, own)]
    ):
        yield from zip(part.sequence(len(mine)), mine, strict=True)


def _check_optimizer(
    node: Field, wrapper: OptimWrapper, schedulers: list, iteration: int, schedule: str
) -> Iterator[str]:
    """Check the state of an optimizer; its settings become this run's. Yields notes."""
    node.mapping()
    own, optimizer = wrapper.state_dict(), wrapper.optimizer
    # what is scheduled is state; so is all that the optimizer itself adds to its groups
    state = {scheduler.param_name for scheduler in schedulers}
    if any(getattr(scheduler, "use_betas", False) for scheduler in schedulers):
        state.add("betas")
    settings = (set(inspect.signature(type(optimizer)).parameters) | {"params"}) - state
    groups = node["param_groups"].sequence(len(own["param_groups"]))
    pairs = list(zip(groups, own["param_groups"], strict=True))
    base = own.get("base_param_settings")
    if base is not None:
        pairs.append((node["base_param_settings"], base))
    for group, mine in pairs:
        group.mapping()
        if mine is not base:
            for field, index in zip(
                group["params"].sequence(len(mine["params"])), mine["params"], strict=True
            ):
                field.whole(index, index)
        for key, value in mine.items():
            is_setting = key in settings or re.match("(initial|max|min)_|.*_mult$", key)
            if not is_setting:
                rate = group[key]
                rate.number(low=0) if key in state and key != "betas" else rate.like(value)
                continue
            is_choice = key == "lr" or key.startswith(("initial_", "max_", "min_"))
            is_kept = schedule == "checkpoint" and is_choice and key in group
            if key != "params" and key in group and not _is_equal(group[key].value, value):
                yield (
                    f"{group.place}.{key} is {_describe(group[key].value)}, but this run's config "
                    f"has {_describe(value)}: {_counts(is_kept, is_choice)}"
                )
            group.value[key] = group[key].number(low=0) if is_kept else value
    if base is None:
        node.value.pop("base_param_settings", None)
    parameters = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    states = node["state"]
    templates: dict[tuple, dict | None] = {}
    for index in states.mapping(keys=int):
        if not 0 <= index < len(parameters):
            states[index].fail("belongs to no parameter of this run")
        group, parameter = parameters[index]
        key = id(group), parameter.shape
        if key not in templates:
            templates[key] = _kept_by(optimizer, group, parameter.shape)
        entry = states[index]
        entry.mapping()
        for name, signs in (templates[key] or {}).items():
            if signs is None:
                continue
            shape, not_negative = signs
            if len(shape) == 0:  # a plain number in files of older versions of PyTorch
                entry[name].number(low=0 if not_negative else -math.inf)
            else:
                entry[name].tensor(shape, not_negative)
        for name, field in entry.items():
            if isinstance(field.value, Tensor):
                field.tensor(field.value.shape)
            if name == "step":
                # one that the loss scale skipped may have left a count of 0
                first = int(getattr(wrapper, "loss_scaler", None) is None)
                is_count = (templates[key] or {}).get(name) is not None
                _check_step(field, iteration, first if is_count else None)
    yield from _check_scaler(node, wrapper)


def _check_step(field: Field, iteration: int, first: int | None) -> None:
    """Check how many steps an entry has seen; first is None where it need not be a count."""
    if field.number(low=0) > iteration:
        field.fail(f"is {_describe(field.value)} after {iteration} iterations")
    if first is None:
        return
    if float(field.value) < first or float(field.value) % 1:
        field.wrong(f"a whole number from {first} on")
    if isinstance(field.value, Tensor) and field.value.dtype in (torch.float16, torch.bfloat16):
        field.fail(f"is a count of steps in {field.value.dtype}, which soon counts no further")


def _check_kept(root: Field, runner: Runner, iteration: int) -> None:
    """Make sure that an optimizer which keeps something, and has made steps, has kept it."""
    wrapper = runner.optim_wrapper
    if not _is_plain(runner) or isinstance(wrapper, OptimWrapperDict):
        return  # which of several has made steps is the model's choice
    states = root["optimizer"]["state"]
    may_be_skipped = getattr(wrapper, "loss_scaler", None) is not None
    if states.value or GRADIENTS in root or may_be_skipped:
        return
    steps = iteration // getattr(wrapper, "_accumulative_counts", 1)
    skipped = root["message_hub"]["runtime_info"].value.get("non_finite_skips", 0)
    trained = ((g, p) for g in wrapper.optimizer.param_groups for p in g["params"])
    group, parameter = next(((g, p) for g, p in trained if p.requires_grad), (None, None))
    if parameter is None or steps <= skipped:
        return
    kept = _kept_by(wrapper.optimizer, group, parameter.shape) or {}
    if names := [name for name, signs in kept.items() if signs is not None]:
        states.fail(f"is empty after {steps} steps, of which it keeps {', '.join(names)}")


def _updated(root: Field, runner: Runner) -> Iterator[Field]:
    """Yield the tensors of a file that the run itself will write into: they are not copied."""
    if _is_plain(runner):
        for node, _, _ in _pair(root, runner):
            for _, entry in node["state"].items(int):
                yield from (field for _, field in entry.items())
    if GRADIENTS in root:
        node = root[GRADIENTS]
        for part in [node] if isinstance(node.value, dict) else node.sequence():
            yield from (field for _, field in part.items())


def _check_apart(fields: Iterable[Field]) -> None:
    """Refuse tensors that share their memory: what is written into one would change the other."""
    spans = []
    for field in fields:
        value = field.value
        if isinstance(value, Tensor) and value.numel():
            steps = zip(value.shape, value.stride(), strict=True)
            size = 1 + sum((number - 1) * step for number, step in steps)
            begin = value.data_ptr()
            spans.append((str(value.device), begin, begin + size * value.element_size(), field))
    spans.sort(key=lambda span: span[:3])
    for (device, _, end, field), (other, begin, _, next_field) in pairwise(spans):
        if device == other and begin < end:
            next_field.fail(f"shares its memory with {field.place}, so that a step changes both")


def _kept_by(optimizer: Any, group: dict, shape: torch.Size) -> dict[str, Any] | None:
    """Find out what an optimizer keeps for a parameter, by letting it make two steps.

    Args:
        optimizer: An optimizer.
        group: The group of the parameter.
        shape: The shape of the parameter.

    Returns:
        By name the shape, and whether it is not negative whatever the sign of the gradient; None
        in place of both for what is no tensor. None when such an optimizer cannot be tried.
    """
    names = inspect.signature(type(optimizer)).parameters
    settings = {
        key: float(value) if isinstance(value, Tensor) else value
        for key, value in group.items()
        if key in names and key not in ("params", "fused", "foreach", "capturable")
    }
    kept: list[dict] = []
    try:
        for gradient in (1.0, -1.0):
            parameter = torch.nn.Parameter(torch.zeros(shape))
            parameter.grad = torch.full(shape, gradient)
            trial = type(optimizer)([parameter], **settings)
            trial.step()
            kept.append(trial.state[parameter])
    except Exception:  # an optimizer of another kind: then the numbers are checked alone
        return None
    return {
        name: (value.shape, all(bool((state[name] >= 0).all()) for state in kept))
        if isinstance(value, Tensor)
        else None
        for name, value in kept[0].items()
    }


def _check_scaler(node: Field, wrapper: OptimWrapper) -> Iterator[str]:
    """Check the loss scale of mixed precision."""
    scaler = getattr(wrapper, "loss_scaler", None)
    own = scaler.state_dict() if scaler is not None else {}
    if "loss_scaler" not in node or not own:
        node.value.pop("loss_scaler", None)
        return
    given = node["loss_scaler"]
    if not float(given["scale"].number(low=0)) > 0:
        given["scale"].wrong("a number above 0")
    given["_growth_tracker"].whole(0, own["growth_interval"])
    given.value.update({k: own[k] for k in own if k not in ("scale", "_growth_tracker")})
    yield from ()


def _check_scheduler(
    node: Field, scheduler: Any, runner: Runner, progress: Mapping[bool, int], schedule: str
) -> Iterator[str]:
    """Check the state of a schedule; its settings become this run's. Yields notes."""
    node.mapping()
    own = scheduler.state_dict()
    state = _assigned_later(type(scheduler))
    differing = []
    for key, value in own.items():
        if key in state:
            node[key].like(value)
        elif key in node and not _is_equal(node[key].value, value):
            differing.append(f"{key}={_describe(node[key].value)}, config {_describe(value)}")
            if schedule == "checkpoint":
                own[key] = node[key].like(value)
    if differing:
        yield (
            f"{node.place} has other settings than this run's config ({'; '.join(differing)}): "
            f"{_counts(schedule == 'checkpoint', True)}"
        )
    steps = node["_global_step"].whole(0)
    expected = progress[scheduler.by_epoch]
    if any(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks) and steps != expected:
        node["_global_step"].wrong(f"{expected}, the {_unit(scheduler)} of the run")
    last = node["last_step"].whole(-1, steps)
    if not getattr(scheduler, "need_val_args", False):
        begin, end = node["begin"].whole(), node["end"].whole(1)
        expected = max(min(steps, end - 1) - begin, -1)
        if last != expected:
            node["last_step"].wrong(f"{expected}, as after {steps} steps")
    kept = {key: node.value[key] if key in state else value for key, value in own.items()}
    node.value.clear()  # anything else would become an attribute of the schedule
    node.value.update(kept)


def _counts(is_kept: bool, is_choice: bool) -> str:
    """Say which of two settings counts, and how to have the other."""
    if not is_choice:
        return "the config's counts"
    if is_kept:
        return "the checkpoint's counts (--resume-schedule config takes the config's)"
    return "the config's counts (--resume-schedule checkpoint takes the checkpoint's)"


def _set_rates(
    root: Field, runner: Runner, epoch: int, iteration: int, is_other: bool
) -> list[str]:
    """Write into a checkpoint the rates that this run's schedules have at its point.

    Rates of schedules with this run's settings (not ``is_other``) stay as they are, to the bit,
    unless these schedules would never have given them. Returns notes.
    """
    pairs = list(_pair_schedulers(root, runner))
    schedulers = [scheduler for _, scheduler in pairs]
    if not any(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks) and not is_other:
        return []
    if not schedulers or any(getattr(s, "need_val_args", False) for s in schedulers):
        return []  # of a schedule that follows the scores
    length = iteration // epoch if epoch else iteration + 1
    # beyond the end of its schedule an iteration changes nothing, unless an epoch ends with it
    last = min(iteration, max((s.end for s in schedulers if not s.by_epoch), default=0))
    later = {*range((last // length + 1) * length, iteration + 1, length), iteration} - {last}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedules before the first step of an optimizer
        for number in chain(range(1, last + 1), sorted(later)):
            for scheduler in schedulers:
                if not scheduler.by_epoch or (number % length == 0 and number // length <= epoch):
                    scheduler.step()
    rates = []
    for node, wrapper, own in _pair(root, runner):
        groups = list(
            zip(node["param_groups"].sequence(), wrapper.optimizer.param_groups, strict=True)
        )
        if wrapper.base_param_settings is not None:
            groups.append((node["base_param_settings"], wrapper.base_param_settings))
        names = sorted({name for scheduler in own for name in _scheduled(scheduler)})
        rates += [(group, n, mine[n]) for group, mine in groups for n in names if n in mine]
    wrong = [(group[name], rate) for group, name, rate in rates if name in group]
    wrong = [(field, rate) for field, rate in wrong if not _is_near(field.value, rate)]
    if not wrong and not is_other:
        return []
    for node, scheduler in pairs:
        node.value.update(scheduler.state_dict())
        node.value["_global_step"] = epoch if scheduler.by_epoch else iteration
    notes = []
    if not is_other:
        field, rate = wrong[0]
        others = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        notes.append(
            f"{root.file}: {field.place} is {_describe(field.value)}{others}, which this run's "
            f"schedules do not give; they give {_describe(rate)}: {_counts(False, True)}"
        )
    for group, name, rate in rates:
        group.value[name] = rate
    return notes


def _is_near(value: Any, rate: Any) -> bool:
    """Tell whether two rates, or pairs of them, differ by rounding at most."""
    values, rates = (x if isinstance(x, (list, tuple)) else (x,) for x in (value, rate))
    return len(values) == len(rates) and all(
        math.isclose(a, b, rel_tol=1e-6) for a, b in zip(values, rates, strict=True)
    )


def _scheduled(scheduler: Any) -> tuple[str, ...]:
    """Return the settings of an optimizer that a schedule changes."""
    uses_betas = getattr(scheduler, "use_betas", False)
    return (scheduler.param_name, "betas") if uses_betas else (scheduler.param_name,)


def _unit(scheduler: Any) -> str:
    return "epochs" if scheduler.by_epoch else "iterations"


def _assigned_later(kind: type, but: tuple[str, ...] = ("__init__",)) -> set[str]:
    """Return the attributes that methods of a class, but for some, assign: by default later on."""
    return {
        step.argval
        for parent in kind.__mro__
        for name, method in vars(parent).items()
        if isinstance(method, FunctionType) and name not in but
        for step in dis.get_instructions(method)
        if step.opname == "STORE_ATTR"
    }


def _check_rates(root: Field, runner: Runner) -> None:
    """Compare what is scheduled with what the schedules last set."""
    for node, wrapper, schedulers in _pair(root, runner):
        if not any(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks):
            continue
        groups = node["param_groups"].sequence()
        if wrapper.base_param_settings is not None:
            groups.append(node["base_param_settings"])
        prefix = root["param_schedulers"] if schedulers else None
        if isinstance(runner.param_schedulers, dict) and schedulers:
            prefix = prefix[node.place.rpartition(".")[2]]
        for name in {scheduler.param_name for scheduler in schedulers}:
            last = [
                prefix[place]["_last_value"].sequence(len(groups))
                for place, scheduler in enumerate(schedulers)
                if scheduler.param_name == name
            ]
            for index, group in enumerate(groups):
                if not any(_is_equal(group[name].value, values[index].value) for values in last):
                    group[name].fail(
                        f"is {_describe(group[name].value)}, but the schedules last set "
                        f"{_describe(last[-1][index].value)}"
                    )


def _check_average(root: Field, runner: Runner, iteration: int) -> None:
    """Check averaged weights."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
    if "ema_state_dict" not in root:
        if root.value["meta"].get(RUN_STATE) is not None and "EMAHook" in (
            root[RUN_STATE]["hooks"].mapping()
        ):
            root["ema_state_dict"]  # which is missing
        return
    node = root["ema_state_dict"]
    if hook is None:
        node.fail("holds averaged weights, but this run has no EMAHook")
    model = getattr(hook, "ema_model", None)
    own = model.state_dict() if model is not None else {}
    for name, value in node.items():
        value.weight()
        if own and (name not in own or own[name].shape != value.value.shape):
            value.fail("is no averaged weight of this run's model")
    for name in own:
        node[name]
    if "steps" in own:
        steps = node["steps"]
        if not 0 <= float(steps.number()) <= iteration:
            steps.wrong(f"a number from 0 to {iteration}, the iteration of the run")
    if own:
        try:
            check_values(
                {k.removeprefix("module."): v for k, v in node.value.items()}, model.module
            )
        except CheckpointError as error:
            node.fail(f"cannot be loaded ({error})")


def _check_gradients(root: Field, runner: Runner, iteration: int) -> list[str]:
    """Check the gradients of a step that was being accumulated; choose this process's part."""
    counts = max(getattr(w, "_accumulative_counts", 1) for w in optimizers_of(runner).values())
    if GRADIENTS not in root:
        return []
    node = root[GRADIENTS]
    parts = [node] if isinstance(node.value, dict) else node.sequence()  # one: of older versions
    if not parts:
        node.fail("is empty")
    own, notes = dict(unwrap_model(runner.model).named_parameters()), []
    for part in parts:
        for name, field in part.items():
            if name not in own:
                field.fail("belongs to no parameter of this run")
            # so it may have been; the guard in front of the step stops there, or leaves it out
            if not bool(torch.isfinite(field.tensor(own[name].shape, finite=False)).all()):
                notes.append(f"{root.file}: {field.place} holds NaN or infinity")
    if counts > 1 and iteration % counts == 0:
        del root.value[GRADIENTS]
        return [f"{root.file}: {GRADIENTS} is left out: at iteration {iteration} a step begins"]
    if len(parts) not in (1, get_world_size()):
        notes.append(
            f"{root.file}: {GRADIENTS} comes from {len(parts)} processes, this run has "
            f"{get_world_size()}: their mean is used, resuming is not exact"
        )
    return notes


def _check_hooks(root: Field, runner: Runner, has_gradients: bool) -> list[str]:
    """Check the states of hooks."""
    version = root["meta"].mapping().get(RUN_STATE)
    if version is None and RUN_STATE not in root:
        return []  # of an earlier version, or of plain MMEngine
    root["meta"][RUN_STATE].whole(VERSION, VERSION)
    node = root[RUN_STATE]
    states, own, notes = node["hooks"], name_hooks(runner), []
    parts = (*runner.hooks, runner.train_loop)
    if node["stop_training"].like(True) and not any(
        "stop_training" in _assigned_later(type(part), but=("__init__", "after_load_checkpoint"))
        for part in parts
    ):
        node.value["stop_training"] = False
        notes.append(f"{root.file}: run_state.stop_training is left out: no hook stops this run")
    names = [field.text() for field in node["names"].sequence()]
    if set(names) != set(states.mapping()):
        states.fail(f"is not about the hooks that names lists ({', '.join(names)[:200]})")
    attributes = sum(
        len(part.mapping()) for _, field in states.items() for part in field.sequence()
    )
    if node["attributes"].whole() != attributes:
        states.fail(f"has {attributes} values of {node['attributes'].value}")
    for place, expected in node["entries"].items():
        number = expected.whole()
        part = root
        for key in place.split("."):
            part = part[key]
        if len(part["state"].mapping(keys=str if _is_sharded(runner) else int)) != number:
            part["state"].fail(f"has {len(part['state'].value)} entries of {number}")
    if node["accumulating"].like(True) != has_gradients:
        node["accumulating"].fail(f"does not agree with {GRADIENTS}")
    length = None
    for name, field in states.items():
        length = len(field.sequence()) if length is None else length
        ranks = field.sequence(length)
        if not ranks:
            field.fail("is empty")
        for part in ranks:
            for attribute, value in part.items():
                if name in own and (problem := check_value(own[name], attribute, value.value)):
                    value.fail(problem)
        if name not in own and any(part.value for part in ranks):
            notes.append(f"{root.file}: {field.place} is left out: this run has no such hook")
        elif len(ranks) not in (1, get_world_size()):
            notes.append(
                f"{root.file}: {field.place} comes from {len(ranks)} processes: that of the first "
                "is used, resuming is not exact"
            )
    unsaved = [field.text() for field in node["unsaved"].sequence()]
    if unsaved:
        notes.append(
            f"{root.file}: resuming may be inexact: a checkpoint does not hold "
            f"{', '.join(unsaved)[:500]}"
        )
    return notes


def _check_best(hub: Field) -> list[str]:
    """Leave out a best score that no validation of the run has given: its file would be removed."""
    curves = [f.value.data[0] for n, f in hub["log_scalars"].items() if n.startswith("val/")]
    curves = [logs for logs in curves if not np.isnan(logs).all()]
    ends = [end for logs in curves for end in (np.nanmin(logs), np.nanmax(logs))]
    notes, info, kept = [], hub["runtime_info"], hub["resumed_keys"]
    for name in [name for name in info.value if name.startswith("best_score")] if ends else []:
        score = float(info[name].number())
        if not any(math.isclose(score, end, rel_tol=1e-5) for end in ends):
            notes.append(
                f"{hub.file}: {info[name].place} is {_describe(score)}, the best or worst score of "
                "no validation of this run: it is left out, and the best is sought anew"
            )
            for key in (name, name.replace("best_score", "best_ckpt", 1)):
                info.value.pop(key, None)
                kept.value.pop(key, None)
    return notes


def _own_paths(root: Field, runner: Runner, highest: int) -> list[str]:
    """Make paths of checkpoints point into this run's own folder, or drop them."""
    info, notes = root["message_hub"]["runtime_info"], []
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    names = [name for name in info.value if re.match("(last|best)_ckpt", name)]
    dropped = [*names, "keep_ckpt_ids"]
    if hook is not None:
        folder = checkpoint_folder(hook, runner.work_dir)
        numbered = re.escape(hook.filename_tmpl).replace(re.escape("{}"), r"\d+")
        is_own = _is_in(root.file, folder)
        for name in names:
            given = info[name].text()
            base = re.split(r"[/\\]", given)[-1]
            prefix = "" if name == "last_ckpt" else "best_.+_"
            if not re.fullmatch(prefix + numbered, base) or "\0" in given:
                info[name].wrong("the name of a checkpoint of this run")
            path = os.path.join(folder, base)
            if name == "last_ckpt" or (is_own and _is_file(path)):
                info.value[name] = path
                dropped.remove(name)
            elif _is_file(given):
                notes.append(f"the best checkpoint until now is {given}, which this run leaves")
        if is_own and "keep_ckpt_ids" in info:
            info.value["keep_ckpt_ids"] = [
                number
                for number in info.value["keep_ckpt_ids"]
                if _is_file(os.path.join(folder, hook.filename_tmpl.format(number)))
            ]
            dropped.remove("keep_ckpt_ids")
    for name in dropped:
        info.value.pop(name, None)
        root["message_hub"]["resumed_keys"].value.pop(name, None)
    return notes


def _is_in(file: str, folder: str) -> bool:
    """Tell whether a file lies in a folder."""
    if "://" in file or "://" in folder:
        return file.rpartition("/")[0] == folder.rstrip("/")
    return os.path.realpath(os.path.dirname(file)) == os.path.realpath(folder)


def _is_file(path: str) -> bool:
    """Tell whether there is a regular file; of an object store it is believed."""
    return "://" in path or is_file(path)


def _is_equal(one: Any, other: Any) -> bool:
    """Compare two settings; lists and tuples with equal content are equal."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return one.shape == other.shape and bool((one.cpu() == other.cpu()).all())
        both = (one, other)
        if all(
            isinstance(x, (int, float)) or (isinstance(x, Tensor) and x.numel() == 1) for x in both
        ):
            return float(one) == float(other)
        return False
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    return (type(one) is type(other) and one == other) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other
    )


def _describe(value: Any) -> str:
    """Return a few words about a value."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (dict, HistoryBuffer, np.ndarray)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
