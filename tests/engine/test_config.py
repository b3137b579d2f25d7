import pytest
import torch

from mmfasternet.engine.config import (
    enable_amp,
    enable_auto_scale_lr,
    enable_tta,
    load_config,
    name_broken_images,
    set_show_dir,
)
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG

COCO_CONFIG = str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py')


def test_work_dir():
    assert load_config(COCO_CONFIG).work_dir == 'work_dirs/mask_rcnn_fasternet_s_1x_coco'
    assert load_config(COCO_CONFIG, {'work_dir': 'elsewhere'}).work_dir == 'elsewhere'
    assert load_config(COCO_CONFIG, {'work_dir': 'elsewhere'}, 'here').work_dir == 'here'


def test_options_and_launcher():
    cfg = load_config(COCO_CONFIG, {'train_dataloader.batch_size': 7}, launcher='pytorch')
    assert cfg.train_dataloader.batch_size == 7 and cfg.launcher == 'pytorch'


@pytest.mark.parametrize('path, options, message', [('configs/none.py', None, 'configs/none.py'),
                                                    (COCO_CONFIG, {'model.neck.in_channels.9': 1}, '--cfg-options')])
def test_bad_arguments_are_named(path, options, message):
    with pytest.raises(UserError, match=message):
        load_config(path, options)


def test_mmdet_datasets_stands_for_data_coco(monkeypatch):
    monkeypatch.setenv('MMDET_DATASETS', '/sets/coco2017')
    cfg = load_config(COCO_CONFIG)
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == '/sets/coco2017/'
    assert cfg.val_evaluator.ann_file == '/sets/coco2017/annotations/instances_val2017.json'
    assert load_config(str(SHAPES_CONFIG)).train_dataloader.dataset.data_root == 'data/shapes/'


def test_auto_scale_lr():
    cfg = load_config(COCO_CONFIG)
    enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    cfg.pop('auto_scale_lr')
    with pytest.raises(UserError, match='base_batch_size'):
        enable_auto_scale_lr(cfg)


def test_amp(monkeypatch):
    cfg = load_config(COCO_CONFIG)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='GPU'):
        enable_amp(cfg, 'float16')
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for dtype, scale in (('float16', 'dynamic'), ('bfloat16', dict(enabled=False)), ('float16', 'dynamic')):
        enable_amp(cfg, dtype)
        wrapper = cfg.optim_wrapper
        assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', dtype, scale)
        assert wrapper.optimizer.type == 'AdamW'
    cfg.optim_wrapper.loss_scale = 512.  # of the config's own
    enable_amp(cfg, 'float16')
    assert cfg.optim_wrapper.loss_scale == 512.
    enable_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper.loss_scale == dict(enabled=False)


def test_show_dir_is_meant_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(COCO_CONFIG)
    set_show_dir(cfg, 'pictures')
    hook = cfg.default_hooks.visualization
    assert hook.draw and hook.test_out_dir == str(tmp_path / 'pictures')
    hook.type = 'VisualizationHook'
    set_show_dir(cfg, 'pictures')
    assert hook.enable and hook.out_dir == str(tmp_path / 'pictures')
    cfg.default_hooks.pop('visualization')
    with pytest.raises(UserError, match='visualization'):
        set_show_dir(cfg, 'pictures')


def test_tta_of_a_detector():
    cfg = load_config(COCO_CONFIG)
    enable_tta(cfg)
    assert cfg.model.type == 'mmfasternet.InstanceTTAModel' and cfg.model.module.type == 'MaskRCNN'
    assert cfg.model.tta_cfg == dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    flips, pack = cfg.test_dataloader.dataset.pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0, 1] and 'flip_direction' in pack[0].meta_keys


def test_tta_keeps_what_the_config_packs():
    cfg = load_config(COCO_CONFIG)
    cfg.test_dataloader.dataset.pipeline[-1].meta_keys = ('img_id', 'border', 'flip')
    enable_tta(cfg)
    assert cfg.tta_pipeline[-1]['transforms'][1][0]['meta_keys'] == ('img_id', 'border', 'flip', 'flip_direction')


def test_tta_without_a_pipeline():
    cfg = load_config(COCO_CONFIG)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(UserError, match='ConcatDataset'):
        enable_tta(cfg)


def test_all_pipelines_name_broken_images():
    cfg = load_config(COCO_CONFIG)
    name_broken_images(cfg)
    for split in ('train', 'val', 'test'):
        first, *others = (t.type for t in cfg[f'{split}_dataloader'].dataset.pipeline)
        assert first == 'mmfasternet.LoadImageFromFile' and 'LoadImageFromFile' not in others
