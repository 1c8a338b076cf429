"""All models; importing this package registers them."""

from mmvitconv.models.backbones import ConvMixer, FCViT, LightViT
from mmvitconv.models.necks import IsotropicPyramid, LightViTFPN, LightViTPooling

__all__ = ["ConvMixer", "FCViT", "IsotropicPyramid", "LightViT", "LightViTFPN", "LightViTPooling"]
