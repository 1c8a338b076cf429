"""Layers that two families share."""

from mmvitconv.models.layers.build import build_activation, build_norm
from mmvitconv.models.layers.conv import DepthwiseConv2d, PointwiseConv2d
from mmvitconv.models.layers.norm import CanvasNorm, keep_memory_format
from mmvitconv.models.layers.parc import OversizeConv, ParC, ParCPair
from mmvitconv.models.layers.plain import is_plain
from mmvitconv.models.layers.replace import replace_with_parc
from mmvitconv.models.layers.residual import ScaledResidual, draw_kept, drop_path_rates

__all__ = [
    "CanvasNorm",
    "DepthwiseConv2d",
    "OversizeConv",
    "ParC",
    "ParCPair",
    "PointwiseConv2d",
    "ScaledResidual",
    "build_activation",
    "build_norm",
    "draw_kept",
    "drop_path_rates",
    "is_plain",
    "keep_memory_format",
    "replace_with_parc",
]
