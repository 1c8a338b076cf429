import numpy as np
import pytest

from mmvitconv.datasets.first_runs.tiles import Area, covering_tiles, grid_tiles


def paint(shape, tiles):
    canvas = np.zeros(shape, dtype=int)
    for tile in tiles:
        canvas[tile.top : tile.bottom, tile.left : tile.right] += 1
    return canvas


@pytest.mark.parametrize(("width", "height"), [(10, 10), (11, 37), (30, 20)])
def test_covering_tiles_cover_exactly_the_area(width, height):
    area = Area(5, 7, 5 + width, 7 + height)
    tiles = covering_tiles(area, size=10, stride=(4, 10))
    assert {(tile.width, tile.height) for tile in tiles} == {(10, 10)}
    assert len(set(tiles)) == len(tiles)
    covered = paint((60, 60), tiles) > 0
    assert np.array_equal(covered, paint((60, 60), [area]) > 0)


def test_the_first_stride_is_the_horizontal_one():
    tiles = covering_tiles(Area(5, 7, 35, 27), size=10, stride=(8, 6))
    assert [tile[:2] for tile in tiles] == [
        (left, top) for top in (7, 13, 17) for left in (5, 13, 21, 25)
    ]


def test_grid_tiles_do_not_overlap():
    tiles = grid_tiles(Area(3, 0, 28, 39), size=10)
    assert tiles[0] == Area(3, 0, 13, 10)
    assert len(tiles) == 6
    canvas = paint((40, 40), tiles)
    assert canvas.max() == 1
    assert canvas[:, :3].sum() == canvas[:, 28:].sum() == 0
