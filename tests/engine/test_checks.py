import json
import shutil
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmfasternet.checkpoints import read_checkpoint, safe_loading
from mmfasternet.engine import train_test
from mmfasternet.engine.building import build_model, build_unloaded
from mmfasternet.engine.checks import check_checkpoints, check_complete, check_data
from mmfasternet.engine.config import load_config
from mmfasternet.engine.run_options import TestOptions
from mmfasternet.errors import CheckpointError, DataError, UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, data_options


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the dataset to spoil."""
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


def check_run(cfg, splits):
    """What a training or a test checks of its config before it writes anything."""
    check_data(cfg, splits)
    with safe_loading():
        check_checkpoints(cfg, build_unloaded(cfg), 'train' in splits)


def assert_refused(cfg, *parts, splits=('train', 'val'), error=DataError):
    with pytest.raises(error) as caught:
        check_run(cfg, splits)
    for part in parts:
        assert part in str(caught.value)
    assert '\n' not in str(caught.value)


def test_good_data_pass(data):
    check_run(shapes_config(data), ('train', 'val'))
    check_run(shapes_config(data), ('test', ))


@pytest.mark.parametrize('trains, missing, line', [
    (True, ['val_cfg'], 'has no val_cfg, which validation needs. Without a validation, all of val_dataloader, val_cfg, '
     'val_evaluator are None'),
    (True, ['val_cfg', 'val_evaluator'], 'has no val_cfg and no val_evaluator, which validation needs'),
    (True, ['optim_wrapper'], 'has no optim_wrapper, which training needs'),
    (True, ['model', 'train_cfg'], 'has no model and no train_cfg, which training needs'),
    (False, ['test_dataloader', 'test_cfg', 'test_evaluator'],
     'has no test_dataloader and no test_cfg and no test_evaluator, which testing needs'),
    (False, ['test_evaluator'], 'has no test_evaluator, which testing needs')])
def test_an_incomplete_config_is_one_line(shapes, tmp_path, trains, missing, line):
    cfg = shapes_config(shapes, **{name: None for name in missing})
    cfg.work_dir = str(tmp_path / 'run')
    with pytest.raises(UserError, match=f"^config '.*' {line}"):
        train_test.train(cfg) if trains else train_test.test(cfg, TestOptions('gone.pth'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('missing, trains', [(['val_dataloader', 'val_cfg', 'val_evaluator'], True),
                                             (['train_dataloader', 'train_cfg', 'optim_wrapper'], False)])
def test_a_config_may_be_without_what_a_run_does_not_do(shapes, missing, trains):
    check_complete(shapes_config(shapes, **{name: None for name in missing}), trains)


def test_missing_coco_names_the_tree_and_the_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    assert_refused(cfg, "'data/coco/'", 'annotations/instances_{train,val}2017.json', 'train2017/', 'MMDET_DATASETS')
    monkeypatch.setenv('MMDET_DATASETS', str(tmp_path / 'elsewhere'))
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    assert_refused(cfg, f"'{tmp_path}/elsewhere/'", f'MMDET_DATASETS is {tmp_path}/elsewhere')


def test_missing_shapes_name_the_script_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(SHAPES_CONFIG))
    assert_refused(cfg, "'data/shapes/'", 'mmfasternet make-shapes data/shapes')
    cfg.train_dataloader.dataset.data_root = 'data/nuclei/'
    assert_refused(cfg, "'data/nuclei/'", 'mmfasternet make-nuclei stage1_train data/nuclei')


def test_data_sets_that_download_themselves_pass(data):
    cfg = shapes_config(data)
    cfg.train_dataloader.dataset = dict(type='mmpretrain.CIFAR10', data_root='data/cifar10', pipeline=[])
    check_run(cfg, ('train', ))


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
    assert_refused(shapes_config(data), 'instances_train.json', 'JSON')


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


@pytest.mark.parametrize('key, field, value', [
    ('images', 'height', None), ('images', 'width', 0), ('images', 'file_name', 5),
    ('annotations', 'bbox', None), ('annotations', 'bbox', [1, 2, 3]), ('annotations', 'bbox', [1, 2, 3, '4']),
    ('annotations', 'segmentation', []), ('annotations', 'segmentation', [1, 2, 3, 4, 5, 6]),
    ('categories', 'name', ['circle']),
])
def test_a_value_of_the_wrong_kind(data, key, field, value):
    edit(data, lambda c: c[key][1].update({field: value}))
    assert_refused(shapes_config(data), f'{key}[1].{field} is')


@pytest.mark.parametrize('change', [
    lambda c: c.update(annotations=[]),
    lambda c: [a.update(image_id=999) for a in c['annotations']],
    lambda c: [c['categories'].append(dict(id=999, name='disc'))] + [
        a.update(category_id=999) for a in c['annotations']],
])
def test_nothing_to_train_on(data, change):
    edit(data, change)
    assert_refused(shapes_config(data), 'nothing to train on')


def test_categories_in_another_order(data):
    """MMDetection would take every star for a circle."""
    edit(data, lambda c: c['categories'].reverse())
    assert_refused(shapes_config(data), 'another order', 'star, triangle, square, circle')


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
    for kind in ('Pretrained', 'mmengine.Pretrained'):
        cfg.model.backbone.init_cfg.type = kind
        assert_refused(cfg, "'lost.pth'", error=CheckpointError)
    check_run(cfg, ('test', ))
    cfg.model.neck.init_cfg = dict(type=PretrainedInit, checkpoint='gone.pth')
    cfg.model.backbone.init_cfg = None
    assert_refused(cfg, "'gone.pth'", error=CheckpointError)


def test_other_data_sets_must_exist(tmp_path):
    cfg = shapes_config(tmp_path, train_dataloader__dataset=dict(
        type='VOCDataset', data_root=str(tmp_path / 'VOC'), ann_file='list.txt', pipeline=[]))
    assert_refused(cfg, "VOC'", 'train_dataloader.dataset.data_root', splits=('train', ))


def test_only_the_first_process_reads_the_annotations(data, monkeypatch):
    (data / 'annotations' / 'instances_train.json').write_text('spoilt')
    monkeypatch.setenv('RANK', '1')
    check_run(shapes_config(data), ('train', ))
    monkeypatch.setenv('RANK', '0')
    assert_refused(shapes_config(data), 'JSON')


def test_missing_evaluator_file(data):
    assert_refused(shapes_config(data, val_evaluator__ann_file='gone.json'), "'gone.json'", 'val_evaluator.ann_file')


def test_a_checkpoint_that_does_not_hold_the_model(data, trained):
    cfg = shapes_config(data, load_from=str(trained / 'epoch_2.pth'))
    check_run(cfg, ('test', ))
    cfg.model.roi_head.mask_head.conv_out_channels = 32
    assert_refused(cfg, 'epoch_2.pth', 'other shapes', splits=('test', ), error=CheckpointError)
    check_run(cfg, ('train', ))  # to start from
    cfg.resume = True
    assert_refused(cfg, 'other shapes', splits=('train', ), error=CheckpointError)


def test_weights_without_a_training_are_tested(data, trained, tmp_path):
    weights = read_checkpoint(str(trained / 'epoch_2.pth'))['state_dict']
    for content in (dict(model=weights), weights,
                    dict(state_dict={f'module.{key}': value for key, value in weights.items()})):
        torch.save(content, tmp_path / 'weights.pth')
        check_run(shapes_config(data, load_from=str(tmp_path / 'weights.pth')), ('test', ))


def test_a_detector_that_writes_into_its_config_can_be_built_again():
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_1x_coco.py')
    dino = Config.fromfile(str(Path(mmdet.__file__).parent / '.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py'))
    cfg.model = dino.model
    build_model(cfg)
    build_model(cfg)


def test_pretrained_weights_that_do_not_fit(data, tmp_path):
    torch.save(FasterNet('t1').state_dict(), tmp_path / 't1.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 't1.pth').read_bytes()[:1000])
    for name, problem in (('t1.pth', 'holds FasterNet-T1'), ('cut.pth', 'broken')):
        cfg = shapes_config(data)
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / name))
        assert_refused(cfg, name, problem, error=CheckpointError)


def test_missing_checkpoints(data):
    assert_refused(shapes_config(data, load_from='gone.pth'), "'gone.pth'", error=CheckpointError)
