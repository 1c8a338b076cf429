"""The zoo: every registered architecture with its size, its cost and what is published about it.

Architectures come from the registry, sizes and costs from the models themselves, built without
memory on PyTorch's meta device, and published results from the metafiles of the configs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.registry import MODELS, SCOPE
from mmvitconv.resources import list_configs
from mmvitconv.zoo.archs import arch_of, list_families, names_of, plain, resolve_arch
from mmvitconv.zoo.costs import count_complexity
from mmvitconv.zoo.published import (
    TASKS,
    Entry,
    Paper,
    Result,
    ShippedConfig,
    family_of,
    folders_of,
    read_entries,
)

__all__ = [
    "TASKS",
    "Arch",
    "Paper",
    "Result",
    "ShippedConfig",
    "count_macs",
    "count_stage_parameters",
    "find_arch",
    "list_archs",
    "write_snippet",
]

_CLASSIFIER_SHAPE = (224, 224)
# Arguments of a backbone that belong to a training and not to what is plugged together.
_TRAINING_ARGUMENTS = frozenset(
    (
        *("drop_path_rate", "drop_rate", "frozen_stages", "norm_eval", "with_cp"),
        *("init_cfg", "layer_scale_init_value"),
    )
)


@dataclass(frozen=True)
class Arch:
    """An architecture of a family, as its backbone with default arguments.

    Attributes:
        family: Name of the registered class, ``'FCViT'``.
        arch: What its argument ``arch`` takes.
        aliases: Other names of the same.
        parameters: Parameters of the backbone, without a classifier's head.
        macs_224: Multiply-adds of the backbone for one image of 224 x 224.
        strides: Of its outputs, in pixels.
        out_channels: Channels of its outputs.
        tasks: Values of :data:`TASKS` that shipped configs use it for.
        paper: Where it comes from; None if no config uses the family.
        configs: The shipped configs that use it.
    """

    family: str
    arch: str
    aliases: tuple[str, ...]
    parameters: int
    macs_224: int
    strides: tuple[int, ...]
    out_channels: tuple[int, ...]
    tasks: tuple[str, ...]
    paper: Paper | None
    configs: tuple[ShippedConfig, ...]

    @property
    def type(self) -> str:
        """What a config writes: ``'mmvitconv.FCViT'``."""
        return f"{SCOPE}.{self.family}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return {"type": self.type, **asdict(self)}


def list_archs(family: str | None = None, task: str | None = None) -> list[Arch]:
    """Return all registered architectures, with a progress bar on a terminal.

    Args:
        family: Only this one, ``'FCViT'``, in any case; also a folder of configs, ``'parc'``.
        task: Only those that a shipped config uses for this task.

    Returns:
        Architectures by family, in the order of the registry and of each family's table.

    Raises:
        UserError: Unknown family or task.
    """
    if task is not None and task not in TASKS.values():
        raise UserError(f"the task {task!r} is unknown; give one of {', '.join(TASKS.values())}")
    families = list_families()
    if family is not None:
        chosen = _match_families(family, families)
        families = {name: cls for name, cls in families.items() if name in chosen}
    names = [(name, arch) for name, cls in families.items() for arch in names_of(cls)]
    entries = read_entries(families)
    if task is not None:
        used = {arch_of(e.model.backbone) for e in entries if e.config.task == task}
        names = [pair for pair in names if pair in used]
    return [_measure(*pair, entries) for pair in progress(names, "counting multiply-adds")]


def find_arch(name: str) -> Arch:
    """Return one architecture.

    Args:
        name: In any spelling that :func:`mmvitconv.zoo.archs.resolve_arch` takes: ``'FCViT:s12'``,
            ``'fcvit_s12'``, a shipped config.

    Returns:
        The architecture.

    Raises:
        UserError: It means none (with similar names) or several (with all of them).
    """
    family, arch = resolve_arch(name)
    return _measure(family, arch, read_entries([family]))


def count_macs(arch: Arch, shape: tuple[int, int]) -> int | None:
    """Count the multiply-adds of the backbone for one image.

    Args:
        arch: From :func:`find_arch` or :func:`list_archs`.
        shape: Height and width in pixels.

    Returns:
        The number, or None where the backbone refuses such a size.
    """
    backbone = _build({"type": arch.type, "arch": arch.arch})
    try:
        return _count(backbone, shape)
    except ValueError:
        return None


def count_stage_parameters(arch: Arch) -> tuple[str, list[int], int]:
    """Count the parameters of each stage.

    Args:
        arch: From :func:`find_arch` or :func:`list_archs`.

    Returns:
        What the stages are called (``'stages'`` or ``'blocks'``), the parameters of each in order,
        and those that belong to none (of a stem in front of all).
    """
    backbone = _build({"type": arch.type, "arch": arch.arch})
    counts = [
        sum(p.numel() for module in backbone.stage_modules(stage) for p in module.parameters())
        for stage in range(backbone.num_stages)
    ]
    return backbone.unit, counts, arch.parameters - sum(counts)


def write_snippet(arch: Arch) -> str:
    """Write the lines that put an architecture into somebody's detection config.

    The neck is that of the family's shipped detection config.

    Args:
        arch: From :func:`find_arch` or :func:`list_archs`.

    Returns:
        Python code that assigns ``model``.
    """
    entries = read_entries([arch.family])
    detectors = [entry for entry in entries if entry.model.type == "MaskRCNN"]
    # on COCO, its own if there is one, with few arguments
    detectors.sort(
        key=lambda entry: (
            "coco" not in entry.config.path,
            entry.config not in arch.configs,
            len(entry.model.backbone),
        )
    )
    backbone, neck, before = {"type": arch.type, "arch": arch.arch}, {"type": "FPN"}, ()
    if detectors:
        given, neck = detectors[0].model.backbone, detectors[0].model.neck
        kept = {key: value for key, value in given.items() if key not in _TRAINING_ARGUMENTS}
        before, backbone = _build(kept).out_channels, {**kept, "arch": arch.arch}
    after = _build(backbone).out_channels
    if isinstance(neck, Mapping) and neck["type"] == "FPN":
        neck = {"in_channels": list(after)}
    else:
        neck = _replace_channels(neck, dict(zip(before, after, strict=True)))
        if isinstance(neck, dict):
            neck = {"_delete_": True, **neck}
    model = {"backbone": {"_delete_": True, **backbone}, "neck": neck}
    lines = [f"    {key}={_as_code(value)}," for key, value in model.items()]
    return "\n".join(["model = dict(", *lines, ")"])


def _match_families(name: str, families: Collection[str]) -> list[str]:
    """Return the families of this name, or those whose configs are in a folder of this name."""
    wanted = plain(name)
    found = [family for family in families if plain(family) == wanted]
    folders = [Path(key).parent.name for key in list_configs()]
    folder = next((folder for folder in folders if plain(folder) == wanted), None)
    if folder is not None and not found:
        found = [family for family in families if folder in folders_of(family)]
    if found:
        return found
    legal = [*dict.fromkeys(folders), *families]
    near = {plain(key): key for key in legal}
    close = [near[key] for key in get_close_matches(wanted, near, n=1)]
    hint = f"did you mean {close[0]!r}?" if close else f"give one of {', '.join(legal)}"
    raise UserError(f"there is no family {name!r}; {hint}")


def _build(backbone: Mapping[str, Any]) -> Backbone:
    """Build a backbone without memory."""
    with torch.device("meta"):
        return MODELS.build({**backbone, "init_cfg": None})


def _count(backbone: Backbone, shape: tuple[int, int]) -> int:
    image = torch.empty(1, backbone.in_channels, *shape, device="meta")
    return count_complexity(backbone, image).macs.total


def _measure(family: str, arch: str, entries: Sequence[Entry]) -> Arch:
    """Return an architecture with everything counted."""
    backbone = _build({"type": f"{SCOPE}.{family}", "arch": arch})
    own = [entry for entry in entries if arch_of(entry.model.backbone) == (family, arch)]
    papers = (entry.paper for entry in entries if family_of(entry.model.backbone) == family)
    used = {entry.config.task for entry in own}
    names = names_of(type(backbone))[arch]
    return Arch(
        family=family,
        arch=arch,
        aliases=tuple(name for name in names if name != arch),
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        macs_224=_count(backbone, _CLASSIFIER_SHAPE),
        strides=tuple(backbone.strides),
        out_channels=tuple(backbone.out_channels),
        tasks=tuple(task for task in TASKS.values() if task in used),
        paper=next(papers, None),
        configs=tuple(entry.config for entry in own),
    )


def _replace_channels(neck: Any, new: Mapping[int, int]) -> Any:
    """Return the config of a neck for other channels of the backbone."""
    if isinstance(neck, (list, tuple)):
        return [_replace_channels(part, new) for part in neck]
    given = neck["in_channels"]
    is_one = isinstance(given, int)
    channels = new[given] if is_one else [new[count] for count in given]
    return {**neck, "in_channels": channels}


def _as_code(value: Any) -> str:
    """Return plain data as Python code in the style of our configs."""
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{key}={_as_code(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_code, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
