"""ParC-Net's SSDLite detector (arXiv:2203.03952): further levels, head and anchors.

The original gives 81 raw class scores per box. Their order is not written down; its background is
taken to be the first of them, as in CVNets, on which that code is built. Here it is the last, as in
all of mmdet's heads, so a converter of weights has to move it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.dense_heads import SSDHead
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.model import BaseModule
from mmengine.registry import TASK_UTILS as ENGINE_TASK_UTILS
from mmengine.registry import Registry
from torch import Tensor, nn

from mmvitconv.models.layers import build_activation
from mmvitconv.registry import MODELS, SCOPE

__all__ = ["SSDLiteAnchorGenerator", "SSDLiteHead", "SSDLiteNeck"]

# mmdet's heads look for their anchors in this kind of registry. Only this module has any.
TASK_UTILS = Registry("task util", parent=ENGINE_TASK_UTILS, scope=SCOPE)

NORM: Mapping[str, Any] = {"type": "BN"}
ACTIVATION: Mapping[str, Any] = {"type": "ReLU"}
INITIALISER: Mapping[str, Any] = {
    "type": "Xavier",
    "distribution": "uniform",
    "layer": "Conv2d",
    "bias": 0,
}


@MODELS.register_module()
class SSDLiteNeck(BaseModule):
    """Passes the backbone's maps on and makes coarser levels from the last of them.

    Each further level halves the one before by a separable convolution, which has no activation
    between its two parts. The last level is one position: the mean of the one before, projected.

    Args:
        in_channels: Channels of the backbone's maps, finest first, at least one.
        extra_channels: Channels of the levels that halve the one before.
        pooled_channels: Channels of the last level.
        norm_cfg: Norm of the separable convolutions; None for BN.
        act_cfg: Activation of the further levels; None for ReLU.
        init_cfg: MMEngine's initialisers; None for those of mmdet's SSD, Xavier-uniform.

    Examples:
        >>> neck = SSDLiteNeck((128, 160)).eval()
        >>> maps = neck((torch.ones(1, 128, 20, 20), torch.ones(1, 160, 10, 10)))
        >>> [m.shape[-1] for m in maps]
        [20, 10, 5, 3, 2, 1]
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (128, 160),
        extra_channels: Sequence[int] = (256, 128, 128),
        pooled_channels: int = 64,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg or dict(INITIALISER))
        self.in_channels = tuple(in_channels)
        self.out_channels = (*in_channels, *extra_channels, pooled_channels)
        chain = (in_channels[-1], *extra_channels)
        self.extra_layers = nn.ModuleList(
            DepthwiseSeparableConvModule(
                chain[level],
                chain[level + 1],
                3,
                stride=2,
                padding=1,
                norm_cfg=dict(norm_cfg or NORM),
                dw_act_cfg=None,
                pw_act_cfg=dict(act_cfg or ACTIVATION),
            )
            for level in range(len(extra_channels))
        )
        self.pooled_conv = nn.Conv2d(chain[-1], pooled_channels, 1, bias=False)
        self.activation = build_activation(act_cfg or ACTIVATION)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            inputs: Maps of shape (B, in_channels[i], H_i, W_i), finest first.

        Returns:
            The inputs, one map per entry of ``extra_channels`` of half the size, rounded up, of the
            one before, and one of shape (B, pooled_channels, 1, 1).

        Raises:
            ValueError: There are more or fewer inputs than ``in_channels`` has entries.
        """
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f"SSDLiteNeck got {len(inputs)} maps, but in_channels={self.in_channels}; make "
                "the backbone's out_indices and the neck's in_channels agree"
            )
        levels = list(inputs)
        for layer in self.extra_layers:
            levels.append(layer(levels[-1]))
        pooled = F.adaptive_avg_pool2d(levels[-1], 1)
        return (*levels, self.activation(self.pooled_conv(pooled)))


@TASK_UTILS.register_module()
class SSDLiteAnchorGenerator(AnchorGenerator):
    """Anchors whose sizes and centres are fractions of the image.

    mmdet's SSDAnchorGenerator has sizes and steps in pixels, for one size of image. Here the levels
    have evenly spaced scales s, with one more after the last level's. Each position of a level has
    these boxes, as (width, height): (s, s); (m, m) with m the geometric mean of s and the next
    level's; and for each ratio r, (s sqrt(r), s / sqrt(r)) and the same upright. A width or height
    above 1 becomes 1, so a box may still reach over the border. Of w columns, column x has its
    centre at (x + 0.5) / w.

    The image's size is that of the finest map times its stride, the true one if the image is padded
    to a multiple of it (``pad_size_divisor`` of the data preprocessor).

    Args:
        strides: Strides of the levels in pixels, finest first. Only the first has an influence on
            the boxes, as a stride of the others need not divide the image.
        ratios: Ratios of width and height above 1, one sequence for each level.
        scale_range: Smallest and largest scale; the largest is used for the mean only.

    Raises:
        ValueError: There are more or fewer ratios than strides.

    Examples:
        >>> SSDLiteAnchorGenerator().num_base_priors
        [6, 6, 6, 6, 6, 4]
    """

    def __init__(
        self,
        strides: Sequence[int] = (16, 32, 64, 128, 256, 256),
        ratios: Sequence[Sequence[float]] = ((2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2,)),
        scale_range: tuple[float, float] = (0.1, 1.05),
    ) -> None:
        if len(strides) != len(ratios):
            raise ValueError(
                f"there are {len(strides)} strides and {len(ratios)} sequences of ratios; give one "
                "of both for each level"
            )
        self.strides = [(stride, stride) for stride in strides]
        self.ratios = [tuple(level) for level in ratios]
        self.use_box_type = False
        scales = torch.linspace(*scale_range, len(strides) + 1, dtype=torch.float64, device="cpu")
        self.base_anchors = [
            _boxes(*pair, level)
            for *pair, level in zip(scales, scales[1:], self.ratios, strict=False)
        ]

    def grid_priors(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cuda",
    ) -> list[Tensor]:
        """Place the boxes on every position of the maps.

        Args:
            featmap_sizes: Height and width of each level.
            dtype: Type of the result.
            device: Device of the result.

        Returns:
            For each level (positions * boxes, 4): corners (x1, y1, x2, y2) in pixels; boxes of one
            position follow each other, positions row by row.

        Raises:
            ValueError: There are more or fewer maps than levels.
        """
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(
                f"got {len(featmap_sizes)} maps for anchors of {self.num_levels} levels; make the "
                "neck's outputs and the anchor generator's strides agree"
            )
        # On the CPU, as not every device knows double precision.
        options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
        rows, columns = featmap_sizes[0]
        step_x, step_y = self.strides[0]
        sides = (columns * step_x, rows * step_y)
        image = torch.stack([torch.as_tensor(side, **options) for side in sides])
        priors = []
        for (rows, columns), sizes in zip(featmap_sizes, self.base_anchors, strict=True):
            y, x = ((torch.arange(count, **options) + 0.5) / count for count in (rows, columns))
            centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 1, 2)
            corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)
            priors.append((corners * image.repeat(2)).view(-1, 4).to(device, dtype))
        return priors

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strides={self.strides}, ratios={self.ratios})"


def _boxes(scale: Tensor, next_scale: Tensor, ratios: Sequence[float]) -> Tensor:
    """Widths and heights of a level's boxes as fractions of the image, (boxes, 2)."""
    sides = [(scale, scale), ((scale * next_scale).sqrt(),) * 2]
    for ratio in ratios:
        long, short = scale * ratio**0.5, scale / ratio**0.5
        sides += [(long, short), (short, long)]
    return torch.stack([torch.stack(pair) for pair in sides]).clamp(max=1)


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """SSD head with one separable convolution for location and class together.

    The first levels are projected before it. The last level has a plain 1x1 convolution instead.
    Losses, targets and post-processing are mmdet's. Channels of an anchor: 4 of the location, then
    the classes, then the background.

    Args:
        num_classes: Classes without the background.
        in_channels: Channels of the levels, as many as the anchor generator has.
        projected_channels: Channels to which the first levels are projected.
        norm_cfg: Norm of projections and depth-wise convolutions; None for BN.
        act_cfg: Activation of the projections; None for ReLU.
        init_cfg: MMEngine's initialisers; None for those of mmdet's SSD, Xavier-uniform.
        **kwargs: Of mmdet's SSDHead: ``anchor_generator``, ``bbox_coder``, ``train_cfg``, ...

    Raises:
        ValueError: ``in_channels`` and the anchors disagree about the number of levels, or there
            are not more levels than projections.

    Examples:
        >>> bbox_head = dict(type="mmvitconv.SSDLiteHead", num_classes=80)
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (128, 160, 256, 128, 128, 64),
        projected_channels: Sequence[int] = (512, 256),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        self.projected_channels = tuple(projected_channels)  # mmdet's __init__ makes the layers
        super().__init__(
            num_classes=num_classes,
            in_channels=tuple(in_channels),
            norm_cfg=dict(norm_cfg or NORM),
            act_cfg=dict(act_cfg or ACTIVATION),
            init_cfg=init_cfg or dict(INITIALISER),
            **kwargs,
        )
        self.loss_cls = None  # mmdet 3.3 asks for it when it predicts, but its SSDHead has none

    def _init_layers(self) -> None:
        """Make the projections and the convolutions that predict."""
        levels = len(self.num_base_priors)
        if len(self.in_channels) != levels or len(self.projected_channels) >= levels:
            raise ValueError(
                f"in_channels={self.in_channels} with projected_channels="
                f"{self.projected_channels} does not fit anchors of {levels} levels; give "
                f"{levels} channels and fewer projections"
            )
        self.projections = nn.ModuleList(
            ConvModule(narrow, wide, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
            for narrow, wide in zip(self.in_channels, self.projected_channels, strict=False)
        )
        channels = (*self.projected_channels, *self.in_channels[len(self.projected_channels) :])
        outputs = [boxes * (4 + self.cls_out_channels) for boxes in self.num_base_priors]
        self.predictors = nn.ModuleList(
            DepthwiseSeparableConvModule(
                channels[level],
                outputs[level],
                3,
                padding=1,
                norm_cfg=self.norm_cfg,
                act_cfg=None,
                pw_norm_cfg=None,
            )
            for level in range(levels - 1)
        )
        self.predictors.append(nn.Conv2d(channels[-1], outputs[-1], 1))

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict location and class of every anchor.

        Args:
            x: Maps of shape (B, in_channels[i], H_i, W_i).

        Returns:
            For each level raw class scores (B, boxes * (num_classes + 1), H_i, W_i) and encoded
            locations (B, boxes * 4, H_i, W_i), a position's boxes one after the other.
        """
        scores, locations = [], []
        for level, (features, predict) in enumerate(zip(x, self.predictors, strict=True)):
            if level < len(self.projections):
                features = self.projections[level](features)
            boxes = predict(features).unflatten(1, (-1, 4 + self.cls_out_channels))
            locations.append(boxes[:, :, :4].flatten(1, 2))
            scores.append(boxes[:, :, 4:].flatten(1, 2))
        return scores, locations
