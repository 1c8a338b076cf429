"""Reading a config and the ``--cfg-options`` that change it, with every mistake named.

This module is used before anything heavy is imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

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
# Dicts without a class, by their last key, whose keys are read by one of several readers: what is
# unlike all of these may have a reader of its own, what is like one of them is a misspelling.
READ_BY_SOME = {
    "filter_cfg": {"filter_empty_gt", "min_size", "bbox_min_size"},
    "clip_grad": {
        *("type", "max_norm", "norm_type", "error_if_nonfinite", "foreach", "clip_value"),
    },
    "nms": {
        *("type", "iou_threshold", "iou_thr", "class_agnostic", "split_thr", "max_num"),
        *("score_threshold", "sigma", "min_score", "method", "offset", "offset_by_class"),
    },
    "data_prefix": {
        *("img", "img_path", "seg", "seg_map_path", "depth_map_path", "text", "video"),
        *("img_path_from", "img_path_to", "sub_data_root", "ann"),
    },
    "train_cfg": {  # of detectors and their heads
        *("rpn", "rpn_proposal", "rcnn", "assigner", "sampler", "init", "refine", "augments"),
        *("allowed_border", "pos_weight", "debug", "mask_size", "mask_thr_binary", "neg_pos_ratio"),
        *("nms", "nms_pre", "nms_post", "max_per_img", "min_bbox_size", "score_thr"),
        *("num_points", "oversample_ratio", "importance_sample_ratio", "smoothl1_beta"),
        *("isr", "carl", "iou_thr", "perm_range", "alpha", "beta", "pos_radius"),
        *("ga_assigner", "ga_sampler", "center_ratio", "ignore_ratio", "reg_assigner"),
        *("initial_epoch", "initial_assigner", "dynamic_rcnn", "max_num_grid"),
    },
    "test_cfg": {
        *("rpn", "rcnn", "nms", "nms_pre", "nms_post", "min_bbox_size", "score_thr"),
        *("max_per_img", "max_per_image", "mask_thr", "mask_thr_binary", "iou_thr", "topk"),
        *("mode", "crop_size", "stride", "size", "size_divisor", "rescale", "scale_factor"),
        *("panoptic", "panoptic_on", "semantic_on", "instance_on", "filter_low_score", "top_k"),
        *("object_mask_thr", "mask_overlap", "stuff_area_limit", "score_voting", "conf_thr"),
        *("subdivision_steps", "subdivision_num_points", "filter_thr", "kernel", "sigma"),
        *("local_maximum_kernel", "corner_topk", "distance_threshold", "with_nms", "chunked_size"),
    },
}
# Dicts, by their last key, whose type is looked up by their reader, not in a registry.
OWN_TYPES = {"nms", "clip_grad", "roi_layer", "upsample_cfg"}
# Keys that are taken out of a typed dict, by its own key, before the class is called.
TAKEN_OUT = {
    "norm_cfg": {"requires_grad"},
    "conv_cfg": {"fallback_on_stride"},
    "dcn": {"fallback_on_stride", "deformable_groups"},
    "loss_cls": {"bg_cls_weight"},
    "init_cfg": {"layer", "override"},
    "vision_encoder": {"pretrained"},
    "policies": {"magnitude_key", "magnitude_range"},
}
# What constructors with ``**kwargs`` pass to something else than their bases.
PASSED_ON = {
    "mmengine.hooks.checkpoint_hook.CheckpointHook": {"meta", "create_symlink"},
}
DATALOADER_EXTRAS = {"dataset", "num_batch_per_epoch", "disable_subprocess_warning", "_delete_"}
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
    names: set[str] = set()
    is_known = False
    for parent in (cls for cls in function.__mro__[:-1] if "__init__" in vars(cls)):
        own, is_open = _named_parameters(parent.__init__)
        names |= own - {"self"}
        passed = PASSED_ON.get(f"{parent.__module__}.{parent.__name__}")
        if passed is not None:
            return names | passed
        if not is_open and parent is function:
            return names
        if is_open and not is_known and not _passes_on(parent.__init__):
            return None
        is_known |= not is_open  # of several bases, any may get the rest
    return names if is_known else None


def _named_parameters(function: Any) -> tuple[set[str], bool]:
    """Return the parameters' names and whether there are ``**kwargs`` besides."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set(), True
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = {parameter.name for parameter in parameters if parameter.kind not in variadic}
    return names, any(parameter.kind is variadic[0] for parameter in parameters)


