import json
import shutil

import pytest

from mmfasternet.engine.checks import check_checkpoint, check_run
from mmfasternet.engine.config import load_config
from mmfasternet.errors import CheckpointError, DataError
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


@pytest.mark.parametrize('key, field', [('images', 'file_name'), ('annotations', 'bbox'), ('categories', 'name')])
def test_entry_without_a_field(data, key, field):
    edit(data, lambda c: c[key][1].pop(field))
    assert_refused(shapes_config(data), f'{key}[1] has no {field}')


def test_classes_that_the_file_does_not_have(data):
    edit(data, lambda c: c['categories'][2].update(name='hexagon'))
    assert_refused(shapes_config(data), "no category 'triangle'", 'hexagon', 'metainfo')


def test_a_category_twice(data):
    edit(data, lambda c: c['categories'].append(dict(id=9, name='circle')))
    assert_refused(shapes_config(data), "'circle' more than once")


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


def test_missing_evaluator_file(data):
    assert_refused(shapes_config(data, val_evaluator__ann_file='gone.json'), "'gone.json'")


def test_missing_checkpoints(data):
    assert_refused(shapes_config(data, load_from='gone.pth'), "'gone.pth'", error=CheckpointError)
    cfg = shapes_config(data)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='lost.pth')
    assert_refused(cfg, "'lost.pth'", error=CheckpointError)
    check_checkpoint('https://example.org/weights.pth')
