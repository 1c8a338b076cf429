"""Images for predictions: where they are, and how they are read.

Whatever an image comes as, it becomes the content of an image file, which one decoder reads: that
of the config's test pipeline. So a prediction for a file equals that of a test with this file.
"""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

from mmvitconv.checks.samples import is_cut_off
from mmvitconv.datasets.image_files import MAX_PIXELS, count_pixels, open_image
from mmvitconv.datasets.listing import what_is_there
from mmvitconv.datasets.loading import LoadBands
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
BYTES_PER_PIXEL = 8  # of the longest file: four channels of 16 bits
Source = str | os.PathLike | bytes | np.ndarray | Image.Image
Content = Path | bytes


class Loading(NamedTuple):
    """How images are decoded, as the step of a pipeline that loads them says.

    Attributes:
        color_type: As of ``LoadImageFromFile``: ``'color'``, ``'grayscale'``, ``'unchanged'`` ...
        backend: What decodes: ``'cv2'``, ``'pillow'`` ...
        channel_order: ``'bgr'`` or ``'rgb'``.
        to_float32: Whether the model gets floating-point numbers.
        max_pixels: Most pixels of an image, compared with its header before anything is decoded.
        bands: What loads images of other depths and bands than three colours of 8 bits, and brings
            their numbers to 0 to 255; None for all else.
    """

    color_type: str = "color"
    backend: str = "cv2"
    channel_order: str = "bgr"
    to_float32: bool = False
    max_pixels: int = MAX_PIXELS
    bands: LoadBands | None = None


class UnreadableImageError(Exception):
    """An image that has to be left out; the message says why."""


def find_images(place: str | os.PathLike, recursive: bool = False) -> list[Path]:
    """List the images at a place.

    Args:
        place: An image file, whatever its suffix, or a folder.
        recursive: Look into the folders inside, too.

    Returns:
        The file, or what in the folder has the suffix of an image, sorted, without hidden ones and
        folders; reading says of which there is no file (a link that points nowhere, a pipe).

    Raises:
        UserError: When there is no such place, or no image in the folder.
    """
    if re.match(r"\w{2,}:/", os.fspath(place)):
        raise UserError(
            f"images are read from disk: download {os.fspath(place)!r} first and give its path"
        )
    place = Path(place).expanduser()
    try:
        exists = place.is_dir()
        if os.path.lexists(place) and not exists:  # reading says so if it is no regular file
            return [place]
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
        and not path.is_dir()
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
    if isinstance(images, (str, os.PathLike, bytes, np.ndarray, Image.Image)):
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


def build_pipeline(
    steps: Sequence[Mapping[str, Any]], channels: int = 3
) -> tuple[Loading, Compose]:
    """Build a test pipeline for images without annotations.

    Args:
        steps: The pipeline in the config.
        channels: Of the images, where the data set hands out arrays and so no step loads them;
            three are red, green and blue.

    Returns:
        How images are loaded, and what comes after it.

    Raises:
        UserError: When the pipeline loads images, but not at first.
    """
    kinds = {id(step): _transform_class(step) for step in steps}
    steps = [step for step in steps if not issubclass(kinds[id(step)], LoadAnnotations)]
    loads = [issubclass(kinds[id(step)], LoadImageFromFile) for step in steps]
    if not steps or (any(loads) and not loads[0]):
        raise UserError(
            "the test pipeline of the config must begin with LoadImageFromFile, it has "
            f"{', '.join(kinds[id(step)].__name__ for step in steps) or 'no steps'}"
        )
    if not loads[0]:
        color_type = "grayscale" if channels == 1 else "color"
        return Loading(color_type, channel_order="rgb"), Compose(steps)
    loader = TRANSFORMS.build(steps[0])
    if isinstance(loader, LoadBands):
        return Loading(bands=loader), Compose(steps[1:])
    loading = Loading(loader.color_type, loader.imdecode_backend, to_float32=loader.to_float32)
    return loading, Compose(steps[1:])


def _transform_class(step: Mapping[str, Any]) -> type:
    """Return the class of a pipeline's step in the current scope; ``object`` if it is unknown."""
    kind = step.get("type")
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return kind if inspect.isclass(kind) else object


