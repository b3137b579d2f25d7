"""Our metric against MMDetection's, on files that it reads as it should."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from pycocotools import mask as mask_utils

from mmfasternet.datasets.coco_metric import CocoMetric
from mmfasternet.errors import DataError

HEIGHT, WIDTH = 60, 80
CLASSES = ('cat', 'dog')


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def content(num_images=6, objects=3):
    """Objects in random places, one in five of them a crowd."""
    generator = np.random.default_rng(0)
    annotations = []
    for image in range(num_images):
        for _ in range(objects):
            x, y, width, height = map(float, generator.integers((2, 2, 8, 8), (40, 30, 38, 28)))
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image + 1, category_id=int(generator.integers(1, 3)),
                bbox=[x, y, width, height], area=width * height, iscrowd=int(generator.random() < 0.2),
                segmentation=[rectangle(x, y, width, height)]))
    return dict(
        images=[dict(id=image + 1, file_name=f'{image}.png', height=HEIGHT, width=WIDTH)
                for image in range(num_images)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')], annotations=annotations)


def samples(truth, size=(HEIGHT, WIDTH)):
    """Predictions somewhat beside the truth, and some of nothing."""
    generator = np.random.default_rng(1)
    for image in truth['images']:
        rows = [row for row in truth['annotations'] if row['image_id'] == image['id']]
        boxes = [np.add(row['bbox'], [*generator.integers(-2, 3, 2), 0, 0]) for row in rows] + [np.array([0., 0, 9, 9])]
        masks = [mask_utils.frPyObjects([rectangle(*box)], *size)[0] for box in boxes]
        yield dict(
            img_id=image['id'], ori_shape=size, pred_instances=dict(
                bboxes=torch.tensor(np.array([[x, y, x + w, y + h] for x, y, w, h in boxes])),
                scores=torch.tensor(generator.random(len(boxes))),
                labels=torch.tensor([row['category_id'] - 1 for row in rows] + [0]), masks=masks))


def evaluate(kind, path, predictions, **options):
    options = dict(dict(metric=['bbox', 'segm'], classwise=True), **options)
    metric = kind(ann_file=path and str(path), **options)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, list(predictions))
    return metric.evaluate(size=6)


@pytest.fixture
def write(tmp_path):

    def written(data, encoding='utf-8'):
        path = tmp_path / 'truth.json'
        path.write_text(json.dumps(data), encoding=encoding)
        return path

    return written


@pytest.fixture
def expected(write):
    return evaluate(MMDetCocoMetric, write(content()), samples(content()))


def rows_of(change):
    data = content()
    for index, row in enumerate(data['annotations']):
        change(index, row)
    return data


def test_a_common_file_gives_what_mmdetection_gives(write, expected):
    found = evaluate(CocoMetric, write(content()), samples(content()))
    assert found == expected and 0.2 < found['coco/bbox_mAP'] < 0.9 and found['coco/segm_mAP'] > 0.2
    encoded = rows_of(lambda _, row: row.update(segmentation=dict(size=[HEIGHT, WIDTH], counts=mask_utils.merge(
        mask_utils.frPyObjects(row['segmentation'], HEIGHT, WIDTH))['counts'].decode())))
    assert evaluate(CocoMetric, write(encoded), samples(content())) == expected


@pytest.mark.parametrize('change', [
    lambda index, row: row.update(id=str(row['id'])),
    lambda index, row: row.update(id=f'object {index}'),
    lambda index, row: row.update(id=index),  # from 0 on
    lambda index, row: row.update(id=-index),
    lambda index, row: row.update(iscrowd=bool(row['iscrowd'])),
    lambda index, row: row['iscrowd'] or row.pop('iscrowd'),
    lambda index, row: row['iscrowd'] or row.update(iscrowd=None),
    lambda index, row: row['segmentation'].insert(0, [1, 1, 9, 9]),
    lambda index, row: row['segmentation'].append([]),
    lambda index, row: row['segmentation'].append([1, 1, 9, 1, 9]),
])
def test_the_same_data_give_the_same_metrics(write, expected, change):
    assert evaluate(CocoMetric, write(rows_of(change)), samples(content())) == expected


def test_a_byte_order_mark(write, expected):
    assert evaluate(CocoMetric, write(content(), 'utf-8-sig'), samples(content())) == expected


def test_mmdetection_takes_the_id_0_for_no_match(write, expected):
    """The reason to number annotations; one day, it may be mended there."""
    found = [evaluate(MMDetCocoMetric, write(rows_of(lambda index, row, first=first: row.update(id=index - first))),
                      samples(content()))['coco/bbox_mAP'] for first in range(3)]
    assert min(found) < expected['coco/bbox_mAP'] and max(found) <= expected['coco/bbox_mAP']


def test_ids_of_images_and_categories_may_be_texts(write, expected):
    data = rows_of(lambda _, row: row.update(image_id=f"image {row['image_id']}", category_id=f"c{row['category_id']}"))
    for key, pattern in (('images', 'image {}'), ('categories', 'c{}')):
        for row in data[key]:
            row['id'] = pattern.format(row['id'])
    named = [dict(sample, img_id=f"image {sample['img_id']}") for sample in samples(content())]
    assert evaluate(CocoMetric, write(data), named) == expected


def test_masks_are_drawn_at_the_size_of_the_image(write, expected):
    data = content()
    for image in data['images']:
        image.update(height=WIDTH, width=HEIGHT)
    assert evaluate(CocoMetric, write(data), samples(content())) == expected
    assert evaluate(MMDetCocoMetric, write(data), samples(content()))['coco/segm_mAP'] == 0  # no mask is alike another


def test_an_encoding_of_another_size_than_its_image(write):
    data = rows_of(lambda _, row: row.update(segmentation=dict(size=[9, 9], counts=[81])))
    for image in data['images']:
        image.update(height=9, width=9)
    with pytest.raises(DataError, match=r"image '0\.png' has height and width \[60, 80\].*truth\.json' is of size "
                                        r'\[9, 9\]'):
        evaluate(CocoMetric, write(data), samples(content()))


def test_an_object_without_a_mask_is_ignored_where_masks_are_evaluated(write, expected):
    """As MMDetection ignores it in training: it is neither found nor missed."""

    def spoil(index, row):
        if index % 3 == 0:
            row['segmentation'] = [[1, 1, 9, 9]]

    crowds = rows_of(lambda index, row: index % 3 == 0 and row.update(iscrowd=1))
    ignored = evaluate(MMDetCocoMetric, write(crowds), samples(content()))
    for order in (['bbox', 'segm'], ['segm', 'bbox']):
        found = evaluate(CocoMetric, write(rows_of(spoil)), samples(content()), metric=order)
        assert {key: value for key, value in found.items() if 'segm' in key} == {
            key: value for key, value in ignored.items() if 'segm' in key}
        boxes = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_s')
        assert all(found[key] == expected[key] for key in boxes) and expected != ignored  # the boxes count


def test_a_second_validation_gives_the_same(write):
    data = rows_of(lambda index, row: index % 3 == 0 and row.update(segmentation=[[1, 1, 9, 9]]))
    metric = CocoMetric(ann_file=str(write(data)), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=CLASSES)
    found = []
    for _ in range(2):
        metric.process({}, list(samples(content())))
        found.append(metric.evaluate(size=6))
    assert found[0] == found[1]


def test_without_a_file_the_data_set_tells(expected):
    """Its unusable polygons included."""
    predictions = list(samples(content()))
    for sample in predictions:
        sample['instances'] = [
            dict(bbox=np.add(row['bbox'], [0, 0, *row['bbox'][:2]]).tolist(), bbox_label=row['category_id'] - 1,
                 ignore_flag=row['iscrowd'], mask=[[1, 1, 9, 9], *row['segmentation']])
            for row in content()['annotations'] if row['image_id'] == sample['img_id']]
    assert evaluate(CocoMetric, None, predictions) == expected
