"""Products of a feature map with one vector for each image, head by head, in the map's own layout.

The map is read once by each: a matrix product gives the similarities, a fused multiply-add the
weighted sum.
"""

import torch
from torch import Tensor

from mmvitconv.ops.memory_format import is_channels_last
from mmvitconv.ops.multiply_add import multiply_add
from mmvitconv.ops.traced import as_one_node


@as_one_node
def head_similarity(x: Tensor, query: Tensor, num_heads: int) -> Tensor:
    """Compute ``query . x / sqrt(d)`` at each position, for each head of d channels.

    Args:
        x: Shape (B, C, H, W).
        query: A vector for each image, shape (B, C).
        num_heads: Heads: contiguous groups of channels.

    Returns:
        Shape (B, num_heads, H, W), at least float32.
    """
    batch, channels, height, width = x.shape
    query = (query * (channels // num_heads) ** -0.5).to(x.dtype).unflatten(1, (num_heads, -1))
    if is_channels_last(x):
        # All heads in one product, by a block-diagonal matrix (B, C, heads).
        own = torch.eye(num_heads, dtype=x.dtype, device=x.device).unsqueeze(1)
        blocks = (query.unsqueeze(3) * own).flatten(1, 2)
        tokens = x.permute(0, 2, 3, 1).view(batch, height * width, channels)
        out = torch.bmm(tokens, blocks).view(batch, height, width, num_heads).permute(0, 3, 1, 2)
    else:
        tokens = x.reshape(batch * num_heads, -1, height * width)
        out = torch.bmm(query.reshape(batch * num_heads, 1, -1), tokens)
        out = out.view(batch, num_heads, height, width)
    return out if out.dtype == torch.float64 else out.float()


@as_one_node
def image_std_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the standard deviation and mean of each image's map.

    Args:
        x: Shape (B, C, H, W).

    Returns:
        Two tensors of shape (B, 1, 1, 1). One value has no unbiased deviation; it gets 0.
    """
    rows = (x.permute(0, 2, 3, 1) if is_channels_last(x) else x).flatten(1)  # no copy
    correction = int(rows.shape[1] > 1)
    deviation, mean = torch.std_mean(rows, dim=1, correction=correction)
    return deviation.view(-1, 1, 1, 1), mean.view(-1, 1, 1, 1)


@as_one_node
def add_head_products(x: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
    """Compute ``x + weight * vector``, where the channels of a head share a weight.

    Args:
        x: Shape (B, C, H, W).
        weight: A weight for each head and position, shape (B, heads, H, W).
        vector: A vector for each image, shape (B, C).

    Returns:
        Tensor of x's shape and memory format.
    """
    heads = weight.shape[1]
    vector = vector.unflatten(1, (heads, -1))
    if is_channels_last(x):
        x, weight = x.permute(0, 2, 3, 1).unflatten(3, (heads, -1)), weight.permute(0, 2, 3, 1)
        out = multiply_add(x, weight.unsqueeze(4), vector[:, None, None])
        return out.flatten(3).permute(0, 3, 1, 2)
    x = x.unflatten(1, (heads, -1))
    return multiply_add(x, weight.unsqueeze(2), vector[..., None, None]).flatten(1, 2)
