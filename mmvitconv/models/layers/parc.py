"""Position-aware circular convolution (ParC, arXiv:2203.03952), and ParCNetV2's oversize one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.layers.build import build_norm
from mmvitconv.ops import circular_conv, oversize_conv
from mmvitconv.ops.circular_conv import check_algorithm
from mmvitconv.ops.traced import as_one_node

INSTANCE_KERNELS = ("interpolation_bilinear", "crop", "fixed")


class ParC(nn.Module):
    """Circular convolution along one axis of a map, with a kernel as long as the axis.

    ``y = conv(norm(x + position_embedding))``. The kernel and the embedding are stored for one
    length and brought to the map's at every call; taps are not rescaled, so that the response to
    slow signals grows with the length, as in the original. ``mmvitconv.runtime.fold_parc`` folds
    all of it into one kernel and one offset for inference.

    Args:
        channels: Channels of the input.
        direction: ``'H'`` mixes rows (the paper's ParC-V), ``'W'`` columns (the paper's ParC-H).
        length: Length of the stored kernel and embedding, at least 1.
        out_channels: None for a depth-wise convolution; else channels of a dense one.
        position_embedding: Add a learned embedding, which varies along the axis, to the input.
        bias: Add a bias.
        pre_norm: Norm between embedding and convolution, such as ``dict(type='BN')``, or None.
        instance_kernel: How the stored kernel becomes the map's. ``'interpolation_bilinear'``
            (corners aligned) takes any map, ``'crop'`` the first taps and so none larger than
            ``length``, ``'fixed'`` no other length.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Raises:
        ValueError: An argument is outside its legal range.

    Examples:
        >>> layer = ParC(64, "H", length=14)
        >>> layer(torch.randn(1, 64, 20, 30)).shape
        torch.Size([1, 64, 20, 30])
    """

    def __init__(
        self,
        channels: int,
        direction: str,
        length: int,
        out_channels: int | None = None,
        position_embedding: bool = True,
        bias: bool = True,
        pre_norm: Mapping[str, Any] | None = None,
        instance_kernel: str = "interpolation_bilinear",
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        if direction not in ("H", "W"):
            raise ValueError(f"direction must be 'H' or 'W', got {direction!r}")
        if channels < 1 or length < 1:
            raise ValueError(f"channels and length must be at least 1, got {channels} and {length}")
        if instance_kernel not in INSTANCE_KERNELS:
            raise ValueError(
                f"instance_kernel={instance_kernel!r} is unknown; give one of "
                f"{', '.join(INSTANCE_KERNELS)}"
            )
        check_algorithm(algorithm)
        self.channels = channels
        self.dense = out_channels is not None
        self.direction = direction
        self.axis = 2 if direction == "H" else 3
        self.length = length
        self.instance_kernel = instance_kernel
        self.algorithm = algorithm
        size = (length, 1) if direction == "H" else (1, length)
        # The convolution is only asked for its parameters, initialised as usual.
        groups = 1 if out_channels else channels
        conv = nn.Conv2d(channels, out_channels or channels, size, groups=groups, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.position_embedding = None
        if position_embedding:
            self.position_embedding = nn.Parameter(torch.empty(1, channels, *size))
            nn.init.trunc_normal_(self.position_embedding, std=0.02)
        self.norm = None if pre_norm is None else build_norm(pre_norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix rows or columns of a map of shape (B, C, H, W).

        Raises:
            ValueError: The map is too long for ``instance_kernel``.
        """
        length = x.shape[self.axis]
        if self.position_embedding is not None:
            x = x + self.resize(self.position_embedding, length)
        if self.norm is not None:
            x = self.norm(x)
        weight = self.resize(self.weight, length)
        return circular_conv(x, weight, self.direction, self.bias, self.algorithm)

    def resize(self, stored: Tensor, length: int) -> Tensor:
        """Return the kernel or embedding of an axis of this length, see :func:`resize_kernel`."""
        return resize_kernel(stored, length, self.axis, self.instance_kernel)

    def extra_repr(self) -> str:
        """Return what repr shows."""
        out = f", out_channels={self.weight.shape[0]}" if self.dense else ""
        kernel = f"length={self.length}, instance_kernel={self.instance_kernel!r}"
        return f"{self.channels}{out}, {self.direction!r}, {kernel}"


