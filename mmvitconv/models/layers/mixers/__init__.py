"""Token mixers, read as convolutions with generated kernels.

The reading of attention as a convolution with a dynamic kernel follows the abstract of
arXiv:2309.10713, the only part of that paper that was available; what is built from it here is our
own design, except for the rows of the table that are public models
(docs/specs/dynconv.md#1-interpretation, #2-table, #6-mixer).
"""

from mmvitconv.models.layers.mixers.base import Mixer
from mmvitconv.models.layers.mixers.dwnet import PositionMixer, SampleMixer, StaticMixer
from mmvitconv.models.layers.mixers.pairwise import (
    Attention,
    DepthwiseHeads,
    GlobalAttention,
    GlobalMixer,
    NeighbourhoodAttention,
    PairwiseMixer,
    TokenNormAttention,
    WindowAttention,
)
from mmvitconv.models.layers.mixers.pooled import PooledMixer
from mmvitconv.models.layers.mixers.presets import MIXERS, DynamicConvMixer, make_mixer

__all__ = [
    "MIXERS",
    "Attention",
    "DepthwiseHeads",
    "DynamicConvMixer",
    "GlobalAttention",
    "GlobalMixer",
    "Mixer",
    "NeighbourhoodAttention",
    "PairwiseMixer",
    "PooledMixer",
    "PositionMixer",
    "SampleMixer",
    "StaticMixer",
    "TokenNormAttention",
    "WindowAttention",
    "make_mixer",
]
