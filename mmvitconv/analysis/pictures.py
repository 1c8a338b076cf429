"""Models and images in, pictures out: what all pictures of :mod:`mmvitconv.analysis` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from mmvitconv.datasets.image_files import decoding
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import TIMM, LoadedModel, load_model

__all__ = [
    "check_picture_path",
    "device_of",
    "draw_rows",
    "fit",
    "load_network",
    "load_source",
    "new_figure",
    "open_scene",
    "plain",
    "read_image",
    "sample_image",
    "save_figure",
    "show_bar",
    "show_image",
    "show_over",
    "title_of",
    "to_input",
]

_PICTURES = (".png", ".pdf", ".svg")


def load_network(name: str, checkpoint: str | Path | None = None, **options: Any) -> LoadedModel:
    """Load what a picture is about: a backbone with its maps, or a whole model of timm.

    Args:
        name: An architecture, a config or ``'timm:NAME'``.
        checkpoint: File with its weights; None for random ones, as its layers draw them.
        **options: ``seed``, ``shape`` and ``device`` of :func:`load_model`.
    """
    part = "model" if name.startswith(TIMM) else "backbone"
    return load_model(name, checkpoint, part=part, init_weights=False, **options)


class Scene(NamedTuple):
    """A model and the image that it is shown."""

    loaded: LoadedModel
    source: np.ndarray  # the image as it is drawn, shape (H, W, 3), uint8
    input: Tensor  # the image as the model gets it, shape (1, in_channels, H, W)
    note: str  # the model, its weights and the image's name, for titles


def open_scene(name: str, image: str | Path | None, **options: Any) -> Scene:
    """Load a model and an image.

    Args:
        name: As of :func:`load_network`.
        image: Image file; None for a drawn sample image.
        **options: Of :func:`load_network`; the image is brought to the model's shape.
    """
    pixels, image_name = load_source(image)
    loaded = load_network(name, **options)
    source = fit(pixels, loaded.shape)
    return Scene(loaded, source, to_input(loaded, source), f"{title_of(loaded)}, {image_name}")


def title_of(loaded: LoadedModel) -> str:
    """Return name and weights in one line."""
    return f"{loaded.name} ({loaded.weights})"


def device_of(loaded: LoadedModel) -> torch.device:
    """Return where the weights are."""
    return next(loaded.module.parameters()).device


def to_input(loaded: LoadedModel, pixels: np.ndarray) -> Tensor:
    """Normalise an image as a model wants it.

    Args:
        loaded: The model.
        pixels: RGB, shape (H, W, 3), 0 to 255.

    Returns:
        Shape (1, in_channels, H, W), on the device of the model.

    Raises:
        UserError: The model takes neither one channel nor three.
    """
    channels, values = loaded.in_channels, pixels.astype(np.float32)
    if channels == 1:
        values = values @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    elif channels != 3:
        raise UserError(
            f"{loaded.name} takes {channels} channels, so no image can be shown to it; give a "
            "model for 3 channels or 1"
        )
    elif not loaded.is_rgb:
        values = values[:, :, ::-1]
    mean, std = (np.float32(part[:channels]) for part in (loaded.mean, loaded.std))
    values = np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))
    return torch.from_numpy(values).unsqueeze(0).to(device_of(loaded))


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
    with decoding(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image, dtype=np.float64)
            # 16-bit files say how bright they are; others have no scale of their own
            low, high = (0, 65535) if image.mode.startswith("I;16") else _range(values)
            values = (values - low) / max(high - low, 1e-12) * 255
            image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        return np.asarray(image.convert("RGB"))


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(np.nanmin(values)), float(np.nanmax(values))


def sample_image() -> np.ndarray:
    """Return a picture for those who give none: shapes and textures, (256, 256, 3), uint8."""
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
    """Return the pixels and the name of an image file, or of the sample image."""
    return (sample_image(), "sample image") if path is None else (read_image(path), Path(path).name)


def fit(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image and crop two of its sides, so that nothing is distorted.

    Args:
        pixels: Shape (H, W, 3), uint8.
        shape: Height and width.

    Returns:
        Shape (*shape, 3).
    """
    resized = ImageOps.fit(Image.fromarray(pixels), shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be written ({error.strerror}); give another file"
        ) from error


