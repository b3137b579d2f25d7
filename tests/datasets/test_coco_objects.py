"""Objects that are trained on and evaluated, against those that MMDetection and pycocotools really take."""

import json

import pytest
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.datasets.coco_objects import evaluated_objects, trained_objects

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
GOOD = dict(bbox=[10, 10, 20, 20], area=400, iscrowd=0, segmentation=SQUARE, category_id=1, image_id=1)
CHANGES = [
    dict(), dict(area=0), dict(area=-1), dict(area=0.1), dict(bbox=[10, 10, 0.5, 20]), dict(bbox=[10, 10, 20, 0.99]),
    dict(bbox=[10, 10, -20, -20]), dict(bbox=[100, 10, 20, 20]), dict(bbox=[-30, 10, 20, 20]),
    dict(bbox=[99.5, 10, 20, 20]), dict(bbox=[10, 80, 20, 20]), dict(iscrowd=1), dict(ignore=1), dict(ignore=0),
    dict(segmentation=[[]]), dict(segmentation=[[1, 1, 9, 9]]), dict(segmentation=[[1, 1, 9, 9], *SQUARE]),
    dict(segmentation=dict(size=[80, 100], counts=[800, 20, 7180])), dict(category_id=2), dict(image_id=77),
    dict(image_id=2), dict(image_id=3), dict(area=2e10), dict(category_id=77),
]
FILTERS = [None, dict(min_size=32), dict(filter_empty_gt=True), dict(filter_empty_gt=True, min_size=90)]


def content(*changes):
    return dict(
        images=[dict(id=1, file_name='a.png', height=80, width=100), dict(id=2, file_name='b.png', height=31, width=90),
                dict(id=3, file_name='c.png', height=100, width=90)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[{**GOOD, 'id': number, **change}
                     for number, change in enumerate(changes, 1)])


def trained_by_mmdetection(path, filter_cfg, with_mask, poly2mask):
    """How many objects MMDetection's dataset and transform hand over without the flag that ignores them."""
    dataset = CocoDataset(ann_file=str(path), metainfo=dict(classes=('cat', )), data_prefix=dict(img=''),
                          filter_cfg=filter_cfg, pipeline=[])
    load, total, images = LoadAnnotations(with_mask=with_mask, poly2mask=poly2mask), 0, set()
    for index in range(len(dataset)):
        results = dataset.get_data_info(index)
        images.add(results['img_id'])
        results['ori_shape'] = (results['height'], results['width'])
        for instance in results['instances']:  # of an image of another size than the encoding
            if isinstance(instance['mask'], dict):
                instance['mask']['size'] = list(results['ori_shape'])
                instance['mask']['counts'] = [results['height'] * results['width']]
        total += int((~load.transform(results)['gt_ignore_flags']).sum())
    return total, images


@pytest.mark.parametrize('filter_cfg', FILTERS)
@pytest.mark.parametrize('with_mask, poly2mask', [(True, True), (True, False), (False, True)])
def test_as_many_as_mmdetection_trains_on(tmp_path, filter_cfg, with_mask, poly2mask):
    path = tmp_path / 'coco.json'
    for changes in [*([change] for change in CHANGES), CHANGES]:
        path.write_text(json.dumps(content(*changes)))
        try:
            expected = trained_by_mmdetection(path, filter_cfg, with_mask, poly2mask)
        except ValueError:  # it fails where no image is left
            expected = 0, set()
        found = trained_objects(content(*changes), ('cat', ), filter_cfg, with_mask, poly2mask)
        assert (found.usable, found.images) == expected, changes
        assert found.usable + sum(found.reasons.values()) == found.total


def test_reasons_are_counted():
    found = trained_objects(content(dict(area=0), dict(area=-3), dict(iscrowd=1), {}), ('cat', ))
    assert (found.total, found.usable) == (4, 1)
    assert found.dropped() == '2 have an area of 0 or less, 1 are crowds'
    assert found.dropped(meant=False) == '2 have an area of 0 or less'


@pytest.mark.parametrize('change', [change for change in CHANGES if change.get('segmentation') not in ([[]], )])
def test_an_object_counts_where_pycocotools_counts_it(change, capsys):
    """An AP of -1 says that none does."""
    data = content(change)
    truth = COCO()
    truth.dataset = data
    truth.createIndex()
    result = truth.loadRes([dict(image_id=1, category_id=1, bbox=[0, 0, 5, 5], score=0.5)])
    evaluation = COCOeval(truth, result, 'bbox')
    evaluation.params.catIds = [1]
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    assert evaluated_objects(content(change), ('cat', ), with_masks=False).usable == int(evaluation.stats[0] >= 0)


def test_masks_that_are_evaluated():
    changes = dict(segmentation=[[1, 1, 9, 9]]), {}
    for with_masks, usable in ((True, 1), (False, 2)):
        assert evaluated_objects(content(*changes), ('cat', ), with_masks).usable == usable
