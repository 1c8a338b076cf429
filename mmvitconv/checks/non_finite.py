"""Stopping, or skipping a step, when the loss or the gradients are not finite.

The good case costs one reduction per step; what went wrong is found afterwards, by repeating
the bad iteration with hooks on every module (:mod:`mmvitconv.checks.diagnosis`). Before a
checkpoint is written another reduction looks at all that it would hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, update_wrapper
from itertools import compress
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mmvitconv.checks.diagnosis import (
    MAX_NAMES,
    Iteration,
    ModuleTrace,
    any_bad,
    bad_losses,
    count_bad,
    explain_step,
    is_bad,
)
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.errors import UserError, shorten
from mmvitconv.registry import HOOKS

__all__ = ["NonFiniteError", "NonFiniteHook"]

SKIPS = "non_finite_skips"  # message hub: skipped steps of the whole run
SKIPS_IN_A_ROW = "non_finite_skips_in_a_row"
# Float16 training starts with a loss scale of 65536 and halves it at each infinite gradient: this
# is reached after 30 steps in a row, far below the scale of 1 that any healthy network bears.
MIN_LOSS_SCALE = 1e-4
ADVICE = (
    "look at these files, lower the learning rate, clip gradients "
    "(optim_wrapper.clip_grad=dict(max_norm=1.0)), train without mixed precision (--amp), or leave "
    "such steps out: custom_hooks=[dict(type='mmvitconv.NonFiniteHook', action='skip')]"
)


class NonFiniteError(UserError):
    """The numbers of a training run are not finite."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops training, or skips the step, at a non-finite loss or gradient.

    Nothing is ever updated with bad numbers: the check runs in front of the optimizer's step. Where
    an update makes weights, averages or the optimizer's state overflow although the gradients were
    finite, no checkpoint is written and training stops: the last finite one stays. The
    message says the iteration and epoch as the log counts them, the bad entries of the loss, the
    files of the batch, and the first module that produced a value that is not finite. For that, the
    iteration is repeated with the same random numbers, module by module; in the backward pass the
    first module is the one that received finite gradients and returned others. Where the input,
    the annotations, a parameter or a buffer was bad beforehand, that is said instead.

    Costs: per step one reduction over the gradients, which is that of ``clip_grad`` where the run
    clips by their norm; in a distributed run also an all-reduce of
    three numbers (all ranks decide the same); per iteration a copy of the model's buffers and of
    the random generators' states. The device is waited for once per iteration, in front of the
    step: losses and norm are read at the same time, for each of which MMEngine waits otherwise.
    Batches are kept until their step. Only a bad step pays for its repetition, with the memory of
    an iteration.

    With ``action='skip'`` weights, optimizer, buffers (BN statistics), EMA and the averages in the
    log stay as if the batch had not been there; the iteration counts, and learning-rate schedules
    go on. With ``accumulative_counts`` the whole accumulated step is left out (EMA is copied at
    the beginning of each). With several optimizers, what was updated earlier in the same
    iteration stays.

    With a ``GradScaler`` (``AmpOptimWrapper``) infinite gradients are part of the method and the
    scaler leaves those steps out itself. So only the loss is checked, and training stops
    when a dynamic scale falls below 1e-4: by then 30 steps in a row were infinite.

    MMEngine's ``FlexibleRunner`` works the same with ``OptimWrapper``. DeepSpeed keeps gradients to
    itself: there the loss alone is checked and ``'skip'`` is refused. Inside functions compiled by
    ``torch.compile`` modules are told apart with PyTorch >= 2.6.

    Args:
        action: ``'stop'`` (the default) or ``'skip'``.
        max_skips: Steps that ``'skip'`` leaves out in a row before it stops; >= 1.

    Raises:
        UserError: When an argument is not legal; while training, see above.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.NonFiniteHook", action="skip", max_skips=3)]
    """

    # Before all others: they see the restored buffers, and RuntimeInfoHook no bad loss.
    priority = "HIGHEST"
    keeps_state = False  # its attributes are of one step; the counts are in the message hub

    def __init__(self, action: str = "stop", max_skips: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise UserError(f"NonFiniteHook: action must be 'stop' or 'skip', got {action!r}")
        if not isinstance(max_skips, int) or isinstance(max_skips, bool) or max_skips < 1:
            raise UserError(
                f"NonFiniteHook: max_skips must be a whole number >= 1, got {max_skips!r}"
            )
        self.action = action
        self.max_skips = max_skips
        self.patches = ExitStack()
        self.snapshot = _Snapshot()
        self.window: list[Iteration] = []  # iterations since the last step
        self.window_size = 1
        self.pending: set[int] = set()  # optimizer wrappers with gradients that wait for a step
        self.logs: dict[str, Any] = {}  # losses of the current iteration
        self.read: dict[int, Tensor] = {}  # those that were read already, by the tensor's id
        self.norm: tuple[int, Tensor] | None = None  # of so many gradients, for clipping
        self.without: set[str] = set()  # buffers that are not finite by design
        self.finding: list[str] | None = None  # what is wrong in the current iteration
        self.is_collapsed = False  # the loss scale of mixed precision is too small
        self.is_rerun = False

    def before_train(self, runner: Runner) -> None:
        """Put the check in front of the optimizers' steps until training ends."""
        wrappers = _wrappers(runner)
        if self.action == "skip" and not all(isinstance(w, OptimWrapper) for w in wrappers):
            raise UserError(
                f"NonFiniteHook: action='skip' needs MMEngine's OptimWrapper, the run has "
                f"{type(runner.optim_wrapper).__name__}: use action='stop'"
            )
        self.patches.close()
        self.window_size = max(getattr(w, "_accumulative_counts", 1) for w in wrappers)
        self.snapshot = _Snapshot()
        self.snapshot.add(unwrap_model(runner.model), "_buffers")
        for wrapper in wrappers:
            _patch(self.patches, wrapper, "backward", partial(self._backward, wrapper))
            _patch(self.patches, wrapper, "step", partial(self._step, runner, wrapper))
            if _clips_by_norm(wrapper):
                _patch(self.patches, wrapper, "clip_func", self._clip)
        _patch(self.patches, runner, "save_checkpoint", partial(self._save, runner))
        model = unwrap_model(runner.model)
        if hasattr(model, "parse_losses") and not runner.cfg.get("compile"):
            _patch(self.patches, model, "parse_losses", self._parse_losses)
        self.without = {name for name, buffer in model.named_buffers() if is_bad(buffer)}
        for hook in runner.hooks if self.action == "skip" else ():
            if isinstance(hook, EMAHook):
                _patch(self.patches, hook, "after_train_iter", self._average)
                if self.window_size > 1:
                    self.snapshot.add(hook.ema_model, "_buffers", "_parameters")
        self.window, self.finding = [], None
        self.pending.clear()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note what is needed to undo or repeat the iteration."""
        self.finding, self.is_collapsed = None, False
        self.logs, self.read = {}, {}
        if not self.pending:
            self.window = []
            self.snapshot.take()
        states = random_states()
        self.window.append(Iteration(runner.iter + 1, runner.epoch + 1, data_batch, states))
        # for a train_step that computes gradients but makes its own updates
        self.window = self.window[-self.window_size :]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop, or undo the iteration and drop its bad losses, when its step was not made."""
        self._read_losses(outputs)
        self.window[-1].losses = bad_losses(outputs) if self.finding or self.pending else {}
        if self.finding is not None:
            self.snapshot.restore()
            message = self._explain(runner)
            in_a_row, total = (
                runner.message_hub.runtime_info.get(key, 0) + 1 for key in (SKIPS_IN_A_ROW, SKIPS)
            )
            if self.action == "stop" or self.is_collapsed:
                raise NonFiniteError(message)
            if in_a_row > self.max_skips:
                raise NonFiniteError(
                    f"{self.max_skips} steps in a row were skipped and the next is bad: {message}"
                )
            runner.message_hub.update_info_dict({SKIPS: total, SKIPS_IN_A_ROW: in_a_row})
            runner.logger.warning(
                f"step skipped ({in_a_row} in a row, at most {self.max_skips}; {total} in this "
                f"run): {message}"
            )
        if self.action == "skip":
            for name in self.window[-1].losses:
                outputs.pop(name)
        self.logs = {}  # they hold the graph
        if not self.pending:
            self.window = []  # and so the batch need not wait for the next one

    def after_train(self, runner: Runner) -> None:
        """Report the number of skipped steps and take the check away."""
        self.patches.close()
        self.window = []
        total = runner.message_hub.runtime_info.get(SKIPS, 0)
        if total:
            runner.logger.warning(
                f"{total} step(s) of this run were skipped because the loss or the gradients were "
                "not finite"
            )

    def _parse_losses(self, parse: Callable, losses: dict) -> tuple[Tensor, dict]:
        """Keep what the model logs, so that the step can read it."""
        total, logs = parse(losses)
        if not self.is_rerun:
            self.logs = logs
        return total, logs

    def _read_losses(self, outputs: Any) -> None:
        """Put numbers on the CPU in the place of those on a device, waiting for it once at most.

        MMEngine logs them by ``item()``, one after the other.
        """
        if not isinstance(outputs, dict):
            return
        tensors = [value for value in outputs.values() if _is_on_device(value)]
        if left := [tensor for tensor in tensors if id(tensor) not in self.read]:
            self._note(left, torch.stack([_wide(tensor).reshape(()) for tensor in left]).tolist())
        for name, value in outputs.items():
            outputs[name] = self.read.get(id(value), value)

    def _note(self, tensors: list[Tensor], numbers: list[float]) -> None:
        """Note what numbers tensors on a device hold."""
        for tensor, number in zip(tensors, numbers, strict=True):
            self.read[id(tensor)] = torch.tensor(number, dtype=tensor.dtype).reshape(tensor.shape)

    def _save(self, runner: Runner, save: Callable, *args, **kwargs) -> None:
        """Write a checkpoint if all numbers that it would hold are finite."""
        if message := self._look(runner):
            raise NonFiniteError(message)
        save(*args, **kwargs)

    @torch.no_grad()
    def _look(self, runner: Runner) -> str:
        """Say what of a checkpoint is not finite, the same on all ranks; '' if all is."""
        tensors = dict(_saved_tensors(runner, self.without))
        device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        flag = any_bad(list(tensors.values()), device).float()
        all_reduce(flag, op="max")  # under FSDP each process has a part
        if not flag:
            return ""
        bad = [f"{name} ({count_bad(t)})" for name, t in tensors.items() if is_bad(t)]
        return (
            f"not finite after iteration {runner.message_hub.get_info('iter', 0) + 1}, though its "
            f"gradients were: {shorten(bad, MAX_NAMES) if bad else 'see another process'}: nothing "
            "is saved and the last checkpoint stays. What to do: lower the learning rate or clip "
            "gradients (optim_wrapper.clip_grad=dict(max_norm=1.0)) and go on with --resume"
        )

    def _backward(self, wrapper: Any, backward: Callable, loss: Tensor, **kwargs) -> None:
        """Call ``wrapper.backward`` and note the loss."""
        if not self.is_rerun:
            self.pending.add(id(wrapper))
            self.window[-1].totals.append(loss.detach())
        backward(loss, **kwargs)

    def _step(self, runner: Runner, wrapper: Any, step: Callable, **kwargs) -> None:
        """Call ``wrapper.step`` if all numbers are finite."""
        if self.is_rerun:
            return
        if self.finding is None:
            self.finding = self._check(runner, wrapper)
        self.pending.discard(id(wrapper))
        if self.finding is None:
            step(**kwargs)
            if runner.message_hub.runtime_info.get(SKIPS_IN_A_ROW):
                runner.message_hub.update_info(SKIPS_IN_A_ROW, 0)

    def _clip(self, clip: Callable, parameters: list, max_norm: float, **kwargs) -> Tensor:
        """Clip gradients as ``clip_grad_norm_`` does, by the norm that the check has found."""
        count, norm = self.norm or (0, None)
        if count != len(parameters):
            return clip(parameters, max_norm, **kwargs)
        clip_grads_with_norm_(parameters, max_norm, norm, kwargs.get("foreach"))
        return self.read.get(id(norm), norm)

    def _average(self, average: Callable, *args, **kwargs) -> None:
        """Update the EMA if the iteration counts."""
        if self.finding is None:
            average(*args, **kwargs)

    @torch.no_grad()
    def _check(self, runner: Runner, wrapper: Any) -> list[str] | None:
        """Look at losses and gradients; all ranks return the same."""
        totals = [total for iteration in self.window for total in iteration.totals]
        scaler = getattr(wrapper, "loss_scaler", None)
        groups = wrapper.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        # each access to a gradient makes an object of Python
        found = (parameter.grad for parameter in ([] if scaler else parameters))
        gradients = [gradient for gradient in found if gradient is not None]
        device = next((tensor.device for tensor in (*totals, *gradients)), torch.device("cpu"))
        is_dynamic = scaler is not None and getattr(wrapper, "_scale_update_param", None) is None
        # get_scale() would wait for the device, and so would a tensor made of a Python number
        scale = getattr(scaler, "_scale", None) if is_dynamic else None
        nothing = torch.zeros((), dtype=torch.bool, device=device)
        collapsed = nothing if scale is None else (scale < MIN_LOSS_SCALE).reshape(()).to(device)
        norm = self.norm = None
        if gradients and _clips_by_norm(wrapper):  # one reduction serves both
            options = wrapper.clip_grad_kwargs
            norm_type, foreach = options.get("norm_type", 2.0), options.get("foreach")
            norm = get_total_norm(gradients, norm_type, foreach=foreach)
        bad = any_bad(gradients, device) if norm is None else ~torch.isfinite(norm).to(device)
        flags = torch.stack([any_bad(totals, device), bad, collapsed]).float()
        all_reduce(flags, op="max")  # does nothing in a single process
        # Here the host waits for the device, the one time in a step. Training without this hook
        # waits as well: MMEngine's RuntimeInfoHook calls item() on each of the losses after the
        # step, and its clipping logs the norm in front of it. So both are read here too.
        logs = [value for value in (norm, *self.logs.values()) if _is_on_device(value)]
        numbers = torch.cat([_wide(flags), *(_wide(value).reshape(1) for value in logs)]).tolist()
        self._note(logs, numbers[len(flags) :])
        *are_bad, self.is_collapsed = (bool(flag) for flag in numbers[: len(flags)])
        if norm is not None and are_bad[1]:  # squares overflow where the gradients do not
            flag = any_bad(gradients, device).float()
            all_reduce(flag, op="max")
            are_bad[1] = bool(flag)
        elif norm is not None:
            self.norm = len(gradients), norm
        words = list(compress(("loss", "gradients"), are_bad))
        if not words and not self.is_collapsed:
            return None
        facts = [f"not finite: {' and '.join(words)}"] if words else []
        names = {id(p): name for name, p in unwrap_model(runner.model).named_parameters()}
        if bad := [names.get(id(p), "?") for p in parameters if is_bad(p.grad)]:
            facts.append(f"parameters with such a gradient: {shorten(bad, MAX_NAMES)}")
        return facts

    def _explain(self, runner: Runner) -> str:
        """Repeat the iterations of the step and put what is found on every rank into words."""
        first, last = self.window[0].number, self.window[-1].number
        is_single = first == last
        model = unwrap_model(runner.model)
        buffers = dict(model.named_buffers())
        already_bad = [
            f"{'buffer' if name in buffers else 'parameter'} {name} ({count_bad(tensor)})"
            for name, tensor in (*model.named_parameters(), *buffers.items())
            if is_bad(tensor)
        ]
        traces: list[ModuleTrace | None] = [None] * len(self.window)
        failure = ""
        try:
            with self._repeating(runner) as repeat:
                # all of them on every rank: a forward pass may hold collective operations
                traces = [repeat(iteration) for iteration in self.window]
        except Exception as error:  # e.g. out of memory: what is known so far must be told
            failure = f"{type(error).__name__}: {error}"
        found = ""
        for iteration, trace in zip(self.window, traces, strict=True):
            is_own = iteration.losses or any_bad(iteration.totals)
            if is_own or (trace is not None and trace.shows_trouble):
                found = "" if is_single else f"iteration {iteration.number}; "
                found += explain_step([iteration], trace, self.finding, already_bad, failure)
                break
        texts = []
        if self.is_collapsed:
            texts.append(
                f"the loss scale of mixed precision has fallen below {MIN_LOSS_SCALE:g}: the "
                "gradients were not finite in about 30 steps in a row"
            )
        for rank, text in enumerate(all_gather_object(found)):
            if text:
                texts.append(f"rank {rank}: {text}" if get_world_size() > 1 else text)
        if not texts:
            texts = [explain_step(self.window, None, self.finding, already_bad, failure)]
        place = f"iteration {last}" if is_single else f"accumulated iterations {first} to {last}"
        facts = "; ".join(texts)
        return f"{place} (epoch {self.window[-1].epoch}): {facts}. What to do: {ADVICE}"

    @contextmanager
    def _repeating(self, runner: Runner) -> Iterator[Callable[[Iteration], ModuleTrace]]:
        """Give a function that repeats an iteration without lasting effects."""
        model = runner.model
        if isinstance(model, DistributedDataParallel):
            model = model.module  # its gradients stay on this rank
        wrappers = [w for w in _wrappers(runner) if hasattr(w, "_inner_count")]
        counts = [wrapper._inner_count for wrapper in wrappers]
        gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        states = random_states()
        set_stance = getattr(torch.compiler, "set_stance", None)

        def repeat(iteration: Iteration) -> ModuleTrace:
            set_random_states(iteration.random_states)
            with ModuleTrace.of(model) as trace:
                outputs = model.train_step(iteration.batch, optim_wrapper=runner.optim_wrapper)
            trace.losses = bad_losses(outputs)
            return trace

        self.is_rerun = True
        for wrapper, count in zip(wrappers, counts, strict=True):  # as before these iterations
            wrapper._inner_count = max(count - len(self.window), 0)
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            # hooks are not seen by code that is compiled already
            with set_stance("force_eager") if set_stance else nullcontext():
                yield repeat
        finally:
            self.is_rerun = False
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for wrapper, count in zip(wrappers, counts, strict=True):
                wrapper._inner_count = count
            self.snapshot.restore()
            set_random_states(states)


