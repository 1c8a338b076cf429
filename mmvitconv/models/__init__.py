"""All models; importing this package registers them."""

from mmvitconv.models.backbones import (
    ConvMixer,
    FCViT,
    LightViT,
    ParCConvNeXt,
    ParCMobileNetV2,
    ParCNet,
    ParCResNet,
)
from mmvitconv.models.necks import IsotropicPyramid, LightViTFPN, LightViTPooling

__all__ = [
    "ConvMixer",
    "FCViT",
    "IsotropicPyramid",
    "LightViT",
    "LightViTFPN",
    "LightViTPooling",
    "ParCConvNeXt",
    "ParCMobileNetV2",
    "ParCNet",
    "ParCResNet",
]
