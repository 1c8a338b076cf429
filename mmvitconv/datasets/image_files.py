"""Image files: the one door through which they are opened, what they hold, and their numbers.

A file may come from a stranger: only formats of photographs are opened, and the pixels in the
header are compared with a limit before anything is decoded.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmvitconv.errors import UserError

__all__ = [
    "MAX_PIXELS",
    "Look",
    "count_pixels",
    "decoding",
    "look_at",
    "open_image",
    "orientation_of",
    "read_bands",
]

MAX_PIXELS = 100_000_000  # of an image
# Pillow starts programs of others, or asks for data elsewhere, to read some of its other formats
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
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


@cache
def _formats() -> list[str]:
    """Return those of :data:`FORMATS` that the installed Pillow knows; once."""
    Image.init()
    # the pixels are compared with a limit of ours; a filter for each image would bring all
    # warnings back that were given once
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return [name for name in FORMATS if name in Image.OPEN]


class TooLargeError(OSError):
    """An image of more pixels than it may have; the message says how many."""


def open_image(file: str | os.PathLike | IO[bytes], limit: int = MAX_PIXELS) -> Image.Image:
    """Open an image of a photograph's format with Pillow, which reads its header only.

    Args:
        file: A path, or an open file.
        limit: Most pixels, >= 1. Pillow has a limit of its own, 179 million.

    Returns:
        The image, not decoded yet.

    Raises:
        TooLargeError: It has more pixels.
        OSError: It is no image.
    """
    try:
        image = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"more than {limit:,} pixels") from error
    try:
        _check_size(*image.size, limit)
    except TooLargeError:
        image.close()
        raise
    return image


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise TooLargeError(f"{width}x{height} are more than {limit:,} pixels")


@contextmanager
def decoding(path: str | os.PathLike, what: str = "image") -> Iterator[Image.Image]:
    """Open an image to decode it; whatever is wrong with its file is one sentence.

    Args:
        path: The file.
        what: What it is for the user, for the message.

    Yields:
        The image, not decoded yet.

    Raises:
        UserError: It is no image, damaged, or too large.
    """
    try:
        with open_image(path) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        kind = "is too large" if isinstance(error, TooLargeError) else "cannot be decoded"
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"the {what} {os.fspath(path)!r} {kind}: {reason}") from error


def count_pixels(file: str | os.PathLike | IO[bytes], limit: int = MAX_PIXELS) -> str:
    """Compare the size of an image with a limit before anything decodes it.

    Args:
        file: A path, or an open file.
        limit: Most pixels, >= 1.

    Returns:
        What is wrong; empty when the image is not larger.

    Raises:
        OSError: It is no image.
    """
    try:
        open_image(file, limit).close()
    except TooLargeError as error:
        return str(error)
    return ""


def orientation_of(image: Image.Image) -> int:
    """Return how the camera's EXIF turns an image, 1 to 8, from its header alone.

    ``image.getexif()`` would decode a PNG.
    """
    exif = Image.Exif()
    if image.format == "TIFF":
        exif = image.getexif()
    elif image.info.get("exif"):
        exif.load(image.info["exif"])
    return exif.get(ORIENTATION, 1)


def look_at(path: str | os.PathLike) -> Look:
    """Look at an image file, if possible at its header only.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        UserError: It is no image, or too large.
    """
    with open(path, "rb") as file:
        start = file.read(25)
    if not start.startswith(NPY):
        try:
            with open_image(path) as image:
                size = image.size
                is_turned = orientation_of(image) >= 5
                size = size[::-1] if is_turned else size
                bits = BITS.get(image.mode, 8)
                bands = 3 if image.mode == "P" else len(image.getbands())
                if start.startswith(b"\x89PNG"):
                    bits = max(8, start[24])
                elif start.startswith(TIFF):
                    bits = max(8, *image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
                    bands *= getattr(image, "n_frames", 1)
                return Look(size, bands, bits, is_turned)
        except TooLargeError as error:
            raise UserError(f"the image {os.fspath(path)!r} is too large: {error}") from error
        except OSError:
            pass
        except Exception as error:  # Pillow raises errors of many kinds for damaged files
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
    _check_pages(data, name)
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


def _check_pages(data: bytes, name: str) -> None:
    """Compare the header of each page with the limit; what Pillow does not know is not decoded."""
    try:
        with open_image(io.BytesIO(data)) as image:
            for page in range(1, getattr(image, "n_frames", 1) if data.startswith(TIFF) else 1):
                image.seek(page)
                _check_size(*image.size, MAX_PIXELS)
    except TooLargeError as error:
        raise UserError(f"{name} is too large: {error}") from error
    except Exception:  # of many kinds: another decoder may read it
        return


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
