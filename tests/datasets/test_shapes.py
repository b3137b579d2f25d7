import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmfasternet.datasets.shapes import CLASSES, draw_shapes_image, make_shapes_coco
from mmfasternet.errors import UserError


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob('*.*')}


def test_the_same_seed_gives_the_same_files(tmp_path):
    first, again, other = (
        make_shapes_coco(tmp_path / name, num_train=3, num_val=2, size=64, seed=seed)
        for name, seed in (('a', 5), ('b', 5), ('c', 6)))
    assert digest(first) == digest(again)
    assert not set(digest(first).values()) & set(digest(other).values())
    assert len(set(digest(first).values())) == 7  # no image of one split is in the other


def test_is_valid_coco_with_all_classes(shapes):
    for split, count in (('train', 8), ('val', 6)):
        coco = COCO(str(shapes / 'annotations' / f'instances_{split}.json'))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        assert len(CLASSES) >= 3
        assert len(coco.getImgIds()) == count
        for image in coco.loadImgs(coco.getImgIds()):
            pixels = cv2.imread(str(shapes / split / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3)


def test_polygons_boxes_and_areas_agree(shapes):
    coco = COCO(str(shapes / 'annotations' / 'instances_train.json'))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert {annotation['image_id'] for annotation in annotations} == set(coco.getImgIds())
    for annotation in annotations:
        mask = coco.annToMask(annotation)
        assert mask.sum() == pytest.approx(annotation['area'], rel=0.15, abs=8)
        ys, xs = np.nonzero(mask)
        x, y, w, h = annotation['bbox']
        assert np.allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x, y, x + w, y + h], atol=1.6)


def test_visible_parts_do_not_overlap_but_shapes_do(shapes):
    coco = COCO(str(shapes / 'annotations' / 'instances_train.json'))
    occluded = 0
    for image_id in coco.getImgIds():
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(imgIds=image_id))]
        covered = np.sum(masks, axis=0)
        assert (covered > 1).mean() < 0.01  # the outlines' pixels at most
        boxes = [cv2.boundingRect(mask) for mask in masks]
        occluded += sum(_intersect(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert occluded > 3


def _intersect(a, b):
    return (min(a[0] + a[2], b[0] + b[2]) > max(a[0], b[0])) and (min(a[1] + a[3], b[1] + b[3]) > max(a[1], b[1]))


def test_the_drawing_lies_where_the_annotation_says():
    image, objects = draw_shapes_image(np.random.default_rng(1), 128)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    for item in objects:
        mask = np.zeros((128, 128), np.uint8)
        for polygon in item['segmentation']:
            cv2.fillPoly(mask, [np.array(polygon).reshape(-1, 2).round().astype(np.int32)], 1)
        inside = cv2.erode(mask, np.ones((5, 5), np.uint8)).astype(bool)
        assert image[inside].std(axis=0).max() < 8  # one colour and the noise


@pytest.mark.parametrize('name, value', [('num_train', 0), ('num_val', 0), ('size', 8), ('seed', -1)])
def test_numbers_out_of_range_are_named(tmp_path, name, value):
    with pytest.raises(UserError, match=name):
        make_shapes_coco(tmp_path / 'x', **{name: value})
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / 'x').mkdir()
    with pytest.raises(UserError, match='already exists'):
        make_shapes_coco(tmp_path / 'x')
    assert not list((tmp_path / 'x').iterdir())


def test_an_interrupted_run_leaves_no_half_made_set(tmp_path, monkeypatch):
    monkeypatch.setattr(json, 'dumps', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_shapes_coco(tmp_path / 'x', num_train=1, num_val=1, size=64)
    assert not (tmp_path / 'x').exists()
    monkeypatch.undo()
    assert make_shapes_coco(tmp_path / 'x', num_train=1, num_val=1, size=64).is_dir()
