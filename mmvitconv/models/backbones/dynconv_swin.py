"""Hierarchical Transformers whose attention is a dynamic convolution of one's choice.

Following the abstract of Zhou, Loy, Dai, "Interpret Vision Transformers as ConvNets with Dynamic
Convolutions", arXiv:2309.10713, of which no more is known to us and for which no code is public.
The trunk has the sizes of Swin (arXiv:2103.14030), whose weights load through
:mod:`mmvitconv.weights.families.swin`, and around DWNet's mixers the blocks of DWNet
(arXiv:2106.04263).

Four stages on strides 4, 8, 16 and 32, each a row of
:class:`~mmvitconv.models.backbones.dynconv_vit.Block`. Tokens stay a map of shape (B, H, W, C).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.backbones.dynconv_vit import Block, PatchEmbed, init_layer, is_new_affine
from mmvitconv.models.base import (
    PyramidBackbone,
    check_integers,
    check_positive,
    check_rate,
    check_stages,
    resolve_arch,
)
from mmvitconv.models.layers import drop_path_rates, make_mixer
from mmvitconv.models.layers.mixers import Mixer
from mmvitconv.ops import resize_bicubic
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "DynConvSwin", "DynConvSwinArch"]

_EPS = 1e-5
_PATCH_SIZE = 4
# Presets that are global by themselves and that this family puts into Swin's windows.
_WINDOWED = ("relu_n", "ln_relu", "relu_ln")
_TABLE = "relative_position_bias_table"


@dataclass(frozen=True)
class DynConvSwinArch:
    """Sizes of a DynConvSwin.

    Attributes:
        embed_dims: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage; they divide its channels.
        mlp_ratio: Hidden width of the MLPs over the channels.
        window_size: Side of the windows, at least 1, for mixers that have windows.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: float = 4.0
    window_size: int = 7

    def __post_init__(self) -> None:
        check_stages(depths=self.depths, num_heads=self.num_heads)
        check_integers(self, ("depths", "num_heads"), len(self.depths))
        check_positive(embed_dims=self.embed_dims, window_size=self.window_size)
        if any(self.channels(i) % heads for i, heads in enumerate(self.num_heads)):
            raise ValueError(
                f"num_heads must divide its stage's channels, {self.embed_dims} of the first and "
                f"twice as many of each further one, got {self.num_heads}"
            )

    def channels(self, stage: int) -> int:
        """Return the channels of a stage."""
        return self.embed_dims * 2**stage


