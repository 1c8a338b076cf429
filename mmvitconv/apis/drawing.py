"""Pictures of predictions, on MMEngine's visualizer.

The visualizers of mmdet, mmseg and mmpretrain write their labels onto the image in a size that
hides small images, and mmdet's takes its colours from numpy's global random numbers. So this module
uses the visualizer that all three extend: names and numbers stand in a strip above the image.
"""

from __future__ import annotations

import colorsys
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.visualization import Visualizer

from mmvitconv.apis.images import Content, Loading, decode_to_show
from mmvitconv.engine.fonts import drawable, fonts_for
from mmvitconv.errors import printable

Colour = tuple[int, int, int]


LEAST_SIDE = 480  # smaller images are enlarged, each pixel to a square
LEAST_WIDTH = 320  # of the picture, for the text
MOST_PIXELS = 2**22  # of the image in a picture; larger ones are drawn smaller
MOST_SIDE = 4096
MOST_ROWS = 60  # of text
MOST_LETTERS = 80  # of an entry
LABEL_SIZE = 0.8  # of letters beside a box, of those in the strip
LETTER_SHARE = 0.62  # width of a letter of its height, about
BACKGROUND = 255
OPACITY = 0.45


class Label(NamedTuple):
    """A text in the strip above the image, with a patch of colour before it."""

    text: str
    colour: Colour | None = None


class Board(NamedTuple):
    """A picture in the making.

    Attributes:
        visualizer: Holds the picture.
        top: Where the image begins below the strip.
        letter: Height of a letter in pixels.
    """

    visualizer: Visualizer
    top: int
    letter: float

    def points(self, size: float = 1.0) -> float:
        """Return a font size in points."""
        return size * self.letter * 72 / self.visualizer.dpi


