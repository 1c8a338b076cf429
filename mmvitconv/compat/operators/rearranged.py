"""Operators that move features about: CARAFE, masked convolution and the masks of PSANet."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from mmvitconv.compat.operators.shared import gradients, widen

_COLLECT = 0  # mmcv's number for psa_type='collect' (1 is 'distribute')


def _carafe(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """Return features whose every pixel is a weighted sum of the neighbours of the one below it.

    Args:
        features: Feature maps (B, C, H, W).
        masks: Weights (B, groups * kernel_size**2, H * scale_factor, W * scale_factor).
        kernel_size: Side of the neighbourhood, odd.
        group_size: Groups of channels, each with weights of its own.
        scale_factor: How much larger the output is, 1 or more.
    """
    height, width = features.shape[2:]
    reach = kernel_size // 2
    source = F.pad(features, (reach,) * 4).unflatten(1, (group_size, -1))
    weights = masks.unflatten(3, (width, scale_factor)).unflatten(2, (height, scale_factor))
    weights = weights.unflatten(1, (group_size, kernel_size, kernel_size))
    total = 0
    for row in range(kernel_size):
        for column in range(kernel_size):
            moved = source[..., row : row + height, column : column + width]
            # (B, groups, C / groups, H, 1, W, 1) by (B, groups, 1, H, scale, W, scale)
            weight = weights[:, :, row, column, None]
            total = total + moved[..., :, None, :, None] * weight
    return total.flatten(5, 6).flatten(3, 4).flatten(1, 2)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, **settings: int) -> None:
    """Fill ``output`` (B, C, H * scale_factor, W * scale_factor); the rest as in mmcv's CARAFE."""
    output.copy_(_carafe(*widen(features, masks), **settings))


def carafe_naive_backward(*tensors: Tensor, **settings: int) -> None:
    """Fill the gradients of features and masks."""
    grad_output, features, masks, grad_input, grad_masks = tensors
    grads = gradients(
        lambda *leaves: _carafe(*leaves, **settings), widen(features, masks), grad_output
    )
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def carafe_forward(*tensors: Tensor, **settings: int) -> None:
    """Fill ``output``, and the buffer by which mmcv hands the features to the backward pass."""
    features, masks, rfeatures, _, _, output = tensors
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **settings)


def carafe_backward(*tensors: Tensor, **settings: int) -> None:
    """Fill the gradients of features and masks."""
    grad_output, rfeatures, masks, *_, grad_input, grad_masks = tensors
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **settings)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``col`` (C * kernel_h * kernel_w, N) with what a convolution sees at N positions.

    Args:
        im: Feature map (1, C, H, W).
        mask_h_idx: Rows of the output (N,).
        mask_w_idx: Columns of the output (N,).
        col: Filled.
        kernel_h: Rows of the kernel.
        kernel_w: Columns of the kernel.
        pad_h: Rows of zeros above the map.
        pad_w: Columns of zeros left of the map.
    """
    # Zeros enough for a kernel at any position of the map.
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    windows = padded.unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    seen = windows[:, mask_h_idx, mask_w_idx]
    col.copy_(seen.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write N columns (channels, N) to their positions in ``im`` (1, channels, height, width).

    Positions outside are left out: without padding the output is smaller than the mask.
    """
    inside = (mask_h_idx < height) & (mask_w_idx < width)
    im[0, :, mask_h_idx[inside], mask_w_idx[inside]] = col[:, inside].to(im.dtype)


def _psa_views(
    masks: Tensor,
    buffer: Tensor,
    psa_type: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
    num_: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield equal parts of the masks and of what they say from pixel to pixel.

    Args:
        masks: (B, h_mask * w_mask, H, W): around every pixel.
        buffer: (B, H * W, H, W): pixel by pixel, the first is the mask's place when collecting and
            the pixel in the mask's centre when distributing.
        psa_type: 0 collects, 1 distributes.
        h_feature: Rows H of the feature map.
        w_feature: Columns W.
        h_mask: Rows of a mask.
        w_mask: Columns of a mask.
        half_h_mask: Rows above a mask's centre.
        half_w_mask: Columns left of it.
        num_: Images B.
    """
    masks = masks.view(num_, h_mask, w_mask, h_feature, w_feature)
    pairs = buffer.view(num_, h_feature, w_feature, h_feature, w_feature)
    if psa_type == _COLLECT:
        pairs = pairs.permute(0, 3, 4, 1, 2)
    # Now (B, row and column of the centre, row and column of the place).
    for row in range(h_mask):
        down = row - half_h_mask
        rows = slice(max(0, -down), max(0, h_feature - max(0, down)))
        if rows.start >= rows.stop:
            continue
        by_row = pairs.diagonal(down, 1, 3)  # (B, column, column, rows)
        for column in range(w_mask):
            over = column - half_w_mask
            columns = slice(max(0, -over), max(0, w_feature - max(0, over)))
            if columns.start < columns.stop:
                yield masks[:, row, column, rows, columns], by_row.diagonal(over, 1, 2)


def psamask_forward(input: Tensor, output: Tensor, **settings: int) -> None:
    """Fill ``output`` (B, H * W, H, W), which is 0, with masks (B, h_mask * w_mask, H, W)."""
    for of_masks, of_pairs in _psa_views(input.contiguous(), output, **settings):
        of_pairs.copy_(of_masks)


def psamask_backward(grad_output: Tensor, grad_input: Tensor, **settings: int) -> None:
    """Fill ``grad_input``, which is 0, with the gradient by the masks."""
    for of_masks, of_pairs in _psa_views(grad_input, grad_output.contiguous(), **settings):
        of_masks.copy_(of_pairs)
