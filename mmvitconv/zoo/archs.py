"""Names of architectures: what people call them, and the classes in the registry behind them.

Names are looked up in the generated table, and torch is imported only where a class is asked for.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.resources import find_config, is_config, list_configs
from mmvitconv.weights.addresses import address_of
from mmvitconv.weights.index import find_weights
from mmvitconv.zoo.table import SCOPE, read_table

if TYPE_CHECKING:
    from mmvitconv.models.base import Backbone

__all__ = [
    "check_timm_name",
    "list_families",
    "match_arch",
    "names_of",
    "plain",
    "table_of",
]


def list_families() -> dict[str, type[Backbone]]:
    """Return every registered backbone whose module has a table ``ARCHS``, by name."""
    from mmvitconv.registry import MODELS

    MODELS.import_from_location()
    return _registered()


def _registered() -> dict[str, type[Backbone]]:
    """Return the families that are registered by now."""
    from mmvitconv.models.base import Backbone
    from mmvitconv.registry import MODELS

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


def plain(name: str) -> str:
    """Return a name without what people write differently: case, spaces, dots, dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix(f"{SCOPE}."))


def match_arch(name: str) -> tuple[str, str]:
    """Return the family and the architecture that a name means.

    Args:
        name: Family and name, ``'fcvit_s12'``, ``'FCViT s12'``, ``'mmvitconv.FCViT-S12'``; the name
            alone where only one family has it; the family where it has one architecture; a config;
            or published weights, ``'mmvitconv://fcvit_s12'``.

    Returns:
        Registered name of the family, and what its argument ``arch`` takes.

    Raises:
        UserError: It means none (with similar names) or several (with all of them).
    """
    if address_of(name).startswith(f"{SCOPE}://"):
        entry = find_weights(address_of(name).removeprefix(f"{SCOPE}://"))
        family, _, arch = entry.architecture.partition(":")
        return family, arch
    if is_config(name):
        found = _arch_of_config(name)
        if found is None:
            raise UserError(f"the backbone of the config {name} is no architecture of mmvitconv")
        return found
    meanings: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for family, first, names in _known():
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
    if is_config(config := f"{name}_imagenet"):  # a name of create_model's: settings, too
        hint = f"that is an architecture with settings of its own: give the config {config}"
    raise UserError(f"there is no architecture {name!r}; {hint}")


def _known() -> Iterator[tuple[str, str, list[str]]]:
    """Yield family, first name and all names of each architecture, other people's included."""
    table = read_table()
    for family, entry in table.items():
        for arch in entry.archs:
            yield family, arch.arch, [arch.arch, *arch.aliases]
    if "mmvitconv.registry" in sys.modules:  # else nobody can have registered one
        for family, cls in _registered().items():
            if family not in table:
                yield from ((family, first, names) for first, names in names_of(cls).items())


def _arch_of_config(name: str) -> tuple[str, str] | None:
    """Return family and architecture of a config's backbone; None for sizes of its own."""
    path, table = find_config(name), read_table()
    shipped = next((key for key, file in list_configs().items() if file == path), None)
    if shipped is not None:
        archs = (arch for entry in table.values() for arch in entry.archs)
        found = (arch for arch in archs if shipped in (config.path for config in arch.configs))
        return next(((arch.family, arch.arch) for arch in found), None)
    backbone: Mapping[str, Any] = (load_config(path).get("model") or {}).get("backbone") or {}
    family = str(backbone.get("type")).removeprefix(f"{SCOPE}.")
    if family not in table:
        return None
    arch = backbone.get("arch", table[family].default)
    return next(
        ((family, first) for known, first, names in _known() if known == family and arch in names),
        None,
    )


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
