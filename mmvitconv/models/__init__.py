"""All models; importing this package registers them."""

from mmvitconv.models.backbones import FCViT, LightViT
from mmvitconv.models.necks import LightViTFPN, LightViTPooling

__all__ = ["FCViT", "LightViT", "LightViTFPN", "LightViTPooling"]
