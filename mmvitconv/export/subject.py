"""What is exported: a module that maps one batch of images to tensors, and what describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.errors import UserError
from mmvitconv.export.detector import DetectorGraph
from mmvitconv.models.base import Backbone
from mmvitconv.weights.addresses import title_of
from mmvitconv.zoo.loading import LoadedModel, find_test_dataset, load_model

__all__ = ["Subject", "backbone_subject", "fill_statistics", "load_subject"]

_ARCH_SHAPE = (224, 224)
_GEOMETRY = ("Resize", "ResizeEdge", "CenterCrop", "FixScaleResize", "Pad")
# Open axes of what a subject takes and gives: those of the batch, and those of the size.
OpenAxes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
_MAP = ((0,), (2, 3))


@dataclass
class Subject:
    """A module that can be exported."""

    # In evaluation mode, on the CPU; takes (B, channels, H, W) or what ``make`` makes.
    module: nn.Module
    channels: int
    outputs: tuple[str, ...]  # their names
    shape: tuple[int, int]  # height and width that papers or the config use
    metadata: dict[str, Any]  # what somebody who runs the file must know
    notes: list[str] = field(default_factory=list)  # what was assumed, one sentence each
    traced: nn.Module | None = None  # what is written, where that is the same in a faster form
    inputs: tuple[str, ...] = ("images",)  # their names
    open_axes: OpenAxes = field(default_factory=dict)  # of what is no map (B, C, H, W)
    has_batch: bool = True  # whether it takes more than one image

    def make(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Return random inputs.

        Args:
            batch: Number of images.
            height: In pixels.
            width: In pixels.
        """
        if self.inputs[0] == "pixels":
            shape = (batch, height, width, self.channels)
            images = torch.randint(0, 256, shape, dtype=torch.uint8)
        else:
            images = torch.randn(batch, self.channels, height, width)
        size = torch.tensor([height * 5 // 4, width * 3 // 2])
        return (images, size)[: len(self.inputs)]

    def axes(self, dynamic: str) -> dict[str, tuple[int, ...]]:
        """Return the open axes of each input and output.

        Args:
            dynamic: ``'batch'``, ``'size'``, ``'both'`` or ``'none'``.
        """
        found = {}
        for name in (*self.inputs, *self.outputs):
            batch, size = self.open_axes.get(name, _MAP)
            found[name] = (*(batch if dynamic in ("batch", "both") else ()),
                           *(size if dynamic in ("size", "both") else ()))  # fmt: skip
        return found


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
    *,
    preprocess: bool = False,
    score_threshold: float = 0.0,
) -> Subject:
    """Build what is exported and load its weights.

    Args:
        source: A config, or an architecture as ``mmvitconv list`` names it (its backbone).
        checkpoint: Weights; None for random ones.
        backbone_only: Of a config, take the backbone alone.
        cfg_options: Changes of the config, dotted keys and their values.
        preprocess: Take pixels instead of normalised images.
        score_threshold: Least score of a detector's objects, besides the config's own threshold.

    Raises:
        UserError: Unknown names, a detector of an unknown kind, a model that cannot be built, or a
            checkpoint that does not belong to it.
    """
    part = "backbone" if backbone_only else "model"
    loaded = load_model(source, checkpoint, part=part, cfg_options=cfg_options, device="cpu")
    if loaded.config is None or backbone_only:
        subject = backbone_subject(loaded.module, loaded.name, loaded.shape)
    else:
        subject = _whole_subject(loaded, score_threshold)
    subject.notes += loaded.notes
    if checkpoint is None:
        fill_statistics(subject.module)
        subject.notes.append("without a checkpoint the weights are random")
    subject.metadata["checkpoint"] = "" if checkpoint is None else title_of(checkpoint)
    if loaded.config is not None:
        order = "RGB" if loaded.is_rgb else "BGR"  # OpenMMLab reads images as BGR
        subject.metadata |= {"mean": loaded.mean, "std": loaded.std, "channel_order": order}
        subject.metadata["pipeline"] = _geometry(loaded.config)
    if preprocess:
        if loaded.config is None or loaded.in_channels != 3:
            raise UserError("--preprocess is for configs of models that take colour images")
        subject.module = Preprocessed(subject.module, loaded).eval()
        subject.inputs = ("pixels", *subject.inputs[1:])
        subject.open_axes = {**subject.open_axes, "pixels": ((0,), (1, 2))}
    return subject


def _geometry(config: Config) -> list[dict[str, Any]]:
    """Return the steps of a test pipeline that change an image's size, as plain values."""
    plain = (bool, int, float, str, list, tuple)
    return [
        {key: value for key, value in step.items() if isinstance(value, plain)}
        for step in find_test_dataset(config).get("pipeline") or ()
        if str(step.get("type")).rpartition(".")[2] in _GEOMETRY
    ]


class Preprocessed(nn.Module):
    """A model behind its normalisation: takes pixels as OpenCV reads them.

    Args:
        model: What takes normalised images.
        loaded: Says how it wants them.
    """

    def __init__(self, model: nn.Module, loaded: LoadedModel) -> None:
        super().__init__()
        self.model, self.is_rgb = model, loaded.is_rgb
        self.gives_objects = getattr(model, "gives_objects", False)
        self.register_buffer("mean", torch.tensor(loaded.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(loaded.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor, *rest: Tensor) -> Any:
        """Run the model on pixels (B, H, W, 3), uint8, blue first."""
        images = pixels.permute(0, 3, 1, 2).float()
        images = images.flip(1) if self.is_rgb else images
        return self.model((images - self.mean) / self.std, *rest)


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


def _detector_subject(loaded: LoadedModel, score_threshold: float) -> Subject:
    """Describe a detector."""
    graph = DetectorGraph(loaded.module, score_threshold).eval()
    settings = graph.dense.test_cfg if graph.roi_head is None else graph.roi_head.test_cfg
    metadata = {
        "source": loaded.name,
        "task": loaded.task,
        "classes": list(loaded.classes),
        "score_threshold": max(score_threshold, settings.get("score_thr", 0.0)),
        "padding": {"divisor": graph.divisor, "where": "inside the file"},
        "size": "height and width of the image before it was resized, int64 (2,): boxes and masks "
        "are in its coordinates",
    }
    rows = {name: ((), (0, 1, 2) if name == "masks" else (0,)) for name in graph.outputs}
    fixed = {"images": ((), (2, 3)), "size": ((), ())}
    return Subject(
        graph,
        loaded.in_channels,
        graph.outputs,
        loaded.shape,
        metadata,
        inputs=("images", "size"),
        open_axes=rows | fixed,
        has_batch=False,
    )


def _activation(loaded: LoadedModel, head: nn.Module) -> dict[str, Any]:
    """Say how logits become scores."""
    if loaded.task == "segmentation":
        is_binary = getattr(head, "out_channels", 0) == 1
        threshold = getattr(head, "threshold", None)
    else:
        is_binary = hasattr(head, "thr")  # of mmpretrain's heads with several labels
        threshold = getattr(head, "thr", None)
    if not is_binary:
        return {"activation": "softmax"}
    return {"activation": "sigmoid", "threshold": 0.5 if threshold is None else threshold}


def _whole_subject(loaded: LoadedModel, score_threshold: float) -> Subject:
    """Describe a classifier, segmentor or detector."""
    if loaded.task == "detection":
        return _detector_subject(loaded, score_threshold)
    model = loaded.module
    head = getattr(model, "head" if loaded.task == "classification" else "decode_head", None)
    # the heads of a cascade are a list
    if not isinstance(head, nn.Module) or isinstance(head, nn.ModuleList):
        raise UserError(
            f"the {type(model).__name__} of {loaded.name} is not exported whole, only models with "
            "one head; --backbone-only exports its backbone"
        )
    metadata = {"source": loaded.name, "task": loaded.task, "classes": list(loaded.classes)}
    metadata |= _activation(loaded, head)
    logits = Logits(model).eval()
    subject = Subject(logits, loaded.in_channels, ("logits",), loaded.shape, metadata)
    if loaded.task == "classification":
        subject.open_axes = {"logits": ((0,), ())}
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
