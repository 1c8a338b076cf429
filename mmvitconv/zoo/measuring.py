"""Measure the architectures for the table: what ``tools/misc/write_zoo.py`` writes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmvitconv.datasets.progress import progress
from mmvitconv.engine.tasks import TASKS
from mmvitconv.models.base import Backbone
from mmvitconv.registry import MODELS, SCOPE
from mmvitconv.zoo.archs import list_families, names_of
from mmvitconv.zoo.costs import count_complexity
from mmvitconv.zoo.published import ReadConfig, family_of, folders_of, read_entries
from mmvitconv.zoo.table import Arch, Family

__all__ = ["measure_families"]

_SHAPES = ((224, 224), (512, 512), (800, 1280))
# Arguments of a backbone that belong to a training and not to what is plugged together.
_TRAINING_ARGUMENTS = frozenset(
    (
        *("drop_path_rate", "drop_rate", "frozen_stages", "norm_eval", "with_cp"),
        *("init_cfg", "layer_scale_init_value"),
    )
)


def measure_families() -> dict[str, Family]:
    """Build every registered architecture without memory and count, with a progress bar.

    Returns:
        Families by registered name.
    """
    families = list_families()
    entries = read_entries(families)
    archs = [(name, arch) for name, cls in families.items() for arch in names_of(cls)]
    measured = [_measure(*pair, entries) for pair in progress(archs, "counting multiply-adds")]
    return {
        name: Family(
            _default_arch(cls),
            tuple(folders_of(name)),
            tuple(arch for arch in measured if arch.family == name),
        )
        for name, cls in families.items()
    }


def _default_arch(cls: type[Backbone]) -> str:
    """Return the first name of the architecture that a family builds when none is given."""
    default = inspect.signature(cls).parameters["arch"].default
    return next(first for first, names in names_of(cls).items() if default in names)


def _measure(family: str, arch: str, entries: Sequence[ReadConfig]) -> Arch:
    """Return an architecture with everything counted."""
    backbone = _build({"type": f"{SCOPE}.{family}", "arch": arch})
    names = names_of(type(backbone))[arch]
    own = [
        entry
        for entry in entries
        if family_of(entry.model.backbone) == family
        and entry.model.backbone.get("arch", _default_arch(type(backbone))) in names
    ]
    papers = (entry.paper for entry in entries if family_of(entry.model.backbone) == family)
    used = {entry.config.task for entry in own}
    parts = [
        sum(p.numel() for module in backbone.stage_modules(stage) for p in module.parameters())
        for stage in range(backbone.num_stages)
    ]
    return Arch(
        family=family,
        arch=arch,
        aliases=tuple(name for name in names if name != arch),
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        macs={f"{height}x{width}": _count(backbone, height, width) for height, width in _SHAPES},
        strides=tuple(backbone.strides),
        out_channels=tuple(backbone.out_channels),
        tasks=tuple(task for task in TASKS.values() if task in used),
        paper=next(papers, None),
        configs=tuple(entry.config for entry in own),
        unit=backbone.unit,
        part_parameters=tuple(parts),
        snippet=_write_snippet(family, arch, own, entries),
    )


def _build(backbone: Mapping[str, Any]) -> Backbone:
    """Build a backbone without memory."""
    with torch.device("meta"):
        return MODELS.build({**backbone, "init_cfg": None})


def _count(backbone: Backbone, height: int, width: int) -> int | None:
    """Return the multiply-adds for one image; None where the backbone refuses its size."""
    image = torch.empty(1, backbone.in_channels, height, width, device="meta")
    try:
        return count_complexity(backbone, image).macs.total
    except ValueError:
        return None


def _write_snippet(
    family: str, arch: str, own: Sequence[ReadConfig], entries: Sequence[ReadConfig]
) -> str:
    """Write the lines that put an architecture into a detection config, with the family's neck."""
    detectors = [
        entry
        for entry in entries
        if entry.model.type == "MaskRCNN" and family_of(entry.model.backbone) == family
    ]
    # on COCO, its own if there is one, with few arguments
    detectors.sort(
        key=lambda entry: (
            "coco" not in entry.config.path,
            entry not in own,
            len(entry.model.backbone),
        )
    )
    backbone, neck, before = {"type": f"{SCOPE}.{family}", "arch": arch}, {"type": "FPN"}, ()
    if detectors:
        given, neck = detectors[0].model.backbone, detectors[0].model.neck
        kept = {key: value for key, value in given.items() if key not in _TRAINING_ARGUMENTS}
        before, backbone = _build(kept).out_channels, {**kept, "arch": arch}
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
