import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from mmfasternet.datasets.shapes import CLASSES
from mmfasternet.datasets.truth import Truth
from mmfasternet.errors import DataError


@pytest.fixture
def content(shapes):
    return json.loads((shapes / 'annotations' / 'instances_val.json').read_text())


def test_objects_are_those_of_pycocotools(shapes, content):
    coco = COCO(str(shapes / 'annotations' / 'instances_val.json'))
    order = CLASSES[::-1]  # of the model: the file has another one
    truth = Truth(content, order)
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
    found = Truth(content, CLASSES).on(first, (96, 96))
    assert len(found) == len(rows) - 1 and not found.masks[0].any()
    assert len(Truth(content, CLASSES).on('an image without objects', (8, 9)).bboxes) == 0
    assert len(Truth(content, CLASSES[:1]).on(first, (96, 96))) == sum(row['category_id'] == 1 for row in rows[1:])


def test_a_file_may_have_no_annotations(content):
    content.pop('annotations')
    assert not Truth(content, CLASSES)


def test_an_object_without_a_box_is_named(content):
    content['annotations'][3]['bbox'] = [1, 2, 3]
    with pytest.raises(DataError, match=r'annotations\[3\]'):
        Truth(content, CLASSES)
