"""The files of a config against each other, and what of them is trained on; single faults are in test_bad_data."""

import json
import shutil

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict

from mmfasternet.datasets import coco_checks
from mmfasternet.engine.checks import check_data
from mmfasternet.engine.config import load_config
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.errors import DataError
from tests.conftest import SHAPES_CONFIG, data_options


@DATASETS.register_module(force=True)
class DerivedCocoDataset(CocoDataset):
    """Somebody else's, which keeps MMDetection's own reading."""


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the dataset to spoil."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(coco_checks, 'print_log', lambda line, *args: lines.append(line))
    return lines


def config(root, **options):
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(root)))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return prepare(cfg, TrainOptions())


def ann_file(root, split='val'):
    return root / 'annotations' / f'instances_{split}.json'


def edit(path, change, to=None):
    content = json.loads(path.read_text())
    change(content)
    (to or path).write_text(json.dumps(content))


def check(cfg, *splits):
    check_data(cfg, splits or ('train', 'val'))


def refused(cfg, *splits):
    with pytest.raises(DataError) as caught:
        check(cfg, *splits)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# The evaluator's file and the data.


def other_file(root, change):
    other = root / 'annotations' / 'other.json'
    edit(ann_file(root), change, other)
    return config(root, val_evaluator__ann_file=str(other))


def test_a_copy_of_the_file_is_as_good(data, warnings):
    check(other_file(data, lambda content: None))
    assert not warnings


def test_the_evaluators_file_is_the_one_of_training(data):
    line = refused(config(data, val_evaluator__ann_file=str(ann_file(data, 'train'))))
    assert 'val_evaluator.ann_file' in line and 'instances_train.json' in line and 'instances_val.json' in line
    assert "2 of 8 are not in the val data" in line and "id 7 ('000006.png')" in line


def test_an_image_that_is_evaluated_only_would_count_as_missed(data):
    cfg = other_file(data, lambda content: content['images'].append(dict(content['images'][0], id=99)))
    assert 'id 99' in (line := refused(cfg)) and '1 of 7 are not in' in line


def test_an_image_that_is_loaded_only(data):
    line = refused(other_file(data, lambda content: content['images'].pop(2)))
    assert "1 of 6 are only in the val data" in line and "such as id 3 ('000002.png')" in line


def test_other_images_of_the_same_ids(data):
    cfg = other_file(data, lambda content: [row.update(file_name=f'x{row["file_name"]}') for row in content['images']])
    line = refused(cfg)
    assert "id 1 is 'x000000.png' in it, and '000000.png' in the val data" in line and '6 of 6 differ' in line


def test_a_folder_in_the_name_of_an_image_makes_no_other(data):
    check(other_file(data, lambda content: [row.update(file_name=f'val/{row["file_name"]}')
                                            for row in content['images']]))


def test_categories_of_the_evaluator(data):
    assert 'other.json' in (line := refused(other_file(data, lambda content: content['categories'].reverse())))
    assert 'another order' in line
    line = refused(other_file(data, lambda content: content['categories'][0].update(name='disc')))
    assert "other.json' has no category 'circle'" in line


def test_only_some_images_are_loaded(data, warnings):
    for indices, left_out in ((2, 4), ([-1], 5), (-2, 4)):
        warnings.clear()
        check(config(data, val_dataloader__dataset__indices=indices))
        assert len(warnings) == 1 and f'val_dataloader.dataset leaves out {left_out}, by its indices' in warnings[0]
    cfg = other_file(data, lambda content: None)
    cfg.val_dataloader.dataset.indices = 2
    line = refused(cfg)
    assert "4 of 6 are not in the val data" in line and "id 3 ('000002.png')" in line


def test_an_image_that_indices_leave_out_may_be_missing(data):
    (data / 'train' / '000003.png').unlink()
    check(config(data, train_dataloader__dataset__indices=3))
    assert '000003.png' in refused(config(data, train_dataloader__dataset__indices=4))


