"""RoI operators whose sampling points lie anywhere: rotated RoIAlign and deformable RoI pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvitconv.compat.operators.shared import check_regions, gradients, group_by_samples, widen


def _sample(source: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return features (C, R, ...) at points, interpolated as in RoIAlign.

    Points up to one pixel outside take the border's value, points further out are 0.

    Args:
        source: Feature maps (B, C, H, W).
        images: Image of every region (R,), int64.
        y: Rows (R, ...) in feature pixels.
        x: Columns (R, ...).
    """
    height, width = source.shape[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().long(), x.detach().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, over = y - top, x - left
    pixels = source.transpose(0, 1).flatten(1)
    first = images.view(-1, *[1] * (y.dim() - 1)) * (height * width)
    total = (
        pixels[:, first + top * width + left] * ((1 - down) * (1 - over))
        + pixels[:, first + top * width + right] * ((1 - down) * over)
        + pixels[:, first + bottom * width + left] * (down * (1 - over))
        + pixels[:, first + bottom * width + right] * (down * over)
    )
    return torch.where(inside, total, 0)


@dataclass
class _Regions:
    """Regions with a raster of sampling points in each bin, as in RoIAlign.

    Gradients are those of the forward's formula. mmcv's kernel for the offsets of deformable RoI
    pooling goes on with the slope inside where a point lies on the border or up to a pixel outside;
    there the value is constant, and so the gradient is 0 here.
    """

    images: Tensor  # image of every region (R,)
    size: Tensor  # height and width (R, 2) in feature pixels
    bins: tuple[int, int]  # rows and columns of the output
    sampling_ratio: int  # sampling points per bin and direction, 0 for as many as feature pixels
    # Region indices (P,), rows and columns (P, bins, bins, samples, samples) from the upper left
    # corner, and the inputs besides features -> rows and columns of the feature map.
    place: Callable[..., tuple[Tensor, Tensor]]

    def forward(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        """Fill ``output`` (R, C, rows, columns) with the average of every bin."""
        output.zero_()
        for part, pool in self._parts(output.shape[1]):
            output[part] = pool(*inputs).to(output.dtype)

    def backward(
        self, inputs: Sequence[Tensor], grad_output: Tensor, targets: Sequence[Tensor]
    ) -> None:
        """Fill ``targets`` with the gradients of features and of the other inputs."""
        totals = [torch.zeros_like(tensor) for tensor in inputs]
        for part, pool in self._parts(grad_output.shape[1]):
            for total, grad in zip(totals, gradients(pool, inputs, grad_output[part]), strict=True):
                total += grad
        for target, total in zip(targets, totals, strict=True):
            target.copy_(total)

    def _parts(self, channels: int) -> Iterator[tuple[Tensor, Callable[..., Tensor]]]:
        """Yield region indices and the function that pools them."""
        # Interpolation and its gradient hold a few tensors of one number per sample and corner.
        for rows, columns, part in group_by_samples(
            self.size, self.bins, self.sampling_ratio, 8 * channels
        ):

            def pool(
                source: Tensor, *others: Tensor, part: Tensor = part, samples=(rows, columns)
            ) -> Tensor:
                y = self._raster(part, 0, samples)[:, :, None, :, None]
                x = self._raster(part, 1, samples)[:, None, :, None, :]
                points = self.place(part, *torch.broadcast_tensors(y, x), *others)
                return _sample(source, self.images[part], *points).mean((-2, -1)).transpose(0, 1)

            yield part, pool

    def _raster(self, part: Tensor, axis: int, samples: tuple[int, int]) -> Tensor:
        """Return (P, bins, samples) distances from a region's first row or column."""
        length = self.size[part, axis]
        points = self.bins[axis] * samples[axis]
        index = torch.arange(points, dtype=length.dtype, device=length.device)
        distances = length[:, None] * ((index + 0.5) / points)
        return distances.unflatten(1, (self.bins[axis], samples[axis]))


def _rotated_regions(
    rois: Tensor,
    images: int,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> _Regions:
    check_regions(rois, images, "roi_align_rotated")
    center = rois[:, [2, 1]] * spatial_scale - (0.5 if aligned else 0)
    size = rois[:, [4, 3]] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]

    def place(part: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1, 1)
        y = y - size[part, 0].view(shape) / 2
        x = x - size[part, 1].view(shape) / 2
        cos, sin = angle[part].cos().view(shape), angle[part].sin().view(shape)
        rows = y * cos - x * sin + center[part, 0].view(shape)
        return rows, y * sin + x * cos + center[part, 1].view(shape)

    bins = (pooled_height, pooled_width)
    return _Regions(rois[:, 0].long(), size, bins, sampling_ratio, place)


def roi_align_rotated_forward(
    input: Tensor, rois: Tensor, output: Tensor, **settings: float
) -> None:
    """Fill ``output`` with features of rotated regions.

    Args:
        input: Feature maps (B, C, H, W).
        rois: Regions (R, 6) as image index, x and y of the centre, width, height in image pixels,
            angle in radians.
        output: Filled: (R, C, pooled_height, pooled_width).
        **settings: ``pooled_height``, ``pooled_width``; ``spatial_scale``, feature pixels per image
            pixel; ``sampling_ratio``; ``aligned``, shifted by half a pixel; ``clockwise``.
    """
    source, rois = widen(input, rois)
    _rotated_regions(rois, len(input), **settings).forward([source], output)


def roi_align_rotated_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, **settings: float
) -> None:
    """Fill ``grad_input`` (B, C, H, W); the rest is as in :func:`roi_align_rotated_forward`."""
    grad, rois = widen(grad_output, rois)
    regions = _rotated_regions(rois, len(grad_input), **settings)
    # The gradient depends on the features' shape alone.
    source = grad.new_zeros(grad_input.shape)
    regions.backward([source], grad, [grad_input])


def _deformable_regions(
    rois: Tensor,
    images: int,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> _Regions:
    check_regions(rois, images, "deform_roi_pool")
    corners = rois * spatial_scale - 0.5
    start, size = corners[:, [2, 1]], corners[:, [4, 3]] - corners[:, [2, 1]]

    def place(part: Tensor, y: Tensor, x: Tensor, offset: Tensor | None = None):
        points = []
        for axis, distance in enumerate((y, x)):
            begin = start[part, axis].view(-1, 1, 1, 1, 1)
            if offset is not None:  # the first of the two offsets is that of x
                shift = gamma * size[part, axis].view(-1, 1, 1) * offset[part, 1 - axis]
                begin = begin + shift[..., None, None]
            points.append(begin + distance)
        return tuple(points)

    bins = (pooled_height, pooled_width)
    return _Regions(rois[:, 0].long(), size, bins, sampling_ratio, place)


def deform_roi_pool_forward(
    input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, **settings: float
) -> None:
    """Fill ``output`` with features of regions whose bins are shifted.

    Args:
        input: Feature maps (B, C, H, W).
        rois: Regions (R, 5) as image index, x1, y1, x2, y2 in image pixels.
        offset: Shift of every bin (R, 2, pooled_height, pooled_width) along x and y, as a share of
            the region's width and height times ``gamma``; or empty.
        output: Filled: (R, C, pooled_height, pooled_width).
        **settings: ``pooled_height``, ``pooled_width``; ``spatial_scale``, feature pixels per image
            pixel; ``sampling_ratio``; ``gamma``.
    """
    inputs = [tensor for tensor in (input, offset) if tensor is input or tensor.numel()]
    source, *others, rois = widen(*inputs, rois)
    _deformable_regions(rois, len(input), **settings).forward([source, *others], output)


def deform_roi_pool_backward(*tensors: Tensor, **settings: float) -> None:
    """Fill ``grad_input`` and, unless it is empty, ``grad_offset``."""
    grad_output, input, rois, offset, grad_input, grad_offset = tensors
    has_offset = offset.numel() > 0
    inputs, targets = [input], [grad_input]
    if has_offset:
        inputs, targets = [input, offset], [grad_input, grad_offset]
    *inputs, rois, grad = widen(*inputs, rois, grad_output)
    _deformable_regions(rois, len(input), **settings).backward(inputs, grad, targets)
