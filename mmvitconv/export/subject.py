"""What is exported: a module that maps one batch of images to tensors, and what describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.analysis.measure import default_shape
from mmvitconv.apis.building import build_model, read_names
from mmvitconv.datasets.layout import leaf_datasets
from mmvitconv.engine.configuration import apply_options, load_config
from mmvitconv.engine.tasks import TASKS
from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.resources import is_config
from mmvitconv.weights import load_backbone, load_file
from mmvitconv.zoo.archs import list_families, resolve_arch

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ["Subject", "backbone_subject", "fill_statistics", "load_subject"]

_ARCH_SHAPE = (224, 224)
_NO_DETECTORS = (
    "post-processing of detectors (proposals, non-maximum suppression) is not exported; "
    "--backbone-only exports the backbone of {source}"
)


@dataclass
class Subject:
    """A module that can be exported.

    Attributes:
        module: In evaluation mode, on the CPU; takes (B, channels, H, W), gives a tensor or a
            tuple of tensors.
        channels: Of the input.
        outputs: Names of the outputs.
        shape: Height and width that papers or the config use.
        metadata: What somebody who runs the file must know.
        notes: What was assumed, one sentence each.
    """

    module: nn.Module
    channels: int
    outputs: tuple[str, ...]
    shape: tuple[int, int]
    metadata: dict[str, Any]
    notes: list[str] = field(default_factory=list)


class Classifier(nn.Module):
    """Logits of a classifier, without preprocessing and softmax.

    Args:
        model: mmpretrain's ``ImageClassifier``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of preprocessed images (B, C, H, W)."""
        return self.model.head(self.model.extract_feat(x))


class Segmentor(nn.Module):
    """Logits of a segmentor at the size of the image, without preprocessing and softmax.

    Args:
        model: mmseg's ``EncoderDecoder``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of preprocessed images (B, C, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(x))
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

    Returns:
        The module and its description.

    Raises:
        UserError: Unknown names, a whole detector, a model that cannot be built, or a checkpoint
            that does not belong to it.
    """
    if is_config(source):
        cfg = load_config(source)
        notes = apply_options(cfg, dict(cfg_options or {}))
        subject = _from_config(cfg, Path(source).stem, checkpoint, backbone_only)
        subject.notes[:0] = notes
    elif cfg_options:
        raise UserError(f"--cfg-options change a config, but {source!r} is an architecture")
    else:
        subject = _from_arch(source, checkpoint)
    if checkpoint is None:
        fill_statistics(subject.module)
        subject.notes.append("without a checkpoint the weights are random")
    subject.metadata["checkpoint"] = "" if checkpoint is None else Path(checkpoint).name
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


def _from_arch(name: str, checkpoint: str | Path | None) -> Subject:
    """An architecture's backbone with its default outputs."""
    family, arch = resolve_arch(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = list_families()[family](arch)
    if checkpoint is not None:
        load_backbone(backbone, str(checkpoint))
    return backbone_subject(backbone.eval(), f"{family} {arch}")


def _from_config(
    cfg: Config, name: str, checkpoint: str | Path | None, backbone_only: bool
) -> Subject:
    scope = cfg.get("default_scope")
    if "model" not in cfg or scope not in TASKS:
        raise UserError(
            f"the config {name} has default_scope={scope!r} and {'a' if 'model' in cfg else 'no'} "
            f"model; give one with a model and default_scope one of {', '.join(sorted(TASKS))}"
        )
    if scope == "mmdet" and not backbone_only:
        raise UserError(_NO_DETECTORS.format(source=name))
    content = None if checkpoint is None or backbone_only else load_file(checkpoint)
    with DefaultScope.overwrite_default_scope(scope):
        try:
            model = build_model(cfg, content, str(checkpoint)).eval()
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:  # what registries and models raise
            raise UserError(f"the model of {name} cannot be built: {error}") from error
        data = next(leaf_datasets(cfg.get("test_dataloader"), "test_dataloader"), None)
        classes = read_names(content, data[1])[0] if data else ()
    shape = default_shape(cfg, scope)
    if backbone_only:
        if checkpoint is not None:
            load_backbone(model.backbone, str(checkpoint))
        subject = backbone_subject(model.backbone, name, shape)
    else:
        subject = _whole_subject(model, name, shape, TASKS[scope], classes)
        if (cfg.model.get("test_cfg") or {}).get("mode") == "slide":
            subject.notes.append(
                "the config slides a window over large images, the file takes an image at once"
            )
    subject.metadata |= _preprocessing(model.data_preprocessor)
    return subject


def _whole_subject(
    model: nn.Module, name: str, shape: tuple[int, int], task: str, classes: Sequence[str]
) -> Subject:
    wrapper = Classifier if task == "classification" else Segmentor
    head = getattr(model, "head" if task == "classification" else "decode_head", None)
    # the heads of a cascade are a list
    if not hasattr(model, "extract_feat") or not callable(head) or isinstance(head, nn.ModuleList):
        raise UserError(
            f"the {type(model).__name__} of {name} is not exported whole, only models with one "
            "head; --backbone-only exports its backbone"
        )
    channels = getattr(model.backbone, "in_channels", 3)
    metadata = {"source": name, "task": task, "classes": list(classes)}
    return Subject(wrapper(model), channels, ("logits",), shape, metadata)


def backbone_subject(
    backbone: nn.Module, name: str, shape: tuple[int, int] = _ARCH_SHAPE
) -> Subject:
    """Describe a backbone of ours.

    Args:
        backbone: In evaluation mode.
        name: Where it comes from.
        shape: Height and width that are usual for it.

    Returns:
        What :func:`mmvitconv.export.run.export_subject` takes.

    Raises:
        UserError: It is another one.
    """
    if not isinstance(backbone, Backbone):
        raise UserError(f"the backbone of {name} is {type(backbone).__name__}, not one of ours")
    metadata = {"source": name, "task": "features", "strides": list(backbone.strides)}
    outputs = tuple(f"features_{index}" for index in backbone.out_indices)
    return Subject(backbone, backbone.in_channels, outputs, shape, metadata)


def _preprocessing(preprocessor: nn.Module) -> dict[str, Any]:
    """What has to be done to an image before it is fed."""
    values: dict[str, Any] = {}
    for name in ("mean", "std"):
        value = getattr(preprocessor, name, None)
        if isinstance(value, Tensor):
            values[name] = [round(number, 6) for number in value.flatten().tolist()]
    # OpenMMLab reads images as BGR; three names for the same switch.
    swaps = any(
        getattr(preprocessor, name, False)
        for name in ("to_rgb", "channel_conversion", "_channel_conversion")
    )
    return {**values, "channel_order": "RGB" if swaps else "BGR"}
