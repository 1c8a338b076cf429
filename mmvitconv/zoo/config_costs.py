"""Parameters and multiply-adds of the model that a config describes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.zoo.costs import Complexity, Macs, count_complexity
from mmvitconv.zoo.loading import load_model

__all__ = ["ConfigComplexity", "PartComplexity", "count_config"]

_DEFAULT_PROPOSALS = 1000  # test_cfg.rpn.max_per_img of every published two-stage config


@dataclass(frozen=True)
class PartComplexity:
    """What a child of the model costs."""

    name: str  # attribute of the model ('backbone', 'roi_head')
    kind: str  # its class
    params: int
    macs: Macs  # zero if inference does not run it (auxiliary heads)


@dataclass(frozen=True)
class ConfigComplexity:
    """What the model of a config costs for one image."""

    shape: tuple[int, int]  # height and width of the image in pixels
    parts: tuple[PartComplexity, ...]  # the model's children, in the model's order
    model: Complexity  # the whole model, with the breakdown by module and operator
    notes: tuple[str, ...]  # what was assumed, one sentence each


def count_config(cfg: Config, shape: tuple[int, int] | None = None) -> ConfigComplexity:
    """Build the model of a config without weights or data and count what one image costs.

    The network runs as in inference, on the CPU, without pre- and post-processing. A two-stage
    detector gets the full number of proposals its config asks for instead of what untrained weights
    propose, so counts do not vary; how many of them reach the mask head is mmdet's choice (100, in
    a cascade all).

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain (``default_scope`` says which).
        shape: Height and width of the image in pixels, at least 1; None for the test size of the
            config, otherwise 800 x 1280 (detection), 512 x 512 (segmentation) or 224 x 224
            (classification).

    Returns:
        The counts of the model and its parts.

    Raises:
        UserError: The config has no model, one that cannot be built, or is of no supported task; or
            the shape is not positive.
    """
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise UserError(f"shape must be a positive height and width, got {shape}")
    loaded = load_model(cfg, device="cpu", init_weights=False)
    model, shape = loaded.module, shape or loaded.shape
    image = torch.randn(1, loaded.in_channels, *shape, generator=torch.Generator())
    inputs: dict[str, Any] = {"inputs": image, "mode": "tensor"}
    notes: list[str] = []
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        if loaded.task == "detection":
            inputs["data_samples"] = [_detection_sample(shape)]
        with _fixed_proposals(model, shape, notes), _plain_backbone(model):
            complexity = count_complexity(model, inputs)
    return ConfigComplexity(shape, tuple(_parts(model, complexity)), complexity, tuple(notes))


def _parts(model: nn.Module, complexity: Complexity) -> Iterator[PartComplexity]:
    for name, child in model.named_children():
        macs = complexity.by_module.get(name, Macs())
        params = sum(parameter.numel() for parameter in child.parameters())
        if params or macs.total:
            yield PartComplexity(name, type(child).__name__, params, macs)


def _detection_sample(shape: tuple[int, int]) -> Any:
    from mmdet.structures import DetDataSample

    return DetDataSample(
        metainfo={
            "img_id": 0,
            "img_shape": shape,
            "ori_shape": shape,
            "pad_shape": shape,
            "batch_input_shape": shape,
            "scale_factor": (1.0, 1.0),
        }
    )


@contextmanager
def _plain_backbone(model: nn.Module) -> Iterator[None]:
    """Let a backbone of ours run on the meta device, where it takes no fast path.

    What is counted is the formula. A fast path may multiply more than it asks for, such as the
    block-diagonal product of FCViT's global context.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        yield
        return
    original = backbone.to("meta").forward

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        # Real maps that depend on the image, so that what follows is counted as usual.
        pixel = x.flatten()[0]
        return tuple(torch.zeros(out.shape) + pixel for out in original(x.to("meta")))

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward


@contextmanager
def _fixed_proposals(model: nn.Module, shape: tuple[int, int], notes: list[str]) -> Iterator[None]:
    """Let the RPN of a two-stage detector run and propose a fixed number of boxes of all sizes."""
    rpn, roi_head = getattr(model, "rpn_head", None), getattr(model, "roi_head", None)
    if rpn is None or roi_head is None:
        yield
        return
    from mmdet.models.roi_heads import CascadeRoIHead
    from mmengine.structures import InstanceData

    count = (rpn.test_cfg or {}).get("max_per_img", _DEFAULT_PROPOSALS)
    corners = torch.rand(count, 2, 2, generator=torch.Generator()) * torch.tensor(shape[::-1])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)

    def propose(features: tuple[Tensor, ...], *_args: Any, **_kwargs: Any) -> list[InstanceData]:
        rpn(features)
        return [InstanceData(bboxes=boxes, scores=torch.ones(count), labels=torch.zeros(count))]

    original = rpn.predict
    rpn.predict = propose
    note = f"The RoI head gets {count} proposals"
    if getattr(roi_head, "with_mask", False):
        # StandardRoIHead.forward cuts them, CascadeRoIHead.forward does not.
        masks = "all" if isinstance(roi_head, CascadeRoIHead) else "the first 100"
        note += f", its mask head {masks} of them (as mmdet's forward does)"
    notes.append(f"{note}.")
    try:
        yield
    finally:
        rpn.predict = original
