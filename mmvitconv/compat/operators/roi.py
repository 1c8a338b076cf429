"""RoIAlign and RoIPool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvitconv.compat.operators import shared
from mmvitconv.compat.operators.shared import OPERATORS, check_regions, widen

_MAX_POOLING = 0  # mmcv's number for pool_mode='max' (1 is 'avg')
_FEW = 32  # regions for which threads do not pay


@dataclass
class _RoIAlign:
    """RoIAlign as mmcv describes it.

    Average pooling is torchvision's operator. Maximum pooling, which torchvision lacks, samples
    the same points with it (one per bin on a finer raster) and takes the largest of each bin.
    """

    aligned_height: int  # rows of the output
    aligned_width: int
    spatial_scale: float  # feature pixels per image pixel
    sampling_ratio: int  # sampling points per bin and direction, 0 for as many as feature pixels
    pool_mode: int
    aligned: bool | int  # shifted by half a pixel, or mmdetection 1.x behaviour

    def sort_out(self, rois: Tensor) -> Tensor:
        """Return RoIs without negative sizes: as in mmcv's kernel they have no sampling point."""
        if self.sampling_ratio > 0 or not self.aligned:
            return rois
        return torch.cat((rois[:, :3], rois[:, 3:].maximum(rois[:, 1:3])), dim=1)

    def align(self, source: Tensor, rois: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
        """Sample features; with rows and columns of a bin, give each point by itself."""
        how, end = self._arguments(rows, columns)

        @torch.no_grad()  # a thread's own setting, off in the one that calls
        def run(some: Tensor) -> Tensor:
            return OPERATORS.roi_align(source, some, *how, *end)

        # torchvision's kernel for CPUs takes one region after the other; threads change none
        is_plain = type(source) is Tensor and source.device.type == "cpu"
        threads = torch.get_num_threads() if is_plain else 1
        if threads == 1 or len(rois) < _FEW:
            return run(rois)
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(run, rois.chunk(4 * threads))))

    def align_backward(
        self, grad: Tensor, rois: Tensor, shape: Sequence[int], rows: int = 0, columns: int = 0
    ) -> Tensor:
        """Return the gradient of :meth:`align` for features of this shape."""
        how, end = self._arguments(rows, columns)
        return OPERATORS._roi_align_backward(grad, rois, *how, *shape, *end)

    def _arguments(self, rows: int, columns: int) -> tuple[tuple, tuple]:
        raster = (self.aligned_height * (rows or 1), self.aligned_width * (columns or 1))
        samples = 1 if rows else self.sampling_ratio
        return (self.spatial_scale, *raster), (samples, bool(self.aligned))

    def groups(self, rois: Tensor, channels: int) -> Iterator[tuple[int, int, Tensor]]:
        """Split RoIs into groups (rows, columns, RoI indices) that one batched call can sample."""
        corners = rois * self.spatial_scale  # first scaled, as torchvision does: it rounds
        size = corners[:, [4, 3]] - corners[:, [2, 1]]
        size = size if self.aligned else size.clamp(min=1)
        bins = (self.aligned_height, self.aligned_width)
        return shared.group_by_samples(size, bins, self.sampling_ratio, channels)


def roi_align_forward(*tensors: Tensor, **settings: float) -> None:
    """Fill ``output`` with RoIAlign features.

    Args:
        *tensors: Feature maps (B, C, H, W); regions (R, 5) as image index, x1, y1, x2, y2 in image
            pixels; ``output`` (R, C, aligned_height, aligned_width); for maximum pooling, row and
            column of the largest sampling point within its bin, filled and shaped like it.
        **settings: Of :class:`_RoIAlign`.
    """
    input, rois, output, argmax_y, argmax_x = tensors
    check_regions(rois, len(input), "roi_align")
    operator = _RoIAlign(**settings)
    source, rois = widen(input, rois)
    rois = operator.sort_out(rois)
    if operator.pool_mode != _MAX_POOLING:
        output.copy_(operator.align(source, rois))
        return
    output.zero_()
    for rows, columns, chosen in operator.groups(rois, source.shape[1]):
        points = operator.align(source, rois[chosen], rows, columns)
        points = points.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        largest, where = points.transpose(3, 4).flatten(4).max(dim=-1)
        output[chosen] = largest.to(output.dtype)
        # Small whole numbers: exact in every dtype that mmcv gives these buffers.
        argmax_y[chosen] = where.div(columns, rounding_mode="floor").to(argmax_y.dtype)
        argmax_x[chosen] = where.remainder(columns).to(argmax_x.dtype)


