"""ParC-ResNet: ResNet whose last bottlenecks mix space by dense circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets). Written from a description of the
architecture on torchvision's bottleneck; no code of the original was copied. Original checkpoints
load through :mod:`mmvitconv.weights.parc_resnet`; other keys are torchvision's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from mmvitconv.models.base import Backbone, check_rate, resolve_arch
from mmvitconv.models.layers import (
    ParCPair,
    build_norm,
    draw_kept,
    drop_path_rates,
    keep_memory_format,
)
from mmvitconv.ops.precision import saturate, saturating_relu
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCResNet", "ParCResNetArch"]

_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class ParCResNetArch:
    """Sizes of a ParC-ResNet (section 3).

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
        if len(self.depths) != 4 or any(not isinstance(d, int) or d < 1 for d in self.depths):
            raise ValueError(f"depths={self.depths} is illegal; give 4 integers of at least 1")
        if len(self.kernel_lengths) != 4 or min(self.kernel_lengths) < 1:
            raise ValueError(f"kernel_lengths={self.kernel_lengths} is illegal; give 4 lengths")
        if len(self.num_parc) != 4 or any(
            not 0 <= parc < depth for parc, depth in zip(self.num_parc, self.depths, strict=True)
        ):
            raise ValueError(
                f"num_parc={self.num_parc} is illegal; give 4 integers below depths={self.depths}"
            )


ARCHS: Mapping[str, ParCResNetArch] = {"50": ParCResNetArch((3, 4, 6, 3))}


class SaturatingReLU(nn.ReLU):
    """ReLU in place that holds float16 at its largest value.

    In evaluation BatchNorm does not follow its input: a trunk that adds up blocks grows with the
    image, in float16 beyond what it can hold.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return saturating_relu(x)


class Bottleneck(resnet.Bottleneck):
    """torchvision's bottleneck (stride on the 3x3 convolution) with stochastic depth.

    Args:
        *args: torchvision's.
        drop_path_rate: Chance that a sample skips the branch while training.
        **kwargs: torchvision's.
    """

    def __init__(self, *args: object, drop_path_rate: float = 0.0, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.relu = SaturatingReLU(inplace=True)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        # one of the summands finite, the other may be infinite: ReLU makes it finite again
        skip = x if self.downsample is None else saturate(self.downsample(x))
        if not (self.training and self.drop_path_rate > 0):
            y += skip
            return self.relu(y)
        return self.relu(torch.addcmul(skip, y, draw_kept(x, self.drop_path_rate).to(y.dtype)))


@MODELS.register_module()
class ParCResNet(Backbone):
    """ParC-ResNet backbone (arXiv:2203.03952), four stages at strides 4, 8, 16 and 32.

    Args:
        arch: ``'50'``, or a dict of :class:`ParCResNetArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        frozen_stages: The stem and stages ``0..frozen_stages`` are frozen; -1 freezes nothing.
        norm_eval: Keep all BatchNorms in evaluation mode while training.
        with_cp: Recompute each block in the backward pass to save memory; values stay the same.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` for our or the original file.
        instance_kernel: ``'interpolation_bilinear'`` for any image, ``'fixed'`` for the
            classification form, which takes maps of ``kernel_lengths`` only; ``'crop'``.
        norm_cfg: BatchNorm or SyncBN.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.
    """

    def __init__(
        self,
        arch: str | Mapping = "50",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        instance_kernel: str = "interpolation_bilinear",
        norm_cfg: Mapping | None = None,
        algorithm: str = "auto",
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCResNetArch)
        super().__init__(
            num_stages=4,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_rate("drop_path_rate", drop_path_rate)
        norm = partial(build_norm, dict(norm_cfg or {"type": "BN"}))
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.arch = sizes
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = SaturatingReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage in range(self.num_stages):
            width, depth = _WIDTHS[stage], sizes.depths[stage]
            blocks = []
            for block, rate in enumerate(rates[stage]):
                stride = 2 if stage and block == 0 else 1
                downsample = None
                if block == 0:
                    downsample = nn.Sequential(
                        resnet.conv1x1(channels, 4 * width, stride), norm(4 * width)
                    )
                blocks.append(
                    Bottleneck(
                        channels,
                        width,
                        stride,
                        downsample,
                        norm_layer=norm,
                        drop_path_rate=rate,
                    )
                )
                if block >= depth - sizes.num_parc[stage]:
                    blocks[-1].conv2 = ParCPair(
                        width,
                        sizes.kernel_lengths[stage],
                        dense=True,
                        instance_kernel=instance_kernel,
                        algorithm=algorithm,
                    )
                channels = 4 * width
            self.add_module(f"layer{stage + 1}", nn.ModuleList(blocks))
        self.out_channels = tuple(4 * _WIDTHS[i] for i in self.out_indices)
        self.strides = tuple(4 * 2**i for i in self.out_indices)
        self.apply(_init_parameters)
        self.train()

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the stages in ``out_indices``."""
        image, outs = x, []
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for index in range(self.num_stages):
            for block in getattr(self, f"layer{index + 1}"):
                x = self.run_block(block, x)
            if index in self.out_indices:
                outs.append(keep_memory_format(x, image))
        return outs

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """A stage, and the stem with the first one."""
        own = getattr(self, f"layer{stage + 1}")
        return [own] if stage else [self.conv1, self.bn1, own]

    def is_optional_key(self, key: str) -> bool:
        """Stages behind the last output are not built."""
        part = key.partition(".")[0]
        return part in [f"layer{stage + 1}" for stage in range(self.num_stages, 4)]

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, a block each.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            0 for the stem, 1 to sum(depths) for the blocks, then everything outside the backbone;
            and the number of ids.
        """
        depths = self.arch.depths[: self.num_stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        if part in ("conv1", "bn1"):
            return 0, num_layers
        if part.startswith("layer"):
            stage = int(part.removeprefix("layer")) - 1
            return sum(depths[:stage]) + int(rest.partition(".")[0]) + 1, num_layers
        return num_layers - 1, num_layers


def _init_parameters(module: nn.Module) -> None:
    """Kaiming's initialisation of convolutions, circular ones too."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, ParCPair):
        for half in (module.height, module.width):
            nn.init.kaiming_normal_(half.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(half.bias)
