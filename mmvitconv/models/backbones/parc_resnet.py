"""ParC-ResNet: ResNet whose last bottlenecks mix space by dense circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets). Written from a description of the
architecture; no code of the original was copied. Original checkpoints load through
:mod:`mmvitconv.weights.families.parc_resnet`; other keys are torchvision's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmvitconv.models.base import (
    PyramidBackbone,
    check_integers,
    check_rate,
    resolve_arch,
)
from mmvitconv.models.layers import Conv2d, ParCPair, build_norm, draw_kept, drop_path_rates
from mmvitconv.models.layers.parc import check_num_parc, init_kaiming
from mmvitconv.ops import convolution_format, multiply_add
from mmvitconv.ops.precision import saturate, saturating_relu
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCResNet", "ParCResNetArch"]

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


@dataclass(frozen=True)
class ParCResNetArch:
    """Sizes of a ParC-ResNet (docs/specs/parc.md#3-parc-convnets).

    Attributes:
        depths: Bottlenecks of the four stages.
        num_parc: How many of each stage's bottlenecks, counted from the last, are ParC blocks; the
            first of a stage, which downsamples, cannot be.
        kernel_lengths: Length of their stored kernels: the map's size in images of 224 x 224.
    """

    depths: tuple[int, ...]
    num_parc: tuple[int, ...] = (0, 0, 3, 1)
    kernel_lengths: tuple[int, ...] = (56, 28, 14, 7)

    def __post_init__(self) -> None:
        check_integers(self, ("depths", "kernel_lengths"), 4)
        check_num_parc(self.num_parc, self.depths, spared=1)


ARCHS: Mapping[str, ParCResNetArch] = {"50": ParCResNetArch((3, 4, 6, 3))}


class SaturatingReLU(nn.ReLU):
    """ReLU in place that holds float16 at its largest value.

    In evaluation BatchNorm does not follow its input: a trunk that adds up blocks grows with the
    image, in float16 beyond what it can hold.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return saturating_relu(x)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution around a skip (ResNet v1.5: stride on the 3x3).

    Args:
        in_channels: Channels of the input.
        width: Channels of the middle; the output has four times as many.
        stride: Of the mixer.
        norm: Makes a norm for a number of channels.
        mixer: What mixes space instead of the 3x3 convolution, or None.
        drop_path_rate: Chance that a sample skips the branch while training.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        norm: Any,
        mixer: nn.Module | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        conv = partial(Conv2d, bias=False)
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride, 1) if mixer is None else mixer
        self.bn2 = norm(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.relu = SaturatingReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, 1, stride), norm(out_channels)
            )
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        # One of the two is finite, the other may be infinite: ReLU makes the sum finite again.
        skip = x if self.downsample is None else saturate(self.downsample(x))
        if self.training and self.drop_path_rate > 0:
            return self.relu(multiply_add(skip, y, draw_kept(y, self.drop_path_rate)))
        y += skip
        return self.relu(y)


@MODELS.register_module()
class ParCResNet(PyramidBackbone):
    """ParC-ResNet backbone (arXiv:2203.03952), four stages at strides 4, 8, 16 and 32.

    Args:
        arch: ``'50'``, or a dict of :class:`ParCResNetArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        instance_kernel: ``'interpolation_bilinear'`` for any image, ``'fixed'`` for the
            classification form, which takes maps of ``kernel_lengths`` only; ``'crop'``.
        norm_cfg: BatchNorm or SyncBN.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.
        **options: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg``, see
            :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = ParCResNet("50", out_indices=(3,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 224, 224))]
        [(1, 2048, 7, 7)]
    """

    stem_names = ("conv1", "bn1", "relu", "maxpool")
    block = "layer{number}.{block}"
    output_norm = None

    def __init__(
        self,
        arch: str | Mapping = "50",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        instance_kernel: str = "interpolation_bilinear",
        norm_cfg: Mapping | None = None,
        algorithm: str = "auto",
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCResNetArch)
        dims = [_EXPANSION * width for width in _WIDTHS]
        options.update(in_channels=in_channels, out_indices=out_indices)
        super().__init__(sizes.depths, dims, (4, 8, 16, 32), **options)
        check_rate("drop_path_rate", drop_path_rate)
        self.arch = sizes
        norm = partial(build_norm, norm_cfg or {"type": "BN"})
        pair = partial(ParCPair, dense=True, instance_kernel=instance_kernel, algorithm=algorithm)
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = SaturatingReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage in range(self.num_stages):
            width, length = _WIDTHS[stage], sizes.kernel_lengths[stage]
            first_parc = sizes.depths[stage] - sizes.num_parc[stage]
            blocks = nn.ModuleList()
            for index, rate in enumerate(rates[stage]):
                stride = 2 if stage and index == 0 else 1
                mixer = pair(width, length) if index >= first_parc else None
                blocks.append(Bottleneck(channels, width, stride, norm, mixer, rate))
                channels = dims[stage]
            self.add_module(f"layer{stage + 1}", blocks)
        self.apply(init_kaiming)
        self.train()

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """Run the stem."""
        return super().embed(stage, x if stage else convolution_format(x))