def content_of(source: Source, max_pixels: int = MAX_PIXELS) -> Content:
    """Bring an image into the form that is decoded.

    Args:
        source: Path, content of an image file, array (RGB) or Pillow image.
        max_pixels: Most pixels of a Pillow image, which may not be decoded yet.

    Returns:
        The path, or the content of a file with the image.

    Raises:
        UserError: When it is no image at all.
        UnreadableImageError: A Pillow image is too large.
    """
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image):
        if source.width * source.height > max_pixels:
            raise UnreadableImageError(
                f"it is too large: {source.width}x{source.height} are more than {max_pixels:,} "
                "pixels (--max-pixels)"
            )
        try:
            source = ImageOps.exif_transpose(source)
            source = np.asarray(source if source.mode.startswith("I") else source.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # it is decoded only now
            raise UnreadableImageError("it cannot be decoded as an image") from error
        if source.dtype == np.int32:  # how Pillow holds 16 bits, too
            depth = np.uint16 if source.max(initial=0) > 255 else np.uint8
            source = np.clip(source, 0, 65535).astype(depth)
    if not isinstance(source, np.ndarray):
        raise UserError(
            "an image is a path, the content of a file, a numpy array or a Pillow image, got "
            f"{type(source).__name__}"
        )
    return _encode(source)


def _encode(array: np.ndarray) -> bytes:
    """Return a BMP file with an array: as exact as PNG and a hundred times as fast."""
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
    return cv2.imencode(".bmp", bgr)[1].tobytes()


def read_content(content: Content, max_pixels: int = MAX_PIXELS, any_format: bool = False) -> bytes:
    """Read the file of an image that is not larger than it may be.

    Args:
        content: From :func:`content_of`.
        max_pixels: Most pixels, compared with the header before anything is decoded.
        any_format: Leave it to the decoder whether a file without a header that Pillow knows is an
            image.

    Returns:
        The content of the file.

    Raises:
        UnreadableImageError: When there is no regular file, it is empty, or the image too large.
    """
    if isinstance(content, Path):
        try:
            is_file, size = content.is_file(), content.stat().st_size
            if not is_file:
                raise UnreadableImageError(f"there is no file, but {what_is_there(content)}")
            if size > BYTES_PER_PIXEL * max_pixels:
                raise UnreadableImageError(f"the file has {size:,} bytes, which is too long")
            data = content.read_bytes()
        except OSError as error:
            there = what_is_there(content) or error.strerror
            raise UnreadableImageError(f"the file cannot be read: {there}") from error
    else:
        data = content
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        found = count_pixels(io.BytesIO(data), max_pixels)
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        if not any_format:
            raise UnreadableImageError(_reason(data)) from error
        found = ""
    if found:
        raise UnreadableImageError(f"it is too large: {found} (--max-pixels)")
    return data


def decode(content: Content, loading: Loading) -> np.ndarray:
    """Read an image.

    Args:
        content: From :func:`content_of`.
        loading: Decides on colours, type, and whether EXIF turns the image.

    Returns:
        The image as the pipeline gets it.

    Raises:
        UnreadableImageError: When the file is missing, empty, damaged, too large or no image.
    """
    data = read_content(content, loading.max_pixels, loading.bands is not None)
    if loading.bands is not None:
        try:
            return loading.bands.decode(data)
        except UserError as error:
            raise UnreadableImageError(str(error)) from error
    try:
        image = mmcv.imfrombytes(
            data,
            flag=loading.color_type,
            backend=loading.backend,
        )
        cut_off = isinstance(content, Path) and is_cut_off(str(content))
    except MemoryError:
        raise
    except Exception as error:  # of many kinds for damaged files
        raise UnreadableImageError(_reason(data)) from error
    if image is None:
        raise UnreadableImageError(_reason(data))
    if cut_off:
        raise UnreadableImageError("the file ends too early")
    if loading.channel_order == "rgb":  # mmcv itself turns it round for some types only
        image = _reversed_colours(image)
    return image.astype(np.float32) if loading.to_float32 else image


def decode_to_show(content: Content, loading: Loading) -> np.ndarray:
    """Read an image as :func:`decode` does, to look at it.

    Args:
        content: From :func:`content_of`.
        loading: As of :func:`decode`, so that predictions fit the image.

    Returns:
        The image, (H, W, 3), RGB, uint8; transparency is ignored.

    Raises:
        UnreadableImageError: As of :func:`decode`.
    """
    image = decode(content, loading._replace(channel_order="bgr", to_float32=False))
    if loading.bands is not None:  # red first
        shown = image[..., [0, 1, 2] if image.shape[2] > 2 else [0, 0, 0]]
        return shown.round().astype(np.uint8)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype != np.uint8:
        deep = image.dtype == np.uint16 or image.max(initial=0) > 255
        image = np.clip(image / 256 if deep else image, 0, 255).astype(np.uint8)
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] < 3:  # gray, perhaps with transparency
        return image[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(_reversed_colours(image)[..., :3])


def _reversed_colours(image: np.ndarray) -> np.ndarray:
    """Swap red and blue where there are colours."""
    if image.ndim < 3 or image.shape[2] < 3:
        return image
    return np.concatenate([image[..., 2::-1], image[..., 3:]], axis=2)


def _reason(data: bytes) -> str:
    """Say why a file could not be decoded."""
    try:
        with open_image(io.BytesIO(data)) as image:
            image.load()
            kind = f"{image.format} with pixels of the kind {image.mode}"
    except Exception:  # Pillow raises errors of many kinds for damaged files
        return "the file cannot be decoded as an image"
    return f"the decoder of the pipeline does not read this kind of image ({kind})"
