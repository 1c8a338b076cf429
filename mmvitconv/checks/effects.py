"""Settings of a config file that have no effect, found by reading the file and its bases.

MMEngine merges files by keys. A variable of a base, set again in a file above it, changes nothing
that the base has made of it.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.layout import leaf_datasets
from mmvitconv.engine.configuration import RUNNER_EXTRAS, legal_arguments, load_config, walk
from mmvitconv.resources import find_base

__all__ = ["check_effects"]

OWN_KEYS = {"data_source", "default_scope", "env_cfg", "visualizer", "file_client_args"}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# OpenMMLab 1.x and 2.x: the key of the former, what to write
EARLIER = {
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "optimizer": "optim_wrapper=dict(optimizer=...)",
    "optimizer_config": "optim_wrapper=dict(clip_grad=...)",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "runner": "train_cfg=dict(max_epochs=...)",
    "total_epochs": "train_cfg=dict(max_epochs=...)",
    "total_iters": "train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)",
    "evaluation": "val_evaluator and train_cfg=dict(val_interval=...)",
    "checkpoint_config": "default_hooks=dict(checkpoint=...)",
    "log_config": "default_hooks=dict(logger=...)",
    "workflow": "train_cfg and val_cfg",
    "dist_params": "env_cfg=dict(dist_cfg=...)",
    "fp16": "optim_wrapper=dict(type='AmpOptimWrapper')",
    "seed": "randomness=dict(seed=...)",
    "resume_from": "resume=True and load_from",
    "samples_per_gpu": "train_dataloader=dict(batch_size=...)",
    "workers_per_gpu": "train_dataloader=dict(num_workers=...)",
}
# a variable of a base, the key that it usually becomes
READ_AS = {
    "train_pipeline": "train_dataloader.dataset.pipeline",
    "test_pipeline": "val_dataloader.dataset.pipeline",
    "val_pipeline": "val_dataloader.dataset.pipeline",
    "dataset_type": "train_dataloader.dataset.type",
    "class_name": "train_dataloader.dataset.metainfo.classes",
    "class_names": "train_dataloader.dataset.metainfo.classes",
    "classes": "train_dataloader.dataset.metainfo.classes",
    "num_classes": "num_classes of the model's heads",
    "batch_size": "train_dataloader.batch_size",
    "num_workers": "train_dataloader.num_workers",
    "max_epochs": "train_cfg.max_epochs",
    "max_iters": "train_cfg.max_iters",
    "lr": "optim_wrapper.optimizer.lr",
    "learning_rate": "optim_wrapper.optimizer.lr",
    "base_lr": "optim_wrapper.optimizer.lr",
    **{key: f"train_dataloader.dataset.{key}" for key in ("data_root", "metainfo", "ann_file")},
    "data_prefix": "train_dataloader.dataset.data_prefix",
    "img_suffix": "train_dataloader.dataset.img_suffix",
}


class Source(NamedTuple):
    """What one file of a config sets and reads.

    Attributes:
        path: The file.
        set: The names that it sets, each with its line.
        read: The names that it reads itself.
        read_of_bases: The names that it reads of its bases.
    """

    path: str
    set: dict[str, int]
    read: set[str]
    read_of_bases: set[str]


def check_effects(report: Report, cfg: Config) -> None:
    """Name settings that nothing reads.

    Args:
        report: Gets the problems.
        cfg: A config, as read from its file.
    """
    read = (legal_arguments_of_runner() - {"cfg"}) | RUNNER_EXTRAS | OWN_KEYS
    sources = read_sources(cfg.filename) if cfg.get("model") and cfg.filename else []
    values = [value for key, node in cfg.items() if key in read for _, value in walk(node, key)]
    values += [node for key, node in cfg.items() if key in read]
    named: dict[str, list[Any]] = {}  # by their last key
    for top, node in cfg.items():
        for place, value in walk(node, top) if top in read else ():
            named.setdefault(place.rpartition(".")[2], []).append(value)
    for number, source in enumerate(sources):
        bases = sources[number + 1 :]
        # a base has read what it reads before this file sets it
        read_above = set().union(*(above.read_of_bases for above in sources[:number]))
        name = os.path.basename(source.path)
        for key, line in source.set.items():
            if key in read | read_above | source.read or key.startswith("_"):
                continue
            value = cfg.get(key)
            where = f"{name}:{line}: {key}"
            if key in EARLIER:
                kind = f"a key of OpenMMLab 1.x, which nothing reads: write {EARLIER[key]}"
                report.error(kind, where)
                continue
            base = next((base for base in bases if key in base.set), None)
            is_used = _is_among(value, values)
            if is_used and bases and key in READ_AS and isinstance(value, (int, float)):
                # equal numbers elsewhere mean nothing
                is_used = _is_among(value, named.get(READ_AS[key].split()[0].split(".")[-1], []))
            if base is not None and not is_used:
                there = f"{os.path.basename(base.path)}:{base.set[key]}"
                report.error(
                    f"it has no effect: {there} sets it, too, and uses its own value, "
                    "which counts: write "
                    f"{READ_AS.get(key, 'the keys that are made of it')} in your file",
                    where,
                )
            elif key in READ_AS and not is_used:
                kind = f"it has no effect, as nothing reads it: write {READ_AS[key]}"
                # a whole config that says the same elsewhere has a variable left over
                is_left = not bases and _is_set(cfg, READ_AS[key])
                (report.warn if is_left else report.error)(kind, where)
            # a config that a run has written has all its helper variables, written out
            elif not is_used and (near := get_close_matches(key, sorted(read), 1, 0.85)):
                report.error(f"nothing reads it: did you mean {near[0]!r}?", where)
        _compare_splits(report, cfg, source, bases)


def legal_arguments_of_runner() -> set[str]:
    """Return the keys of a config that MMEngine's runner reads."""
    from mmengine.runner import Runner

    return legal_arguments(Runner) or set()