def _passes_on(constructor: Any) -> bool:
    """Tell whether a constructor gives its ``**kwargs`` to those of its bases, and no one else."""
    uses = _uses_of_kwargs(constructor)
    return bool(uses) and all(uses)


@functools.cache
def _uses_of_kwargs(constructor: Any) -> tuple[bool, ...] | None:
    """Return for each use of ``**kwargs`` whether a base's constructor gets it; None: unknown."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(constructor)))
    except (OSError, TypeError, SyntaxError):
        return None
    kwargs = getattr(getattr(tree.body[0], "args", None), "kwarg", None)
    if kwargs is None:
        return None
    given = {
        id(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "__init__"
        for keyword in node.keywords
        if keyword.arg is None
    }
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == kwargs.arg]
    return tuple(id(node) in given for node in nodes)


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
    legal = legal_keys(node, place, cfg.get("default_scope"))
    existing = set(node.keys())
    if part in legal.names:
        return
    # of a dict whose reader is unknown, only what looks like a misspelling can be refused
    cutoff = 0.6 if legal.is_all else 0.8
    near = get_close_matches(part, existing | legal.names, n=3, cutoff=cutoff)
    if not legal.is_all and not near:
        return
    where = f"below {place!r} " if place else ""
    hint = did_you_mean(near, existing | legal.names)
    raise UserError(f"--cfg-options {key}: {legal.owner} {where}has no {part!r}; {hint}")


def did_you_mean(near: list[str], legal: set[str]) -> str:
    """Return what to write instead of a wrong name.

    Args:
        near: Legal names like it, perhaps none.
        legal: All legal names.

    Returns:
        A clause.
    """
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"legal are {', '.join(sorted(name for name in legal if name[:1] != '_'))}"


class LegalKeys(NamedTuple):
    """The keys that a dict of a config may have.

    Attributes:
        names: The keys.
        owner: Who reads them.
        is_all: Whether no other key is legal; otherwise there may be any.
    """

    names: set[str]
    owner: str
    is_all: bool


def legal_keys(node: Any, place: str, scope: str | None) -> LegalKeys:
    """Return the keys that a dict of a config may have.

    Args:
        node: The dict.
        place: Its dotted key, '' for the config itself.
        scope: The config's ``default_scope``.

    Returns:
        The keys.
    """
    top, _, last = place.partition(".")[0], *place.rpartition(".")[1:]
    if not place:
        from mmengine.runner import Runner

        names = (legal_arguments(Runner) or set()) - {"cfg"} | RUNNER_EXTRAS
        return LegalKeys(names, "the config", True)
    if "type" not in node and place in UNTYPED:
        return LegalKeys(UNTYPED[place] | BUILDER_KEYS, "the config", True)
    if top.endswith("_dataloader") and place == top:
        from torch.utils.data import DataLoader

        names = (legal_arguments(DataLoader) or set()) | DATALOADER_EXTRAS
        return LegalKeys(names, "the data loader", True)
    kind = node.get("type") or ("OptimWrapper" if place == "optim_wrapper" else None)
    if kind is None or last in OWN_TYPES:
        readers = [part for part in place.split(".")[1:] if part in READ_BY_SOME]
        names = READ_BY_SOME[readers[-1]] if readers else set()
        return LegalKeys(names, readers[-1] if readers else "the config", False)
    owner = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    # equal names in several registries: which of them is meant depends on the reader
    classes = list(find_classes(kind, scope))
    found = [legal_arguments(cls) for cls in classes]
    if not found or None in found:
        is_lost = len(classes) == 1 and _uses_of_kwargs(getattr(classes[0], "__init__", 0)) == ()
        names = _named_parameters(classes[0])[0] | BUILDER_KEYS if is_lost else set()
        return LegalKeys(names, owner, False)
    taken = next((TAKEN_OUT[p] for p in reversed(place.split(".")) if p in TAKEN_OUT), set())
    names = set().union(*found) | BUILDER_KEYS | BUILDER_EXTRAS.get(top, set()) | taken
    return LegalKeys(names, owner, True)


def find_class(kind: Any, scope: str | None) -> Any:
    """Find what a ``type`` of a config means.

    Args:
        kind: The type: a name in any of MMEngine's registries, or a class.
        scope: The config's ``default_scope``.

    Returns:
        The class or function; None when nothing bears that name.
    """
    return next(find_classes(kind, scope), None)


def find_classes(kind: Any, scope: str | None) -> Iterator[Any]:
    """Find all that a ``type`` of a config may mean.

    Args:
        kind: See :func:`find_class`.
        scope: See :func:`find_class`.

    Yields:
        What each of the registries has by that name.
    """
    if not isinstance(kind, str):
        yield kind
        return
    registries = _registries(scope)
    name = kind.rpartition(".")[2]
    known = [registry for registry in registries if _has(registry, name)]
    # the others may import the modules that have it
    for some in (known, [registry for registry in registries if registry not in known]):
        found = [_look_up(registry, kind, scope) for registry in some]
        yield from (item for item in found if item is not None)
        if any(item is not None for item in found):
            return


def similar_types(kind: str, scope: str | None) -> list[str]:
    """Return names of registries that are like one that none of them has.

    Args:
        kind: The name.
        scope: The config's ``default_scope``.

    Returns:
        At most three, the nearest first.
    """
    names: set[str] = set()
    for registry in _registries(scope):
        with _scoped(registry, scope) as scoped:
            while scoped is not None:
                names.update(scoped.module_dict)
                scoped = scoped.parent
        for child, others in registry.children.items():
            names.update(f"{child}.{name}" for name in others.module_dict)
    bare = kind.rpartition(".")[2].lower()
    same = sorted(name for name in names if name.rpartition(".")[2].lower() == bare)
    return same[:3] or get_close_matches(kind, names, n=3, cutoff=0.75)


def _registries(scope: str | None) -> list[Any]:
    """Return MMEngine's registries, and those that only the package of a scope has."""
    from mmengine.registry import Registry, root

    own = sys.modules.get(f"{scope}.registry")
    found = [item for item in vars(root).values() if isinstance(item, Registry)]
    others = vars(own).values() if own is not None else ()
    return found + [item for item in others if isinstance(item, Registry) and not item.parent]


