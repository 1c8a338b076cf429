"""Whole detectors as a graph: from an image to boxes, labels, scores and masks in its coordinates.

What mmdet does behind its networks, on one image and in a form that can be exported: sizes and
counts stay open, and nothing is decided by a value. Boxes are those of ``Predictor``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.errors import UserError

__all__ = ["DetectorGraph"]


class DetectorGraph(nn.Module):
    """A detector of mmdet with dense heads (RetinaNet, SSD) or RoI heads (Mask and Cascade R-CNN).

    Args:
        model: The detector, in evaluation mode.
        score_threshold: Leave out objects of lower scores than this and the config's threshold.

    Attributes:
        outputs: Names of what it gives.

    Raises:
        UserError: It is a detector of another kind.
    """

    gives_objects = True  # not maps

    def __init__(self, model: nn.Module, score_threshold: float = 0.0) -> None:
        super().__init__()
        self.model, self.score_threshold = model, score_threshold
        self.roi_head = getattr(model, "roi_head", None)
        self.dense = model.rpn_head if self.roi_head is not None else model.bbox_head
        self.box_heads = _as_list(getattr(self.roi_head, "bbox_head", None))
        self.mask_heads = _as_list(getattr(self.roi_head, "mask_head", None))
        self.outputs = ("boxes", "labels", "scores", *(("masks",) if self.mask_heads else ()))
        self.divisor = getattr(model.data_preprocessor, "pad_size_divisor", 1)
        self._check()

    def _check(self) -> None:
        """Raise a UserError for what the formulas below do not cover."""
        from mmdet.models.dense_heads import AnchorHead
        from mmdet.models.roi_heads import (
            CascadeRoIHead,
            FCNMaskHead,
            SingleRoIExtractor,
            StandardRoIHead,
        )
        from mmdet.models.task_modules import DeltaXYWHBBoxCoder

        settings = [self.dense.test_cfg]
        if self.roi_head is not None:
            settings.append(self.roi_head.test_cfg)
        extractors = [
            module
            for kind in ("bbox", "mask")
            for module in _as_list(getattr(self.roi_head, f"{kind}_roi_extractor", None))
        ]
        coders = [head.bbox_coder for head in (self.dense, *self.box_heads)]
        fits = (
            isinstance(self.dense, AnchorHead)
            and type(self.roi_head) in (type(None), StandardRoIHead, CascadeRoIHead)
            and all(type(coder) is DeltaXYWHBBoxCoder for coder in coders)
            and not any(coder.add_ctr_clamp for coder in coders)
            and all(type(extractor) is SingleRoIExtractor for extractor in extractors)
            and all(isinstance(head, FCNMaskHead) for head in self.mask_heads)
            and not any(getattr(head, "custom_activation", False) for head in self.box_heads)
            and not getattr(self.roi_head, "with_shared_head", False)
            and all((each.get("nms") or {}).get("type") == "nms" for each in settings)
        )
        if not fits:
            raise UserError(
                f"a {type(self.model).__name__} with {type(self.dense).__name__} is not exported "
                "whole, only detectors with anchors, deltas as boxes and plain non-maximum "
                "suppression (RetinaNet, SSD, Faster, Mask and Cascade R-CNN); --backbone-only "
                "exports its backbone"
            )

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: One normalised image (1, C, h, w), as resized for the model.
            size: Height and width of the image before it was resized, shape (2,): where boxes and
                masks are wanted.

        Returns:
            Boxes (N, 4) as left, top, right, bottom in pixels; labels (N,); scores (N,), falling;
            and masks (N, H, W) of 0 and 1, if there is a mask head.
        """
        height, width = images.shape[2:]
        edges = torch.stack([_number(side) for side in (width, height, width, height)])
        factors = size.flip(0).repeat(2).to(edges) / edges
        down, right = ((self.divisor - n % self.divisor) % self.divisor for n in (height, width))
        features = self.model.extract_feat(F.pad(images, (0, right, 0, down)))
        if self.roi_head is None:
            found = self._find_densely(features, edges, factors)
            return tuple(part[self._is_good(found[2])] for part in found)
        rois = self._propose(features, edges)
        boxes, labels, scores = self._classify(features, rois, edges, factors)
        good = self._is_good(scores)
        boxes, labels, scores = boxes[good], labels[good], scores[good]
        if not self.mask_heads:
            return boxes, labels, scores
        masks = self._draw(features, boxes, labels)
        boxes = boxes * factors
        return boxes, labels, scores, self._paste(masks, boxes, size)

    def _is_good(self, scores: Tensor) -> Tensor:
        return (scores >= self.score_threshold).nonzero().squeeze(1)

    def _levels(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return scores (N, classes), deltas (N, 4) and anchors (N, 4) of each level."""
        head = self.dense
        scores, deltas = head(features)
        sizes = [level.shape[2:] for level in scores]
        priors = head.prior_generator.grid_priors(sizes, scores[0].dtype, scores[0].device)
        levels = []
        for level, delta, anchors in zip(scores, deltas, priors, strict=True):
            level = level[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
            level = level.sigmoid() if head.use_sigmoid_cls else level.softmax(-1)[:, :-1]
            levels.append((level, delta[0].permute(1, 2, 0).reshape(-1, 4), anchors))
        return levels

    def _find_densely(
        self, features: Sequence[Tensor], edges: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, labels and scores of a single-stage detector."""
        settings = self.dense.test_cfg
        parts = []
        for level, deltas, anchors in self._levels(features):
            place = (level > settings.get("score_thr", 0)).nonzero()
            scores = level[place[:, 0], place[:, 1]]
            scores, order = _best(scores, settings.get("nms_pre", -1))
            rows, labels = place[order].unbind(1)
            parts.append((_decode(self.dense.bbox_coder, anchors[rows], deltas[rows], edges),
                          labels, scores))  # fmt: skip
        boxes, labels, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        boxes, labels, scores = _large(boxes * factors, settings, labels, scores)
        keep = _suppress(boxes, scores, labels, settings)
        return boxes[keep], labels[keep], scores[keep]

    def _propose(self, features: Sequence[Tensor], edges: Tensor) -> Tensor:
        """Return the boxes of a region proposal network, shape (N, 4)."""
        settings = self.dense.test_cfg
        parts = []
        for index, (level, deltas, anchors) in enumerate(self._levels(features)):
            scores, order = _best(level.squeeze(1), settings.get("nms_pre", -1))
            boxes = _decode(self.dense.bbox_coder, anchors[order], deltas[order], edges)
            parts.append((boxes, torch.full_like(scores, index).long(), scores))
        boxes, levels, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        boxes, levels, scores = _large(boxes, settings, levels, scores)
        return boxes[_suppress(boxes, scores, levels, settings)]

    def _classify(
        self, features: Sequence[Tensor], rois: Tensor, edges: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, labels and scores; boxes are scaled if no masks follow, as in mmdet."""
        extractors = _as_list(self.roi_head.bbox_roi_extractor)
        total = 0
        for stage, (head, extractor) in enumerate(zip(self.box_heads, extractors, strict=True)):
            logits, deltas = head(_extract(extractor, features, rois))
            total = total + logits
            if stage + 1 < len(self.box_heads):
                if not head.reg_class_agnostic:
                    label = logits[:, :-1].argmax(1)
                    deltas = _of_class(deltas.unflatten(1, (-1, 4)), label)
                rois = _decode(head.bbox_coder, rois, deltas, edges)
        scores = (total / len(self.box_heads)).softmax(-1)[:, :-1]
        count, classes = deltas.shape[1] // 4, scores.shape[1]
        boxes = _decode(
            head.bbox_coder,
            rois.unsqueeze(1).expand(-1, count, -1).reshape(-1, 4),
            deltas.reshape(-1, 4),
            edges,
        )
        boxes = boxes if self.mask_heads else boxes * factors
        boxes = boxes.reshape(-1, count, 4).expand(-1, classes, -1)
        settings = self.roi_head.test_cfg
        row, label = (scores > settings.score_thr).nonzero().unbind(1)
        boxes, scores = boxes[row, label], scores[row, label]
        keep = _suppress(boxes, scores, label, settings)
        return boxes[keep], label[keep], scores[keep]

    def _draw(self, features: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the masks inside the boxes, shape (N, h, w), from 0 to 1."""
        # One more box, as layers of runtimes need not take none.
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1))
        extractors = _as_list(self.roi_head.mask_roi_extractor)
        total = 0
        for head, extractor in zip(self.mask_heads, extractors, strict=True):
            masks = head(_extract(extractor, features, boxes)).sigmoid()
            if not head.class_agnostic:
                masks = _of_class(masks, labels).unsqueeze(1)
            total = total + masks[:, 0]
        return (total / len(self.mask_heads))[:-1]

    def _paste(self, masks: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
        """Interpolate masks in their boxes, shape (N, height, width), 0 and 1."""
        # A hat function for each row and column of a mask is bilinear interpolation.
        down = _hats(boxes[:, 1], boxes[:, 3], size[0], masks.shape[1])
        right = _hats(boxes[:, 0], boxes[:, 2], size[1], masks.shape[2])
        values = down @ masks @ right.transpose(1, 2)
        return (values >= self.roi_head.test_cfg.mask_thr_binary).to(torch.uint8)


def _as_list(modules: nn.Module | None) -> list[nn.Module]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _number(side: int | Tensor) -> Tensor:
    """Return a side as a number of the graph."""
    return torch.as_tensor(side).float()


def _best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores and their places; all of them for a number below 1."""
    scores, order = scores.sort(descending=True)
    return (scores[:number], order[:number]) if number > 0 else (scores, order)


def _of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Return what belongs to the label of each row: (N, classes, ...) becomes (N, ...)."""
    shape = (-1, 1, *(1,) * (values.dim() - 2))
    index = labels.view(shape).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)