def fit(content: Content, loading: Loading) -> np.ndarray:
    """Read an image to draw on, in a size that can be looked at.

    Args:
        content: Where the image is.
        loading: How it was decoded.

    Returns:
        The image, (H, W, 3), RGB. Each pixel of a small one is repeated in either direction; one
        of more than :data:`MOST_PIXELS` or a side above :data:`MOST_SIDE` is made smaller.

    Raises:
        UnreadableImageError: When the image is no longer where it was.
    """
    image = decode_to_show(content, loading)
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = min(1.0, math.sqrt(MOST_PIXELS / (height * width)), MOST_SIDE / longest)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    factor = max(1, math.ceil(LEAST_SIDE / longest))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def draw_classes(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Write lines above an image.

    Args:
        image: (H, W, 3), RGB.
        lines: What to write; may be empty.

    Returns:
        The picture, (H, W, 3), RGB.
    """
    rows = [[Label(line)] for line in lines[: MOST_ROWS + 1] or ["no class above the threshold"]]
    return prepare(image, rows).visualizer.get_image()


def draw_segments(
    image: np.ndarray, class_map: np.ndarray, labels: Mapping[int, Label]
) -> np.ndarray:
    """Tint each pixel with the colour of its class and name the classes above.

    Args:
        image: (H, W, 3), RGB, from :func:`fit`.
        class_map: (H, W) numbers of the classes, in the size of the image itself.
        labels: Text and colour by number, for each class that occurs.

    Returns:
        The picture, (H, W, 3), RGB.
    """
    class_map = _resized(class_map, image.shape[:2])
    colours = np.zeros((max(labels) + 1, 3), dtype=np.uint8)
    for number, label in labels.items():
        colours[number] = label.colour
    tinted = cv2.addWeighted(image, 1 - OPACITY, colours[class_map], OPACITY, 0)
    rows = flow(list(labels.values()), image.shape[:2])
    return prepare(tinted, rows).visualizer.get_image()


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    codes: Sequence[dict[str, Any]],
    labels: Sequence[Label],
    legend: Sequence[Label],
    size: tuple[int, int],
) -> np.ndarray:
    """Draw boxes and masks with their labels, and a legend above.

    Args:
        image: (H, W, 3), RGB, from :func:`fit`; changed in place.
        boxes: (N, 4) left, top, right, bottom in pixels of the image itself.
        codes: N masks as COCO's run lengths, or none.
        labels: N texts and colours, the best object first.
        legend: What stands above.
        size: Height and width of the image itself.

    Returns:
        The picture, (H, W, 3), RGB.
    """
    outlines = []
    for code, label in zip(codes, labels, strict=False):
        outlines += [(line, label.colour) for line in tint(image, code, label.colour)]
    rows = flow(list(legend) or [Label("nothing found")], image.shape[:2])
    board = prepare(image, rows)
    shift = np.array((0, board.top))
    width = max(1.0, board.letter / 10)
    if outlines:
        board.visualizer.draw_polygons(
            [outline + shift + 0.5 for outline, _ in outlines],
            edge_colors=[colour for _, colour in outlines],
            line_widths=width,
            alpha=1.0,
        )
    limits = np.array((image.shape[1] - 1, image.shape[0] - 1) * 2)
    scale = np.tile(np.divide(image.shape[1::-1], size[::-1]), 2)
    boxes = np.clip(boxes * scale, 0, limits) + np.tile(shift, 2)
    if len(boxes):
        colours = [label.colour for label in labels]
        board.visualizer.draw_bboxes(boxes, edge_colors=colours, line_widths=width, alpha=1.0)
    for box, label in reversed(list(zip(boxes, labels, strict=True))):  # the best on top
        write(board, label.text, box[:2], label.colour)
    return board.visualizer.get_image()


def tint(image: np.ndarray, code: dict[str, Any], colour: Colour) -> list[np.ndarray]:
    """Colour the pixels of a mask; only the part of the image with the mask is worked on.

    Args:
        image: (H, W, 3), RGB, from :func:`fit`; changed in place.
        code: The mask as COCO's run lengths, in the size of the image itself.
        colour: RGB.

    Returns:
        The mask's outlines, each (N, 2), x and y in pixels of the drawn image.
    """
    from pycocotools import mask as coco  # comes with mmdet

    left, top, width, height = coco.toBbox(code).astype(int).tolist()
    mask = coco.decode(code)[top : top + height, left : left + width]
    down, right = np.divide(image.shape[:2], code["size"])
    size = math.ceil(height * down), math.ceil(width * right)
    if 0 in size:
        return []
    mask = _resized(np.ascontiguousarray(mask), size)
    top, left = int(top * down), int(left * right)
    mask = mask[: image.shape[0] - top, : image.shape[1] - left]
    part = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    inside = mask.astype(bool)
    part[inside] = (1 - OPACITY) * part[inside] + OPACITY * np.array(colour)
    found, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    return [contour.reshape(-1, 2) for contour in found]


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring whole numbers (H, W) to another size; nothing is mixed."""
    if values.shape == tuple(size):
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def write(board: Board, text: str, corner: np.ndarray, colour: Colour) -> None:
    """Write an object's label on a patch of its colour, above its box where there is room.

    Args:
        board: The picture.
        text: The label.
        corner: Left and top of the box.
        colour: Of the patch.
    """
    above = corner[1] - 1.2 * board.letter >= board.top
    patch = {"facecolor": np.array(colour) / 255, "alpha": 0.75, "pad": 0.5, "edgecolor": "none"}
    red, green, blue = colour
    light = 0.3 * red + 0.59 * green + 0.11 * blue > 140
    end = board.visualizer.width - entry_width(Label(text), LABEL_SIZE * board.letter)
    corner = np.array((max(0.0, min(corner[0], end)), corner[1]))  # to its end
    text = _drawable(text)
    board.visualizer.draw_texts(
        text,
        corner,
        font_families=[fonts_for(text)],
        font_sizes=board.points(LABEL_SIZE),
        colors="black" if light else "white",
        vertical_alignments="bottom" if above else "top",
        bboxes=patch,
    )


def prepare(image: np.ndarray, rows: list[list[Label]]) -> Board:
    """Put an image below a strip with texts.

    Args:
        image: (H, W, 3), RGB.
        rows: The texts, row by row.

    Returns:
        The picture.
    """
    height, width = image.shape[:2]
    letter = letter_height(height, width)
    line = 1.6 * letter
    if len(rows) > MOST_ROWS:
        rows = [*rows[:MOST_ROWS], [Label("...")]]
    top = math.ceil(line * (len(rows) + 0.3))
    longest = max(sum(entry_width(entry, letter) for entry in row) for row in rows)
    canvas_width = max(width, LEAST_WIDTH, math.ceil(longest))
    canvas = np.full((top + height, canvas_width, 3), BACKGROUND, dtype=np.uint8)
    canvas[top:, :width] = image
    board = Board(Visualizer(image=canvas), top, letter)
    for number, row in enumerate(rows):
        left, middle = 0.5 * letter, line * (number + 0.65)
        for entry in row:
            if entry.colour is not None:
                patch = np.array((left, middle - letter / 2, left + letter, middle + letter / 2))
                board.visualizer.draw_bboxes(
                    patch, edge_colors="black", face_colors=entry.colour, line_widths=1, alpha=1.0
                )
            text = _drawable(entry.text)
            board.visualizer.draw_texts(
                text,
                font_families=[fonts_for(text)],
                positions=np.array(
                    (left + (1.4 * letter if entry.colour is not None else 0), middle)
                ),
                font_sizes=board.points(),
                colors="black",
                vertical_alignments="center",
            )
            left += entry_width(entry, letter)
    return board


def flow(entries: list[Label], size: tuple[int, int]) -> list[list[Label]]:
    """Break entries into rows as wide as the image.

    Args:
        entries: What to place.
        size: Height and width of the image.

    Returns:
        The rows.
    """
    letter = letter_height(*size)
    rows: list[list[Label]] = [[]]
    used = 0.0
    for entry in entries:
        needed = entry_width(entry, letter)
        if rows[-1] and used + needed > max(size[1], LEAST_WIDTH):
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += needed
    return rows


def _drawable(text: str) -> str:
    """Return a text without what would be drawn as something else, or without end."""
    return drawable(printable(text, MOST_LETTERS)).replace("$", r"\$")


def letter_height(height: int, width: int) -> float:
    """Return the height of letters, in pixels, that suits an image."""
    return max(14.0, min(height, width) / 45)


def entry_width(entry: Label, letter: float) -> float:
    """Return about how wide an entry is, in pixels, with the space after it."""
    text = _drawable(entry.text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    letters = len(text) + 0.7 * wide
    return letter * (LETTER_SHARE * letters + (3.0 if entry.colour is not None else 1.5))


def choose_colour(number: int) -> Colour:
    """Return one of endlessly many colours; neighbouring numbers look different."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
