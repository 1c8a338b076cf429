"""Backbones, one file per family."""

from mmvitconv.models.backbones.convmixer import ConvMixer
from mmvitconv.models.backbones.dynconv_swin import DynConvSwin
from mmvitconv.models.backbones.dynconv_vit import DynConvViT
from mmvitconv.models.backbones.fcvit import FCViT
from mmvitconv.models.backbones.lightvit import LightViT
from mmvitconv.models.backbones.parc_convnext import ParCConvNeXt
from mmvitconv.models.backbones.parc_mobilenetv2 import ParCMobileNetV2
from mmvitconv.models.backbones.parc_net import ParCNet
from mmvitconv.models.backbones.parc_resnet import ParCResNet

__all__ = [
    "ConvMixer",
    "DynConvSwin",
    "DynConvViT",
    "FCViT",
    "LightViT",
    "ParCConvNeXt",
    "ParCMobileNetV2",
    "ParCNet",
    "ParCResNet",
]
