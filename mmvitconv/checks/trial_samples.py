"""What a rehearsal knows of its samples, and the sentence with which it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from mmvitconv.engine.modules import unwrap_model
from mmvitconv.errors import UserError

__all__ = [
    "RehearsalError",
    "data_sample",
    "describe_labels",
    "find_missing",
    "find_unpacked",
    "place_in_config",
    "richness",
    "shape_of",
]


class RehearsalError(UserError):
    """Something that would fail in the first iteration.

    Args:
        place: Where in the config.
        reason: What is wrong, and what to do.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}; --no-rehearsal starts nevertheless")
        self.place = place
        self.reason = reason


def place_in_config(cfg: Mapping[str, Any], place: str) -> str:
    """Return as much of a module's place as the config has."""
    node: Any = cfg
    found = []
    for part in place.split("."):
        if isinstance(node, (Mapping, Config)) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            break
        found.append(part)
    return ".".join(found) if place.startswith("model") and found else place


def data_sample(sample: Any) -> Any:
    """Return what is known of a sample beside its image, None if it is not packed."""
    found = sample.get("data_samples") if isinstance(sample, Mapping) else None
    return found[0] if isinstance(found, (list, tuple)) and found else found


def shape_of(sample: Any) -> Any:
    """Return the shape of a sample's image."""
    image = sample.get("inputs") if isinstance(sample, Mapping) else None
    return getattr(image, "shape", None)


def richness(sample: Any) -> tuple[int, int]:
    """Return how many objects a sample has, and its largest class number."""
    known = data_sample(sample)
    objects = getattr(known, "gt_instances", None)
    count = len(objects) if objects is not None else 0
    return count, max(_labels(known), default=0)


def _kind(model: nn.Module) -> str:
    """Return the word for a model's task in the name of the step that packs its samples."""
    return "Seg" if hasattr(model, "decode_head") else "" if hasattr(model, "head") else "Det"


def find_unpacked(samples: Sequence[Any], model: nn.Module) -> str:
    """Say which step is missing when samples are dicts as transforms pass them on, else ''."""
    sample = samples[0] if samples else None
    if not isinstance(sample, Mapping) or "inputs" in sample or "img" not in sample:
        return ""
    found = ", ".join(map(str, list(sample)[:6]))
    pack = f"Pack{_kind(unwrap_model(model))}Inputs"
    return f"the samples are not packed (they have {found}): end it with dict(type={pack!r})"


def find_missing(samples: Sequence[Any], model: nn.Module) -> str:
    """Say which part of the samples is not there that the model's task needs, '' if all is."""
    if not samples or not isinstance(samples[0], Mapping):
        return ""
    if unpacked := find_unpacked(samples, model):
        return unpacked
    kind, known = _kind(model), data_sample(samples[0])
    pack = f"Pack{kind}Inputs"
    if known is None:
        return f"the samples have no annotations: end it with dict(type={pack!r})"
    if kind == "Seg":
        absent = "gt_sem_seg" not in known and "label map: put LoadAnnotations in front of " + pack
    elif not kind:
        absent = "gt_label" not in known and (
            "class number (gt_label): has the data set annotations (ann_file, or a folder a class)?"
        )
    else:
        objects = known.get("gt_instances")
        needs = {"bboxes": "with_bbox", "labels": "with_label"}
        if getattr(model, "with_mask", False):
            needs["masks"] = "with_mask"
        absent = objects is not None and next(
            (
                f"{key}: LoadAnnotations must be there, with {option}=True"
                for key, option in needs.items()
                if key not in objects
            ),
            "",
        )
    return f"its samples have no {absent}" if absent else ""


def _labels(known: Any) -> set[int]:
    """Return the class numbers of a packed sample."""
    numbers: set[int] = set()
    for owner, key in (
        (known, "gt_label"),
        (getattr(known, "gt_instances", None), "labels"),
        (getattr(known, "gt_sem_seg", None), "data"),
    ):
        value = getattr(owner, key, None)
        if isinstance(value, Tensor) and value.numel():
            numbers |= set(map(int, value.unique()))
    return numbers


def describe_labels(samples: Sequence[Any]) -> str:
    """Say which class numbers packed samples have."""
    numbers = sorted(set().union(*map(_labels, samples)))
    listed = ", ".join(map(str, numbers[:12]))
    return f"labels {listed}{', ...' * (len(numbers) > 12)}" if numbers else ""
