"""Necks: what stands between a backbone and a head."""

from mmvitconv.models.necks.isotropic import IsotropicPyramid
from mmvitconv.models.necks.lightvit import LightViTFPN, LightViTPooling
from mmvitconv.models.necks.pooling import GlobalPooling

__all__ = ["GlobalPooling", "IsotropicPyramid", "LightViTFPN", "LightViTPooling"]