def roi_align_backward(*tensors: Tensor, **settings: float) -> None:
    """Fill ``grad_input`` (B, C, H, W), the last tensor; the others are as in the forward."""
    grad_output, rois, argmax_y, argmax_x, grad_input = tensors
    operator = _RoIAlign(**settings)
    grad, rois = widen(grad_output, rois)
    rois = operator.sort_out(rois)
    shape = tuple(grad_input.shape)
    if operator.pool_mode != _MAX_POOLING:
        grad_input.copy_(operator.align_backward(grad, rois, shape))
        return
    total = grad.new_zeros(shape)
    for rows, columns, chosen in operator.groups(rois, shape[1]):
        where = argmax_y[chosen].long() * columns + argmax_x[chosen].long()
        points = grad.new_zeros((*where.shape, rows * columns))
        points.scatter_(-1, where[..., None], grad[chosen][..., None])
        points = points.unflatten(-1, (rows, columns)).transpose(3, 4).flatten(4).flatten(2, 3)
        total += operator.align_backward(points, rois[chosen], shape, rows, columns)
    grad_input.copy_(total)


# ----------------------------------------------------------------------------------------- RoIPool


def _bin_borders(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[list, list]:
    """Return first and one-past-last pixel of every RoIPool bin of every RoI, as nested lists."""
    step = ((end - start) / bins)[:, None]
    index = torch.arange(bins, dtype=start.dtype, device=start.device)
    first = (index * step + start[:, None]).floor().clamp(0, size).long()
    last = ((index + 1) * step + start[:, None]).ceil().clamp(0, size).long()
    return first.tolist(), last.tolist()


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the largest value of every bin.

    This is mmcv's definition, with unrounded region borders; torchvision's ``roi_pool`` rounds
    them first, so it is another operator. Runs region by region in Python.

    Args:
        input: Feature maps (B, C, H, W).
        rois: Regions (R, 5) as image index, x1, y1, x2, y2 in image pixels, x2 and y2 inside.
        output: Filled: (R, C, pooled_height, pooled_width); 0 where a bin has no pixel.
        argmax: Filled: position ``row * W + column`` of the largest value, -1 for an empty bin.
        pooled_height: Rows of the output.
        pooled_width: Columns of the output.
        spatial_scale: Feature pixels per image pixel.
    """
    check_regions(rois, len(input), "roi_pool")
    output.zero_()
    argmax.fill_(-1)
    height, width = input.shape[2:]
    # Comparing values needs no wider dtype; coordinates do.
    (regions,) = widen(rois)
    start, end = regions[:, 1:3] * spatial_scale, (regions[:, 3:5] + 1) * spatial_scale
    lefts, rights = _bin_borders(start[:, 0], end[:, 0], pooled_width, width)
    tops, bottoms = _bin_borders(start[:, 1], end[:, 1], pooled_height, height)
    images = rois[:, 0].long().tolist()
    for region in (end > start).all(dim=1).nonzero().flatten().tolist():
        features = input[images[region]]
        # Columns first, then rows: among equal values the first in reading order wins.
        for column, (left, right) in enumerate(zip(lefts[region], rights[region], strict=True)):
            if right <= left:
                continue
            by_row, at_column = features[:, :, left:right].max(dim=2)
            for row, (top, bottom) in enumerate(zip(tops[region], bottoms[region], strict=True)):
                if bottom <= top:
                    continue
                largest, at_row = by_row[:, top:bottom].max(dim=1)
                at_row = at_row + top
                at = at_row * width + left + at_column.gather(1, at_row[:, None]).squeeze(1)
                output[region, :, row, column] = largest
                argmax[region, :, row, column] = at.to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **settings: float
) -> None:
    """Fill ``grad_input`` (B, C, H, W); the arguments are those of :func:`roi_pool_forward`."""
    (grad,) = widen(grad_output)
    batch, channels, height, width = grad_input.shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    flat = plane[:, :, None, None] * (height * width) + argmax.long().clamp(min=0)
    total = grad.new_zeros(batch * channels * height * width)
    total.index_add_(0, flat.flatten(), torch.where(argmax >= 0, grad, 0).flatten())
    grad_input.copy_(total.view_as(grad_input))
