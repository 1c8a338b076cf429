"""What operators of several kinds need: precision, gradients, and checks of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torchvision
from torch import Tensor

from mmvitconv.errors import UserError

OPERATORS = getattr(torch.ops, torchvision.__name__)  # its import registers them
SAMPLES_AT_ONCE = 2**25  # bounds the memory of an operator: 128 MiB of float32


def widen(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Return tensors in the dtype to compute in: float64 if that is the first's, else float32."""
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    return [tensor.to(dtype) for tensor in (first, *others)]


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of a function of torch's operators, by running it once more."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype), materialize_grads=True)


def check_regions(rois: Tensor, images: int, operator: str) -> None:
    """Refuse regions that would make an operator read whatever lies in memory.

    Args:
        rois: Regions (R, 5 or 6): image index, then coordinates.
        images: Images in the batch.
        operator: Name of the operator, for the message.

    Raises:
        UserError: A number is not finite, or there is no such image.
    """
    image = rois[:, 0]
    legal = rois.isfinite().all(dim=1) & (image > -1) & (image < images)
    if bool(legal.all()):  # one wait for the GPU
        return
    wrong = (~legal).nonzero().flatten().tolist()
    raise UserError(
        f"mmcv's operator {operator!r} was given {len(wrong)} impossible RoI(s) of {len(rois)}, "
        f"the first is number {wrong[0]}: {rois[wrong[0]].tolist()}; RoIs must be finite and "
        f"their first number must be the index of one of the {images} image(s): find out where "
        "predictions or boxes of the data stop being finite"
    )


def group_by_samples(
    size: Tensor, bins: tuple[int, int], sampling_ratio: int, channels: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Split regions into groups with equally many sampling points in a bin.

    A region without area has no sampling point and is in no group: its output is 0.

    Args:
        size: Height and width (R, 2) of every region in feature pixels.
        bins: Rows and columns of the output.
        sampling_ratio: Sampling points per bin and direction, 0 for as many as feature pixels.
        channels: Channels of the features; with the rest it says how many regions fit into memory.

    Yields:
        Rows and columns of sampling points in a bin, and indices of regions.
    """
    if sampling_ratio > 0:
        samples = torch.full_like(size, sampling_ratio, dtype=torch.long)
    else:
        samples = (size / size.new_tensor(bins)).ceil().clamp(min=0).long()
    for rows, columns in samples.unique(dim=0).tolist():
        if rows == 0 or columns == 0:
            continue
        chosen = ((samples[:, 0] == rows) & (samples[:, 1] == columns)).nonzero().squeeze(1)
        per_region = channels * bins[0] * bins[1] * rows * columns
        for part in chosen.split(max(1, SAMPLES_AT_ONCE // per_region)):
            yield rows, columns, part
