import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from mmvitconv.apis import Classification, Detection, Segmentation
from mmvitconv.apis.drawing import choose_colour, letter_height
from mmvitconv.apis.images import Loading, content_of, decode_to_show

GRAY = 100


def common(width: int, height: int, classes: tuple[str, ...] = (), **options: Any) -> dict:
    return {
        "image": "a.png",
        "width": width,
        "height": height,
        "classes": classes,
        "palette": (),
        "content": content_of(np.full((height, width, 3), GRAY, np.uint8)),
        **options,
    }


def detection(width: int, height: int, count: int, masks: bool = True, **options: Any) -> Detection:
    """Objects of a quarter of the image each, at random places."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 0.75, (count, 2)) * (width, height)
    boxes = np.hstack([corners, corners + np.array((width / 4, height / 4))])
    codes = []
    for left, top, right, bottom in boxes.round().astype(int):
        inside = np.zeros((height, width), np.uint8, order="F")
        inside[top:bottom, left:right] = 1
        codes.append(coco.encode(inside))
    return Detection(
        **common(width, height, **options),
        boxes=boxes.astype(np.float32),
        labels=np.arange(count) % 3,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        codes=tuple(codes) if masks else None,
    )


def segmentation(class_map: np.ndarray, **options: Any) -> Segmentation:
    height, width = class_map.shape
    return Segmentation(**common(width, height, **options), class_map=class_map)


def draw(prediction: Any) -> np.ndarray:
    """Draw without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__", DeprecationWarning)  # pycocotools
        return prediction.draw()


def image_part(prediction: Any, picture: np.ndarray) -> np.ndarray:
    """The picture without the strip above the image."""
    factor = max(1, -(-480 // max(prediction.width, prediction.height)))
    return picture[-prediction.height * factor :, : prediction.width * factor]


def test_small_images_are_enlarged_and_large_ones_keep_their_size() -> None:
    for side, shown in ((28, 504), (192, 576), (480, 480), (900, 900), (1, 480)):
        prediction = segmentation(np.zeros((side, side), np.uint8))
        picture = draw(prediction)
        assert picture.shape[1] == shown
        assert shown < picture.shape[0] <= shown + 50


def test_segments_have_the_colours_of_the_legend() -> None:
    class_map = np.zeros((100, 200), np.uint8)
    class_map[:, 50:] = 2
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    prediction = segmentation(class_map, classes=("a", "b", "c"), palette=palette)
    picture = draw(prediction)
    image = image_part(prediction, picture)
    red, blue = image[50, 20], image[50, 400]
    assert red[0] > GRAY > red[2]
    assert blue[2] > GRAY > blue[0]
    strip = picture[: -len(image)].reshape(-1, 3)
    for colour, shown in zip(palette, (True, False, True), strict=True):
        assert (strip == colour).all(axis=1).any() == shown
    assert prediction.rows() == [["c", 15000, 75.0], ["a", 5000, 25.0]]


def test_masks_and_boxes_are_where_they_belong() -> None:
    inside = np.zeros((100, 200), np.uint8, order="F")
    inside[40:60, 100:150] = 1
    prediction = Detection(
        **common(200, 100),
        boxes=np.array([[90.0, 30.0, 160.0, 70.0]], np.float32),
        labels=np.array([1]),
        scores=np.array([0.9], np.float32),
        codes=(coco.encode(inside),),
    )
    image = image_part(prediction, draw(prediction)).astype(int)
    factor = 3
    changed = np.abs(image - GRAY).max(axis=2) > 20
    assert changed[50 * factor, 125 * factor]
    assert not changed[35 * factor, 125 * factor]  # between mask and box
    assert changed[50 * factor, 90 * factor - 2 : 90 * factor + 3].any()  # the box's left side
    assert changed[70 * factor - 2 : 70 * factor + 3, 125 * factor].any()  # its lower side
    assert not changed[80 * factor :].any()
    assert not changed[:, : 80 * factor].any()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1000, 2), (3, 600), (640, 480)])
def test_any_number_of_objects_on_any_image(size: tuple[int, int], masks: bool) -> None:
    for count in (0, 1, 40):
        prediction = detection(*size, count, masks, classes=("x", "y", "z"))
        picture = draw(prediction)
        assert picture.shape[0] > size[1]
        assert picture.shape[1] >= size[0]


def test_boxes_beyond_the_border_are_drawn_at_it() -> None:
    prediction = Detection(
        **common(480, 480),
        boxes=np.array([[-20.0, -5.0, 500.0, 480.0]], np.float32),
        labels=np.array([0]),
        scores=np.array([0.9], np.float32),
        codes=None,
    )
    image = image_part(prediction, draw(prediction)).astype(int)
    assert (np.abs(image[-3:, 240] - GRAY).max(axis=1) > 20).any()


def test_any_name_can_be_written() -> None:
    names = ("$x$ costs $5", "a_b^c{", "Zellkern ö ß", "long " * 30)
    class_map = np.arange(4, dtype=np.uint8).repeat(600).reshape(40, 60)
    draw(segmentation(class_map, classes=names))
    picture = draw(
        Classification(
            **common(28, 28, names),
            labels=np.arange(4),
            scores=np.array([0.4, 0.3, 0.2, 0.1], np.float32),
        )
    )
    assert picture.shape[1] > 504  # room for the long one


def test_a_legend_of_many_classes_breaks_into_rows() -> None:
    class_map = np.arange(150, dtype=np.uint8).repeat(1600).reshape(400, 600)
    picture = draw(segmentation(class_map, classes=tuple(f"class {n}" for n in range(150))))
    strip = picture[:-400]
    assert len(strip) > 20 * letter_height(400, 600)
    assert (strip[:, -2:] == 255).all()  # nothing runs over the border


def test_nothing_global_changes() -> None:
    prediction = detection(200, 100, 5)
    before = np.random.get_state()[1].copy()
    first = draw(prediction)
    assert np.array_equal(np.random.get_state()[1], before)
    assert np.array_equal(first, draw(prediction))


def test_colours_differ() -> None:
    colours = [choose_colour(number) for number in range(50)]
    assert len(set(colours)) == 50
    steps = np.abs(np.diff(np.array(colours), axis=0)).max(axis=1)
    assert steps.min() > 60


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("color_type", ["color", "grayscale", "unchanged"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "I;16"])
def test_any_image_is_shown_in_8_bits(
    mode: str, color_type: str, backend: str, tmp_path: Path
) -> None:
    gray = np.full((3, 4), 200, np.uint8)
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(gray).convert(mode)
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for order in ("bgr", "rgb"):
        found = decode_to_show(content, Loading(color_type, backend, order, True))
        assert found.shape == (3, 4, 3)
        assert found.dtype == np.uint8
        if mode not in ("1", "I;16"):  # black and white, and Pillow's own ideas of 16 bits
            assert (found == 200).all()


def test_colours_are_shown_in_any_order() -> None:
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    for color_type in ("color", "unchanged"):
        for order in ("bgr", "rgb"):
            found = decode_to_show(content_of(red), Loading(color_type, channel_order=order))
            assert np.array_equal(found, red)
