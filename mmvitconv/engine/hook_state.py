"""What hooks learn during a run, so that a run that goes on knows it too.

MMEngine saves the message hub and nothing of its hooks: an ``EarlyStoppingHook`` that goes on has
forgotten how long it waits. Which attributes matter is found by comparison: those that differ from
what they were when the loop over the data began. Numbers (also in lists, dicts and tensors) are
saved and put back. Others are named, since a run that goes on cannot have them.

Left alone are flags and strings: a flag mostly says what a hook has done to this process (and has
to do again in the next), a string may be a path. So are hooks that look after themselves: those
with a method of their own for saving or loading, and those whose ``keeps_state`` is False.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import CheckpointHook, Hook, IterTimerHook
from mmengine.runner import Runner
from torch import Tensor

__all__ = ["RUN_STATE", "VERSION", "HookStates", "check_value", "name_hooks"]

RUN_STATE = "run_state"  # in a checkpoint; the same name in its meta holds the version
VERSION = 1
LARGEST = 2**53  # no count of a run comes near
# the first finds its state in the message hub, the second measures the time of this process
SELF_RESTORING = (CheckpointHook, IterTimerHook)
NUMBERS = (int, float, np.number, np.ndarray, Tensor)


class HookStates:
    """The attributes of a run's hooks that change while it trains.

    Args:
        runner: The run, when the loop over its data begins.
    """

    def __init__(self, runner: Runner) -> None:
        self.hooks = {name: hook for name, hook in name_hooks(runner).items() if _is_open(hook)}
        self.begin = {name: _digests(hook) for name, hook in self.hooks.items()}
        self.fresh = {name: dict(vars(hook)) for name, hook in self.hooks.items()}

    def collect(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Return what has changed.

        Returns:
            Attributes by hook, and the names of those that cannot be saved.
        """
        changed: dict[str, dict[str, Any]] = {}
        unsaved = []
        for name, hook in self.hooks.items():
            now = _digests(hook)
            names = [key for key, digest in now.items() if self.begin[name].get(key) != digest]
            changed[name] = {}
            for key in names:
                value = vars(hook)[key]
                is_kind = value is None or (_is_numbers(value) and not isinstance(value, bool))
                if is_kind and not check_value(hook, key, value, self.fresh[name].get(key)):
                    changed[name][key] = value
                elif not type(hook).__module__.startswith("mmengine."):
                    unsaved.append(f"{name}.{key}")
        return changed, unsaved

    def restore(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Put attributes back.

        Args:
            states: As :meth:`collect` returned them; unknown hooks are passed over.
        """
        for name in states.keys() & self.hooks.keys():
            own = vars(self.hooks[name])
            for key, value in states[name].items():
                own[key] = _as_before(value, own.get(key))


def name_hooks(runner: Runner) -> dict[str, Hook]:
    """Return a run's hooks by class name, further ones of a class with a number."""
    seen: Counter[str] = Counter()
    named = {}
    for hook in runner.hooks:
        name = type(hook).__name__
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = hook
    return named


def check_value(hook: Hook, name: str, value: Any, own: Any = None) -> str:
    """Say why a hook cannot have a value.

    Args:
        hook: The hook as it is at the start of a run.
        name: The attribute.
        value: Its value to be.
        own: The value that it had at the start; None for the one that it has now.

    Returns:
        What is wrong with it, or ''.
    """
    if not _is_open(hook):
        return "belongs to a hook that looks after itself"
    own = vars(hook).get(name) if own is None else own
    if value is not None and (not _is_numbers(value) or isinstance(value, bool)):
        return "is neither a number nor made of numbers"
    if isinstance(own, bool) or not (own is None or _is_numbers(own)):
        return f"is no number in this run's {type(hook).__name__}"
    if callable(getattr(type(hook), name, None)) or name.startswith("__"):
        return f"is no attribute of {type(hook).__name__} that holds numbers"
    if own is None:
        return ""
    if value is None:
        return f"is None where this run has {type(own).__name__}"
    if isinstance(own, (int, float, np.number)):
        if not isinstance(value, (int, float, np.number)):
            return "is no number"
        if value != value or (isinstance(value, int) and abs(value) > LARGEST):
            return "is no number that a run reaches"
        if isinstance(own, int) and own >= 0 > value:
            return "is negative"
    elif isinstance(own, (Tensor, np.ndarray)):
        if not isinstance(value, type(own)) or value.shape != own.shape:
            return f"is not of the shape {tuple(own.shape)}"
    elif isinstance(own, Mapping) != isinstance(value, Mapping) or isinstance(value, NUMBERS):
        return f"is no {type(own).__name__}"
    return ""


def _is_open(hook: Hook) -> bool:
    """Return whether the state of a hook is to be saved for it."""
    own = (type(hook).before_save_checkpoint, type(hook).after_load_checkpoint)
    looks_after_itself = own != (Hook.before_save_checkpoint, Hook.after_load_checkpoint)
    return (
        not looks_after_itself
        and not isinstance(hook, SELF_RESTORING)
        and getattr(hook, "keeps_state", True)
    )


def _is_numbers(value: Any) -> bool:
    """Return whether a value is a number, or a container of nothing else."""
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) for key in value) and all(
            map(_is_numbers, value.values())
        )
    if isinstance(value, (list, tuple, deque, set)):
        return all(map(_is_numbers, value))
    return isinstance(value, NUMBERS) and not isinstance(value, (bool, np.bool_))


def _as_before(value: Any, own: Any) -> Any:
    """Return a value from a checkpoint in the type that the attribute has."""
    if isinstance(own, deque):
        return deque(value, own.maxlen)
    if isinstance(own, (Counter, set, tuple)):
        return type(own)(value)
    if isinstance(own, Tensor):
        return value.to(own)
    return value


def _digests(hook: Hook) -> dict[str, bytes]:
    """Return a short summary of the value of each attribute."""
    return {
        key: hashlib.blake2b(repr(_summary(value)).encode(), digest_size=16).digest()
        for key, value in vars(hook).items()
        if key != "_hook_infos"
    }


def _summary(value: Any, depth: int = 3) -> Any:
    """Return nested tuples that differ when a value does; parts of the run itself count as one."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return repr(value)
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta:
            return str(value.shape)
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return value.shape, hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
    if isinstance(value, Mapping):
        return [(_summary(key, depth), _summary(item, depth)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [_summary(item, depth) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_summary(item, depth)) for item in value)
    kind = type(value).__module__
    is_part = isinstance(value, torch.nn.Module) or kind.split(".")[0] in ("mmengine", "torch")
    if depth and not is_part and not callable(value) and hasattr(value, "__dict__"):
        return type(value).__qualname__, _summary(vars(value), depth - 1)
    return type(value).__qualname__
