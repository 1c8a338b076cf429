"""LightViT's necks: the pyramid of its detectors and the pooling of its classifiers."""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvitconv.ops import with_zero_gradients
from mmvitconv.registry import MODELS

__all__ = ["LightViTFPN", "LightViTPooling"]


def _conv(layer: nn.Module) -> nn.Sequential:
    """A layer below the name ``conv``, the key layout of detectors' checkpoints."""
    return nn.Sequential(OrderedDict(conv=layer))


@MODELS.register_module()
class LightViTFPN(BaseModule):
    """Feature pyramid of LightViT's detectors (arXiv:2207.05557): finer levels than its inputs.

    For LightViT's strides 8, 16 and 32 it gives 4, 8, 16, 32 and 64. The levels above the input are
    made after the top-down sum; levels below it are every second position of the last one.

    Args:
        in_channels: Channels of the inputs, finest first.
        out_channels: Channels of all outputs.
        num_outs: Number of outputs, at least as many as there are inputs and finer levels.
        num_extra_trans_convs: Finer levels, each twice as large as the one below it, at least 0.
        init_cfg: MMEngine's initialisers; None for the original's: Xavier-uniform for
            convolutions, Kaiming-normal for transposed ones, biases 0.

    Raises:
        ValueError: An argument is outside its legal range.

    Examples:
        >>> neck = LightViTFPN(in_channels=(64, 128, 256))
        >>> neck.num_outs
        5
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        num_extra_trans_convs: int = 1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if not in_channels or num_extra_trans_convs < 0:
            raise ValueError(
                "in_channels must have at least one entry and num_extra_trans_convs must be at "
                f"least 0, got {in_channels} and {num_extra_trans_convs}"
            )
        num_levels = len(in_channels) + num_extra_trans_convs
        if num_outs < num_levels:
            raise ValueError(
                f"num_outs must be at least {num_levels}, for {len(in_channels)} inputs and "
                f"{num_extra_trans_convs} finer levels, got {num_outs}"
            )
        super().__init__(init_cfg=init_cfg)
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.lateral_convs = nn.ModuleList(
            _conv(nn.Conv2d(channels, out_channels, 1)) for channels in in_channels
        )
        self.fpn_convs = nn.ModuleList(
            _conv(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in in_channels
        )
        self.extra_trans_convs = nn.ModuleList(
            _conv(nn.ConvTranspose2d(out_channels, out_channels, 2, 2))
            for _ in range(num_extra_trans_convs)
        )
        self.extra_fpn_convs = nn.ModuleList(
            _conv(nn.Conv2d(out_channels, out_channels, 3, padding=1))
            for _ in range(num_extra_trans_convs)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: Maps of shape (B, in_channels[i], H_i, W_i), finest first.

        Returns:
            ``num_outs`` maps of ``out_channels`` channels, finest first.

        Raises:
            ValueError: There are more or fewer inputs than ``in_channels`` has entries.
        """
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f"LightViTFPN got {len(inputs)} maps, but in_channels={self.in_channels}; make "
                "the backbone's out_indices and the neck's in_channels agree"
            )
        levels = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            size = levels[fine].shape[-2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size=size)
        convs = list(self.fpn_convs)
        finest = levels[0]
        for conv in self.extra_trans_convs:
            finest = conv(finest)
            levels.insert(0, finest)
        outs = [conv(x) for conv, x in zip([*self.extra_fpn_convs, *convs], levels, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return with_zero_gradients(outs, self._output_parts())

    def _output_parts(self) -> Iterator[tuple[nn.Module, Collection[int]]]:
        """Yield all convolutions; what is lateral reaches the finer levels, too."""
        extra = len(self.extra_trans_convs)
        last = extra + len(self.in_channels) - 1  # from which all coarser outputs are made
        for level, conv in enumerate([*self.extra_fpn_convs, *self.fpn_convs]):
            yield conv, range(level, self.num_outs if level == last else level + 1)
        for level, conv in enumerate(self.lateral_convs, extra):
            yield conv, range(self.num_outs if level == last else level + 1)
        for index, conv in enumerate(self.extra_trans_convs):
            yield conv, range(extra - index)


@MODELS.register_module()
class LightViTPooling(BaseModule):
    """Projects LightViT's tokens and takes their mean, global tokens included.

    See docs/specs/lightvit.md#3-classification-head.

    Args:
        in_channels: Channels of the tokens.
        out_channels: Channels of the pooled vector.
        init_cfg: MMEngine's initialisers; None for the original's.

    Examples:
        >>> neck = LightViTPooling(256)
        >>> neck((torch.ones(2, 57, 256),))[0].shape
        torch.Size([2, 1280])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1280,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.fc = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pool each of the backbone's outputs of ``out_type='raw'``.

        Args:
            inputs: Tokens of shape (B, N, in_channels).

        Returns:
            Vectors of shape (B, out_channels).

        Raises:
            ValueError: An input has another shape, such as a map.
        """
        for x in inputs:
            if x.dim() != 3:
                raise ValueError(
                    f"LightViTPooling takes tokens of shape (B, N, C), but got {tuple(x.shape)}; "
                    "build the backbone with out_type='raw'"
                )
        return tuple(F.gelu(self.norm(self.fc(x))).mean(dim=1) for x in inputs)
