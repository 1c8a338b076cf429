"""Layers that several families share."""

import importlib
import warnings
from typing import Any

from mmvitconv.models.layers.activation import Hardswish, ReLU6, SiLU
from mmvitconv.models.layers.build import build_activation, build_norm
from mmvitconv.models.layers.conv import Conv2d, DepthwiseConv2d, PointwiseConv2d
from mmvitconv.models.layers.mixers import MIXERS, DynamicConvMixer, make_mixer
from mmvitconv.models.layers.norm import CanvasNorm, ChannelNorm
from mmvitconv.models.layers.parc import OversizeConv, ParC, ParCPair
from mmvitconv.models.layers.residual import ScaledResidual, draw_kept, drop_path_rates
from mmvitconv.ops.memory_format import keep_memory_format

__all__ = [
    "MIXERS",
    "CanvasNorm",
    "ChannelNorm",
    "Conv2d",
    "DepthwiseConv2d",
    "DynamicConvMixer",
    "Hardswish",
    "OversizeConv",
    "ParC",
    "ParCPair",
    "PointwiseConv2d",
    "ReLU6",
    "ScaledResidual",
    "SiLU",
    "build_activation",
    "build_norm",
    "draw_kept",
    "drop_path_rates",
    "keep_memory_format",
    "make_mixer",
]

_MOVED = ("DeepStages", "ParCReport", "replace_with_parc")


def __getattr__(name: str) -> Any:
    """Return what moved to ``mmvitconv.models.plugin``, for one release."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"mmvitconv.models.layers.{name} moved; import it from mmvitconv.models.plugin"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("mmvitconv.models.plugin"), name)