def test_images_that_are_filtered_out(data):
    edit(ann_file(data), lambda content: content['images'][0].update(width=20))
    kept = config(data, val_dataloader__dataset__filter_cfg=dict(min_size=32))
    check(kept)  # in test mode nothing is
    line = refused(config(data, val_dataloader__dataset=dict(filter_cfg=dict(min_size=32), test_mode=False)))
    assert 'leaves out 1, by its filter_cfg' in line and 'test_mode=True' in line


def test_ids_of_two_data_sets_that_are_alike(data):
    cfg = config(data)
    cfg.val_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[cfg.val_dataloader.dataset] * 2)
    assert 'image id 1 is in' in (line := refused(cfg)) and 'another of the val datasets' in line


def test_the_evaluators_file_is_checked_as_one_that_is_evaluated(data):
    cfg = other_file(data, lambda content: content['annotations'][1].pop('segmentation'))
    assert "other.json' is not in COCO format: annotations[1] has no segmentation" in refused(cfg)
    cfg.val_evaluator.metric = 'bbox'
    check(cfg)


def test_all_metrics_of_an_evaluator_are_looked_at(data):
    cfg = other_file(data, lambda content: content['images'].pop())
    metric, cfg.val_evaluator = cfg.val_evaluator, ConfigDict(type='Evaluator', metrics=[])
    cfg.val_evaluator.metrics = [dict(type='VOCMetric'), metric]
    assert 'are only in the val data' in refused(cfg)


def test_no_object_to_evaluate(data, warnings):
    edit(ann_file(data), lambda content: [row.update(iscrowd=1) for row in content['annotations']])
    check(config(data))
    assert len(warnings) == 1 and 'AP can\'t be computed' in warnings[0] and 'are crowds' in warnings[0]
    warnings.clear()
    check(config(data, val_evaluator__format_only=True))
    assert not warnings


def crowd_an_image(content, count=150):
    """Copies of an object, so that its class has so many on the image."""
    row = content['annotations'][0]
    alike = [each for each in content['annotations']
             if (each['image_id'], each['category_id']) == (row['image_id'], row['category_id'])]
    content['annotations'] += [dict(row, id=1000 + index) for index in range(count - len(alike))]


def test_more_objects_on_an_image_than_count(data, warnings):
    edit(ann_file(data), crowd_an_image)
    content = json.loads(ann_file(data).read_text())
    row = content['annotations'][0]
    name, = [image['file_name'] for image in content['images'] if image['id'] == row['image_id']]
    label, = [each['name'] for each in content['categories'] if each['id'] == row['category_id']]
    total = sum(each['image_id'] == row['image_id'] for each in content['annotations'])
    check(config(data))
    assert warnings == [
        f"image '{name}' in '{ann_file(data)}' has 150 objects of the class '{label}', but val_evaluator counts 100 "
        "detections of a class per image: AP can't reach 1. --cfg-options val_evaluator.max_dets=200 counts more",
        f"image '{name}' in '{ann_file(data)}' has {total} objects, but model.test_cfg.rcnn.max_per_img keeps 100 "
        "detections per image: AP can't reach 1. --cfg-options model.test_cfg.rcnn.max_per_img=200 keeps more"]
    warnings.clear()
    cfg = config(data, val_evaluator__max_dets=200)
    check(cfg)
    assert len(warnings) == 1 and 'max_per_img' in warnings[0]
    warnings.clear()
    check(config(data, val_evaluator=[cfg.val_evaluator, {**cfg.val_evaluator, 'max_dets': 100}]))
    assert any('--cfg-options val_evaluator.1.max_dets=200 counts more' in each for each in warnings)
    cfg.model.test_cfg.rcnn.max_per_img = 200
    warnings.clear()
    check(cfg)
    cfg.model = dict(type='mmfasternet.InstanceTTAModel', module=cfg.model)
    check(cfg)
    assert not warnings
    cfg.model.module.test_cfg.rcnn.max_per_img = 100
    cfg.val_evaluator = dict(type='mmdet.CocoMetric', ann_file=str(ann_file(data)))
    check(cfg)
    assert 'CocoMetric has no option for more; mmfasternet.CocoMetric has max_dets' in warnings[0]
    assert 'model.test_cfg.rcnn.max_per_img keeps 100' in warnings[1]


