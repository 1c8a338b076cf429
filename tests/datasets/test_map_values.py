"""What label maps look like: classes pass, borders, numbers of objects and mixtures are named."""

import numpy as np
import pytest
from PIL import Image

from mmvitconv.datasets.formats.reading import read_folder
from mmvitconv.datasets.map_values import MapValues, count_values
from mmvitconv.errors import UserError

WIDTH, HEIGHT = 96, 72


def class_map(seed, classes=2):
    """A map of rectangles of several classes; the number of them differs."""
    generator = np.random.default_rng(seed)
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(generator.integers(2, 6)):
        left, top = generator.integers(0, WIDTH - 24), generator.integers(0, HEIGHT - 24)
        width, height = generator.integers(8, 24, 2)
        values[top : top + height, left : left + width] = 1 + number % classes
    return values


def smooth(values):
    image = Image.fromarray(values)
    half = image.resize((WIDTH // 2, HEIGHT // 2), Image.BILINEAR)
    return np.asarray(half.resize((WIDTH, HEIGHT), Image.BILINEAR))


def lines(values, seed):
    """Classes that are lines of one pixel."""
    result = np.zeros_like(values)
    for number in range(1, 7):
        result[10 * number + seed % 5, :] = number
    return result


def colours(values):
    return np.uint8([[0, 0, 0], [200, 0, 0], [0, 200, 0]])[values]


def objects(values, seed):
    return np.where(values > 0, np.arange(WIDTH) // 16 + 1 + 5 * seed, 0).astype(np.uint8)


GOOD = {
    "numbers": lambda values, _: values,
    "levels": lambda values, _: values * 100,
    "ignored": lambda values, _: np.where(values == 0, 255, values - 1).astype(np.uint8),
    "lines": lines,
    "whole": lambda values, _: values.astype(np.float32),
    "no data": lambda values, _: np.where(values == 2, -1, values).astype(np.int32),
    "colours": lambda values, _: colours(values),
    "cut": lambda values, _: smooth((values > 0) * np.uint8(255)),
    "many": lambda _, seed: class_map(seed, classes=5) * 7,
}
BAD = {
    "smooth": (lambda values, _: smooth(values * 100), "only stand at the borders .* 0, 100, 200"),
    "smooth colours": (lambda values, _: smooth(colours(values)), "areas have 000000, 00c800"),
    "objects": (objects, "numbers of single objects"),
    "white": (
        lambda values, seed: (values > 0) * np.uint8(255) if seed > 9 else values,
        "4 of 14 masks hold only 0 and 255, the others 0, 1, 2",
    ),
    "one of colours": (
        lambda values, seed: values if seed else colours(values),
        "1 masks have colours and 13 have numbers .0, 1, 2",
    ),
    "fractions": (lambda values, _: values / np.float32(3), "numbers that are not whole"),
}


def write(root, change, suffix=".png"):
    for seed in range(14):
        values = change(class_map(seed), seed)
        suffix = ".tif" if values.dtype.itemsize > 2 else suffix
        for folder, array, end in (
            ("images", np.full((HEIGHT, WIDTH, 3), seed, np.uint8), ".png"),
            ("masks", values, suffix),
        ):
            file = root / folder / f"{seed}{end}"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(file)


@pytest.mark.parametrize("name", GOOD)
def test_masks_of_classes_pass(name, tmp_path):
    write(tmp_path, GOOD[name])
    data = read_folder(tmp_path, "semantic")
    count = {"lines": 7, "many": 6, "ignored": 2, "no data": 2, "cut": 2}.get(name, 3)
    assert (len(data.classes), data.notes) == (count, [])


@pytest.mark.parametrize("name", BAD)
def test_masks_of_something_else_are_named(name, tmp_path):
    change, message = BAD[name]
    write(tmp_path, change)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "semantic")


def test_jpeg_of_several_classes_is_named(tmp_path):
    write(tmp_path, GOOD["levels"], ".jpg")
    with pytest.raises(UserError, match="the masks hold no class numbers"):
        read_folder(tmp_path, "semantic")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_values_are_counted(dtype):
    values = np.zeros((4, 5), dtype)
    values[1:3, 1:4] = 7
    values[3, 4] = 9
    assert count_values(values) == {0: (13, 0), 7: (6, 2), 9: (1, 0)}


def test_tiles_of_few_classes_are_no_objects():
    """Land cover: all of six classes in most tiles, and so their numbers are without gaps."""
    maps = MapValues()
    for number in range(20):
        maps.add(dict.fromkeys(range(6 - number % 3), (9, 4)))
    assert not maps.find_objects()
