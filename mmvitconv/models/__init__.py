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
from mmvitconv.weights.files import allow_run_states

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

# MMEngine imports this package when it meets the prefix of a model, in whichever project's tools
allow_run_states()
