"""Necks: what stands between a backbone and a head."""

from mmvitconv.models.necks.lightvit import LightViTFPN, LightViTPooling

__all__ = ["LightViTFPN", "LightViTPooling"]
