"""Seeded boxes, regions and features for the tests of operators."""

import torch
from mmcv import _ext

if "mmvitconv" not in (_ext.__file__ or ""):
    raise ImportError("these tests are about the stand-in, but a compiled mmcv is installed")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, size: float, seed: int, dtype=torch.float32) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=generator(seed), dtype=dtype) * size
    return torch.cat((corners.min(1).values, corners.max(1).values), dim=1)


def random_rois(count: int, images: int, size: float, seed: int, dtype=torch.float32):
    image = torch.randint(images, (count, 1), generator=generator(seed)).to(dtype)
    return torch.cat((image, random_boxes(count, size, seed + 1, dtype)), dim=1)


def features(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def bilinear(plane, y: float, x: float) -> float:
    """Return RoIAlign's value at one point of a plane (H, W)."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    y, x = (y if top < height - 1 else top), (x if left < width - 1 else left)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, over = y - top, x - left
    return float(
        plane[top, left] * (1 - down) * (1 - over)
        + plane[top, right] * (1 - down) * over
        + plane[bottom, left] * down * (1 - over)
        + plane[bottom, right] * down * over
    )
