"""Training with a crop size per batch: the batch sampler that draws it and the crop that obeys.

A config names both (``configs/_base_/datasets/imagenet_256_multiscale.py``)::

    train_dataloader = dict(
        batch_size=128,  # at 256x256
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_sampler=dict(type="mmvitconv.MultiScaleBatchSampler", base_size=256),
        dataset=dict(pipeline=[..., dict(type="mmvitconv.MultiScaleRandomResizedCrop"), ...]),
    )

A batch sampler can hand nothing but indices to the workers, so each index carries its crop size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice

import torch
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets.transforms import RandomResizedCrop

from mmvitconv.registry import DATA_SAMPLERS, TRANSFORMS

__all__ = ["MultiScaleBatchSampler", "MultiScaleRandomResizedCrop", "SizedIndex"]


class SizedIndex(int):
    """The index of an image, together with the side of its crop.

    The dataset wrappers that compute the index of the dataset inside (``ConcatDataset``,
    ``RepeatDataset``) subtract or take the remainder, so the size survives these.

    Args:
        index: Index in the dataset, >= 0.
        crop_size: Side of the square crop in pixels, >= 1.
    """

    crop_size: int

    def __new__(cls, index: int, crop_size: int) -> SizedIndex:
        """Create an int with one more attribute."""
        self = super().__new__(cls, index)
        self.crop_size = crop_size
        return self

    def __reduce__(self) -> tuple:
        """Pickle the size too: indices travel to the workers."""
        return type(self), (int(self), self.crop_size)

    def __sub__(self, other: int) -> SizedIndex:
        """Subtract; the size stays."""
        return type(self)(int(self) - other, self.crop_size)

    def __mod__(self, other: int) -> SizedIndex:
        """Take the remainder; the size stays."""
        return type(self)(int(self) % other, self.crop_size)


@DATA_SAMPLERS.register_module()
class MultiScaleBatchSampler:
    """Yields batches of one crop size each, with more images the smaller that is.

    The number of pixels of a batch stays about the same, except that no batch has fewer images
    than ``batch_size``: with 128 images at 256 pixels the sizes 160, 192, 256, 288 and 320 have
    327, 227, 128, 128 and 128.

    An epoch has the same number of batches on all ranks and in every epoch: as few as are needed
    to see every image, with each size as often as any other or once more. Their order is drawn
    anew in each epoch and is the same on all ranks, as are seed and epoch of ``sampler``. All
    batches are full: the last takes images from the start of the epoch again.

    Args:
        sampler: MMEngine's ``DefaultSampler`` (or a subclass) with ``round_up=True``, which gives
            every rank equally many images.
        batch_size: Images per rank at ``base_size``, and the smallest number at any size; >= 1.
        crop_sizes: Sides of the square crops in pixels, at least one, all different.
        base_size: Side at which a batch has ``batch_size`` images, in pixels, >= 1.

    Attributes:
        batch_sizes: Images per rank for each entry of ``crop_sizes``.

    Raises:
        ValueError: If an argument is outside its range.

    Examples:
        >>> from mmengine.dataset import DefaultSampler
        >>> sampler = DefaultSampler(range(1000), seed=0)
        >>> MultiScaleBatchSampler(sampler, batch_size=128).batch_sizes
        (327, 227, 128, 128, 128)
    """

    def __init__(
        self,
        sampler: DefaultSampler,
        batch_size: int,
        crop_sizes: Sequence[int] = (160, 192, 256, 288, 320),
        base_size: int = 256,
    ) -> None:
        if not isinstance(sampler, DefaultSampler) or not sampler.round_up:
            raise ValueError(
                "sampler must be a DefaultSampler with round_up=True, so that all ranks have "
                f"equally many images, got {type(sampler).__name__} with "
                f"round_up={getattr(sampler, 'round_up', None)}"
            )
        crop_sizes = tuple(crop_sizes)
        for name, value in (("batch_size", batch_size), ("base_size", base_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if (
            not crop_sizes
            or len(set(crop_sizes)) != len(crop_sizes)
            or any(not isinstance(size, int) or size < 1 for size in crop_sizes)
        ):
            raise ValueError(
                f"crop_sizes must be one or more different positive integers, got {crop_sizes}"
            )
        if len(sampler) == 0:
            raise ValueError("the dataset of MultiScaleBatchSampler is empty; give one with images")
        self.sampler = sampler  # DistSamplerSeedHook sets its epoch
        self.batch_size = batch_size
        self.crop_sizes = crop_sizes
        self.base_size = base_size
        self.batch_sizes = tuple(
            max(batch_size, batch_size * base_size**2 // size**2) for size in crop_sizes
        )

    def _positions(self) -> list[int]:
        """Return the position in ``crop_sizes`` of each batch of an epoch, not yet shuffled."""
        rounds, rest = divmod(len(self.sampler), sum(self.batch_sizes))
        # one batch more of each size before which some of the rest is left
        seen_before = accumulate(self.batch_sizes[:-1], initial=0)
        more = sum(seen < rest for seen in seen_before)
        return [*range(len(self.crop_sizes))] * rounds + [*range(more)]

    def __len__(self) -> int:
        """Return the number of batches of an epoch on each rank."""
        return len(self._positions())

    def __iter__(self) -> Iterator[list[SizedIndex]]:
        """Iterate the batches of the epoch that ``sampler`` is set to."""
        generator = torch.Generator()
        generator.manual_seed(self.sampler.seed + self.sampler.epoch)
        positions = self._positions()
        indices = cycle(list(self.sampler))
        for place in torch.randperm(len(positions), generator=generator).tolist():
            size, images = self.crop_sizes[positions[place]], self.batch_sizes[positions[place]]
            yield [SizedIndex(index, size) for index in islice(indices, images)]


@TRANSFORMS.register_module()
class MultiScaleRandomResizedCrop(RandomResizedCrop):
    """mmpretrain's ``RandomResizedCrop`` to the size that ``MultiScaleBatchSampler`` drew.

    It reads the size from ``results['sample_idx']``, where MMEngine's datasets leave the index
    that they were given.

    Args:
        **kwargs: Arguments of mmpretrain's ``RandomResizedCrop`` other than ``scale``.

    Raises:
        ValueError: ``scale`` is given.

    Examples:
        >>> crop = dict(type="mmvitconv.MultiScaleRandomResizedCrop", interpolation="bilinear")
    """

    def __init__(self, **kwargs) -> None:
        if "scale" in kwargs:
            raise ValueError(
                f"MultiScaleRandomResizedCrop takes no scale, got {kwargs['scale']}: give "
                "crop_sizes to MultiScaleBatchSampler, or use RandomResizedCrop"
            )
        super().__init__(scale=1, **kwargs)

    def transform(self, results: dict) -> dict:
        """Crop and resize an image.

        Args:
            results: With ``img`` of shape (H, W, C) and ``sample_idx``.

        Returns:
            The same dict with the new ``img`` and ``img_shape``.

        Raises:
            ValueError: The index of the image carries no size.
        """
        index = results.get("sample_idx")
        if not isinstance(index, SizedIndex):
            raise ValueError(
                f"MultiScaleRandomResizedCrop got sample_idx={index!r} without a crop size; load "
                "the images with batch_sampler=dict(type='mmvitconv.MultiScaleBatchSampler') and "
                "no dataset wrapper that looks indices up, or use RandomResizedCrop"
            )
        self.scale = (index.crop_size, index.crop_size)
        return super().transform(results)
