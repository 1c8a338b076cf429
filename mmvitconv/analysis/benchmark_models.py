"""The models that a benchmark can measure: architectures of ours, and models of timm."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import nn

from mmvitconv.errors import UserError
from mmvitconv.zoo.archs import check_timm_name, match_arch
from mmvitconv.zoo.catalogue import list_archs
from mmvitconv.zoo.costs import count_complexity
from mmvitconv.zoo.loading import TIMM, load_model

__all__ = ["PEERS", "all_archs", "build", "count_costs", "find_models", "is_ours", "smallest_archs"]

Shape = tuple[int, int]

# What everybody knows, under the names by which everybody knows it.
PEERS = {
    "resnet50": "resnet50",
    "convnext_tiny": "convnext_tiny",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "convmixer": "convmixer_768_32",
}
# ImageNet-1k top-1 at 224 in the papers; ResNet-50: torchvision's first weights.
PEER_ACCURACY = dict(zip(PEERS.values(), (76.1, 82.1, 81.3, 80.2), strict=True))


def all_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of every architecture; of two names for one arch the first."""
    return [f"{arch.family}:{arch.arch}" for arch in list_archs()]


def smallest_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of the architecture with the fewest parameters in each family."""
    smallest: dict[str, str] = {}
    for arch in sorted(list_archs(), key=lambda arch: arch.parameters):
        smallest.setdefault(arch.family, f"{arch.family}:{arch.arch}")
    return [name for name in all_archs() if name in smallest.values()]


def find_models(names: Sequence[str], peers: bool = False) -> list[str]:
    """Return the names that results have for models: ``'FCViT:tiny'``, or timm's name.

    Args:
        names: ``FAMILY:ARCH``, another spelling that :func:`match_arch` takes, a key
            of :data:`PEERS`, or ``timm:NAME``.
        peers: Whether timm's own names of :data:`PEERS` are timm's models. Some of them are also
            spellings of architectures of ours.

    Raises:
        UserError: There is no such model.
    """
    found = []
    for name in names:
        if name in PEERS or name.startswith(TIMM) or (peers and name in PEERS.values()):
            found.append(PEERS.get(name, name.removeprefix(TIMM)))
            check_timm_name(found[-1])
            continue
        try:
            found.append(":".join(match_arch(name)))
        except UserError as error:
            near = get_close_matches(name.lower(), PEERS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = f"of timm there are {', '.join(PEERS)}, and timm:NAME for all others"
            raise UserError(f"{error}; {hint}{known}") from error
    return list(dict.fromkeys(found))


def is_ours(name: str) -> bool:
    """Return whether a model is of mmvitconv, by the name that results have."""
    return ":" in name


def build(name: str, shape: Shape) -> nn.Module:
    """Return the backbone for images of a size, with the outputs of all stages.

    Args:
        name: From :func:`find_models`.
        shape: Height and width of the images.
    """
    source = name if is_ours(name) else f"{TIMM}{name}"
    return load_model(source, part="backbone", device="cpu", shape=shape).module


def published_accuracies() -> dict[str, float]:
    """Return published ImageNet-1k top-1 in per cent by name: of our metafiles, and the peers'."""
    ours = {
        f"{arch.family}:{arch.arch}": result.value
        for arch in list_archs()
        for config in arch.configs
        for result in config.results
        if "ImageNet" in result.dataset and "Top 1" in result.metric
    }
    return {**ours, **PEER_ACCURACY}


def count_costs(model: nn.Module, shape: Shape) -> tuple[int, int]:
    """Return the parameters of a model, and its multiply-adds for one image.

    Args:
        model: A backbone on the CPU; it stays as it is.
        shape: Height and width of the image.
    """
    try:  # costs neither time nor memory
        meta = copy.deepcopy(model).to("meta")
        costs = count_complexity(meta, torch.empty(1, 3, *shape, device="meta"))
    except Exception:  # its control flow looks at values
        costs = count_complexity(model, torch.zeros(1, 3, *shape))
    return costs.params, costs.macs.total
