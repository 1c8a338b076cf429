"""Layers that two families share."""

from mmvitconv.models.layers.build import build_activation, build_norm
from mmvitconv.models.layers.conv import DepthwiseConv2d, PointwiseConv2d
from mmvitconv.models.layers.mixers import MIXERS, DynamicConvMixer, make_mixer
from mmvitconv.models.layers.norm import CanvasNorm
from mmvitconv.models.layers.parc import OversizeConv, ParC, ParCPair
from mmvitconv.models.layers.plain import is_plain
from mmvitconv.models.layers.replace import DeepStages, ParCReport, replace_with_parc
from mmvitconv.models.layers.residual import ScaledResidual, draw_kept, drop_path_rates
from mmvitconv.ops.memory_format import keep_memory_format

__all__ = [
    "MIXERS",
    "CanvasNorm",
    "DeepStages",
    "DepthwiseConv2d",
    "DynamicConvMixer",
    "OversizeConv",
    "ParC",
    "ParCPair",
    "ParCReport",
    "PointwiseConv2d",
    "ScaledResidual",
    "build_activation",
    "build_norm",
    "draw_kept",
    "drop_path_rates",
    "is_plain",
    "keep_memory_format",
    "make_mixer",
    "replace_with_parc",
]
