"""Reading a config and the ``--cfg-options`` that change it, with every mistake named.

This module is used before anything heavy is imported.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvitconv.errors import UserError
from mmvitconv.resources import CONFIG_SUFFIXES, SHIPPED, find_base, find_config

# What MMEngine's runner and the tools read from the config besides the arguments of the runner.
RUNNER_EXTRAS = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}
# Keys that MMEngine takes out of a typed dict before it calls the class.
BUILDER_KEYS = {"type", "_scope_", "_delete_"}
BUILDER_EXTRAS = {
    "default_hooks": {"priority"},
    "custom_hooks": {"priority"},
    "param_scheduler": {"convert_to_iter_based"},
    "optim_wrapper": {"constructor", "paramwise_cfg", "optimizer"},
}
PARAMWISE_OPTIONS = {
    *("layer_decay_rate", "backbone_lr_mult"),
    *("bias_lr_mult", "bias_decay_mult", "norm_decay_mult"),
    *("dwconv_decay_mult", "flat_decay_mult", "dcn_offset_lr_mult"),
    *("bypass_duplicate", "custom_keys"),
}
# Dicts without a type whose keys MMEngine reads by name.
UNTYPED = {
    "auto_scale_lr": {"enable", "base_batch_size"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "train_cfg": {
        *("type", "by_epoch", "max_epochs", "max_iters"),
        *("val_interval", "val_begin", "dynamic_intervals"),
    },
    "val_cfg": {"type", "fp16"},
    "test_cfg": {"type", "fp16"},
    "optim_wrapper.paramwise_cfg": PARAMWISE_OPTIONS,
}
DATALOADER_EXTRAS = {"dataset", "num_batch_per_epoch", "_delete_"}
MAX_BASES = 50  # one upon the other
_BASES_LOCK = threading.RLock()


def load_config(path: str | Path) -> Config:
    """Read a config file.

    Args:
        path: Path of a ``.py``, ``.json`` or ``.yaml`` file, or the name of a shipped config, see
            :func:`mmvitconv.resources.find_config`.

    Returns:
        The config with its ``_base_`` files merged.

    Raises:
        UserError: When the file does not exist (with similar names) or cannot be parsed.
    """
    file = find_config(path)
    if file.suffix not in CONFIG_SUFFIXES:
        raise UserError(f"a config is a {', '.join(CONFIG_SUFFIXES)} file, got {str(path)!r}")
    try:
        with _BASES_LOCK, _looking_at_bases():
            return Config.fromfile(file)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the config {path} cannot be read: {reason}") from error


@contextmanager
def _looking_at_bases() -> Iterator[None]:
    """Look at each file before MMEngine opens it, which reads pipes and loops for ever."""
    opened: list[str] = []

    def guard(read: Callable) -> Callable:
        def look_and_read(filename: str, *args: Any, **kwargs: Any) -> Any:
            file = os.path.realpath(os.path.expanduser(filename))
            if file in opened:
                chain = " -> ".join([*opened[opened.index(file) :], file])
                raise UserError(f"a config cannot be based on itself: {chain}; take one _base_ out")
            if len(opened) == MAX_BASES:
                raise UserError(f"the config {opened[0]} has more than {MAX_BASES} _base_ in a row")
            if not os.path.isfile(file):
                what = "is not a regular file" if os.path.exists(file) else "does not exist"
                raise UserError(
                    f"the config {opened[-1] if opened else file} names the base {filename}, which "
                    f"{what}: give the path of a config, relative to the file that names it"
                )
            opened.append(file)
            try:
                return read(filename, *args, **kwargs)
            finally:
                opened.pop()

        return look_and_read

    def check_name(find: Callable) -> Callable:
        def check_and_find(base: Any, filename: str) -> Any:
            if not isinstance(base, str) or "\0" in base:
                raise UserError(
                    f"the config {filename}: _base_ must be a path or a list of paths, got {base!r}"
                )
            if base.startswith(SHIPPED):  # MMEngine knows the packages of OpenMMLab only
                return str(find_base(base, filename)), None
            return find(base, filename)

        return check_and_find

    methods = {"_file2dict": guard, "_parse_lazy_import": guard, "_get_cfg_path": check_name}
    originals = {name: vars(Config)[name] for name in methods}
    try:
        for name, wrap in methods.items():
            setattr(Config, name, staticmethod(wrap(getattr(Config, name))))
        yield
    finally:
        for name, original in originals.items():
            setattr(Config, name, original)


def apply_options(cfg: Config, options: dict[str, Any] | None) -> list[str]:
    """Merge ``--cfg-options`` into a config after checking every key.

    MMEngine itself takes any key, so that a misspelt one would silently change nothing.

    Args:
        cfg: The config, changed in place.
        options: Dotted keys and their values; numbers in a key are indices of a list.

    Returns:
        Notes for the user about options that are legal but have no effect.

    Raises:
        UserError: When a key neither exists nor is legal at its place, with similar names.
    """
    options = options or {}
    notes = []
    trial = deepcopy(cfg)  # with one option after another, so that later keys see earlier values
    # a new type decides which of the other keys are legal
    for key in sorted(options, key=lambda key: not key.endswith(".type")):
        if key.rpartition(".")[2] == "_delete_":
            continue
        _check_kind(key, _check_key(trial, key), options[key])
        notes.append(_note_on_variable(trial, key))
        _merge(trial, {key: options[key]})
    _merge(cfg, options)  # at once, as "_delete_" works on the keys that come with it
    return [note for note in notes if note]


def legal_arguments(function: Any) -> set[str] | None:
    """Return the arguments of a class or function, following ``**kwargs`` to parent classes.

    Args:
        function: Class or function.

    Returns:
        The names, or ``None`` when any name may be legal.
    """
    if not inspect.isclass(function):
        names, is_open = _named_parameters(function)
        return None if is_open else names
    names = set()
    for parent in (cls for cls in function.__mro__[:-1] if "__init__" in vars(cls)):
        own, is_open = _named_parameters(parent.__init__)
        names |= own - {"self"}
        if not is_open:
            return names
    return None


def _named_parameters(function: Any) -> tuple[set[str], bool]:
    """Return the parameters' names and whether there are ``**kwargs`` besides."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set(), True
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = {parameter.name for parameter in parameters if parameter.kind not in variadic}
    return names, any(parameter.kind is variadic[0] for parameter in parameters)