def _has(registry: Any, name: str) -> bool:
    """Tell whether a registry or one of its children has a name already."""
    return name in registry.module_dict or any(_has(r, name) for r in registry.children.values())


@contextmanager
def _scoped(registry: Any, scope: str | None) -> Iterator[Any]:
    """Give the registry of a scope without a word; MMEngine warns if the scope has none."""
    from mmvitconv.engine.quiet import quiet_logger

    with quiet_logger(), registry.switch_scope_and_registry(scope) as scoped:
        yield scoped


def _look_up(registry: Any, kind: str, scope: str | None) -> Any:
    """Return what a registry has by a name, None for nothing."""
    with _scoped(registry, scope) as scoped:
        if "." in kind:
            with suppress(RuntimeError):  # the path of nothing that can be imported
                return scoped.get(kind)
            return None
        # MMEngine would import, and so run, any module of that name
        scoped.import_from_location()
        while scoped is not None and kind not in scoped.module_dict:
            scoped = scoped.parent
        return None if scoped is None else scoped.module_dict[kind]


def _note_on_variable(cfg: Config, key: str) -> str | None:
    """Return a note when ``key`` is a helper variable that nothing reads after parsing."""
    from mmengine.runner import Runner

    top, dot, rest = key.partition(".")
    if top not in cfg or top in (legal_arguments(Runner) or set()) | RUNNER_EXTRAS:
        return None
    old = cfg[top]
    users = [
        place + dot + rest
        for place, value in walk(cfg)
        if place != top and not isinstance(value, (bool, type(None))) and value == old
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
