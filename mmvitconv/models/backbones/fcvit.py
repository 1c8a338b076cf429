"""FCViT: attention turned into a fully convolutional block with a global context.

Paper: Ma et al., "A Close Look at Spatial Modeling: From Attention to Convolution",
arXiv:2212.12552. Written from the architecture's description; the original code (Apache-2.0) was
not copied. Original checkpoints load through :mod:`mmvitconv.weights.families.fcvit`.

The network is a four-stage pyramid of pre-norm blocks. A block's token mixer adds a *global
context* to its input, mixes space with a large depth-wise convolution and channels with a
bottleneck, twice; the channel mixer is an inverted bottleneck with a small depth-wise convolution
inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.base import (
    PyramidBackbone,
    check_rate,
    check_stages,
    resolve_arch,
)
from mmvitconv.models.layers import (
    CanvasNorm,
    DepthwiseConv2d,
    PointwiseConv2d,
    ScaledResidual,
    drop_path_rates,
)
from mmvitconv.ops import (
    add_head_products,
    convolution_format,
    group_norm_format,
    head_similarity,
    image_std_mean,
    multiply_add,
)
from mmvitconv.registry import MODELS

__all__ = ["ARCHS", "FCViT", "FCViTArch"]


@dataclass(frozen=True)
class FCViTArch:
    """Sizes and switches of an FCViT; the defaults are those of every released model.

    Attributes:
        depths: Blocks of each stage.
        embed_dims: Channels of each stage.
        mlp_ratios: Hidden width of the channel mixers over ``embed_dims``, for each stage.
        num_heads: Heads of the global context; divides every entry of ``embed_dims``.
        mix_sizes: Odd kernel sizes of the token mixer's one or two depth-wise convolutions.
        fc_factor: Bottleneck after each of them has ``max(C // fc_factor, fc_min_value)`` channels;
            1 or less makes it a single C -> C projection.
        fc_min_value: See ``fc_factor``.
        use_global_context: Add the global context before each depth-wise convolution.
        weighted_context: Weight the context at each position by its similarity; False adds one
            vector.
        context_reduction: Reduction of the context's own bottleneck; divides ``embed_dims``.
        context_compete: Halve that bottleneck by the maximum of its two halves; False uses a GELU.
        dwconv_size: Odd kernel size inside the channel mixer; None for no convolution there.
        use_spatial_att: Gate at the end of the token mixer.
        spatial_att_size: Odd kernel size of that gate.
        spatial_att_reduction: Reduction of that gate's bottleneck.
        use_channel_att: Additive channel gate at the end of the channel mixer.
        channel_att_sizes: Odd kernel sizes of its two convolutions along the channels.
    """

    depths: tuple[int, ...]
    embed_dims: tuple[int, ...]
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    num_heads: int = 8
    mix_sizes: tuple[int, ...] = (11, 11)
    fc_factor: int = 8
    fc_min_value: int = 16
    use_global_context: bool = True
    weighted_context: bool = True
    context_reduction: int = 8
    context_compete: bool = True
    dwconv_size: int | None = 3
    use_spatial_att: bool = False
    spatial_att_size: int = 3
    spatial_att_reduction: int = 8
    use_channel_att: bool = False
    channel_att_sizes: tuple[int, int] = (3, 5)

    def __post_init__(self) -> None:
        check_stages(depths=self.depths, embed_dims=self.embed_dims, mlp_ratios=self.mlp_ratios)
        if len(self.mix_sizes) not in (1, 2):
            raise ValueError(f"mix_sizes must be one or two kernel sizes, got {self.mix_sizes}")
        sizes = (
            *self.mix_sizes,
            *self.channel_att_sizes,
            self.spatial_att_size,
            self.dwconv_size or 1,
        )
        if any(size < 1 or size % 2 == 0 for size in sizes):
            raise ValueError(
                f"kernel sizes must be odd and positive, got mix_sizes={self.mix_sizes}, "
                f"dwconv_size={self.dwconv_size}, spatial_att_size={self.spatial_att_size}, "
                f"channel_att_sizes={self.channel_att_sizes}"
            )
        for name in ("num_heads", "context_reduction"):
            divisor = getattr(self, name)
            if self.use_global_context and (
                divisor < 1 or any(dims % divisor for dims in self.embed_dims)
            ):
                raise ValueError(
                    f"{name} must divide every entry of embed_dims={self.embed_dims}, got {divisor}"
                )


_TINY = FCViTArch(depths=(3, 3, 5, 2), embed_dims=(32, 64, 160, 320))
_S12 = FCViTArch(depths=(2, 2, 6, 2), embed_dims=(64, 128, 320, 512))
_S24 = FCViTArch(depths=(4, 4, 12, 4), embed_dims=(64, 128, 320, 512))
_S48 = FCViTArch(depths=(8, 8, 24, 8), embed_dims=(64, 128, 320, 512))

# The paper's names; b12, b24 and b48 are those of the original code.
ARCHS: Mapping[str, FCViTArch] = {
    "tiny": _TINY,
    "s12": _S12,
    "s24": _S24,
    "s48": _S48,
    "b12": _S12,
    "b24": _S24,
    "b48": _S48,
}


class PatchEmbed(nn.Module):
    """Strided convolution and BatchNorm, without activation (docs/specs/fcvit.md#1-network).

    Args:
        in_channels: Channels of the input.
        embed_dims: Channels of the output.
        kernel_size: Kernel size; the padding is half of it.
        stride: Stride.
    """

    def __init__(self, in_channels: int, embed_dims: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride, kernel_size // 2)
        self.norm = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a map of shape (B, in_channels, H, W)."""
        return group_norm_format(self.norm(self.proj(convolution_format(x))))


class GlobalContext(nn.Module):
    """Adds a context vector to each position, weighted by its similarity to the mean.

    See docs/specs/fcvit.md#13-global-context.

    ``x + weight * vector``: the vector is made from the mean over all positions by a bottleneck,
    and a position's weight, one for each head, is its scaled dot product with that mean,
    standardised over all heads and positions of an image and then rescaled for each head.

    Args:
        embed_dims: Channels C.
        num_heads: Heads: contiguous groups of channels.
        reduction: Reduction of the bottleneck that makes the vector.
        compete: Whether the bottleneck takes the maximum of two halves, else GELU.
        weighted: Whether the vector is weighted by similarity, else added as it is.
    """

    eps = 1e-5

    def __init__(
        self, embed_dims: int, num_heads: int, reduction: int, compete: bool, weighted: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.compete = compete
        hidden_dims = embed_dims // reduction
        self.fc1 = nn.Linear(embed_dims, 2 * hidden_dims if compete else hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.rescale_weight = nn.Parameter(torch.ones(num_heads)) if weighted else None
        self.rescale_bias = nn.Parameter(torch.zeros(num_heads)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the context to a map of shape (B, C, H, W)."""
        mean = x.mean(dim=(2, 3))
        hidden = self.fc1(mean)
        hidden = hidden.unflatten(1, (2, -1)).amax(dim=1) if self.compete else F.gelu(hidden)
        vector = self.fc2(hidden).to(x.dtype)
        if self.rescale_weight is None:
            return x + vector[:, :, None, None]
        weight = self._standardise(head_similarity(x, mean, self.num_heads)).to(x.dtype)
        return add_head_products(x, weight, vector)

    def _standardise(self, similarity: Tensor) -> Tensor:
        """Standardise (B, heads, H, W) for each image, then rescale each head."""
        deviation, mean = image_std_mean(similarity)
        scale = self.rescale_weight.view(-1, 1, 1) / (deviation + self.eps)
        return multiply_add(self.rescale_bias.view(-1, 1, 1) - mean * scale, similarity, scale)


class Mix(nn.Module):
    """Half of the token mixer: context, large depth-wise convolution, bottleneck.

    See docs/specs/fcvit.md#12-token-mixer.
    """

    def __init__(self, embed_dims: int, kernel_size: int, arch: FCViTArch) -> None:
        super().__init__()
        self.context = None
        if arch.use_global_context:
            self.context = GlobalContext(
                embed_dims,
                arch.num_heads,
                arch.context_reduction,
                arch.context_compete,
                arch.weighted_context,
            )
        self.dwconv = DepthwiseConv2d(embed_dims, kernel_size)
        if arch.fc_factor <= 1:
            self.fc1 = PointwiseConv2d(embed_dims, embed_dims)
            self.fc2 = None
        else:
            hidden_dims = max(embed_dims // arch.fc_factor, arch.fc_min_value)
            self.fc1 = PointwiseConv2d(embed_dims, hidden_dims)
            self.fc2 = PointwiseConv2d(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        if self.context is not None:
            x = self.context(x)
        x = F.gelu(self.fc1(self.dwconv(x)))
        return x if self.fc2 is None else F.gelu(self.fc2(x))


class SpatialAtt(nn.Module):
    """Optional gate: ``x * sigmoid(bottleneck(dwconv(x)))``.

    See docs/specs/fcvit.md#15-optional-gates.
    """

    def __init__(self, embed_dims: int, kernel_size: int, reduction: int) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(embed_dims, kernel_size)
        self.fc1 = PointwiseConv2d(embed_dims, embed_dims // reduction)
        self.fc2 = PointwiseConv2d(embed_dims // reduction, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Gate a map of shape (B, C, H, W)."""
        return x * torch.sigmoid(self.fc2(F.gelu(self.fc1(self.dwconv(x)))))


class ChannelAtt(nn.Module):
    """Optional additive gate: convolutions along the channels of the pooled map.

    See docs/specs/fcvit.md#15-optional-gates.
    """

    def __init__(self, kernel_sizes: tuple[int, int]) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv1d(1, 1, size, padding=size // 2) for size in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Add the gate to a map of shape (B, C, H, W)."""
        signal = F.gelu(x).mean(dim=(2, 3)).unsqueeze(1)
        signal = self.conv2(F.gelu(self.conv1(signal))).squeeze(1)
        return x + signal[:, :, None, None]


class TokenMixer(nn.Sequential):
    """One or two mixes and the optional gate."""

    def __init__(self, embed_dims: int, arch: FCViTArch) -> None:
        super().__init__()
        self.mixes = nn.Sequential(*[Mix(embed_dims, size, arch) for size in arch.mix_sizes])
        if arch.use_spatial_att:
            self.spatial_att = SpatialAtt(
                embed_dims, arch.spatial_att_size, arch.spatial_att_reduction
            )


class ChannelMixer(nn.Module):
    """Inverted bottleneck with a depth-wise convolution before its activation.

    See docs/specs/fcvit.md#14-channel-mixer.
    """

    def __init__(
        self, embed_dims: int, hidden_dims: int, drop_rate: float, arch: FCViTArch
    ) -> None:
        super().__init__()
        self.fc1 = PointwiseConv2d(embed_dims, hidden_dims)
        self.dwconv = (
            None if arch.dwconv_size is None else DepthwiseConv2d(hidden_dims, arch.dwconv_size)
        )
        self.fc2 = PointwiseConv2d(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.channel_att = ChannelAtt(arch.channel_att_sizes) if arch.use_channel_att else None

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of a map of shape (B, C, H, W)."""
        x = self.fc1(x)
        if self.dwconv is not None:
            x = self.dwconv(x)
        x = self.drop(self.fc2(self.drop(F.gelu(x))))
        return x if self.channel_att is None else self.channel_att(x)


class Block(nn.Module):
    """Pre-norm token mixer and channel mixer, each with a residual connection.

    See docs/specs/fcvit.md#11-block.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        drop_rate: float,
        drop_path_rate: float,
        layer_scale_init_value: float | None,
        arch: FCViTArch,
    ) -> None:
        super().__init__()
        for name in ("layer_scale_1", "layer_scale_2"):
            gamma = None
            if layer_scale_init_value is not None:
                gamma = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.register_parameter(name, gamma)
        self.norm1 = CanvasNorm(embed_dims)
        self.token_mixer = TokenMixer(embed_dims, arch)
        self.norm2 = CanvasNorm(embed_dims)
        self.channel_mixer = ChannelMixer(embed_dims, hidden_dims, drop_rate, arch)
        self.residual = ScaledResidual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map of shape (B, C, H, W)."""
        x = self.residual(x, self.token_mixer(self.norm1(x)), gamma=self.layer_scale_1)
        return self.residual(x, self.channel_mixer(self.norm2(x)), gamma=self.layer_scale_2)


@MODELS.register_module()
class FCViT(PyramidBackbone):
    """FCViT backbone (arXiv:2212.12552), strides 4, 8, 16 and 32.

    Each output is normalised by a GroupNorm of one group over the whole map, padding included, so
    features depend on padding. A classifier takes ``out_indices=(3,)``, global average pooling and
    a linear head: that is the original order norm, mean, head.

    Args:
        arch: ``'tiny'``, ``'s12'``, ``'s24'``, ``'s48'`` (in the original code ``'b12'``,
            ``'b24'``, ``'b48'``), or a dict of :class:`FCViTArch`'s fields.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
        drop_rate: Dropout in the channel mixers, in [0, 1).
        layer_scale_init_value: Initial layer scale: 1e-5 in the original classifiers, 1e-6 in its
            dense models; None for blocks without layer scale.
        **options: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg``, see
            :class:`~mmvitconv.models.base.Backbone`.

    Raises:
        ValueError: Unknown ``arch`` or an argument outside its legal range.

    Examples:
        >>> model = FCViT("tiny", out_indices=(3,))
        >>> [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 96))]
        [(1, 320, 2, 3)]
    """

    embedding = "patch_embeds.{stage}"

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-5,
        **options: Any,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, FCViTArch)
        super().__init__(
            depths=sizes.depths,
            channels=sizes.embed_dims,
            strides=[4 * 2**stage for stage in range(len(sizes.depths))],
            in_channels=in_channels,
            out_indices=out_indices,
            **options,
        )
        check_rate("drop_path_rate", drop_path_rate)
        check_rate("drop_rate", drop_rate)
        self.arch = sizes
        rates = drop_path_rates(drop_path_rate, sizes.depths)
        self.patch_embeds = nn.ModuleList()
        self.stages = nn.ModuleList()
        channels = in_channels
        for stage in range(self.num_stages):
            dims = sizes.embed_dims[stage]
            self.patch_embeds.append(PatchEmbed(channels, dims, *((3, 2) if stage else (7, 4))))
            hidden_dims = int(dims * sizes.mlp_ratios[stage])
            self.stages.append(
                nn.ModuleList(
                    Block(dims, hidden_dims, drop_rate, rate, layer_scale_init_value, sizes)
                    for rate in rates[stage]
                )
            )
            if stage in self.out_indices:
                self.add_module(f"norm{stage}", CanvasNorm(dims))
            channels = dims
        self.apply(_init_parameters)
        self.train()


def _init_parameters(module: nn.Module) -> None:
    """Initialise a layer; norms and vectors keep torch's ones and zeros.

    See docs/specs/fcvit.md#16-initialisation.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 * module.groups / fan_out) ** 0.5)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
