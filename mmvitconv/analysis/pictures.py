"""Images in, pictures out: what all pictures of :mod:`mmvitconv.analysis` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageOps, UnidentifiedImageError

from mmvitconv.errors import UserError

__all__ = [
    "check_picture_path",
    "fit",
    "load_source",
    "new_figure",
    "plain",
    "read_image",
    "sample_image",
    "save_figure",
    "show_bar",
    "show_image",
    "show_map",
]

_PICTURES = (".png", ".pdf", ".svg")


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file, upright.

    Args:
        path: Any format that Pillow reads; 16-bit and floating-point values are brought to 0..255,
            transparency is dropped.

    Returns:
        RGB, shape (H, W, 3), uint8.

    Raises:
        UserError: There is no such file, or it is not an image.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no image file {str(path)!r}; give the path of an image")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                values = np.asarray(image, dtype=np.float64)
                # 16-bit files say how bright they are; others have no scale of their own
                low, high = (0, 65535) if image.mode.startswith("I;16") else _range(values)
                values = (values - low) / max(high - low, 1e-12) * 255
                image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise UserError(f"{str(path)!r} cannot be read as an image: {error}") from error


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(np.nanmin(values)), float(np.nanmax(values))


def sample_image() -> np.ndarray:
    """A picture for those who give none: shapes and textures, shape (256, 256, 3), uint8."""
    rows, columns = np.mgrid[:256, :256].astype(np.float64)
    shade = rows[:, :, None] / 255
    image = (1 - shade) * [120, 170, 230] + shade * [225, 235, 245]  # a sky
    ground = rows > 170 + 12 * np.sin(columns / 25)
    image[ground] = ([70, 120, 60] + 25 * np.sin((rows + columns) / 4)[:, :, None])[ground]
    image[(rows - 62) ** 2 + (columns - 190) ** 2 < 34**2] = [250, 205, 60]
    house = (abs(columns - 90) < 45) & (abs(rows - 160) < 45)
    bricks = (rows % 12 < 2) | ((columns + 8 * (rows // 12 % 2)) % 16 < 2)
    image[house] = [175, 75, 60]
    image[house & bricks] = [215, 190, 175]
    image[(rows > 65) & (rows < 115) & (abs(columns - 90) < 1.2 * (rows - 65))] = [95, 60, 50]
    image[(abs(columns - 90) < 12) & (abs(rows - 185) < 20)] = [60, 45, 40]
    image[(abs(columns - 205) < 6) & (abs(rows - 175) < 35)] = [90, 65, 45]
    image[(rows - 135) ** 2 + (columns - 205) ** 2 < 26**2] = [45, 100, 50]
    return image.round().clip(0, 255).astype(np.uint8)


def load_source(path: str | Path | None) -> tuple[np.ndarray, str]:
    """The image of a picture and its name, which are the sample's if there is none."""
    return (sample_image(), "sample image") if path is None else (read_image(path), Path(path).name)


def fit(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image and cut off what is too much at two sides, so that nothing is distorted.

    Args:
        pixels: Shape (H, W, 3), uint8.
        shape: Height and width.

    Returns:
        Shape (*shape, 3).
    """
    resized = ImageOps.fit(Image.fromarray(pixels), shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)


def check_picture_path(path: str | Path) -> Path:
    """Make the folder of a picture that is going to be written.

    Raises:
        UserError: The file would be no picture, or cannot be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in _PICTURES or path.is_dir():
        raise UserError(
            f"{str(path)!r} is no name for a picture; give a file that ends with "
            f"{', '.join(_PICTURES)}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be written ({error.strerror}); give another file"
        ) from error
    return path


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula, and which has no more than 60 characters."""
    text = text if len(text) <= 60 else f"{text[:28]} ... {text[-27:]}"
    return text.replace("$", r"\$")


def new_figure(size: tuple[float, float], *title: str) -> Figure:
    """An empty figure without global state.

    Args:
        size: Width and height in inches.
        title: Its lines; the first is large.

    Returns:
        The figure, laid out so that nothing overlaps.
    """
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    first, *rest = (line.replace("$", r"\$") for line in title)
    figure.suptitle("\n".join([first, *rest]), fontsize=12)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure.

    Raises:
        UserError: It cannot be written there.
    """
    path = check_picture_path(path)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be written ({error.strerror}); give another file"
        ) from error
    return path


def show_image(axis: Axes, pixels: np.ndarray, title: str) -> None:
    """Show an image without ticks."""
    axis.imshow(pixels)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def show_map(
    axis: Axes,
    values: np.ndarray,
    pixels: np.ndarray | None,
    title: str,
    norm: Normalize,
    cmap: str,
) -> None:
    """Show a map, over a grey version of the image it belongs to where there is one.

    Args:
        axis: Where.
        values: Shape (h, w), of any resolution.
        pixels: Shape (H, W, 3), or None.
        title: Above it.
        norm: Range of the colours.
        cmap: Name of the colours.
    """
    height, width = values.shape if pixels is None else pixels.shape[:2]
    alpha = None
    if pixels is not None:
        axis.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        alpha = 0.65
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(values, cmap=cmap, norm=norm, alpha=alpha, extent=extent)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def show_bar(
    figure: Figure, axes: Sequence[Axes], norm: Normalize, cmap: str, label: str, **place: Any
) -> None:
    """A colour bar beside some axes.

    Args:
        figure: Where.
        axes: Whose colours it explains.
        norm: Their range.
        cmap: Their name.
        label: What the numbers are.
        place: Of ``Figure.colorbar``.
    """
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes), **place)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if bar.ax.get_yscale() == "linear":
        bar.ax.ticklabel_format(useOffset=False)
