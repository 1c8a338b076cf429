"""All models; importing this package registers them."""

from mmvitconv.models.backbones import FCViT

__all__ = ["FCViT"]
