"""The models of a benchmark: backbones of ours and of timm, by name, without weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import nn

from mmvitconv.errors import UserError
from mmvitconv.zoo.archs import check_timm_name, list_families, names_of, resolve_arch, smallest_of
from mmvitconv.zoo.costs import count_complexity

__all__ = ["PEERS", "Entry", "all_archs", "count_costs", "find_models", "smallest_archs"]

Shape = tuple[int, int]

TIMM_PREFIX = "timm:"
# What everybody knows, under the names by which everybody knows it.
PEERS = {
    "resnet50": "resnet50",
    "convnext_tiny": "convnext_tiny",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "convmixer": "convmixer_768_32",
}
# ImageNet-1k top-1 at 224 in the papers; ResNet-50: torchvision's first weights.
PEER_ACCURACY = {
    "resnet50": 76.1,
    "convnext_tiny": 82.1,
    "swin_tiny_patch4_window7_224": 81.3,
    "convmixer_768_32": 80.2,
}


@dataclass(frozen=True)
class Entry:
    """A model that can be measured.

    Args:
        name: As results have it: ``'FCViT:tiny'``, or timm's name.
        build: Makes the backbone for images of (height, width), with the outputs of all stages.
        ours: Whether it is of mmvitconv.
    """

    name: str
    build: Callable[[Shape], nn.Module] = field(compare=False)
    ours: bool = True


def all_archs() -> list[str]:
    """``FAMILY:ARCH`` of every registered architecture; of two names for one arch the first."""
    families = list_families().items()
    return [f"{family}:{arch}" for family, cls in families for arch in names_of(cls)]


def smallest_archs() -> list[str]:
    """``FAMILY:ARCH`` of the architecture with the fewest parameters in each family."""
    return [f"{family}:{smallest_of(cls)}" for family, cls in list_families().items()]


def find_models(names: Sequence[str], peers: bool = False) -> list[Entry]:
    """The models with these names, each once.

    Args:
        names: ``FAMILY:ARCH``, another spelling that :func:`resolve_arch` takes, a key
            of :data:`PEERS`, or ``timm:NAME``.
        peers: Whether timm's own names of :data:`PEERS` are timm's models. Some of them are also
            spellings of architectures of ours.

    Raises:
        UserError: There is no such model.
    """
    entries = {entry.name: entry for entry in (_find(name, peers) for name in names)}
    return list(entries.values())


def published_accuracies() -> dict[str, float]:
    """Published ImageNet-1k top-1 in per cent by name: ours from the metafiles, and the peers'."""
    from mmvitconv.zoo.catalogue import list_archs  # reads all configs

    ours = {
        f"{arch.family}:{arch.arch}": result.value
        for arch in list_archs()
        for config in arch.configs
        for result in config.results
        if "ImageNet" in result.dataset and "Top 1" in result.metric
    }
    return {**ours, **PEER_ACCURACY}


def count_costs(model: nn.Module, shape: Shape) -> tuple[int, int]:
    """Parameters, and multiply-adds for one image.

    Args:
        model: A backbone on any device; it stays as it is.
        shape: Height and width of the image.
    """
    try:  # costs neither time nor memory, and fast paths keep away from it
        copied = copy.deepcopy(model).to("meta")
        costs = count_complexity(copied, torch.empty(1, 3, *shape, device="meta"))
    except Exception:  # its control flow looks at values
        device = next(model.parameters()).device
        costs = count_complexity(model, torch.zeros(1, 3, *shape, device=device))
    return _parameters(model), costs.macs.total


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _find(name: str, peers: bool) -> Entry:
    of_timm = name in PEERS or (peers and name in PEERS.values())
    if of_timm or name.startswith(TIMM_PREFIX):
        return _find_timm(PEERS.get(name, name.removeprefix(TIMM_PREFIX)))
    try:
        family, arch = resolve_arch(name)
    except UserError as error:
        near = get_close_matches(name.lower(), PEERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"{error}; {hint}of timm there are {', '.join(PEERS)}, and timm:NAME for all others"
        ) from error
    return Entry(f"{family}:{arch}", lambda shape: list_families()[family](arch))


def _find_timm(name: str) -> Entry:
    check_timm_name(name)
    return Entry(name, lambda shape: _build_timm(name, shape), ours=False)


def _build_timm(name: str, shape: Shape) -> nn.Module:
    """A model with the features of all stages that takes this size.

    Args:
        name: timm's.
        shape: Height and width of the images.

    Raises:
        ValueError: It takes no images of this size, or has no features of stages.
    """
    import timm

    reason: Exception | None = None
    # Some models have a fixed size, and each kind has another argument for it.
    for options in ({}, {"img_size": shape}, {"dynamic_img_size": True}):
        try:
            model = timm.create_model(name, pretrained=False, features_only=True, **options)
            with torch.no_grad():
                copied = copy.deepcopy(model).to("meta").eval()
                copied(torch.empty(1, 3, *shape, device="meta"))
        except Exception as error:
            reason = reason or error
        else:
            return model
    raise ValueError(f"it does not take images of this size ({reason})")
