"""Keys and types of a config that nothing reads or has, found without building anything.

What a class takes is read from its constructor, so that a misspelt key is named before the class
is called, or where it takes any key and ignores what it does not know.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvitconv.checks.annotations import Report
from mmvitconv.engine.configuration import (
    OWN_TYPES,
    RUNNER_EXTRAS,
    did_you_mean,
    find_classes,
    legal_arguments,
    legal_keys,
    similar_types,
)
from mmvitconv.engine.quiet import quiet_logger

__all__ = ["check_keys"]

# Dicts whose keys and types mean something else in each data set or module.
FREE = {"metainfo", "meta_keys", "custom_keys", "dist_cfg", "plugins"}
# Places where MMEngine or the frameworks look for the type in a registry.
BUILT = re.compile(
    r"\w+_dataloader\.(dataset|sampler|batch_sampler)(\.dataset|\.datasets\.\d+)*"
    r"|\w+_dataloader\..*\.(pipeline|transforms)(\.\d+)+"
    r"|optim_wrapper(\.optimizer)?|param_scheduler(\.\d+)?|(default|custom)_hooks\.\w+"
    r"|(val|test)_evaluator(\.\d+)?|(train|val|test)_cfg|visualizer|log_processor"
    r"|model(\.(backbone|neck|data_preprocessor|\w*head|loss\w*|\d+))*"
)
TRAINING = {"optim_wrapper", "param_scheduler", "auto_scale_lr", "custom_hooks"}


def check_keys(report: Report, cfg: Config, splits: Sequence[str]) -> None:
    """Name the keys that their readers do not know, and the types that no registry has.

    Args:
        report: Gets the problems.
        cfg: The config.
        splits: Those of 'train', 'val' and 'test' that are used.
    """
    runner = (legal_arguments(_runner()) or set()) | RUNNER_EXTRAS
    unused = {"train", "val", "test"} - set(splits)
    scope = cfg.get("default_scope")
    for top, node in cfg.items():
        is_unused = top.partition("_")[0] in unused or ("train" in unused and top in TRAINING)
        if top in runner and not is_unused:
            # a training does not need the test data
            tell = report.warn if top.startswith("test_") and "train" in splits else report.error
            for place, kind in _mistakes(node, top, scope):
                if kind not in report.errors or tell == report.error:
                    tell(kind, place)
    if "train" in splits:
        _check_custom_keys(report, cfg)


def _runner() -> Any:
    from mmengine.runner import Runner

    return Runner


def _mistakes(node: Any, place: str, scope: str | None) -> Iterator[tuple[str, str]]:
    """Yield place and kind of each mistake in a part of a config."""
    if isinstance(node, (list, tuple)):
        for number, item in enumerate(node):
            yield from _mistakes(item, f"{place}.{number}", scope)
    if not isinstance(node, Mapping):
        return
    scope = node.get("_scope_") or scope
    last = place.rpartition(".")[2]
    kind = node.get("type")
    is_built = BUILT.fullmatch(place) is not None
    is_class = isinstance(kind, str) and last not in OWN_TYPES and (is_built or kind[:1].isupper())
    if is_class and not any(True for _ in find_classes(kind, scope)):
        near = similar_types(kind, scope)
        if near or is_built:
            hint = "is the package that has it installed, and named in custom_imports?"
            if near:
                hint = f"did you mean {' or '.join(map(repr, near))}?"
            yield f"{place}.type", f"no class is registered as {kind!r}: {hint}"
    legal = legal_keys(node, place, scope)
    for key, item in node.items():
        inside = f"{place}.{key}"
        if legal.names and key not in legal.names:
            near = get_close_matches(
                str(key), legal.names, n=2, cutoff=0.6 if legal.is_all else 0.8
            )
            if near or legal.is_all:
                yield inside, f"{legal.owner} has no {key!r}: {did_you_mean(near, legal.names)}"
        is_foreign = (
            key in FREE
            or (key == "paramwise_cfg" and not _is_default(node.get("constructor")))
            or (key == "transforms" and str(kind).rpartition(".")[2] in ("Albu", "Albumentations"))
        )
        if not is_foreign:
            yield from _mistakes(item, inside, scope)


def _is_default(constructor: Any) -> bool:
    """Tell whether an optimizer's constructor reads the options of MMEngine's and of ours."""
    name = str(constructor or "").rpartition(".")
    return name[0] == "mmvitconv" or name[2] in ("", "DefaultOptimWrapperConstructor")


def _check_custom_keys(report: Report, cfg: Config) -> None:
    """Name the groups of parameters that have none."""
    settings = (cfg.get("optim_wrapper") or {}).get("paramwise_cfg") or {}
    custom = settings.get("custom_keys") if isinstance(settings, Mapping) else None
    names = _parameter_names(cfg) if isinstance(custom, Mapping) and custom else []
    parts = sorted({part for name in names for part in name.split(".")})
    for key in custom if names else ():
        # a recipe of several models may name what some of them lack, but not nearly name something
        near = get_close_matches(str(key).rpartition(".")[2], parts, 1, 0.9)
        if near and not any(str(key) in f".{name}" for name in names):
            report.warn(
                f"no parameter of the model has {key!r} in its name, so that the entry changes "
                f"nothing: did you mean {near[0]!r}?",
                f"optim_wrapper.paramwise_cfg.custom_keys.{key}",
            )


def _parameter_names(cfg: Config) -> list[str]:
    """Return the names of the model's parameters; none where it cannot be built here."""
    with (
        suppress(Exception),
        quiet_logger(),
        redirect_stdout(io.StringIO()),
        torch.device("meta"),
    ):
        model = MODELS.build({k: v for k, v in cfg["model"].items() if k != "init_cfg"})
        return [name for name, _ in model.named_parameters()]
    return []
