"""Images for predictions: where they are, and how they are read.

Whatever an image comes as, it becomes the content of an image file, which one decoder reads: that
of the config's test pipeline. So a prediction for a file equals that of a test with this file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageOps

from mmvitconv.datasets.samples import is_cut_off
from mmvitconv.errors import UserError

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jp2", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
        *(".pbm", ".pgm", ".ppm", ".pnm"),
    )
)
ARRAY_RULE = (
    "an array is an RGB (H, W, 3), RGBA (H, W, 4) or gray (H, W) image of uint8 or uint16 numbers"
)
Source = str | os.PathLike | np.ndarray | Image.Image
Content = Path | bytes


class UnreadableImageError(Exception):
    """An image that has to be left out; the message says why."""


def find_images(place: str | os.PathLike, recursive: bool = False) -> list[Path]:
    """List the images at a place.

    Args:
        place: An image file, whatever its suffix, or a folder.
        recursive: Look into the folders inside, too.

    Returns:
        The file, or the folder's files with the suffix of an image, sorted, without hidden ones.

    Raises:
        UserError: When there is no such place, or no image in the folder.
    """
    place = Path(place).expanduser()
    try:
        if place.is_file():
            return [place]
        exists = place.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"the image {str(place)!r} cannot be opened: {error}") from error
    if not exists:
        raise UserError(f"there is no image or folder {str(place)!r}; give one that exists")
    pattern = "**/*" if recursive else "*"
    found = sorted(
        path
        for path in place.glob(pattern)
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
        and path.is_file()
    )
    if not found:
        has_folders = not recursive and any(path.is_dir() for path in place.iterdir())
        hint = "; look into the folders inside it with recursive" if has_folders else ""
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"the folder {str(place)!r} holds no image ({suffixes}){hint}")
    return found


def list_sources(images: Source | Iterable[Source], recursive: bool) -> Iterable[Source]:
    """Turn what a user gives into single images.

    Args:
        images: One image, or many; folders become their images.
        recursive: Look into the folders inside folders, too.

    Returns:
        Paths of files, arrays and Pillow images. Of an iterator each item is looked at when its
        turn comes; otherwise all paths have been found to exist.

    Raises:
        UserError: When a path does not exist, a folder holds no image, or nothing is given.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray, Image.Image)):
        images = [images]
    if not isinstance(images, Iterable):
        raise UserError(
            "images are paths, numpy arrays, Pillow images or a list of them, "
            f"got {type(images).__name__}"
        )
    sources = _expand(images, recursive)
    if isinstance(images, Iterator):
        return sources
    sources = list(sources)
    if not sources:
        raise UserError("no images were given")
    return sources


def _expand(images: Iterable[Source], recursive: bool) -> Iterator[Source]:
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            yield from find_images(image, recursive)
        else:
            yield image


def content_of(source: Source) -> Content:
    """Bring an image into the form that is decoded.

    Args:
        source: Path, array (RGB) or Pillow image.

    Returns:
        The path, or the content of a file with the image.

    Raises:
        UserError: When it is no image at all.
    """
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    if isinstance(source, Image.Image):
        source = ImageOps.exif_transpose(source)
        source = np.asarray(source if source.mode.startswith("I") else source.convert("RGB"))
        if source.dtype == np.int32:  # how Pillow holds 16 bits, too
            source = np.clip(source, 0, 65535).astype(np.uint16)
    if not isinstance(source, np.ndarray):
        raise UserError(
            f"an image is a path, a numpy array or a Pillow image, got {type(source).__name__}"
        )
    return _encode(source)


def _encode(array: np.ndarray) -> bytes:
    """Return a PNG file with an array."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        raise UserError(f"{ARRAY_RULE}, got one of the shape {array.shape}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise UserError(f"{ARRAY_RULE}, got {array.dtype}")
    bgr = np.ascontiguousarray(array[..., 2::-1] if channels > 1 else array)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def decode(content: Content, loading: Any = None) -> np.ndarray:
    """Read an image.

    Args:
        content: From :func:`content_of`.
        loading: The pipeline's step that loads images, which decides on colours and type; None for
            an RGB image of 8 bits.

    Returns:
        The image, turned as it is to be displayed; in the step's order of channels.

    Raises:
        UnreadableImageError: When the file is missing, empty, damaged or no image.
    """
    try:
        data = content.read_bytes() if isinstance(content, Path) else content
        if not data:
            raise UnreadableImageError("the file is empty")
        image = mmcv.imfrombytes(
            data,
            flag=getattr(loading, "color_type", "color"),
            backend=getattr(loading, "imdecode_backend", "cv2"),
            channel_order="bgr" if loading is not None else "rgb",
        )
        cut_off = isinstance(content, Path) and is_cut_off(str(content))
    except OSError as error:
        reason = error.strerror or "it is no image, or a damaged one"
        raise UnreadableImageError(f"the file cannot be read: {reason}") from error
    except (cv2.error, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(_reason(data)) from error
    if image is None:
        raise UnreadableImageError(_reason(data))
    if cut_off:
        raise UnreadableImageError("the file ends too early")
    return image.astype(np.float32) if getattr(loading, "to_float32", False) else image


def _reason(data: bytes) -> str:
    """Say why a file could not be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            kind = f"{image.format} with pixels of the kind {image.mode}"
    except Exception:  # Pillow raises errors of many kinds for damaged files
        return "the file cannot be decoded as an image"
    return f"the decoder of the pipeline does not read this kind of image ({kind})"