@as_one_node
def resize_kernel(stored: Tensor, length: int, axis: int, instance_kernel: str) -> Tensor:
    """Return the instance of a stored kernel or embedding for a map.

    See docs/specs/parc.md#13-kernel-length.

    Args:
        stored: Shape (D, C, M, 1) along the height, (D, C, 1, M) along the width.
        length: Of the map's axis.
        axis: 2 for the height, 3 for the width.
        instance_kernel: See :class:`ParC`.

    Returns:
        Shape (D, C, length, 1) or (D, C, 1, length).

    Raises:
        ValueError: The rule takes no map of this length.
    """
    stored_length = stored.shape[axis]
    # An exporter that leaves the size open must record the rule, not this size's shortcut.
    if isinstance(length, int) and length == stored_length:
        return stored
    if instance_kernel == "crop" and length < stored_length:
        return stored.narrow(axis, 0, length)
    if instance_kernel != "interpolation_bilinear":
        legal = f"{stored_length}" if instance_kernel == "fixed" else f"1 to {stored_length}"
        raise ValueError(
            f"a map of length {length} along {'HW'[axis - 2]} does not fit "
            f"instance_kernel={instance_kernel!r}, which takes {legal}; resize the image, "
            "or build the model with instance_kernel='interpolation_bilinear'"
        )
    # Corners are aligned, and taps are not rescaled.
    dtype = torch.promote_types(stored.dtype, torch.float32)
    size = (length, 1) if axis == 2 else (1, length)
    resized = F.interpolate(stored.to(dtype), size=size, mode="bilinear", align_corners=True)
    return resized.to(stored.dtype)


class ParCPair(nn.Module):
    """Mixer of half the channels along the height, and of the other half along the width.

    What ParC-ConvNets put in the place of a convolution (docs/specs/parc.md#3-parc-convnets).

    Args:
        channels: Channels of input and output; even.
        length: Length of the stored kernels, or their lengths along the height and the width.
        dense: Mix the channels of each half, as in ParC-ResNet50; else depth-wise.
        position_embedding: See :class:`ParC`.
        bias: See :class:`ParC`.
        instance_kernel: See :class:`ParC`.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Raises:
        ValueError: ``channels`` is odd.

    Examples:
        >>> pair = ParCPair(64, length=14)
        >>> pair(torch.randn(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        length: int | tuple[int, int],
        dense: bool = False,
        position_embedding: bool = True,
        bias: bool = True,
        instance_kernel: str = "interpolation_bilinear",
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be even and at least 2, got {channels}")
        half = channels // 2
        options = (half if dense else None, position_embedding, bias, None)
        height, width = (length, length) if isinstance(length, int) else length
        self.height = ParC(half, "H", height, *options, instance_kernel, algorithm)
        self.width = ParC(half, "W", width, *options, instance_kernel, algorithm)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.height(first), self.width(second)], dim=1)


class OversizeConv(nn.Module):
    """ParCNetV2's mixer: depth-wise along the height, then the width, both of 2n - 1 taps.

    arXiv:2211.07157, docs/specs/parc.md#16-oversize-convolution. Zeros surround the map.

    Args:
        channels: Channels of input and output.
        length: n: the size of the map that the kernels are stored for.
        bias: Add a bias after each direction.
        interpolate: Resize the kernels (bilinear, corners aligned) to the map's 2H - 1 and 2W - 1
            taps. Without it a kernel is used as it is on any map.
        algorithm: See :func:`mmvitconv.ops.oversize_conv`.

    Raises:
        ValueError: ``channels`` or ``length`` is below 1.

    Examples:
        >>> mixer = OversizeConv(64, length=14)
        >>> mixer(torch.randn(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        length: int,
        bias: bool = False,
        interpolate: bool = False,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        if channels < 1 or length < 1:
            raise ValueError(f"channels and length must be at least 1, got {channels} and {length}")
        taps = 2 * length - 1
        self.conv_h = nn.Conv2d(channels, channels, (taps, 1), groups=channels, bias=bias)
        self.conv_w = nn.Conv2d(channels, channels, (1, taps), groups=channels, bias=bias)
        self.interpolate = interpolate
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        for conv, axis in ((self.conv_h, 2), (self.conv_w, 3)):
            weight, taps = conv.weight, 2 * x.shape[axis] - 1
            if self.interpolate:
                weight = resize_kernel(weight, taps, axis, "interpolation_bilinear")
            x = oversize_conv(x, weight, "H" if axis == 2 else "W", conv.bias, self.algorithm)
        return x


def check_num_parc(num_parc: Sequence[int], depths: Sequence[int], spared: int = 0) -> None:
    """Raise a ValueError unless so many blocks of each stage can be ParC blocks.

    Args:
        num_parc: Number of ParC blocks of each stage.
        depths: Number of blocks of each stage.
        spared: Blocks of a stage that cannot be.
    """
    legal = len(num_parc) == len(depths) and all(
        isinstance(parc, int) and 0 <= parc <= depth - spared
        for parc, depth in zip(num_parc, depths, strict=True)
    )
    if not legal:
        limit = "below" if spared else "up to"
        raise ValueError(
            f"num_parc must be {len(depths)} integers from 0 {limit} depths={depths}, "
            f"got {num_parc!r}"
        )


def init_kaiming(module: nn.Module) -> None:
    """Initialise a convolution, circular or not, by Kaiming's rule; for ``Module.apply``."""
    if isinstance(module, (nn.Conv2d, ParC)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
