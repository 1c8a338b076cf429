"""Position-aware circular convolution (ParC, arXiv:2203.03952), and ParCNetV2's oversize one."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mmvitconv.models.layers.build import build_norm
from mmvitconv.models.layers.plain import is_plain
from mmvitconv.ops import CircularKernel, circular_conv, compute_dtype, oversize_conv
from mmvitconv.ops.circular_conv import check_algorithm
from mmvitconv.ops.traced import is_traced

INSTANCE_KERNELS = ("interpolation_bilinear", "crop", "fixed")
_CACHED_KERNELS = 4  # map sizes for which a layer keeps its kernel prepared


class ParC(nn.Module):
    """Circular convolution along one axis of a map, with a kernel as long as the axis.

    ``y = conv(norm(x + position_embedding))``. The kernel and the embedding are stored for one
    length and brought to the map's at every call; taps are not rescaled, so that the response to
    slow signals grows with the length, as in the original. In inference, embedding, norm and bias
    are folded into the kernel and one offset, which are kept for the next map of that size.

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
            raise ValueError(f"direction={direction!r} is illegal; give 'H' or 'W'")
        if channels < 1 or length < 1:
            raise ValueError(f"channels={channels} and length={length} must be at least 1")
        if instance_kernel not in INSTANCE_KERNELS:
            raise ValueError(
                f"instance_kernel={instance_kernel!r} is unknown; give one of "
                f"{', '.join(INSTANCE_KERNELS)}"
            )
        check_algorithm(algorithm)
        self.channels = channels
        self.dense = out_channels is not None
        self.direction = direction
        self.length = length
        self.instance_kernel = instance_kernel
        self.algorithm = algorithm
        size = (length, 1) if direction == "H" else (1, length)
        # The convolution is only asked for its parameters, initialised as usual.
        conv = nn.Conv2d(
            channels,
            out_channels or channels,
            size,
            groups=1 if out_channels else channels,
            bias=bias,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.position_embedding = None
        if position_embedding:
            self.position_embedding = nn.Parameter(torch.empty(1, channels, *size))
            nn.init.trunc_normal_(self.position_embedding, std=0.02)
        self.norm = None if pre_norm is None else build_norm(pre_norm, channels)
        self._prepared: dict[tuple, tuple[list[Tensor], list[tuple], CircularKernel]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Mix rows or columns of a map of shape (B, C, H, W).

        Raises:
            ValueError: The map is too long for ``instance_kernel``.
        """
        length = x.shape[2 if self.direction == "H" else 3]
        if self._may_prepare(x):
            return self._prepare(x, length)(x)
        if self.position_embedding is not None:
            x = x + self._resize(self.position_embedding, length)
        if self.norm is not None:
            x = self.norm(x)
        weight = self._resize(self.weight, length)
        return circular_conv(x, weight, self.direction, self.bias, self.algorithm)

    def _resize(self, stored: Tensor, length: int) -> Tensor:
        """The instance of a stored kernel or embedding for an axis of this length (section 1.3)."""
        # An exporter that leaves the size open must record the rule, not this size's shortcut.
        if isinstance(length, int) and length == self.length:
            return stored
        if self.instance_kernel == "crop" and length < self.length:
            return stored.narrow(2 if self.direction == "H" else 3, 0, length)
        if self.instance_kernel != "interpolation_bilinear":
            legal = f"{self.length}" if self.instance_kernel == "fixed" else f"1 to {self.length}"
            raise ValueError(
                f"a map of length {length} along {self.direction} does not fit "
                f"instance_kernel={self.instance_kernel!r}, which takes {legal}; resize the image, "
                "or build the model with instance_kernel='interpolation_bilinear'"
            )
        size = (length, 1) if self.direction == "H" else (1, length)
        return resize_taps(stored, size)

    def _may_prepare(self, x: Tensor) -> bool:
        """Whether nothing but this map's values can differ from the call before."""
        if self.training or torch.is_grad_enabled() or x.is_meta:
            return False
        if is_traced() or isinstance(x, FakeTensor) or isinstance(self.weight, FakeTensor):
            return False
        return self.norm is None or (
            is_plain(self.norm, nn.BatchNorm2d, nn.SyncBatchNorm)
            and not self.norm.training
            and self.norm.running_var is not None
        )

    def _prepare(self, x: Tensor, length: int) -> CircularKernel:
        """The folded kernel for this length, made anew when anything that it is made of changed."""
        dtype = compute_dtype(x)
        algorithm = CircularKernel.choose(self.weight, x, self.direction, self.algorithm)
        key = (length, dtype, x.device, algorithm)
        sources = [self.weight, self.bias, self.position_embedding]
        if self.norm is not None:
            norm = self.norm
            sources += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        sources = [source for source in sources if source is not None]
        if key in self._prepared:
            copies, marks, kernel = self._prepared[key]
            if _is_unchanged(sources, copies, marks):
                return kernel
        weight, offset = self._fold(length)
        kernel = CircularKernel(
            weight.to(dtype), self.direction, offset.to(dtype), algorithm, self.dense
        )
        while len(self._prepared) >= _CACHED_KERNELS:
            self._prepared.pop(next(iter(self._prepared)))
        copies = [source.clone() if _compares_values(source) else source for source in sources]
        self._prepared[key] = copies, [_mark(source) for source in sources], kernel
        return kernel

    def _fold(self, length: int) -> tuple[Tensor, Tensor]:
        """Kernel and offset of ``conv(norm(x + position_embedding)) + bias`` (section 1.5).

        Returns:
            The kernel and an offset of shape (D, n, 1), (D, 1, n) or (D, 1, 1).
        """
        weight = self._resize(self.weight, length)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        weight = weight.to(dtype)
        shift = torch.zeros(1, 1, 1, 1, dtype=dtype, device=weight.device)
        if self.position_embedding is not None:
            shift = self._resize(self.position_embedding, length).to(dtype)
        scale = None
        if self.norm is not None:
            norm = self.norm
            scale = (norm.running_var.to(dtype) + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            shift = (shift - norm.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
            shift = shift if norm.bias is None else shift + norm.bias.view(1, -1, 1, 1)
        offset = weight.new_zeros(weight.shape[0], 1, 1)
        if self.position_embedding is not None or self.norm is not None:
            offset = self._convolve_shift(weight, shift, length)
        if scale is not None:
            weight = weight * scale.view((1, -1, 1, 1) if self.dense else (-1, 1, 1, 1))
        return weight, offset if self.bias is None else offset + self.bias.view(-1, 1, 1)

    def _convolve_shift(self, weight: Tensor, shift: Tensor, length: int) -> Tensor:
        """What a summand of the input adds to the output, shape (D, n, 1) or (D, 1, n).

        By elementwise products of spectra: no multiply-adds that a counter would take for the
        model's.
        """
        axis = 2 if self.direction == "H" else 3
        size = (length, 1) if axis == 2 else (1, length)
        spectrum = torch.fft.rfft(shift.expand(1, self.channels, *size), dim=axis)
        product = spectrum if self.dense else spectrum.transpose(0, 1)
        product = torch.fft.rfft(weight, dim=axis).conj() * product
        return torch.fft.irfft(product.sum(dim=1), n=length, dim=axis - 1)

    def reset_cache(self) -> None:
        """Forget prepared kernels.

        Only needed after a change of parameters on a GPU that PyTorch does not see: a write
        through ``.data`` in a model that stays in evaluation mode.
        """
        self._prepared.clear()

    def train(self, mode: bool = True) -> "ParC":
        """Switch the mode and forget prepared kernels."""
        self.reset_cache()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "ParC":
        self.reset_cache()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.reset_cache()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}}

    def extra_repr(self) -> str:
        """What repr shows."""
        out = f", out_channels={self.weight.shape[0]}" if self.dense else ""
        kernel = f"length={self.length}, instance_kernel={self.instance_kernel!r}"
        return f"{self.channels}{out}, {self.direction!r}, {kernel}"


def resize_taps(stored: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation with aligned corners; taps are not rescaled (section 1.3).

    Args:
        stored: Shape (D, C, M, 1) or (D, C, 1, M).
        size: Of the result: (N, 1) or (1, N).
    """
    dtype = torch.promote_types(stored.dtype, torch.float32)
    resized = F.interpolate(stored.to(dtype), size=size, mode="bilinear", align_corners=True)
    return resized.to(stored.dtype)


def _compares_values(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _mark(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _is_unchanged(sources: list[Tensor], copies: list[Tensor], marks: list[tuple]) -> bool:
    """Whether tensors hold what they held.

    EMA hooks swap weights through ``.data``, which leaves no mark. Comparing values finds it, and
    costs next to nothing on a CPU; elsewhere it would wait for the device.
    """
    if len(sources) != len(copies):
        return False
    for source, copy, mark in zip(sources, copies, marks, strict=True):
        same = torch.equal(source, copy) if _compares_values(source) else _mark(source) == mark
        if not same:
            return False
    return True


class ParCPair(nn.Module):
    """The first half of the channels mixed along the height, the second along the width.

    What ParC-ConvNets put in the place of a convolution (section 3).

    Args:
        channels: Channels of input and output; even.
        length: Length of the stored kernels.
        dense: Mix the channels of each half, as in ParC-ResNet50; else depth-wise.
        position_embedding: See :class:`ParC`.
        bias: See :class:`ParC`.
        instance_kernel: See :class:`ParC`.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        dense: bool = False,
        position_embedding: bool = True,
        bias: bool = True,
        instance_kernel: str = "interpolation_bilinear",
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels={channels} is illegal; give an even number")
        half = channels // 2
        options = (half if dense else None, position_embedding, bias, None)
        self.height = ParC(half, "H", length, *options, instance_kernel, algorithm)
        self.width = ParC(half, "W", length, *options, instance_kernel, algorithm)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.height(first), self.width(second)], dim=1)


class OversizeConv(nn.Module):
    """ParCNetV2's mixer: depth-wise along the height, then the width, both of 2n - 1 taps.

    arXiv:2211.07157, section 1.6 of the specification. Zeros surround the map.

    Args:
        channels: Channels of input and output.
        length: n: the size of the map that the kernels are stored for.
        bias: Add a bias after each direction.
        interpolate: Resize the kernels (bilinear, corners aligned) to the map's 2H - 1 and 2W - 1
            taps. Without it a kernel is used as it is on any map.
        algorithm: See :func:`mmvitconv.ops.oversize_conv`.

    Raises:
        ValueError: ``channels`` or ``length`` is below 1.
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
            raise ValueError(f"channels={channels} and length={length} must be at least 1")
        taps = 2 * length - 1
        self.conv_h = nn.Conv2d(channels, channels, (taps, 1), groups=channels, bias=bias)
        self.conv_w = nn.Conv2d(channels, channels, (1, taps), groups=channels, bias=bias)
        self.interpolate = interpolate
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        for conv, axis in ((self.conv_h, 2), (self.conv_w, 3)):
            weight, taps = conv.weight, 2 * x.shape[axis] - 1
            if self.interpolate and taps != weight.shape[axis]:
                size = (taps, 1) if axis == 2 else (1, taps)
                weight = resize_taps(weight, size)
            x = oversize_conv(x, weight, "H" if axis == 2 else "W", conv.bias, self.algorithm)
        return x
