"""All models; importing this package registers them."""

from mmvitconv.models.backbones import (
    ConvMixer,
    DynConvSwin,
    DynConvViT,
    FCViT,
    LightViT,
    ParCConvNeXt,
    ParCMobileNetV2,
    ParCNet,
    ParCResNet,
    WithParC,
)
from mmvitconv.models.necks import (
    GlobalPooling,
    IsotropicPyramid,
    LightViTFPN,
    LightViTPooling,
)

__all__ = [
    "ConvMixer",
    "DynConvSwin",
    "DynConvViT",
    "FCViT",
    "GlobalPooling",
    "IsotropicPyramid",
    "LightViT",
    "LightViTFPN",
    "LightViTPooling",
    "ParCConvNeXt",
    "ParCMobileNetV2",
    "ParCNet",
    "ParCResNet",
    "WithParC",
]