def _is_set(cfg: Mapping[str, Any], place: str) -> bool:
    """Tell whether a config has something at a place."""
    node: Any = cfg
    for key in place.split("."):
        node = node.get(key) if isinstance(node, (Mapping, Config)) else None
    return node is not None


def _is_among(value: Any, values: list[Any]) -> bool:
    """Tell whether a value, or the values inside it, are used somewhere."""
    if isinstance(value, (bool, type(None))):
        return False
    return any(type(other) is type(value) and other == value for other in values)


def read_sources(filename: str) -> list[Source]:
    """Read which names the files of a config set and use.

    Args:
        filename: The config.

    Returns:
        The file itself, then its bases; empty for files that are not Python.
    """
    found: list[Source] = []
    waiting, seen = [os.path.abspath(filename)], set()
    while waiting:
        path = waiting.pop(0)
        if path in seen or not path.endswith(".py") or not os.path.isfile(path):
            continue
        seen.add(path)
        text = Path(path).read_text(encoding="utf-8")
        above = set(re.findall(r"\{\{\s*_base_\.(\w+)", text))
        plain = re.sub(r"\{\{\s*_base_[^}]*\}\}", "None", text)
        try:
            tree = ast.parse(re.sub(r"\{\{\s*file[^}]*\}\}", "None", plain))
        except SyntaxError:
            continue
        names: dict[str, int] = {}
        for node in tree.body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else ([node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else [])
            )
            for target in targets:
                for item in ast.walk(target):
                    if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                        names.setdefault(item.id, item.lineno)
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _is_read(n)}
        above |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "_base_"
        }
        if any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree)):
            above |= read  # of the lazy kind, where names of bases are imported
        found.append(Source(path, names, read, above))
        bases = Config._get_base_files(path)
        waiting += [str(find_base(base, path)) for base in bases]
    return found


def _is_read(name: ast.Name) -> bool:
    """Tell whether a name is read where it stands."""
    return isinstance(name.ctx, ast.Load)


def _compare_splits(report: Report, cfg: Config, source: Source, bases: list[Source]) -> None:
    """Tell a test data set that is left over from a base, where validation has the user's."""
    if "val_dataloader" not in source.set or "test_dataloader" in source.set:
        return
    val, test = (_places(cfg, split) for split in LOADERS[1:])
    if not test or val == test or not any("test_dataloader" in base.set for base in bases):
        return
    direct = Config._get_base_files(source.path)
    for base in direct:
        path = find_base(base, source.path)
        try:
            before = load_config(path)
        except Exception:  # of another project, which is not here
            continue
        if test == _places(before, "test_dataloader") == _places(before, "val_dataloader"):
            report.error(
                f"test_dataloader is still that of {os.path.basename(path)}, so that 'test' would "
                f"score {test[0]}, but val_dataloader has {val[0] if val else 'none'}: write "
                "test_dataloader = val_dataloader and test_evaluator = val_evaluator",
                f"{os.path.basename(source.path)}: test_dataloader",
            )


def _places(cfg: Mapping[str, Any], loader: str) -> list[str]:
    """Return where the data of a loader are."""
    found = []
    for _, item in leaf_datasets(cfg.get(loader), loader):
        root, file = str(item.get("data_root") or ""), item.get("ann_file")
        prefix = item.get("data_prefix")
        inside = (
            file
            or (prefix if isinstance(prefix, str) else "")
            or (" ".join(map(str, prefix.values())) if isinstance(prefix, Mapping) else "")
        )
        found.append(os.path.join(root, str(inside)))
    return found
