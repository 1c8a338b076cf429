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
)
from mmvitconv.models.necks import (
    GlobalPooling,
    IsotropicPyramid,
    LightViTFPN,
    LightViTPooling,
)
from mmvitconv.models.plugin import WithParC, replace_with_parc

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
    "replace_with_parc",
]
