"""Run lengths are counted without C code, in both ways in which COCO writes them."""

import numpy as np
import pytest
from pycocotools import mask

from mmvitconv.datasets.run_lengths import size_in, total_of


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (400, 300), (3000, 4000)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_masks_of_every_kind(shape, share):
    generator = np.random.default_rng(0)
    values = np.asfortranarray(generator.random((shape[0] // 4 + 1, shape[1] // 4 + 1)) < share)
    values = np.asfortranarray(values.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]], np.uint8)
    code = mask.encode(values)
    height, width = size_in(code)
    assert (height, width) == shape
    assert total_of(code["counts"]) == total_of(code["counts"].decode()) == height * width


@pytest.mark.parametrize("counts", [[5, -1], [5, 1.5], "", "é1", "0`", "oooooooo0", None, "\x01"])
def test_what_is_none_has_no_sum(counts):
    assert total_of(counts) is None


def test_numbers_add_up():
    assert total_of([5, 6, 7]) == 18
    assert total_of([]) == 0
    assert size_in({"size": [2, 3]}) == (2, 3)
    assert size_in({"size": "23"}) == size_in({}) == (-1, 1)
