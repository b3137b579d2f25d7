import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from mmfasternet.datasets import truth as module
from mmfasternet.datasets.shapes import CLASSES
from mmfasternet.datasets.truth import Truth


@pytest.fixture
def content(shapes):
    return json.loads((shapes / 'annotations' / 'instances_val.json').read_text())


def test_objects_are_those_of_pycocotools(shapes, content):
    coco = COCO(str(shapes / 'annotations' / 'instances_val.json'))
    order = CLASSES[::-1]  # of the model: the file has another one
    truth = Truth(content, order, 'a.json')
    assert truth
    for image in content['images']:
        rows = coco.loadAnns(coco.getAnnIds(imgIds=image['id']))
        found = truth.on(image['id'], (96, 96))
        assert [order[label] for label in found.labels] == [CLASSES[row['category_id'] - 1] for row in rows]
        np.testing.assert_array_equal(found.masks, [coco.annToMask(row) for row in rows])
        assert found.bboxes.tolist() == pytest.approx(
            np.array([[x, y, x + w, y + h] for x, y, w, h in (row['bbox'] for row in rows)]))


def test_crowds_and_other_classes_are_left_out_and_masks_may_be_missing(content):
    first = content['images'][0]['id']
    rows = [row for row in content['annotations'] if row['image_id'] == first]
    content['annotations'] = rows
    rows[0]['iscrowd'] = 1
    rows[1].pop('segmentation')
    found = Truth(content, CLASSES, 'a.json').on(first, (96, 96))
    assert len(found) == len(rows) - 1 and not found.masks[0].any()
    assert len(Truth(content, CLASSES, 'a.json').on('an image without objects', (8, 9)).bboxes) == 0
    assert len(Truth(content, CLASSES[:1], 'a.json').on(first, (96, 96))) == sum(
        row['category_id'] == 1 for row in rows[1:])


def test_a_file_may_have_no_annotations(content):
    content.pop('annotations')
    truth = Truth(content, CLASSES, 'a.json')
    assert not len(truth.on(content['images'][0]['id'], (96, 96))) and not truth  # asking changes nothing


@pytest.mark.parametrize('change', [
    dict(bbox=[1, 2, 3]), dict(bbox=None), dict(bbox=[1, 2, -3, 4]), dict(bbox=[1, 2, float('nan'), 4]),
    dict(image_id=[1]), dict(category_id={}), dict(category_id=None)])
def test_objects_that_cannot_be_drawn_are_counted_and_left_out(content, monkeypatch, change):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda line, *args: said.append(line))
    rows = content['annotations']
    first, *others = [row for row in rows if row['image_id'] == rows[0]['image_id']]
    assert len(Truth(content, CLASSES, 'a.json').on(rows[0]['image_id'], (96, 96))) == len(others) + 1 and not said
    rows[0].update(change)
    assert len(Truth(content, CLASSES, 'a.json').on(others[0]['image_id'], (96, 96))) == len(others)
    assert said == ["annotation file 'a.json': 1 objects are not drawn: they have no image_id, category_id or usable "
                    'bbox']
