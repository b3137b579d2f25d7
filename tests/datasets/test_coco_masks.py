"""Run-length encodings against pycocotools, which writes them."""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mmfasternet.datasets.coco_masks import mask_problem, run_lengths, usable_polygons

HEIGHT, WIDTH = 37, 53


def bitmaps():
    generator = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        yield (generator.random((HEIGHT, WIDTH)) < density).astype(np.uint8)
    large = np.zeros((1500, 2000), np.uint8)  # its runs take several digits
    large[700:, 300:1700] = 1
    yield large


@pytest.mark.parametrize('bitmap', bitmaps())
def test_compressed_encodings_are_read_as_they_were_written(bitmap):
    columns = bitmap.T.ravel()
    changes = np.flatnonzero(np.diff(columns)) + 1
    expected = np.diff([0, *changes, columns.size]).tolist()
    expected = [0, *expected] if columns[0] else expected  # the first run is of zeros
    counts = mask_utils.encode(np.asfortranarray(bitmap))['counts'].decode()
    assert run_lengths(counts) == expected
    for encoding in (counts, expected):
        assert mask_problem(dict(size=list(bitmap.shape), counts=encoding), bitmap.shape) is None


@pytest.mark.parametrize('segmentation, problem', [
    (dict(size=[4, 4], counts=[16]), None),
    (dict(size=[4, 4], counts=[15]), 'do not add up to its 4 x 4 pixels'),
    (dict(size=[4, 4], counts=[20, -4]), 'do not add up'),
    (dict(size=[4, 4], counts=[8.0, 8]), 'do not add up'),
    (dict(size=[4, 4], counts='oooo'), 'do not add up'),  # a number that does not end
    (dict(size=[4, 4], counts='o' * 30 + '0'), 'do not add up'),
    (dict(size=[4, 4], counts=''), 'do not add up'),
    (dict(size=[4, 4], counts='ü'), 'do not add up'),
    (dict(size=[4, 4]), 'do not add up'),
    (dict(size=[4, 5], counts=[20]), 'of size [4, 5], but its image has height and width [4, 4]'),
    (dict(counts=[16]), 'of the size None, not of [height, width]'),
    ([[0, 0, 3, 0, 3, 3]], None),
    ([[]], None),
    ([], 'neither a list of polygons nor'),
    ('RLE', 'neither a list of polygons nor'),
    ([0, 0, 3, 0, 3, 3], 'not a list of polygons'),
    ([[0, 0], [3, 0], [3, 3]], 'as pairs'),
    ([[[0, 0], [3, 0], [3, 3]]], 'as pairs'),
    ([['0', '0', '3', '0', '3', '3']], 'does not consist of numbers'),
    ([[True] * 6], 'does not consist of numbers'),
    ([[0, 0, 3, float('nan'), 3, 3]], 'lies outside of any image'),
    ([[0, 0, 3e9, 0, 3, 3]], 'lies outside of any image'),
    ([[10 ** 400] * 6], 'lies outside of any image'),
])
def test_what_is_wrong(segmentation, problem):
    found = mask_problem(segmentation, (4, 4))
    assert found is None if problem is None else problem in found


def test_usable_polygons():
    triangle = [0, 0, 3, 0, 3, 3]
    polygons = [[0, 0, 3, 3], triangle, [*triangle, 1], []]
    assert usable_polygons(polygons) == [triangle] and usable_polygons(polygons, pairs=False) == polygons[1:3]
