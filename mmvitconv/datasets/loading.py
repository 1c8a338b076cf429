"""Loading of images that are not three colours of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio

from mmvitconv.datasets.image_files import read_bands
from mmvitconv.errors import UserError
from mmvitconv.registry import TRANSFORMS

__all__ = ["LoadBands"]


@TRANSFORMS.register_module()
class LoadBands(LoadImageFromFile):
    """Load an image of any bit depth and number of bands, and bring its numbers to 0 to 255.

    In training, tests and predictions alike. Bands come in the order of the file, colours as red,
    green, blue: set ``bgr_to_rgb=False`` (``to_rgb=False`` of mmpretrain) in the data preprocessor,
    whose ``mean`` and ``std`` have as many numbers as there are bands, and ``in_channels`` of the
    backbone.

    Args:
        value_range: Numbers of the file that become 0 and 255, the same for all images: what keeps
            brightness comparable, (0, 4095) for 12 bits.
        percentiles: Instead of ``value_range``: per cent of each image's own numbers, (1, 99.8),
            band by band. Right where exposures differ and brightness means nothing.
        bands: Which bands, counted from 0, in which order; one may come several times, so that
            (0, 0, 0) makes three colours of a gray image. None for all.
        backend_args: As of ``LoadImageFromFile``.

    Raises:
        UserError: Neither or both of the two, or no range.

    Examples:
        >>> step = LoadBands(value_range=(0, 4095), bands=(0, 0, 0))
        >>> step.rescale(np.uint16([[[0], [4095]]])).tolist()
        [[[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]]]
    """

    def __init__(
        self,
        value_range: Sequence[float] | None = None,
        percentiles: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(to_float32=True, color_type="unchanged", backend_args=backend_args)
        given = value_range if percentiles is None else percentiles
        if (
            (value_range is None) == (percentiles is None)
            or len(given) != 2
            or given[0] >= given[1]
        ):
            raise UserError(
                "mmvitconv.LoadBands takes value_range=(LEAST, LARGEST), the file's numbers that "
                "become 0 and 255, or percentiles=(1, 99.8) of each image, got "
                f"value_range={value_range!r}, percentiles={percentiles!r}"
            )
        if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise UserError(f"percentiles must be between 0 and 100, got {percentiles!r}")
        self.value_range, self.percentiles = value_range, percentiles
        self.bands = None if bands is None else tuple(bands)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the image of ``results['img_path']``."""
        data = fileio.get(results["img_path"], backend_args=self.backend_args)
        image = self.decode(data, str(results["img_path"]))
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def decode(self, data: bytes, name: str = "the image") -> np.ndarray:
        """Return the image in a file's content: (H, W, bands), float32, 0 to 255.

        Args:
            data: The content.
            name: The file, for messages.

        Raises:
            UserError: It cannot be decoded, or has too few bands.
        """
        return self.rescale(read_bands(data, name), name)

    def rescale(self, values: np.ndarray, name: str = "the image") -> np.ndarray:
        """Choose bands and bring their numbers to 0 to 255; what is outside the range is clipped.

        Args:
            values: (H, W, bands), any numbers. NaN becomes 0.
            name: The file, for messages.

        Raises:
            UserError: A band is not there.
        """
        wanted = range(values.shape[2]) if self.bands is None else self.bands
        if max(wanted) >= values.shape[2]:
            raise UserError(
                f"{name} has {values.shape[2]} bands, but mmvitconv.LoadBands is to take band "
                f"{max(wanted)}; they count from 0"
            )
        result = np.empty((*values.shape[:2], len(wanted)), np.float32)
        scaled: dict[int, np.ndarray] = {}
        for index, band in enumerate(wanted):
            if band not in scaled:
                scaled[band] = self._rescale_band(values[..., band])
            result[..., index] = scaled[band]
        return result

    def _rescale_band(self, band: np.ndarray) -> np.ndarray:
        if self.percentiles is None:
            low, high = self.value_range
        else:
            low, high = np.nanpercentile(band, self.percentiles)
        scaled = (band.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
        return np.nan_to_num(np.clip(scaled, 0, 255))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(value_range={self.value_range}, "
            f"percentiles={self.percentiles}, bands={self.bands})"
        )
