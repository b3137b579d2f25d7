import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmfasternet.datasets.mask_polygons import mask_to_polygons, polygons_overlap

SIZE = (60, 70)


def drawn(polygons, size=SIZE):
    """What pycocotools draws, polygon by polygon, as MMDetection does."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))).astype(bool)


def ellipse(rng):
    mask = np.zeros(SIZE, np.uint8)
    center, axes = rng.integers(0, 60, 2).tolist(), rng.integers(0, 25, 2).tolist()
    return cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1) > 0


def filled(mask):
    """The mask without its holes: what can't be reached from outside by steps to the four sides."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    return labels[1:-1, 1:-1] != labels[0, 0]


@pytest.mark.parametrize('seed', range(40))
def test_polygons_give_an_ellipse_again(seed):
    mask = ellipse(np.random.default_rng(seed))
    assert mask.any()
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(drawn(polygons), mask)
    assert polygons_overlap(polygons, mask) == 1
    assert sum(map(len, polygons)) < 8 * mask.sum() + 8  # fewer numbers than four corners a pixel


@pytest.mark.parametrize('seed', range(20))
def test_polygons_give_any_mask_again_with_its_holes_filled(seed):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=SIZE), (0, 0), rng.uniform(0.3, 3))
    mask = noise > np.quantile(noise, rng.uniform(0.2, 0.8))  # many pieces, holes, single pixels, image edges
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(drawn(polygons), filled(mask))
    pieces, _ = cv2.connectedComponents(filled(mask).astype(np.uint8), connectivity=8)
    assert len(polygons) == pieces - 1
    assert polygons_overlap(polygons, mask) == pytest.approx(mask.sum() / filled(mask).sum())


@pytest.mark.parametrize('height, width', [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (9, 1)])
@pytest.mark.parametrize('y, x', [(0, 0), (20, 30), (51, 61)])
def test_the_smallest_objects_do_not_vanish(height, width, y, x):
    mask = np.zeros(SIZE, np.uint8)
    mask[y:y + height, x:x + width] = 255
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(drawn(polygons), mask > 0)
    assert len(polygons) == 1 and len(polygons[0]) >= 6


def test_the_outline_lies_between_the_centres_of_pixels():
    """COCO's convention: the pixel of row 2 and column 3 spans 3 to 4 and 2 to 3."""
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    (polygon, ) = mask_to_polygons(mask)
    xs, ys = polygon[::2], polygon[1::2]
    assert 3 < min(xs) < 3.5 and 6.5 < max(xs) < 7 and 2 < min(ys) < 2.5 and 4.5 < max(ys) < 5


def test_a_corner_shifts_the_polygons():
    mask = ellipse(np.random.default_rng(5))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    corner = (columns[0], rows[0])
    assert corner != (0, 0)
    polygons = mask_to_polygons(part, corner)
    assert sorted(polygons[0]) == sorted(mask_to_polygons(mask)[0])
    assert polygons_overlap(polygons, part, corner) == 1


def test_the_overlap_is_that_of_the_pixels():
    mask = np.zeros((10, 10), bool)
    mask[:4, :4] = True
    assert polygons_overlap([[2, 0, 6, 0, 6, 4, 2, 4]], mask) == pytest.approx(8 / 24)
    assert polygons_overlap([], mask) == 0 and mask_to_polygons(np.zeros((4, 4))) == []
