"""Backbones, one file per family."""

from mmvitconv.models.backbones.convmixer import ConvMixer
from mmvitconv.models.backbones.fcvit import FCViT
from mmvitconv.models.backbones.lightvit import LightViT

__all__ = ["ConvMixer", "FCViT", "LightViT"]
