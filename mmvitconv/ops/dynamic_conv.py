"""Depth-wise convolution with a kernel for each sample, and the layout kernels are made from."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.depthwise_conv import depthwise_conv2d
from mmvitconv.ops.precision import without_autocast
from mmvitconv.ops.traced import as_one_node, is_exported, is_traced

__all__ = ["IMPLEMENTATIONS", "dynamic_depthwise_conv2d", "involution", "pool_layout"]

# On CPUs, images of at least this many elements are faster with a convolution each.
_MIN_IMAGE = 1 << 15
IMPLEMENTATIONS = ("auto", "group", "shift", "image")


@as_one_node
def dynamic_depthwise_conv2d(x: Tensor, kernels: Tensor, impl: str = "auto") -> Tensor:
    """Convolve each channel of each sample with a kernel of its own, zeros around the map.

    Args:
        x: Input, shape (B, C, H, W).
        kernels: Shape (B, C, k, k), k odd.
        impl: ``'group'`` is one convolution of B * C groups, ``'image'`` one for each sample,
            ``'shift'`` the sum over k * k shifted maps, which exports with any batch size.
            ``'auto'`` takes ``'image'`` on CPUs, where it runs in the map's own layout, ``'shift'``
            for exports, and ``'group'`` elsewhere.

    Returns:
        Tensor of shape (B, C, H, W).

    Raises:
        ValueError: Unknown ``impl``, or kernels that do not fit.
    """
    batch, channels, height, width = x.shape
    size = kernels.shape[-1]
    if kernels.shape != (batch, channels, size, size) or size % 2 == 0:
        raise ValueError(
            f"kernels of a map of shape {tuple(x.shape)} must have the shape ({batch}, {channels}, "
            f"k, k) with an odd k, got {tuple(kernels.shape)}"
        )
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if impl == "auto":
        impl = _choose(x)
    if impl == "group":
        out = F.conv2d(
            x.reshape(1, batch * channels, height, width),
            kernels.reshape(batch * channels, 1, size, size).to(x.dtype),
            padding=size // 2,
            groups=batch * channels,
        )
        return out.view(x.shape)
    if impl == "image":
        # Slices, as indexing would lose the strides that show the memory format.
        outs = [
            depthwise_conv2d(x[i : i + 1], kernels[i].unsqueeze(1).contiguous())
            for i in range(batch)
        ]
        return outs[0] if batch == 1 else torch.cat(outs)
    reach = size // 2
    padded = F.pad(x, (reach, reach, reach, reach))
    kernels = kernels.to(x.dtype)
    out = torch.zeros_like(x)
    for i in range(size):
        for j in range(size):
            shifted = padded[:, :, i : i + height, j : j + width]
            out = out + shifted * kernels[:, :, i : i + 1, j : j + 1]
    return out


def _choose(x: Tensor) -> str:
    if is_exported():
        return "shift"
    if x.device.type != "cpu" or is_traced():
        return "group"
    # Many small maps cost more calls than arithmetic.
    is_small = x.shape[1] * x.shape[2] * x.shape[3] < _MIN_IMAGE
    return "group" if x.shape[0] > 1 and is_small else "image"


def involution(x: Tensor, kernels: Tensor, size: int) -> Tensor:
    """Convolve with a kernel for each position and group of channels, zeros around the map.

    Args:
        x: Input, shape (B, C, H, W).
        kernels: Shape (B, G * k * k, H, W); each group of C / G channels shares a kernel.
        size: k, odd.

    Returns:
        Tensor of shape (B, C, H, W).
    """
    patches = F.unfold(x, size, padding=size // 2).unflatten(1, (-1, size**2))  # B, C, k * k, N
    kernels = kernels.flatten(2).unflatten(1, (-1, 1, size**2)).to(patches.dtype)
    patches = patches.unflatten(1, (kernels.shape[1], -1))
    return (patches * kernels).sum(dim=3).view(x.shape)


def pool_layout(x: Tensor, size: int, valid: Tensor | None) -> Tensor:
    """Pool a map to the means of ``size`` x ``size`` cells, in at least float32.

    Args:
        x: Shape (B, H, W, C); cells repeat where it is smaller than ``size``.
        size: Cells per side.
        valid: Which positions are not padding, shape (B, H, W), or None. Cells divide the rows and
            columns that have any such position, so that padding changes nothing.

    Returns:
        Shape (B, size, size, C).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        x = x.to(dtype)
        if valid is None:
            if not (torch.are_deterministic_algorithms_enabled() or is_exported()):
                return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
            valid = torch.ones(1, *x.shape[1:3], dtype=torch.bool, device=x.device)
        rows, columns = _cells(valid.any(2), size).to(dtype), _cells(valid.any(1), size).to(dtype)
        weight = valid.to(dtype)
        total = torch.einsum("bkh,bhwc,blw->bklc", rows, x * weight.unsqueeze(-1), columns)
        count = torch.einsum("bkh,bhw,blw->bkl", rows, weight, columns)
        return total / count.clamp(min=1).unsqueeze(-1)


def _cells(used: Tensor, size: int) -> Tensor:
    """Which of the used rows are in a cell, shape (B, size, H), as adaptive pooling divides."""
    place = used.long().cumsum(dim=1) - 1
    number = used.sum(dim=1, keepdim=True)
    cell = torch.arange(size, device=used.device)
    first = (cell * number).div(size, rounding_mode="floor").unsqueeze(2)
    last = ((cell + 1) * number + size - 1).div(size, rounding_mode="floor").unsqueeze(2)
    place, used = place.unsqueeze(1), used.unsqueeze(1)
    return used & (place >= first) & (place < last)
