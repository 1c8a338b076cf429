"""The models of a benchmark: backbones of ours and of timm, by name, without weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import nn

from mmvitconv.errors import UserError
from mmvitconv.zoo.archs import (
    check_timm_name,
    list_families,
    match_arch,
    names_of,
    smallest_of,
)
from mmvitconv.zoo.costs import count_complexity
from mmvitconv.zoo.loading import TIMM, load_model

__all__ = ["PEERS", "Candidate", "all_archs", "count_costs", "find_models", "smallest_archs"]

Shape = tuple[int, int]

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
class Candidate:
    """A model that can be measured.

    Args:
        name: As results have it: ``'FCViT:tiny'``, or timm's name.
        ours: Whether it is of mmvitconv.
    """

    name: str
    ours: bool = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the backbone for images of a size, with the outputs of all stages."""
        source = self.name if self.ours else f"{TIMM}{self.name}"
        return load_model(source, part="backbone", device="cpu", shape=shape).module


def all_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of every architecture; of two names for one arch the first."""
    families = list_families().items()
    return [f"{family}:{arch}" for family, cls in families for arch in names_of(cls)]


def smallest_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of the architecture with the fewest parameters in each family."""
    return [f"{family}:{smallest_of(cls)}" for family, cls in list_families().items()]


def find_models(names: Sequence[str], peers: bool = False) -> list[Candidate]:
    """Return the models with these names, each once.

    Args:
        names: ``FAMILY:ARCH``, another spelling that :func:`match_arch` takes, a key
            of :data:`PEERS`, or ``timm:NAME``.
        peers: Whether timm's own names of :data:`PEERS` are timm's models. Some of them are also
            spellings of architectures of ours.

    Raises:
        UserError: There is no such model.
    """
    return list(dict.fromkeys(_find(name, peers) for name in names))


def _find(name: str, peers: bool) -> Candidate:
    of_timm = name in PEERS or (peers and name in PEERS.values())
    if of_timm or name.startswith(TIMM):
        short = PEERS.get(name, name.removeprefix(TIMM))
        check_timm_name(short)
        return Candidate(short, ours=False)
    try:
        return Candidate(":".join(match_arch(name)))
    except UserError as error:
        near = get_close_matches(name.lower(), PEERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"{error}; {hint}of timm there are {', '.join(PEERS)}, and timm:NAME for all others"
        ) from error


def published_accuracies() -> dict[str, float]:
    """Return published ImageNet-1k top-1 in per cent by name: of our metafiles, and the peers'."""
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
    """Return the parameters of a model, and its multiply-adds for one image.

    Args:
        model: A backbone on any device; it stays as it is.
        shape: Height and width of the image.
    """
    try:  # costs neither time nor memory
        meta = copy.deepcopy(model).to("meta")
        costs = count_complexity(meta, torch.empty(1, 3, *shape, device="meta"))
    except Exception:  # its control flow looks at values
        device = next(model.parameters()).device
        costs = count_complexity(model, torch.zeros(1, 3, *shape, device=device))
    return costs.params, costs.macs.total
