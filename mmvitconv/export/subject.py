"""What is exported: a module that maps one batch of images to tensors, and what describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.weights.addresses import title_of
from mmvitconv.zoo.loading import LoadedModel, load_model

__all__ = ["Subject", "backbone_subject", "fill_statistics", "load_subject"]

_ARCH_SHAPE = (224, 224)
_NO_DETECTORS = (
    "post-processing of detectors (proposals, non-maximum suppression) is not exported; "
    "--backbone-only exports the backbone of {source}"
)


@dataclass
class Subject:
    """A module that can be exported."""

    # In evaluation mode, on the CPU; takes (B, channels, H, W), gives one or several tensors.
    module: nn.Module
    channels: int
    outputs: tuple[str, ...]  # their names
    shape: tuple[int, int]  # height and width that papers or the config use
    metadata: dict[str, Any]  # what somebody who runs the file must know
    notes: list[str] = field(default_factory=list)  # what was assumed, one sentence each
    traced: nn.Module | None = None  # what is written, where that is the same in a faster form


class Logits(nn.Module):
    """Logits of a classifier or segmentor (at the image's size), without softmax.

    Args:
        model: mmpretrain's ``ImageClassifier`` or mmseg's ``EncoderDecoder``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) or (B, classes, H, W) of preprocessed images (B, C, H, W)."""
        features = self.model.extract_feat(x)
        if not hasattr(self.model, "decode_head"):
            return self.model.head(features)
        logits = self.model.decode_head(features)
        corners = self.model.decode_head.align_corners
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=corners)


def load_subject(
    source: str,
    checkpoint: str | Path | None = None,
    backbone_only: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> Subject:
    """Build what is exported and load its weights.

    Args:
        source: A config, or an architecture as ``mmvitconv list`` names it (its backbone).
        checkpoint: Weights; None for random ones.
        backbone_only: Of a config, take the backbone alone.
        cfg_options: Changes of the config, dotted keys and their values.

    Raises:
        UserError: Unknown names, a whole detector, a model that cannot be built, or a checkpoint
            that does not belong to it.
    """
    part = "backbone" if backbone_only else "model"
    loaded = load_model(source, checkpoint, part=part, cfg_options=cfg_options, device="cpu")
    if loaded.config is None or backbone_only:
        subject = backbone_subject(loaded.module, loaded.name, loaded.shape)
    else:
        subject = _whole_subject(loaded)
    subject.notes += loaded.notes
    if checkpoint is None:
        fill_statistics(subject.module)
        subject.notes.append("without a checkpoint the weights are random")
    subject.metadata["checkpoint"] = "" if checkpoint is None else title_of(checkpoint)
    if loaded.config is not None:
        order = "RGB" if loaded.is_rgb else "BGR"  # OpenMMLab reads images as BGR
        subject.metadata |= {"mean": loaded.mean, "std": loaded.std, "channel_order": order}
    return subject


def fill_statistics(module: nn.Module) -> None:
    """Give a model with random weights vectors and statistics that let every layer count.

    Fresh BatchNorms are the identity and layer scales close to zero: an exporter that fuses the
    wrong layers or drops a branch would go unnoticed.

    Args:
        module: Changed in place, always in the same way.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.05 + 0.1 * torch.rand(parameter.shape, generator=generator)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                norm.running_mean.normal_(0, 0.2, generator=generator)
                norm.running_var.uniform_(0.5, 1.5, generator=generator)


def _whole_subject(loaded: LoadedModel) -> Subject:
    """Describe a classifier or segmentor."""
    if loaded.task == "detection":
        raise UserError(_NO_DETECTORS.format(source=loaded.name))
    model = loaded.module
    head = getattr(model, "head" if loaded.task == "classification" else "decode_head", None)
    # the heads of a cascade are a list
    if not isinstance(head, nn.Module) or isinstance(head, nn.ModuleList):
        raise UserError(
            f"the {type(model).__name__} of {loaded.name} is not exported whole, only models with "
            "one head; --backbone-only exports its backbone"
        )
    metadata = {"source": loaded.name, "task": loaded.task, "classes": list(loaded.classes)}
    logits = Logits(model).eval()
    subject = Subject(logits, loaded.in_channels, ("logits",), loaded.shape, metadata)
    if (loaded.config.model.get("test_cfg") or {}).get("mode") == "slide":
        subject.notes.append(
            "the config slides a window over large images, the file takes an image at once"
        )
    return subject


def backbone_subject(
    backbone: nn.Module, name: str, shape: tuple[int, int] = _ARCH_SHAPE
) -> Subject:
    """Describe a backbone of ours in evaluation mode.

    Args:
        backbone: What is exported.
        name: Where it comes from.
        shape: Height and width that are usual for it.

    Raises:
        UserError: It is another one.
    """
    if not isinstance(backbone, Backbone):
        raise UserError(f"the backbone of {name} is {type(backbone).__name__}, not one of ours")
    metadata = {"source": name, "task": "features", "strides": list(backbone.strides)}
    outputs = tuple(f"features_{index}" for index in backbone.out_indices)
    return Subject(backbone, backbone.in_channels, outputs, shape, metadata)
