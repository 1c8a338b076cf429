"""Look up architectures: what they cost, what uses them and what is published about them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from mmvitconv.engine.tasks import TASKS
from mmvitconv.errors import UserError
from mmvitconv.resources import list_configs
from mmvitconv.zoo.archs import match_arch, plain
from mmvitconv.zoo.table import Arch, Paper, Result, ShippedConfig, read_table

__all__ = [
    "Arch",
    "Paper",
    "Result",
    "ShippedConfig",
    "find_arch",
    "list_archs",
    "published_accuracies",
]


def list_archs(family: str | None = None, task: str | None = None) -> list[Arch]:
    """Return the architectures of this package.

    Args:
        family: Only this one, ``'FCViT'``, in any case; also a folder of configs, ``'parc'``.
        task: Only those that a shipped config uses for this task.

    Returns:
        Architectures by family, in the order of the registry and of each family's table.

    Raises:
        UserError: Unknown family or task.

    Examples:
        >>> [arch.arch for arch in list_archs("fcvit")]
        ['tiny', 's12', 's24', 's48']
    """
    if task is not None and task not in TASKS.values():
        raise UserError(f"the task {task!r} is unknown; give one of {', '.join(TASKS.values())}")
    table = read_table()
    chosen = table if family is None else _match_families(family)
    archs = [arch for name in chosen for arch in table[name].archs]
    return [arch for arch in archs if task is None or task in arch.tasks]


def find_arch(name: str) -> Arch:
    """Return one architecture.

    Args:
        name: In any spelling that :func:`mmvitconv.zoo.archs.match_arch` takes:
            ``'FCViT:s12'``, ``'fcvit_s12'``, a config.

    Returns:
        The architecture.

    Raises:
        UserError: It means none (with similar names) or several (with all of them).
    """
    family, arch = match_arch(name)
    known = read_table()[family].archs if family in read_table() else ()
    found = next((entry for entry in known if entry.arch == arch), None)
    if found is None:
        raise UserError(f"{family} {arch} is not part of mmvitconv; the zoo has its own only")
    return found


def published_accuracies() -> dict[str, float]:
    """Return the published ImageNet-1k top-1 in per cent by ``FAMILY:ARCH``."""
    return {
        f"{arch.family}:{arch.arch}": result.value
        for arch in list_archs()
        for config in arch.configs
        for result in config.results
        if "ImageNet" in result.dataset and "Top 1" in result.metric
    }


def _match_families(name: str) -> list[str]:
    """Return the families of this name, or those whose configs are in a folder of this name."""
    wanted, table = plain(name), read_table()
    found = [family for family in table if plain(family) == wanted]
    folders = [Path(key).parent.name for key in list_configs()]
    folder = next((folder for folder in folders if plain(folder) == wanted), None)
    if folder is not None and not found:
        found = [family for family, entry in table.items() if folder in entry.folders]
    if found:
        return found
    legal = [*dict.fromkeys(folders), *table]
    near = {plain(key): key for key in legal}
    close = [near[key] for key in get_close_matches(wanted, near, n=1)]
    hint = f"did you mean {close[0]!r}?" if close else f"give one of {', '.join(legal)}"
    raise UserError(f"there is no family {name!r}; {hint}")
