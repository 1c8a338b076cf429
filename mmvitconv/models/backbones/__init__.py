"""Backbones, one file per family."""

from mmvitconv.models.backbones.fcvit import FCViT

__all__ = ["FCViT"]
