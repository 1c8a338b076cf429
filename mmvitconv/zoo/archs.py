"""Which architectures there are, found in the registry, and what people call them."""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch

from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.registry import MODELS, SCOPE
from mmvitconv.resources import is_config


def list_families() -> dict[str, type[Backbone]]:
    """Return every registered backbone whose module has a table ``ARCHS``, by name."""
    MODELS.import_from_location()
    return {
        name: cls
        for name, cls in MODELS.module_dict.items()
        if inspect.isclass(cls) and issubclass(cls, Backbone) and table_of(cls)
    }


def table_of(cls: type[Backbone]) -> Mapping[str, Any]:
    """Return the sizes of a family's architectures, by name."""
    return getattr(sys.modules[cls.__module__], "ARCHS", {})


def names_of(cls: type[Backbone]) -> dict[str, list[str]]:
    """Return a family's architectures: all names that mean the same, by the first of them."""
    groups: dict[str, list[str]] = {}
    for name, sizes in table_of(cls).items():
        first = next((key for key in groups if table_of(cls)[key] == sizes), name)
        groups.setdefault(first, []).append(name)
    return groups


def smallest_of(cls: type[Backbone]) -> str:
    """Return the family's architecture with the fewest parameters."""

    def size(arch: str) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in cls(arch).parameters())

    return min(names_of(cls), key=size)


def plain(name: str) -> str:
    """Return a name without what people write differently: case, spaces, dots, dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix(f"{SCOPE}."))


def resolve_arch(name: str) -> tuple[str, str]:
    """Return the family and the architecture that a name means.

    Args:
        name: Family and name, ``'fcvit_s12'``, ``'FCViT s12'``, ``'mmvitconv.FCViT-S12'``; the name
            alone where only one family has it; the family where it has one architecture; or a
            config.

    Returns:
        Registered name of the family, and what its argument ``arch`` takes.

    Raises:
        UserError: It means none (with similar names) or several (with all of them).
    """
    if is_config(name):
        config = load_config(name)
        found = arch_of(config.model.backbone) if "backbone" in config.get("model", {}) else None
        if found is None:
            raise UserError(f"the backbone of the config {name} is no architecture of mmvitconv")
        return found
    meanings: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for family, cls in list_families().items():
        for first, names in names_of(cls).items():
            for spelling in (family, *names, *(family + arch for arch in names)):
                meanings[plain(spelling)].add((family, first))
    found = sorted(meanings.get(plain(name), ()))
    if len(found) == 1:
        return found[0]
    if found:
        candidates = ", ".join(f"{family} {arch}" for family, arch in found)
        raise UserError(f"{name!r} means several architectures; give one of: {candidates}")
    near = get_close_matches(plain(name), meanings, n=3, cutoff=0.7)
    close = dict.fromkeys(f"{f} {arch}" for key in near for f, arch in sorted(meanings[key]))
    hint = f"did you mean {' or '.join(close)}?" if close else "'mmvitconv list' shows all"
    raise UserError(f"there is no architecture {name!r}; {hint}")


def build_arch(name: str) -> Backbone:
    """Build a backbone with default arguments and fresh weights.

    Args:
        name: As of :func:`resolve_arch`.
    """
    family, arch = resolve_arch(name)
    return list_families()[family](arch)


def check_timm_name(name: str) -> None:
    """Raise a UserError when timm has no model of a name, or is not installed itself.

    Args:
        name: As in timm's own list; what timm would download is none.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"{name!r} is a model of timm, which is not installed; run: pip install timm"
        ) from error
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them"
        raise UserError(f"timm has no model {name!r}; {hint}")


def arch_of(backbone: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return family and architecture of a config's backbone; None for sizes of its own."""
    family = str(backbone.get("type")).removeprefix(f"{SCOPE}.")
    cls = list_families().get(family)
    if cls is None:
        return None
    default = inspect.signature(cls).parameters["arch"].default
    arch = backbone.get("arch", default)
    groups = names_of(cls).items()
    return next(((family, first) for first, names in groups if arch in names), None)