class _Snapshot:
    """Copies of the tensors of modules at a point of time."""

    def __init__(self) -> None:
        self.places: list[dict[str, Tensor | None]] = []
        self.kept: list[tuple[dict, str, Tensor]] = []
        self.copies: list[Tensor] = []

    def add(self, module: nn.Module, *attributes: str) -> None:
        """Include a module and those inside: what dictionaries of them hold."""
        self.places += [getattr(child, name) for child in module.modules() for name in attributes]

    @torch.no_grad()
    def take(self) -> None:
        """Copy the tensors."""
        self.kept = [
            (place, key, tensor)
            for place in self.places
            if place  # most are empty
            for key, tensor in place.items()
            if tensor is not None
        ]
        self.copies = [torch.empty_like(tensor) for _, _, tensor in self.kept]
        if self.kept:
            torch._foreach_copy_(self.copies, [tensor for _, _, tensor in self.kept])

    @torch.no_grad()
    def restore(self) -> None:
        """Put the tensors back with the values they had."""
        for (place, key, tensor), copy in zip(self.kept, self.copies, strict=True):
            place[key] = tensor.copy_(copy)


def _wrappers(runner: Runner) -> list[Any]:
    """Return the runner's optimizer wrappers."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _saved_tensors(runner: Runner, without: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint holds and must be finite, with names."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    models = [("", unwrap_model(runner.model)), *(("average of ", model) for model in averages)]
    for prefix, model in models:
        for name, parameter in model.named_parameters():
            yield f"{prefix}parameter {name}", parameter
        for place, module in model.named_modules():
            for key in module._buffers.keys() - module._non_persistent_buffers_set:
                name = f"{place}.{key}".lstrip(".")
                buffer = module._buffers[key]
                if buffer is not None and buffer.is_floating_point() and name not in without:
                    yield f"{prefix}buffer {name}", buffer
    names = {id(p): name for name, p in models[0][1].named_parameters()}
    for wrapper in _wrappers(runner):
        for parameter, state in getattr(wrapper.optimizer, "state", {}).items():
            for key, value in state.items() if isinstance(state, dict) else ():
                if isinstance(value, Tensor) and value.is_floating_point() and value.ndim:
                    yield f"{key} of {names.get(id(parameter), '?')} in the optimizer", value


def _clips_by_norm(wrapper: Any) -> bool:
    """Tell whether a wrapper's step begins with the norm of the gradients as they are."""
    kind = type(wrapper)
    return (
        isinstance(wrapper, OptimWrapper)
        and kind.step is OptimWrapper.step
        and kind._clip_grad is OptimWrapper._clip_grad
        and bool(wrapper.clip_grad_kwargs)
        and "max_norm" in wrapper.clip_grad_kwargs
        and float(wrapper.clip_grad_kwargs.get("norm_type", 2.0)) >= 1
    )


def _is_on_device(value: Any) -> bool:
    """Tell whether a value is a number that only a device knows."""
    return (
        isinstance(value, Tensor)
        and value.device.type not in ("cpu", "meta")
        and value.numel() == 1
        and value.is_floating_point()
    )


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in a type that holds each of its numbers exactly."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _patch(patches: ExitStack, owner: Any, name: str, replacement: Callable) -> None:
    """Replace a method of one object; the replacement gets the original as its first argument."""
    original = getattr(owner, name)
    if name in vars(owner):
        patches.callback(setattr, owner, name, original)
    else:
        patches.callback(vars(owner).pop, name, None)
    # with the marks that others have left on it, such as MMEngine's counter of steps
    setattr(owner, name, update_wrapper(partial(replacement, original), original))


def random_states() -> tuple:
    """Return the states of the global random generators."""
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device


def set_random_states(states: tuple) -> None:
    """Set the states of the global random generators."""
    python, numpy, cpu, on_device = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device)
