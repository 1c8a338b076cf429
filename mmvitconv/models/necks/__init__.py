"""Necks: what stands between a backbone and a head."""

from mmvitconv.models.necks.isotropic import IsotropicPyramid
from mmvitconv.models.necks.lightvit import LightViTFPN, LightViTPooling

__all__ = ["IsotropicPyramid", "LightViTFPN", "LightViTPooling"]
