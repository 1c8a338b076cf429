"""DeepLabv3's head as ParC-Net's segmentor has it (arXiv:2203.03952)."""

from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import ASPPHead

from mmvitconv.registry import MODELS

__all__ = ["DeepLabV3Head"]


@MODELS.register_module()
class DeepLabV3Head(ASPPHead):
    """ASPP whose branches are merged by a 1x1 convolution; mmseg's own takes 3x3.

    The pooled branch comes first, as in mmseg; in the original it is the last, so a converter of
    weights has to move its input channels. What the original drops out is not written down;
    ``dropout_ratio=0.1`` before the classifier is mmseg's default.

    Args:
        **kwargs: Of mmseg's ASPPHead: ``in_channels``, ``channels``, ``num_classes``,
            ``dilations``, ``norm_cfg``, ...

    Examples:
        >>> head = DeepLabV3Head(in_channels=160, channels=256, num_classes=21)
        >>> head.eval()((torch.ones(1, 160, 8, 8),)).shape
        torch.Size([1, 21, 8, 8])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bottleneck = ConvModule(
            (len(self.dilations) + 1) * self.channels,
            self.channels,
            1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
