"""Our metric against MMDetection's, on files that it reads as it should."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.datasets.coco_metric import CocoMetric
from mmfasternet.errors import ArgumentError, DataError

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


# More than 100 objects of a class on an image.


def crowded(count=150):
    """Squares of 4 and of 40 pixels beside each other on one image of 60 x 800, and no other."""
    boxes = [[5. * (index % 100), 5. * (index // 100), 4., 4.] for index in range(count - 5)]
    boxes += [[510. + 45 * index, 5., 40., 40.] for index in range(5)]
    return dict(
        images=[dict(id=1, file_name='many.png', height=60, width=800)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[dict(id=index, image_id=1, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0,
                          segmentation=[rectangle(*box)]) for index, box in enumerate(boxes, 1)])


def found_at(shift, truth):
    """All objects, each predicted at a shift of a part of its width."""
    boxes = np.array([row['bbox'] for row in truth['annotations']])
    boxes[:, 0] += shift * boxes[:, 2]
    scores = np.random.default_rng(0).permutation(len(boxes)) / len(boxes)
    masks = [mask_utils.frPyObjects([rectangle(*box)], 60, 800)[0] for box in boxes]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return [dict(img_id=1, ori_shape=(60, 800), pred_instances=dict(
        bboxes=torch.tensor(corners), scores=torch.tensor(scores), labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=masks))]


def by_pycocotools(path, samples, kind, max_dets, iou=None, area=0):
    """AP by the arrays of plain pycocotools."""
    truth, predictions, (sample, ) = COCO(str(path)), [], samples
    instances = sample['pred_instances']
    for box, score, mask in zip(instances['bboxes'].tolist(), instances['scores'].tolist(), instances['masks']):
        place = dict(segmentation=mask) if kind == 'segm' else dict(
            bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]])
        predictions.append(dict(image_id=1, category_id=1, score=score, **place))
    evaluation = COCOeval(truth, truth.loadRes(predictions), kind)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, 0, area, 0]
    precision = precision if iou is None else precision[[round((iou - .5) / .05)]]
    return round(float(precision.mean()), 3)


def test_an_image_with_more_than_100_objects(write):
    """All of them found: with 100 that count, a recall of two thirds is the most, by COCO's definition."""
    path = write(crowded())
    assert evaluate(CocoMetric, path, found_at(0, crowded()))['coco/bbox_mAP'] == pytest.approx(67 / 101, abs=1e-3)
    whole = evaluate(CocoMetric, path, found_at(0, crowded()), max_dets=300)
    for kind in ('bbox', 'segm'):
        assert [whole[f'coco/{kind}_mAP{what}'] for what in ('', '_50', '_75', '_s', '_m')] == [1] * 5
        assert whole[f'coco/{kind}_mAP_l'] == -1  # there is none
    assert whole['coco/cat_precision'] == 1
    # MMDetection's own AP50 counts 1000.
    assert evaluate(CocoMetric, path, found_at(0, crowded()), max_dets=100)['coco/bbox_mAP_50'] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize('max_dets', [1, 70, 120, 300, 1000, 2000])
def test_metrics_at_a_number_of_detections_are_pycocotools(write, max_dets):
    path, predictions = write(crowded()), found_at(.18, crowded())
    found = evaluate(CocoMetric, path, found_at(.18, crowded()), max_dets=max_dets,
                     metric_items=['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'AR@100', 'AR@300', 'AR_s@1000'])
    plain = evaluate(CocoMetric, path, found_at(.18, crowded()), metric_items=['AR@100', 'AR@300', 'AR_s@1000'])
    for kind in ('bbox', 'segm'):
        expected = {'mAP': {}, 'mAP_50': dict(iou=.5), 'mAP_75': dict(iou=.75), 'mAP_s': dict(area=1),
                    'mAP_m': dict(area=2)}
        for name, part in expected.items():
            assert found[f'coco/{kind}_{name}'] == by_pycocotools(path, predictions, kind, max_dets, **part), name
        for name in ('AR@100', 'AR@300', 'AR_s@1000'):  # at the numbers that they are named by
            assert found[f'coco/{kind}_{name}'] == plain[f'coco/{kind}_{name}'], name
    assert found['coco/cat_precision'] == found['coco/segm_mAP']  # the last of the two


def test_what_is_printed_says_how_many_count(write, capfd):
    evaluate(CocoMetric, write(crowded()), found_at(0, crowded()), max_dets=300, metric='bbox')
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith(' Average ')]
    assert len(lines) == 10 and all('maxDets=300 ]' in line for line in lines)
    assert lines[0] == ' Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=300 ] = 1.000'
    assert lines[6] == ' Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=300 ] = 1.000'


def test_several_processes_evaluate_alike(write):
    path = write(crowded())
    one, several = (evaluate(CocoMetric, path, found_at(.18, crowded()), metric='bbox', max_dets=120, classwise=False,
                             use_mp_eval=parallel) for parallel in (False, True))
    assert one == several and 0 < one['coco/bbox_mAP'] < 1


def test_proposals_are_evaluated_as_without(write):
    path = write(crowded())
    found, expected = (evaluate(CocoMetric, path, found_at(.18, crowded()), metric=['proposal', 'proposal_fast'],
                                max_dets=max_dets) for max_dets in (50, None))
    assert found == expected


@pytest.mark.parametrize('max_dets', [0, -1, 1.5, '300', True, [300]])
def test_a_number_of_detections_that_is_none(max_dets):
    with pytest.raises(ArgumentError, match='^max_dets of CocoMetric is .*: it must be an integer of at least 1'):
        CocoMetric(max_dets=max_dets)
