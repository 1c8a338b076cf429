"""What a training starts from: published weights, a file, or random numbers, and it says which."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitconv.engine.configuration import find_class
from mmvitconv.errors import CheckpointError, printable
from mmvitconv.registry import HOOKS

__all__ = ["InitialWeightsHook", "choose_initial_weights"]

RANDOM = "random weights"
_HOOK = "mmvitconv.InitialWeightsHook"
# What freezes a backbone, and the value that does not.
_FREEZING = {"norm_eval": False, "frozen_stages": -1}


@HOOKS.register_module()
class InitialWeightsHook(Hook):
    """Logs what a training started from, and writes it into the meta of its checkpoints.

    Args:
        source: Path or address of the first weights, or ``'random weights'``.
        lifted: Settings of the config that do not hold for random weights, ``'norm_eval=True'``.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.InitialWeightsHook", source="best.pth")]
    """

    keeps_state = False  # it is in the checkpoint's meta

    def __init__(self, source: str, lifted: Sequence[str] = ()) -> None:
        self.source = source
        self.lifted = list(lifted)

    def before_run(self, runner: Runner) -> None:
        """Keep a run that resumes from reading weights that its checkpoint replaces."""
        if getattr(runner, "_resume", False) and getattr(runner, "_load_from", None):
            for module in runner.model.modules():
                if _is_pretrained(getattr(module, "init_cfg", None)):
                    module.init_cfg = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take over what a resumed run started from.

        Raises:
            CheckpointError: That run trained what this one would freeze, or the reverse, or the
                checkpoint says nothing that makes sense.
        """
        meta = checkpoint.get("meta") or {}
        if not getattr(runner, "_resume", False) or "initial_weights" not in meta:
            return
        match meta["initial_weights"]:
            case {"source": str(source), "lifted": [*lifted]} if all(
                isinstance(name, str) for name in lifted
            ):
                pass
            case wrong:
                raise CheckpointError(
                    f"checkpoint {runner._load_from!r}: meta.initial_weights must hold a source "
                    f"and a list of names, got {printable(repr(wrong), 80)}"
                )
        if lifted != self.lifted:
            was, now = (
                f"{where!r} ({', '.join(names) or 'nothing'} lifted)"
                for where, names in ((source, lifted), (self.source, self.lifted))
            )
            raise CheckpointError(
                f"checkpoint {runner._load_from!r} is of a run that started from {was}, this one "
                f"would start from {now}; give --from-scratch to both or to neither"
            )
        self.source = printable(source)

    def before_train(self, runner: Runner) -> None:
        """Log what the training started from."""
        text = f"the training started from {self.source}"
        if self.lifted:
            text += (
                f"; {' and '.join(self.lifted)} of the config were lifted, because frozen random "
                "numbers would stay what they are"
            )
        log = runner.logger.warning if self.source == RANDOM else runner.logger.info
        log(text)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down what the training started from."""
        checkpoint["meta"]["initial_weights"] = {"source": self.source, "lifted": self.lifted}


def choose_initial_weights(cfg: Config, weights: str | None, from_scratch: bool) -> None:
    """Write into a config what the training starts from, and a hook that says it.

    A backbone that starts from random weights is trained whole: ``frozen_stages`` and ``norm_eval``
    are lifted, and the hook says so.

    Args:
        cfg: Config of a training, with ``resume`` and ``load_from`` as they will be.
        weights: Path or address of the backbone's weights, instead of what the config names.
        from_scratch: Start from random weights, whatever the config names.
    """
    backbone = cfg.model.get("backbone") or ConfigDict()
    if from_scratch:
        _drop_pretrained(cfg.model)
        if not cfg.get("resume"):
            cfg.load_from = None
    if weights is not None:
        backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=weights)
    named = [_pretrained(cfg.model), _pretrained(backbone)]
    if not cfg.get("resume"):
        named.insert(0, cfg.get("load_from"))
    source = next(filter(None, named), RANDOM)
    # the config that a run has written has the hook already, and its backbone is free
    hooks = cfg.get("custom_hooks") or []
    if not isinstance(hooks, (list, tuple)):
        return  # the runner's builder names it
    earlier = [hook for hook in hooks if isinstance(hook, dict) and hook.get("type") == _HOOK]
    lifted = []
    if source == RANDOM:
        lifted = [name for hook in earlier for name in hook.get("lifted", [])]
        lifted += _lift_freezing(backbone, cfg.get("default_scope"))
    hook = ConfigDict(type=_HOOK, source=source, lifted=lifted)
    cfg.custom_hooks = [*(hook for hook in hooks if hook not in earlier), hook]


def _is_pretrained(init_cfg: Any) -> bool:
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return any(isinstance(entry, dict) and bool(entry.get("checkpoint")) for entry in entries)


def _pretrained(module: ConfigDict) -> str | None:
    """Return the weights that a module of the config starts from, None for random ones."""
    init_cfg = module.get("init_cfg")
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    named = [entry["checkpoint"] for entry in entries if _is_pretrained(entry)]
    return next(iter(named), module.get("pretrained"))


def _drop_pretrained(node: Any) -> None:
    """Let all modules in a part of a config start from random weights."""
    if isinstance(node, dict):
        for key in ("init_cfg", "pretrained"):
            if _is_pretrained(node.get(key)) or isinstance(node.get(key), str):
                node[key] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _drop_pretrained(child)


def _lift_freezing(backbone: ConfigDict, scope: str | None) -> list[str]:
    """Unfreeze a backbone; return the settings that were changed, as they were."""
    kind = find_class(backbone["type"], scope) if "type" in backbone else None
    parameters = {} if kind is None else inspect.signature(kind).parameters
    lifted = []
    for name, free in _FREEZING.items():
        default = parameters[name].default if name in parameters else free
        frozen = backbone.get(name, default)
        if frozen != free:
            lifted.append(f"{name}={frozen}")
            backbone[name] = free
    return lifted