def test_objects_of_several_classes_count_apart_and_crowds_do_not(data, warnings):

    def many(content):
        crowd_an_image(content, 90)
        row, = [row for row in content['annotations'] if row['id'] == 1000]
        others = [each['id'] for each in content['categories'] if each['id'] != row['category_id']]
        content['annotations'] += [dict(row, id=2000 + index, category_id=others[0]) for index in range(90)]
        content['annotations'] += [dict(row, id=3000 + index, iscrowd=1) for index in range(90)]

    edit(ann_file(data), many)
    cfg = config(data)
    check(cfg)
    assert len(warnings) == 1 and 'max_per_img' in warnings[0]
    cfg.model.test_cfg = dict(max_per_img=100)  # of a detector of one stage
    check(cfg)
    assert 'model.test_cfg.max_per_img keeps 100 detections per image' in warnings[1]


@pytest.mark.parametrize('change, problem', [
    (lambda row: row.pop('iscrowd'), 'has no iscrowd in annotations[0]'),
    (lambda row: row.update(id='a'), "is the string 'a'"),
])
def test_where_mmdetections_metric_stays_its_file_must_be_what_it_reads(data, change, problem):
    edit(ann_file(data), lambda content: change(content['annotations'][0]))
    line = refused(config(data, mmfasternet__omit=['CocoMetric']))
    assert problem in line and 'instances_val.json' in line


def test_the_id_0_lowers_ap_a_little_where_mmdetections_metric_stays(data, warnings):
    edit(ann_file(data), lambda content: content['annotations'][0].update(id=0))
    check(config(data))
    assert not warnings
    check(config(data, mmfasternet__omit=['CocoMetric']))
    assert len(warnings) == 1 and 'an annotation with id 0, which CocoMetric treats as no match' in warnings[0]


def test_an_evaluator_of_several_data_sets_has_a_metric_for_each(data):
    cfg = config(data)
    parts = [cfg.val_dataloader.dataset, cfg.train_dataloader.dataset]
    cfg.val_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=parts)
    files = [str(ann_file(data)), str(ann_file(data, 'train'))]
    metrics = [dict(type='CocoMetric', ann_file=file) for file in files]
    cfg.val_evaluator = ConfigDict(type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['a', 'b'])
    check(cfg)
    cfg.val_evaluator.metrics = metrics[::-1]
    assert '2 of 8 are not in the val data' in refused(cfg)


# What is trained on.


def test_what_is_dropped_is_counted(data, warnings):

    def spoil(content):
        first, second, third, *_ = content['annotations']
        first.update(area=0)
        second.update(area=-1)
        third.update(bbox=[1000, 5, 5, 5])
        content['annotations'][-1].update(iscrowd=1)  # as it is meant

    edit(ann_file(data, 'train'), spoil)
    check(config(data), 'train')
    total = len(json.loads(ann_file(data, 'train').read_text())['annotations'])
    assert len(warnings) == 1 and warnings[0].endswith(
        f"instances_train.json': of {total} objects, {total - 4} are trained on; 2 have an area of 0 or less, 1 have "
        'boxes outside of their image')


def test_images_that_are_all_too_small(data):
    cfg = config(data, train_dataloader__dataset__filter_cfg=dict(filter_empty_gt=True, min_size=97))
    assert '8 of 8 are under filter_cfg.min_size=97' in refused(cfg)
    cfg.train_dataloader.dataset.filter_cfg.min_size = 96
    check(cfg)


def test_all_images_must_be_there(data):
    for name in ('000002.png', '000004.png'):
        (data / 'val' / name).unlink()
    assert "val/000002.png' that" in (line := refused(config(data))) and '(2 do not)' in line
    cfg = config(data)
    cfg.val_dataloader.dataset.pipeline[0].ignore_empty = True
    check(cfg)


