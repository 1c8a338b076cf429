"""Every registered backbone family and its architectures: found, not listed.

A family's module offers ``ARCHS``, a table of its architectures.
"""

import importlib
import inspect
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from mmvitconv.models.base import Backbone
from mmvitconv.registry import MODELS

MODELS.import_from_location()
FAMILIES: dict[str, type[Backbone]] = {
    name: cls
    for name, cls in MODELS.module_dict.items()
    if inspect.isclass(cls) and issubclass(cls, Backbone)
}
ARCHS: dict[str, dict[str, Any]] = {
    name: importlib.import_module(cls.__module__).ARCHS for name, cls in FAMILIES.items()
}
ALL = [(name, arch) for name, archs in ARCHS.items() for arch in archs]
# Names of the same sizes: (family, arch) by each further name. DISTINCT has the first ones.
ALIASES = {
    (name, alias): (name, arch)
    for name, archs in ARCHS.items()
    for alias, sizes in archs.items()
    for arch in [next(first for first in archs if archs[first] == sizes)]
    if arch != alias
}
DISTINCT = [pair for pair in ALL if pair not in ALIASES]


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def smallest(name: str) -> str:
    """The family's architecture with the fewest parameters."""

    def size(arch: str) -> int:
        with torch.device("meta"):
            return parameters(FAMILIES[name](arch))

    return min(ARCHS[name], key=size)


def shallow(name: str, arch: str | None = None) -> dict[str, Any]:
    """An architecture, the smallest if none is named, with one block in each stage, as a dict."""
    arch = ARCHS[name][arch or smallest(name)]
    sizes = {field.name: getattr(arch, field.name) for field in fields(arch)}
    if "depth" in sizes:
        return {**sizes, "depth": 1}
    if "num_parc" in sizes:  # one block of each kind
        parc = tuple(min(1, count) for count in sizes["num_parc"])
        return {**sizes, "depths": tuple(1 + count for count in parc), "num_parc": parc}
    return {**sizes, "depths": (1,) * len(sizes["depths"])}
