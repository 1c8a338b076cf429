"""Depth-wise convolution with a kernel for each sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvitconv.ops.depthwise_conv import depthwise_conv2d
from mmvitconv.ops.traced import is_exported, is_traced

# Elements of an image from which on a convolution for each is faster on CPUs.
_MIN_IMAGE = 1 << 15
IMPLEMENTATIONS = ("auto", "group", "shift", "image")


def dynamic_depthwise_conv2d(x: Tensor, kernels: Tensor, impl: str = "auto") -> Tensor:
    """Convolve each channel of each sample with a kernel of its own, zeros around the map.

    Args:
        x: Input, shape (B, C, H, W).
        kernels: Shape (B, C, k, k), k odd.
        impl: ``'group'`` is one convolution of B * C groups, ``'image'`` one for each sample,
            ``'shift'`` the sum over k * k shifted maps, which exports with any batch. ``'auto'``
            takes ``'image'`` on CPUs, where it runs in the map's own layout, ``'shift'`` for
            exports, and ``'group'`` elsewhere.

    Returns:
        Tensor of shape (B, C, H, W).

    Raises:
        ValueError: Unknown ``impl``, or kernels that do not fit.
    """
    batch, channels, height, width = x.shape
    size = kernels.shape[-1]
    if kernels.shape != (batch, channels, size, size) or size % 2 == 0:
        raise ValueError(
            f"kernels of shape {tuple(kernels.shape)} do not fit a map of shape {tuple(x.shape)}; "
            f"give ({batch}, {channels}, k, k) with an odd k"
        )
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is unknown; give one of {', '.join(IMPLEMENTATIONS)}")
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
