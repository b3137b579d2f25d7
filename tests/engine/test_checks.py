import json
import shutil

import pytest
from mmdet.datasets import CocoDataset

from mmfasternet.engine.checks import check_checkpoint, check_run
from mmfasternet.engine.config import load_config
from mmfasternet.errors import CheckpointError, DataError, UserError
from tests.conftest import ROOT, SHAPES_CONFIG, data_options


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the data set to spoil."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


def shapes_config(root, **options):
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(root)))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def edit(root, change, split='train'):
    path = root / 'annotations' / f'instances_{split}.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_refused(cfg, *parts, splits=('train', 'val'), error=DataError):
    with pytest.raises(error) as caught:
        check_run(cfg, splits)
    for part in parts:
        assert part in str(caught.value)
    assert '\n' not in str(caught.value)


def test_good_data_pass(data):
    check_run(shapes_config(data), ('train', 'val'))
    check_run(shapes_config(data), ('test', ))


def test_missing_coco_names_the_tree_and_the_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    assert_refused(cfg, "'data/coco/'", 'annotations/instances_{train,val}2017.json', 'train2017/', 'MMDET_DATASETS')


def test_missing_annotation_file(data):
    (data / 'annotations' / 'instances_val.json').unlink()
    assert_refused(shapes_config(data), 'instances_val.json', 'val', 'does not exist')
    check_run(shapes_config(data), ())


def test_missing_image_folder(data):
    shutil.rmtree(data / 'train')
    assert_refused(shapes_config(data), "shapes/train'", 'image folder')


def test_missing_first_image(data):
    (data / 'train' / '000000.png').unlink()
    assert_refused(shapes_config(data), '000000.png', 'data_prefix')


@pytest.mark.parametrize('text', ['', '{"images": [', '<html>'])
def test_no_json(data, text):
    (data / 'annotations' / 'instances_train.json').write_text(text)
    assert_refused(shapes_config(data), 'instances_train.json', 'json')


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('value', [None, {}])
def test_json_of_another_schema(data, key, value):
    edit(data, lambda c: c.update({key: value}))
    assert_refused(shapes_config(data), 'instances_train.json', f"no list '{key}'")


def test_json_that_is_a_list(data):
    (data / 'annotations' / 'instances_train.json').write_text('[1, 2]')
    assert_refused(shapes_config(data), "no list 'images'")


@pytest.mark.parametrize('key, field', [('images', 'file_name'), ('annotations', 'bbox'), ('annotations', 'area'),
                                        ('annotations', 'segmentation'), ('categories', 'name')])
def test_entry_without_a_field(data, key, field):
    edit(data, lambda c: c[key][1].pop(field))
    assert_refused(shapes_config(data), f'{key}[1] has no {field}')


def test_classes_that_the_file_does_not_have(data):
    edit(data, lambda c: c['categories'][2].update(name='hexagon'))
    assert_refused(shapes_config(data), "no category 'triangle'", 'hexagon', 'metainfo')


@pytest.mark.parametrize('key, entry, what', [('categories', dict(id=9, name='circle'), "2 categories with the name"),
                                              ('categories', dict(id=1, name='disc'), '2 categories with the id 1'),
                                              ('annotations', None, '2 annotations with the id 1'),
                                              ('images', None, '2 images with the id 1')])
def test_an_entry_twice(data, key, entry, what):
    edit(data, lambda c: c[key].append(entry or c[key][0]))
    assert_refused(shapes_config(data), what)


@pytest.mark.parametrize('head', ['bbox_head', 'mask_head'])
def test_number_of_classes_of_a_head(data, head):
    cfg = shapes_config(data, **{f'model__roi_head__{head}__num_classes': 80})
    assert_refused(cfg, f'model.roi_head.{head}.num_classes is 80', '4 classes', 'circle')


def test_classes_as_a_text(data):
    assert_refused(shapes_config(data, train_dataloader__dataset__metainfo__classes='circle'), "('circle', )")


def test_wrapped_data_sets_are_found(data):
    cfg = shapes_config(data)
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset',
                                                              datasets=[cfg.train_dataloader.dataset]))
    cfg.train_dataloader.dataset = wrapped
    check_run(cfg, ('train', ))
    (data / 'annotations' / 'instances_train.json').unlink()
    assert_refused(cfg, 'instances_train.json', splits=('train', ))


@pytest.mark.parametrize('kind', ['LVISV1Dataset', 'CocoPanopticDataset'])
def test_other_formats_are_left_to_their_classes(data, kind):
    (data / 'annotations' / 'instances_train.json').write_text('{"info": {}}')
    check_run(shapes_config(data, train_dataloader__dataset__type=kind), ('train', ))


def test_what_mmdetection_takes_is_not_refused(data, tmp_path):
    absolute = shapes_config('gone', **{
        'train_dataloader__dataset__ann_file': str(data / 'annotations' / 'instances_train.json'),
        'train_dataloader__dataset__data_prefix__img': str(data / 'train')})
    check_run(absolute, ('train', ))
    check_run(shapes_config('gone', train_dataloader__dataset__backend_args=dict(backend='petrel')), ('train', ))
    (tmp_path / 'classes.txt').write_text('circle\nsquare\ntriangle\nstar\n')
    listed = shapes_config(data, train_dataloader__dataset__metainfo__classes=str(tmp_path / 'classes.txt'))
    check_run(listed, ('train', ))
    as_class = shapes_config(data)
    as_class.train_dataloader.dataset.type = CocoDataset
    check_run(as_class, ('train', ))
    edit(data, lambda c: c.pop('annotations'), 'val')
    check_run(shapes_config(data), ('test', ))


def test_weights_to_start_from_are_looked_for_in_training_only(data):
    cfg = shapes_config(data)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='lost.pth')
    assert_refused(cfg, "'lost.pth'", error=CheckpointError)
    check_run(cfg, ('test', ))


def test_other_data_sets_must_exist(tmp_path):
    cfg = shapes_config(tmp_path, train_dataloader__dataset=dict(
        type='VOCDataset', data_root=str(tmp_path / 'VOC'), ann_file='list.txt', pipeline=[]))
    assert_refused(cfg, "VOC'", 'train_dataloader.dataset.data_root', splits=('train', ))


def test_a_config_without_a_model(data):
    cfg = shapes_config(data)
    cfg.pop('model')
    assert_refused(cfg, 'has no model', error=UserError)


def test_only_the_first_process_reads_the_annotations(data, monkeypatch):
    (data / 'annotations' / 'instances_train.json').write_text('spoilt')
    monkeypatch.setenv('RANK', '1')
    check_run(shapes_config(data), ('train', ))
    monkeypatch.setenv('RANK', '0')
    assert_refused(shapes_config(data), 'json')


def test_missing_evaluator_file(data):
    assert_refused(shapes_config(data, val_evaluator__ann_file='gone.json'), "'gone.json'")


def test_a_checkpoint_that_does_not_hold_the_model(data, trained):
    cfg = shapes_config(data, load_from=str(trained / 'epoch_2.pth'))
    check_run(cfg, ('test', ))
    cfg.model.roi_head.mask_head.conv_out_channels = 32
    assert_refused(cfg, 'epoch_2.pth', 'other shapes', splits=('test', ), error=CheckpointError)
    check_run(cfg, ('train', ))  # to start from
    cfg.resume = True
    assert_refused(cfg, 'other shapes', splits=('train', ), error=CheckpointError)


def test_missing_checkpoints(data):
    assert_refused(shapes_config(data, load_from='gone.pth'), "'gone.pth'", error=CheckpointError)
    check_checkpoint('https://example.org/weights.pth')
