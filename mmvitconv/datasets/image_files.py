"""Image files of any bit depth and any number of bands: what they hold, and their numbers."""

from __future__ import annotations

import io
import os
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from mmvitconv.errors import UserError

__all__ = ["Look", "look_at", "read_bands"]

ORIENTATION, BITS_PER_SAMPLE = 274, 258  # tags of EXIF and TIFF
NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS = {"F": 32, "I": 16, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}  # else 8


class Look(NamedTuple):
    """What a file holds.

    Attributes:
        size: Width and height in pixels, as an image is loaded: turned as its camera says.
        bands: Numbers per pixel; pages of a stack count.
        bits: Of a number.
        is_turned: Whether loading swaps its sides.
    """

    size: tuple[int, int]
    bands: int
    bits: int
    is_turned: bool = False


def look_at(path: str | os.PathLike) -> Look:
    """Look at an image file, if possible at its header only.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        UserError: It is no image.
    """
    with open(path, "rb") as file:
        start = file.read(25)
    if not start.startswith(NPY):
        try:
            with Image.open(path) as image:
                size = image.size
                is_turned = image.getexif().get(ORIENTATION, 1) >= 5
                size = size[::-1] if is_turned else size
                bits = BITS.get(image.mode, 8)
                bands = 3 if image.mode == "P" else len(image.getbands())
                if start.startswith(b"\x89PNG"):
                    bits = max(8, start[24])
                elif start.startswith(TIFF):
                    bits = max(8, *image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
                    bands *= getattr(image, "n_frames", 1)
                return Look(size, bands, bits, is_turned)
        except OSError:
            pass
        except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{os.fspath(path)!r} is no image: {error}") from error
    with open(path, "rb") as file:
        values = read_bands(file.read(), os.fspath(path))
    return Look(values.shape[1::-1], values.shape[2], values.dtype.itemsize * 8)


def read_bands(data: bytes, name: str = "the image") -> np.ndarray:
    """Decode an image without changing a number.

    Args:
        data: Content of a PNG, TIFF or other image file, or of an ``.npy`` file. Of a TIFF with
            several pages of one size each page is a band.
        name: The file, for the message.

    Returns:
        (H, W, bands), in the order of the file: of colours red comes first.

    Raises:
        UserError: It cannot be decoded, or is no image.
    """
    if data.startswith(NPY):
        try:
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{name} is not an array of numbers: {error}") from error
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or values.dtype.kind not in "uif":
            raise UserError(
                f"{name}: an array must have the shape (height, width, bands) and hold numbers, "
                f"got {values.shape} of {values.dtype}"
            )
        return values
    buffer = np.frombuffer(data, np.uint8)
    try:
        if data.startswith(TIFF):
            _, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED)
            if len(pages) > 1 and len({page.shape for page in pages}) == 1:
                return np.concatenate([_in_file_order(page)[..., :1] for page in pages], axis=2)
        values = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None:
        values = _by_tifffile(data) if data.startswith(TIFF) else None
    else:
        values = _in_file_order(values)
    if values is None:
        raise UserError(
            f"{name} cannot be decoded; give PNG, TIFF or .npy files ('pip install tifffile' reads "
            "more kinds of TIFF)"
        )
    return values


def _by_tifffile(data: bytes) -> np.ndarray | None:
    """Return what tifffile makes of a TIFF that OpenCV does not read."""
    try:
        import tifffile
    except ImportError:
        return None
    values = np.asarray(tifffile.imread(io.BytesIO(data)))
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3:
        return None
    is_planar = values.shape[0] < min(values.shape[1:])
    return np.moveaxis(values, 0, -1) if is_planar else values


def _in_file_order(values: np.ndarray) -> np.ndarray:
    """Return what OpenCV has decoded, red first and with its bands in a dimension of their own."""
    if values.ndim == 2:
        return values[..., None]
    if values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    return values