ARCHS: Mapping[str, DynConvSwinArch] = {
    "tiny": DynConvSwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": DynConvSwinArch(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": DynConvSwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class Merge(nn.Module):
    """Halves the grid: LayerNorm and linear layer over 2x2 tokens, columns slow.

    Args:
        in_dims: Channels before; twice as many are after.
    """

    def __init__(self, in_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dims, eps=_EPS)
        self.reduction = nn.Linear(4 * in_dims, 2 * in_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge a map (B, H, W, C), filled up with zeros to even sides."""
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B, H/2, row, W/2, column, C
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


@MODELS.register_module()
class DynConvSwin(PyramidBackbone):
    """Hierarchical Transformer of dynamic convolutions, strides 4, 8, 16 and 32.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of :class:`DynConvSwinArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        mixer: A preset's name or ``dict(preset=NAME, ...)`` with its options; see
            :func:`mmvitconv.models.layers.mixers.make_mixer`. Mixers with windows shift them in
            every second block. ``'relu_n'``, ``'ln_relu'`` and ``'relu_ln'`` have windows and a
            relative position table here, unless ``reach`` and ``bias`` are given.
        output_norms: Whether the outputs are normed (``norm{i}``).
        **options: :class:`PyramidBackbone`'s other arguments. A merging is frozen with the stage
            after it. ``init_cfg`` takes our, the original authors' or timm's file of a Swin:
            relative position tables of other windows are resized.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = DynConvSwin("tiny", mixer="ddw", out_indices=(3,)).eval()
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 96))]
        [(1, 768, 2, 3)]
    """

    stem_names = ("patch_embed",)
    embedding = "downsamples.{stage}"

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        mixer: str | Mapping = "swin",
        output_norms: bool = True,
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, DynConvSwinArch)
        stages = range(len(sizes.depths))
        options.update(in_channels=in_channels, out_indices=out_indices)
        super().__init__(
            sizes.depths,
            [sizes.channels(stage) for stage in stages],
            [_PATCH_SIZE * 2**stage for stage in stages],
            **options,
        )
        check_rate("drop_path_rate", drop_path_rate)
        self.arch = sizes
        self.patch_embed = PatchEmbed(
            in_channels, sizes.embed_dims, _PATCH_SIZE, nn.LayerNorm(sizes.embed_dims, eps=_EPS)
        )
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.downsamples = nn.ModuleDict()
        self.stages = nn.ModuleList()
        for stage in stages[: self.num_stages]:
            channels = sizes.channels(stage)
            if stage:
                self.downsamples[str(stage)] = Merge(channels // 2)
            blocks = nn.ModuleList()
            for index, rate in enumerate(rates[stage]):
                token_mixer = _make_mixer(mixer, sizes, stage, shifted=index % 2 == 1)
                blocks.append(Block(token_mixer, channels, sizes.mlp_ratio, _EPS, rate))
            self.stages.append(blocks)
            if output_norms and stage in self.out_indices:
                self.add_module(f"norm{stage}", nn.LayerNorm(channels, eps=_EPS))
        self.apply(init_layer)
        self.train()

    def to_map(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Return a map with its channels first."""
        return super().to_map(x, norm).permute(0, 3, 1, 2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, own in self.named_parameters():
            stored = state_dict.get(prefix + name)
            if name.endswith(_TABLE) and stored is not None and _is_table(stored.shape, own.shape):
                state_dict[prefix + name] = resize_table(stored, own.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def is_optional_key(self, key: str) -> bool:
        """Output norms, and stages behind the last output, which are not built.

        The norm's affine parameters of LN+ReLU mixers stay as initialised where weights of a
        softmax mixer are loaded.
        """
        return super().is_optional_key(key) or is_new_affine(self, key)

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """Relative position tables of other windows, to start from."""
        return (
            fine_tuning and key.endswith(_TABLE) and _is_table(shape, self.get_parameter(key).shape)
        )


def _make_mixer(mixer: str | Mapping, arch: DynConvSwinArch, stage: int, shifted: bool) -> Mixer:
    """Make the mixer of a block, its windows shifted by half their side in every second one."""
    options = mixer if isinstance(mixer, Mapping) else {"preset": mixer}
    overrides = {}
    if options.get("preset") in _WINDOWED and options.get("reach", "window") == "window":
        defaults = {"reach": "window", "bias": "rel_table"}
        overrides = {key: value for key, value in defaults.items() if key not in options}
    window_size = options.get("size", arch.window_size)
    return make_mixer(
        mixer,
        arch.channels(stage),
        arch.num_heads[stage],
        window_size=window_size,
        shift=window_size // 2 if shifted else 0,
        **overrides,
    )


def _is_table(shape: Sequence[int], own: Sequence[int]) -> bool:
    """Return whether it is a table for square windows with as many heads as ours."""
    return len(shape) == 2 and shape[1] == own[1] and math.isqrt(shape[0]) ** 2 == shape[0] > 0


def resize_table(table: Tensor, rows: int) -> Tensor:
    """Resize a relative position table to another window, bicubic and in float32.

    Args:
        table: Shape ((2 M - 1)^2, heads).
        rows: The other (2 M - 1)^2.

    Returns:
        Shape (rows, heads), in the dtype of ``table``.
    """
    if len(table) == rows:
        return table
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    grid = table.T.unflatten(1, (old, old)).unsqueeze(0)
    return resize_bicubic(grid, (new, new))[0].flatten(1).T