def test_images_that_are_not_trained_on_may_be_missing(data):
    edit(ann_file(data, 'train'), lambda content: content.update(
        annotations=[row for row in content['annotations'] if row['image_id'] != 1]))
    (data / 'train' / '000000.png').unlink()
    assert '000000.png' in refused(config(data))
    check(config(data, train_dataloader__dataset__filter_cfg=dict(filter_empty_gt=True)))


def test_run_lengths_without_bitmaps(data):
    size = [96, 96]
    edit(ann_file(data, 'train'), lambda content: [row.update(segmentation=dict(size=size, counts=[96 * 96]))
                                                   for row in content['annotations']])
    cfg = config(data)
    check(cfg)
    next(each for each in cfg.train_dataloader.dataset.pipeline if each.type == 'LoadAnnotations').poly2mask = False
    assert 'poly2mask=False' in refused(cfg)


def test_a_byte_order_mark_where_another_class_reads_it(data):
    path = ann_file(data, 'train')
    path.write_text(path.read_text(), encoding='utf-8-sig')
    check(config(data))
    line = refused(config(data, train_dataloader__dataset__type='mmdet.DerivedCocoDataset'))
    assert 'begins with a byte order mark, which DerivedCocoDataset does not read' in line


def test_a_file_that_serves_twice_is_read_once(data, monkeypatch):
    reads = []
    read = coco_checks.read_coco_file
    monkeypatch.setattr(coco_checks, 'read_coco_file', lambda path: reads.append(path) or read(path))
    check(config(data))
    assert len(reads) == 2  # training, and validation with its evaluator


def test_a_data_set_beside_others_may_have_no_objects(data):
    """Pictures of the background, or without labels."""
    cfg = config(data)
    labelled = cfg.train_dataloader.dataset
    for change in (lambda content: content.update(annotations=[]), lambda content: content.pop('annotations')):
        edit(ann_file(data, 'train'), change, data / 'annotations' / 'none.json')
        other = dict(labelled, ann_file='annotations/none.json')
        cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[labelled, other])
        check(cfg)
        cfg.train_dataloader.dataset.datasets = [other, other]
        assert 'none of the 2 train datasets has an object' in refused(cfg)
        cfg.train_dataloader.dataset = ConfigDict(other)
        assert 'none.json' in refused(cfg)


@pytest.mark.parametrize('change', [
    lambda content: content['categories'].extend([dict(id=8, name=''), dict(id=9, name='')]),
    lambda content: content['categories'].extend([dict(id=8, name='disc'), dict(id=9, name='disc')]),
    lambda content: [row.update(image_id=float(row['image_id']), category_id=float(row['category_id']))
                     for row in content['annotations']],
    lambda content: content['images'][0].update(width=95.5),
    lambda content: content['annotations'][0].update(ignore=2),
])
def test_what_mmdetection_ignores_or_takes_is_not_refused(data, change):
    edit(ann_file(data, 'train'), change)
    check(config(data))


@pytest.mark.parametrize('side', [0, None])
def test_images_to_predict_on_need_no_size(data, side):
    edit(ann_file(data), lambda content: [content.pop('annotations')] + [
        row.update(width=side, height=side) for row in content['images']])
    check(config(data, test_evaluator__format_only=True), 'test')


@pytest.mark.parametrize('loader', [dict(type='LoadImageFromFile', backend_args=dict(backend='lmdb', db_path='x')),
                                    dict(type='LoadImageFromNDArray')])
def test_images_that_are_no_local_files_are_not_looked_for(data, loader):
    shutil.rmtree(data / 'val')
    (data / 'val').mkdir()
    cfg = config(data)
    cfg.val_dataloader.dataset.pipeline[0] = loader
    check(cfg)


@DATASETS.register_module(force=True)
class UnfilteredCocoDataset(CocoDataset):

    def filter_data(self):
        return self.data_list


def test_a_filter_of_somebody_elses_is_not_guessed(data):
    filtered = dict(filter_cfg=dict(min_size=500))
    assert 'min_size=500' in refused(config(data, train_dataloader__dataset=filtered))
    check(config(data, train_dataloader__dataset=dict(filtered, type='mmdet.UnfilteredCocoDataset')))
