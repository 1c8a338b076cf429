"""Several scales from backbones that have only one."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvitconv.models.base import check_increasing, check_positive, normalise_indices
from mmvitconv.models.layers import ChannelNorm, build_norm
from mmvitconv.ops import with_zero_gradients
from mmvitconv.registry import MODELS

__all__ = ["IsotropicPyramid"]

# The strides that the heads of the field are made for; ours come as near as powers of two allow.
_TARGETS = (4, 8, 16, 32)


@MODELS.register_module()
class IsotropicPyramid(BaseModule):
    """Four or five scales of an isotropic backbone, such as ConvMixer or a plain ViT.

    Two designs of the field: ``'taps'`` takes four depths of the trunk and rescales each of them
    (XCiT, BEiT), ``'last'`` rescales the last map only (ViTDet's simple pyramid). The factors are
    powers of two chosen so that the strides come near 4, 8, 16 and 32; ``strides`` has the true
    ones. A patch size of 8 or 16 gives exactly these; 7 or 14 give 3.5, 7, 14 and 28, and heads
    (anchor generators, RoI extractors) must be given those.

    Args:
        in_channels: Channels C of the backbone's maps.
        patch_size: Stride of the backbone's maps, at least 1.
        mode: ``'taps'`` gives maps of C channels. ``'last'`` gives maps of ``out_channels`` and
            one more, half as large as the last.
        out_channels: Channels of the outputs of ``'last'``; None for 256. ``'taps'`` keeps C, so
            that it takes None or C.
        out_indices: Which of the four scales are made, finest first; fewer where a head has no
            use for the finest.
        norm_cfg: BN or SyncBN, between the transposed convolutions of ``'taps'``; None for BN.
        init_cfg: MMEngine's initialisers; None keeps torch's.

    Attributes:
        strides: True strides of the outputs, floats where they are not integers.
        factors: Size of the outputs of ``out_indices`` over that of the backbone's maps.

    Raises:
        ValueError: An argument is outside its legal range.

    Examples:
        >>> neck = IsotropicPyramid(in_channels=768, patch_size=8)
        >>> neck.strides
        (4, 8, 16, 32)
    """

    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        mode: Literal["taps", "last"] = "taps",
        out_channels: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: Mapping | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if mode not in ("taps", "last"):
            raise ValueError(f"mode must be 'taps' or 'last', got {mode!r}")
        check_positive(in_channels=in_channels, patch_size=patch_size)
        indices = normalise_indices("out_indices", out_indices, 4, "scales")
        check_increasing("out_indices", indices, out_indices)
        if mode == "taps" and out_channels not in (None, in_channels):
            raise ValueError(
                f"out_channels must be None with mode='taps', which keeps the {in_channels} "
                f"channels of its inputs, got {out_channels}; put an FPN behind it"
            )
        self.in_channels = in_channels
        self.mode = mode
        self.out_indices = tuple(indices)
        steps = [round(math.log2(patch_size / _TARGETS[index])) for index in indices]
        narrowest = in_channels / 2 ** max(*steps, 0)
        if mode == "last" and narrowest != int(narrowest):
            raise ValueError(
                f"in_channels must be a multiple of {2 ** max(steps)}, as mode='last' halves them "
                f"with each of {max(steps)} enlargements, got {in_channels}"
            )
        self.factors = tuple(2.0**step for step in steps)
        strides = [patch_size / factor for factor in self.factors]
        if mode == "taps":
            self.out_channels = in_channels
            norm_cfg = norm_cfg or {"type": "BN"}
            self.rescales = nn.ModuleList(_rescale(in_channels, step, norm_cfg) for step in steps)
        else:
            self.out_channels = 256 if out_channels is None else out_channels
            strides.append(2 * strides[-1])
            self.rescales = nn.ModuleList(_rescale(in_channels, step, None) for step in steps)
            self.projections = nn.ModuleList(
                _project(in_channels // 2 ** max(step, 0), self.out_channels) for step in steps
            )
            self.pool = nn.MaxPool2d(1, stride=2)
        self.strides = tuple(int(s) if s == int(s) else s for s in strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: The backbone's maps, shape (B, C, H, W), first to last. ``'taps'`` takes as many
                as ``out_indices`` has entries, or four, of which it uses those of ``out_indices``;
                ``'last'`` uses the last one only.

        Returns:
            Maps, finest first.

        Raises:
            ValueError: ``'taps'`` got another number of maps.
        """
        return with_zero_gradients(self._scales(inputs), self._output_parts())

    def _scales(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self.mode == "last":
            maps = [rescale(inputs[-1]) for rescale in self.rescales]
            outs = [project(x) for project, x in zip(self.projections, maps, strict=True)]
            return [*outs, self.pool(outs[-1])]
        count = len(self.out_indices)
        if len(inputs) not in (count, len(_TARGETS)):
            raise ValueError(
                f"IsotropicPyramid with mode='taps' and out_indices={self.out_indices} takes "
                f"{count} maps, or the four of which these are, but got {len(inputs)}; give the "
                f"backbone {count} out_indices, or take mode='last'"
            )
        if len(inputs) > count:
            inputs = [inputs[index] for index in self.out_indices]
        return [rescale(x) for rescale, x in zip(self.rescales, inputs, strict=True)]

    def _output_parts(self) -> Iterator[tuple[nn.Module, Collection[int]]]:
        """Yield what makes each output; the last but one of ``'last'`` is pooled to the last."""
        last = len(self.out_indices) - 1
        for part in (self.rescales, getattr(self, "projections", ())):
            for index, module in enumerate(part):
                pooled = self.mode == "last" and index == last
                yield module, (index, index + 1) if pooled else (index,)


def _rescale(channels: int, step: int, norm_cfg: Mapping | None) -> nn.Sequential:
    """Enlarge a map ``step`` times by 2, or halve it ``-step`` times.

    Args:
        channels: Channels of the input.
        step: See above.
        norm_cfg: Norm between enlargements that keep the channels; None to halve the channels
            each time and norm over them, as ViTDet does.
    """
    layers: list[nn.Module] = []
    for index in range(step):
        out_channels = channels // 2 if norm_cfg is None else channels
        if index:
            norm = ChannelNorm(channels) if norm_cfg is None else build_norm(norm_cfg, channels)
            layers += [norm, nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, out_channels, 2, 2))
        channels = out_channels
    if step < 0:
        # With the last row and column also when they have no partner: cells stay where they are.
        layers += [nn.MaxPool2d(2, ceil_mode=True)] * -step
    return nn.Sequential(*layers)


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        ChannelNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        ChannelNorm(out_channels),
    )
