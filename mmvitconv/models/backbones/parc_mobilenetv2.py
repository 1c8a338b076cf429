"""ParC-MobileNetV2: MobileNetV2 whose last blocks mix space by circular convolutions.

Paper: Zhang, Hu and Wang, arXiv:2203.03952 (ParC-ConvNets). Written from a description of the
architecture on torchvision's inverted residual; no code of the original was copied. Original
checkpoints load through :mod:`mmvitconv.weights.parc_mobilenetv2`; other keys are torchvision's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops.misc import Conv2dNormActivation

from mmvitconv.models.base import Backbone, check_rate, resolve_arch
from mmvitconv.models.layers import ParCPair, build_norm, draw_kept, keep_memory_format
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "ParCMobileNetV2", "ParCMobileNetV2Arch"]

_STEM_DIMS = 32
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)


@dataclass(frozen=True)
class ParCMobileNetV2Arch:
    """Sizes of a ParC-MobileNetV2 (section 3).

    Attributes:
        embed_dims: Channels of the seven rows of blocks; expanded six times (the first row: not at
            all) they must be even where a row has ParC blocks.
        depths: Blocks of the seven rows.
        num_parc: How many of each row's blocks, counted from the last, are ParC blocks; the first
            of a row cannot be. Only the first ParC block of a row has position embeddings.
        kernel_lengths: Length of their stored kernels: the map's size in images of 224 x 224.
        out_dims: Channels of the last convolution.
    """

    embed_dims: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    num_parc: tuple[int, ...] = (0, 0, 0, 2, 1, 1, 0)
    kernel_lengths: tuple[int, ...] = (112, 56, 28, 14, 14, 7, 7)
    out_dims: int = 1280

    def __post_init__(self) -> None:
        for name in ("embed_dims", "depths", "kernel_lengths"):
            values = getattr(self, name)
            if len(values) != 7 or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f"{name}={values} is illegal; give 7 integers of at least 1")
        if len(self.num_parc) != 7 or any(
            not 0 <= parc < depth for parc, depth in zip(self.num_parc, self.depths, strict=True)
        ):
            raise ValueError(
                f"num_parc={self.num_parc} is illegal; give 7 integers below depths={self.depths}"
            )


ARCHS: Mapping[str, ParCMobileNetV2Arch] = {"1.0": ParCMobileNetV2Arch()}


class Block(InvertedResidual):
    """torchvision's inverted residual with stochastic depth.

    Args:
        *args: torchvision's.
        drop_path_rate: Chance that a sample skips the branch while training.
        **kwargs: torchvision's.
    """

    def __init__(self, *args: object, drop_path_rate: float = 0.0, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        if self.training and self.use_res_connect and self.drop_path_rate > 0:
            y = self.conv(x)
            return torch.addcmul(x, y.to(x.dtype), draw_kept(x, self.drop_path_rate))
        return super().forward(x)


@MODELS.register_module()
class ParCMobileNetV2(Backbone):
    """ParC-MobileNetV2 backbone (arXiv:2203.03952), strides 2, 4, 8, 16, 16, 32, 32 and 32.

    Args:
        arch: ``'1.0'``, or a dict of :class:`ParCMobileNetV2Arch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Rows of blocks 0 to 6, and 7 for the last convolution, as in mmpretrain. The
            default is what the authors give to dense heads.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
            The original has none.
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
        arch: str | Mapping = "1.0",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (1, 2, 4, 7),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        instance_kernel: str = "interpolation_bilinear",
        norm_cfg: Mapping | None = None,
        algorithm: str = "auto",
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, ParCMobileNetV2Arch)
        super().__init__(
            num_stages=8,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_rate("drop_path_rate", drop_path_rate)
        norm = partial(build_norm, dict(norm_cfg or {"type": "BN"}))
        relu6 = {"norm_layer": norm, "activation_layer": nn.ReLU6}
        total = sum(sizes.depths)
        rates = iter(drop_path_rate * i / max(total - 1, 1) for i in range(total))
        self.arch = sizes
        self.features = nn.ModuleList(
            [Conv2dNormActivation(in_channels, _STEM_DIMS, stride=2, **relu6)]
        )
        channels, stride, strides = _STEM_DIMS, 2, []
        for row in range(min(self.num_stages, 7)):
            dims, depth, expansion = sizes.embed_dims[row], sizes.depths[row], _EXPANSIONS[row]
            first_parc = depth - sizes.num_parc[row]
            for index in range(depth):
                block = Block(
                    channels,
                    dims,
                    _STRIDES[row] if index == 0 else 1,
                    expansion,
                    norm,
                    drop_path_rate=next(rates),
                )
                if index >= first_parc:
                    # The depth-wise convolution; an expansion of 1 has none in front of it.
                    block.conv[int(expansion != 1)][0] = ParCPair(
                        channels * expansion,
                        sizes.kernel_lengths[row],
                        position_embedding=index == first_parc,
                        instance_kernel=instance_kernel,
                        algorithm=algorithm,
                    )
                self.features.append(block)
                channels = dims
            stride *= _STRIDES[row]
            strides.append(stride)
        if self.num_stages == 8:
            self.features.append(
                Conv2dNormActivation(channels, sizes.out_dims, kernel_size=1, **relu6)
            )
            strides.append(stride)
        dims_of = (*sizes.embed_dims, sizes.out_dims)
        self.out_channels = tuple(dims_of[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        self.apply(_init_parameters)
        self.train()

    def _slice(self, stage: int) -> range:
        """Indices of a stage in ``features``, the stem left out."""
        depths = (*self.arch.depths, 1)
        first = 1 + sum(depths[:stage])
        return range(first, first + depths[stage])

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the stages in ``out_indices``."""
        image, outs = x, []
        x = self.features[0](x)
        for stage in range(self.num_stages):
            for index in self._slice(stage):
                x = self.run_block(self.features[index], x)
            if stage in self.out_indices:
                outs.append(keep_memory_format(x, image))
        return outs

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """The blocks of a stage, and the stem with the first one."""
        return [*([] if stage else [self.features[0]]), *(self.features[i] for i in
                self._slice(stage))]  # fmt: skip

    def is_optional_key(self, key: str) -> bool:
        """Stages behind the last output are not built."""
        part, _, rest = key.partition(".")
        index = int(rest.partition(".")[0]) if part == "features" else -1
        return len(self.features) <= index <= sum(self.arch.depths) + 1

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, a block each.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            0 for the stem, then the blocks and the last convolution, then everything outside the
            backbone; and the number of ids.
        """
        num_layers = len(self.features) + 1
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        return (int(rest.partition(".")[0]) if part == "features" else num_layers - 1), num_layers


def _init_parameters(module: nn.Module) -> None:
    """Kaiming's initialisation of convolutions, circular ones too."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, ParCPair):
        for half in (module.height, module.width):
            nn.init.kaiming_normal_(half.weight, mode="fan_out")
            nn.init.zeros_(half.bias)