def _large(
    boxes: Tensor, settings: Mapping[str, Any], *others: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out boxes that are too small."""
    least = settings.get("min_bbox_size", -1)
    if least < 0:
        return (boxes, *others)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > least).all(1).nonzero().squeeze(1)
    return (boxes[keep], *(other[keep] for other in others))


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Return the places of boxes that overlap no better one of their group, best first."""
    from torchvision.ops import nms

    if not settings["nms"].get("class_agnostic", False):  # boxes of two groups are far apart
        last = F.pad(boxes.flatten(), (0, 1)).max()
        boxes = boxes + (groups.to(boxes) * (last + 1)).unsqueeze(1)
    keep = nms(boxes, scores, settings["nms"]["iou_threshold"])
    most = settings.get("max_per_img", -1)
    return keep[:most] if most > 0 else keep


def _decode(coder: Any, anchors: Tensor, deltas: Tensor, edges: Tensor) -> Tensor:
    """Move and stretch boxes (N, 4) by deltas (N, 4), inside the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    sides = anchors[:, 2:] - anchors[:, :2]
    most = abs(math.log(16 / 1000))
    centres = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + sides * deltas[:, :2]
    half = sides * deltas[:, 2:].clamp(-most, most).exp() * 0.5
    boxes = torch.cat([centres - half, centres + half], dim=1)
    return torch.minimum(boxes.clamp(min=0), edges) if coder.clip_border else boxes


def _extract(extractor: nn.Module, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return the features of boxes (N, 4), each from the level that fits its size."""
    from torchvision.ops import roi_align

    layers = extractor.roi_layers
    features = features[: len(layers)]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.log2(area.sqrt() / extractor.finest_scale + 1e-6).floor()
    level = level.clamp(0, len(layers) - 1)
    outs, places = [], []
    for index, (layer, feature) in enumerate(zip(layers, features, strict=True)):
        place = (level == index).nonzero().squeeze(1)
        # One more box, as layers of runtimes need not take none.
        rois = F.pad(boxes[place], (1, 0, 0, 1))
        size = (layer.output_size, layer.spatial_scale, layer.sampling_ratio or -1, layer.aligned)
        outs.append(roi_align(feature, rois, *size)[:-1])
        places.append(place)
    return torch.cat(outs)[torch.cat(places).argsort()]


def _hats(start: Tensor, end: Tensor, length: Tensor, cells: int) -> Tensor:
    """Return the share of each of a mask's cells in each pixel, shape (N, length, cells)."""
    pixel = torch.arange(length, device=start.device) + 0.5
    extent = (end - start).clamp(min=1e-6).unsqueeze(1)
    place = (pixel - start.unsqueeze(1)) / extent * cells - 0.5
    cell = torch.arange(cells, device=start.device)
    return (1 - (place.unsqueeze(2) - cell).abs()).clamp(min=0)
