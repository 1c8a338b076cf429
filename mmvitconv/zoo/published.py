"""Shipped configs and what is published about them, from their metafiles."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmvitconv.datasets.progress import progress
from mmvitconv.engine.configuration import load_config
from mmvitconv.engine.tasks import TASKS
from mmvitconv.registry import SCOPE
from mmvitconv.resources import list_configs, resource_root
from mmvitconv.zoo.table import Paper, Result, ShippedConfig

__all__ = ["ReadConfig", "family_of", "folders_of", "read_entries"]


@dataclass(frozen=True)
class ReadConfig:
    """A shipped config and what it is about."""

    config: ShippedConfig
    model: Mapping[str, Any]
    paper: Paper  # what its metafile names


def family_of(backbone: Mapping[str, Any]) -> str:
    """Return the registered name of a config's backbone, without our scope."""
    return str(backbone["type"]).removeprefix(f"{SCOPE}.")


def folders_of(family: str) -> list[str]:
    """Return the folders in ``configs`` where a file names a family."""
    kind = re.compile(rf"\b{SCOPE}\.{family}\b")
    paths = list_configs().values()
    return sorted({path.parent.name for path in paths if kind.search(path.read_text("utf-8"))})


def read_entries(families: Collection[str]) -> list[ReadConfig]:
    """Read the shipped configs whose backbone is of these families, and their metafiles."""
    root = resource_root()
    index = yaml.safe_load((root / "model-index.yml").read_text("utf-8"))
    metafiles = {
        Path(place).parent.name: yaml.safe_load((root / place).read_text("utf-8"))
        for place in index["Import"]
    }
    folders = {folder for family in families for folder in folders_of(family)}
    keys = [key for key in list_configs() if Path(key).parent.name in folders]
    entries = []
    for key in progress(keys, "reading configs"):
        config = load_config(root / key)
        if family_of(config.model.backbone) in families:
            entries.append(_entry(key, config, metafiles.get(Path(key).parent.name) or {}))
    return entries


def _entry(key: str, config: Config, metafile: Mapping[str, Any]) -> ReadConfig:
    """Return what is known about a config."""
    models = metafile.get("Models") or []
    model = next((model for model in models if model["Config"] == key), {})
    results = tuple(
        Result(result["Task"], result["Dataset"], metric, value, model.get("Published In", ""))
        for result in model.get("Results") or []
        for metric, value in result["Metrics"].items()
    )
    shipped = ShippedConfig(key, TASKS[config.default_scope], results)
    collection = (metafile.get("Collections") or [{}])[0]
    paper, code = collection.get("Paper") or {}, collection.get("Code") or {}
    described = Paper(paper.get("Title", ""), paper.get("URL", ""), code.get("URL", ""))
    return ReadConfig(shipped, config.model, described)