def check_picture_path(path: str | Path) -> Path:
    """Make the folder of a picture that is going to be written.

    Raises:
        UserError: The file would be no picture, or cannot be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in _PICTURES or path.is_dir():
        raise UserError(
            f"{str(path)!r} is not the name of a picture; give a file that ends with "
            f"{', '.join(_PICTURES)}"
        )
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def plain(text: str) -> str:
    """Return text in which matplotlib sees no formula, shortened to 60 characters."""
    text = text if len(text) <= 60 else f"{text[:28]} ... {text[-27:]}"
    return text.replace("$", r"\$")


def new_figure(size: tuple[float, float], *title: str) -> Figure:
    """Return an empty figure without global state.

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
    with _writing(path):
        figure.savefig(path)
    return path


def show_image(axis: Axes, pixels: np.ndarray, title: str, **options: Any) -> None:
    """Show an image, or a map with the options of ``imshow``, without ticks."""
    axis.imshow(pixels, **options)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def show_over(
    axis: Axes, values: np.ndarray, pixels: np.ndarray, title: str, **colours: Any
) -> None:
    """Show a map of any resolution over a grey version of its image.

    Args:
        axis: Where.
        values: Shape (h, w).
        pixels: Shape (H, W, 3).
        title: Above it.
        **colours: ``norm`` and ``cmap`` of the map.
    """
    height, width = pixels.shape[:2]
    axis.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    show_image(axis, values, title, alpha=0.65, extent=extent, **colours)


def show_bar(figure: Figure, axes: Sequence[Axes], label: str, **place: Any) -> None:
    """Draw a colour bar beside some axes.

    Args:
        figure: Where.
        axes: Whose colours it explains; the second of them shows a map.
        label: What the numbers are.
        **place: Of ``Figure.colorbar``.
    """
    shown = axes[1].images[-1]
    bar = figure.colorbar(ScalarMappable(shown.norm, shown.cmap), ax=list(axes), **place)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if bar.ax.get_yscale() == "linear":
        bar.ax.ticklabel_format(useOffset=False)


def draw_rows(
    rows: Sequence[tuple[str, Sequence[str], Sequence[np.ndarray]]],
    source: np.ndarray,
    title: Sequence[str],
    label: str,
    is_signed: bool = False,
    position: tuple[float, float] | None = None,
) -> Figure:
    """Draw rows of maps beside the image, each row on a scale of its own.

    Args:
        rows: The name of each row, the titles of its maps and the maps, each of shape (h, w).
        source: The image, shape (H, W, 3), uint8.
        title: Lines of the title.
        label: What the numbers are.
        is_signed: Whether colours are symmetric around 0.
        position: Height and width of a point to mark, over those of the image.
    """
    columns = 1 + max(len(maps) for _, _, maps in rows)
    figure = new_figure((1.75 * columns + 1.2, 2.15 * len(rows) + 1), *title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, titles, maps) in zip(grid, rows, strict=True):
        show_image(axes[0], source, name)
        if position is not None:
            height, width = source.shape[:2]
            axes[0].plot(position[1] * width, position[0] * height, "r+", markersize=12, mew=2)
        for axis in axes[1 + len(maps) :]:
            axis.axis("off")
        low, high = float(np.min(maps)), float(np.max(maps))
        if is_signed:
            high = max(abs(low), abs(high)) or 1.0
            low = -high
        colours = {"norm": Normalize(low, high), "cmap": "RdBu_r" if is_signed else "viridis"}
        for axis, text, values in zip(axes[1:], titles, maps, strict=False):
            show_over(axis, values, source, text, **colours)
        show_bar(figure, axes, label, pad=0.01)
    return figure