def _check_key(cfg: Config, key: str) -> Any:
    """Return the value at ``key``, None for a new one; a UserError when it is not legal."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        place = ".".join(parts[:depth])
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"--cfg-options {key}: {place} is a list of {len(node)}, its keys are "
                    f"0 to {len(node) - 1}, got {part!r}"
                )
            node = node[int(part)]
        elif isinstance(node, (Config, dict)):
            if part not in node:
                _check_new_key(cfg, node, place, part, key)
                return None
            node = node[part]
        elif node is None:
            return None  # an unset argument may become a dict
        else:
            raise UserError(f"--cfg-options {key}: {place} is {node!r} and has no keys below it")
    return node


def _check_kind(key: str, old: Any, new: Any) -> None:
    """Raise a UserError when a value would replace a whole group of settings."""
    is_group = isinstance(old, dict) and ("." not in key or "type" in old)
    if is_group and not isinstance(new, (dict, list, type(None))):
        raise UserError(
            f"--cfg-options {key}={new}: {key} is a group of settings; set one of them, "
            f"{key}.{next(iter(old), 'NAME')}=VALUE"
        )


def _merge(cfg: Config, options: dict[str, Any]) -> None:
    """Merge options whose keys are known to be legal."""
    for key in options:
        node: Any = cfg
        for part in key.split(".")[:-1]:
            inside = node[int(part)] if isinstance(node, (list, tuple)) else node.get(part, {})
            if inside is None:  # MMEngine does not put keys below a value that is None
                node[part] = inside = {}
            node = inside
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise UserError(f"--cfg-options {' '.join(options)}: {error}") from error


def _check_new_key(cfg: Config, node: Any, place: str, part: str, key: str) -> None:
    """Raise a UserError unless ``part`` may be added to the dict ``node`` at ``place``."""
    legal, owner = _legal_names(cfg, node, place)
    existing = set(node.keys())
    if legal is not None and part in legal:
        return
    # of a dict whose reader is unknown, only what looks like a misspelling can be refused
    near = get_close_matches(part, existing | (legal or set()), n=3, cutoff=0.6 if legal else 0.8)
    if legal is None and not near:
        return
    where = f"below {place!r} " if place else ""
    hint = f"legal are {', '.join(sorted(existing | (legal or set())))}"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    raise UserError(f"--cfg-options {key}: {owner} {where}has no {part!r}; {hint}")


def _legal_names(cfg: Config, node: Any, place: str) -> tuple[set[str] | None, str]:
    """Return the names that may be added at ``place`` (``None``: unknown) and who reads them."""
    top = place.partition(".")[0]
    if not place:
        from mmengine.runner import Runner

        return (legal_arguments(Runner) or set()) - {"cfg"} | RUNNER_EXTRAS, "the config"
    if "type" not in node and place in UNTYPED:
        return UNTYPED[place], "the config"
    if top.endswith("_dataloader") and place == top:
        from torch.utils.data import DataLoader

        return (legal_arguments(DataLoader) or set()) | DATALOADER_EXTRAS, "the data loader"
    kind = node.get("type") or ("OptimWrapper" if place == "optim_wrapper" else None)
    if kind is None:
        return None, "the config"
    found = find_class(kind, cfg.get("default_scope"))
    names = None if found is None else legal_arguments(found)
    if names is not None:
        names = names | BUILDER_KEYS | BUILDER_EXTRAS.get(top, set())
    return names, str(kind)


def find_class(kind: Any, scope: str | None) -> Any:
    """Find what a ``type`` of a config means.

    Args:
        kind: The type: a name in any of MMEngine's registries, or a class.
        scope: The config's ``default_scope``.

    Returns:
        The class or function; None when nothing bears that name.
    """
    if not isinstance(kind, str):
        return kind
    from mmengine.registry import Registry, root

    from mmvitconv.engine.quiet import quiet_logger

    for registry in vars(root).values():
        if not isinstance(registry, Registry):
            continue
        # MMEngine warns of each registry that the scope does not extend
        with quiet_logger(), registry.switch_scope_and_registry(scope) as scoped:
            found = scoped.get(kind)
        if found is not None:
            return found
    return None


def _note_on_variable(cfg: Config, key: str) -> str | None:
    """Return a note when ``key`` is a helper variable that nothing reads after parsing."""
    if "." in key or key not in cfg:
        return None
    from mmengine.runner import Runner

    if key in (legal_arguments(Runner) or set()) | RUNNER_EXTRAS:
        return None
    old = cfg[key]
    users = [
        place
        for place, value in walk(cfg)
        if place != key and not isinstance(value, (bool, type(None))) and value == old
    ]
    hint = f"set {' '.join(users[:4])} instead" if users else "set the values derived from it"
    return f"--cfg-options {key} has no effect: it is a helper variable of the config file; {hint}"


def walk(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through everything inside a part of a config.

    Args:
        node: The part.
        place: Its own dotted key.

    Yields:
        Dotted key and value of everything inside.
    """
    items: Any = ()
    if isinstance(node, (Config, dict)):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for key, value in items:
        inside = f"{place}.{key}" if place else str(key)
        yield inside, value
        yield from walk(value, inside)
