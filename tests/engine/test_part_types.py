"""Types that the runner would build later are looked up before; those of good configs pass."""

import copy
from pathlib import Path

import mmdet
import mmpretrain
import pytest

from mmfasternet.engine.config import load_config
from mmfasternet.engine.part_types import check_types
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG

OURS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if path.parent.name != '_base_')
THEIRS = [Path(mmdet.__file__).parent / '.mim/configs' / name for name in (
    'albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py', 'yolox/yolox_s_8xb8-300e_coco.py',
    'dino/dino-4scale_r50_8xb2-12e_coco.py', 'simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-'
    'ssj-scp-90k_coco.py', 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py')] + [
        Path(mmpretrain.__file__).parent / '.mim/configs' / name for name in (
            'resnet/resnet50_8xb32_in1k.py', 'swin_transformer/swin-tiny_16xb64_in1k.py', 'simclr/simclr_resnet50_'
            '16xb256-coslr-200e_in1k.py', 'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py')]


def check(cfg, options=None):
    check_types(prepare(cfg, options or TrainOptions()), ('train', 'val') if options is None else ('test', ))


@pytest.mark.parametrize('path', [*OURS, *THEIRS], ids=lambda path: path.stem)
def test_types_of_good_configs_pass(path):
    cfg = load_config(str(path))
    check_types(cfg, [split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader')])


@pytest.mark.parametrize('key, value, near', [
    ('train_dataloader.dataset.type', 'CocoDataSet', 'CocoDataset'),
    ('train_dataloader.dataset.pipeline.2.type', 'Resise', 'Resize'),
    ('train_dataloader.sampler.type', 'DefaultSample', 'DefaultSampler'),
    ('train_dataloader.batch_sampler', dict(type='AspectRatioSampler'), 'AspectRatioBatchSampler'),
    ('val_dataloader.dataset.pipeline.0.type', 'LoadImageFromFiles', 'LoadImageFromFile'),
    ('val_evaluator.type', 'CocoMetrics', 'CocoMetric'),
    ('train_cfg.type', 'EpochTrainLoop', 'EpochBasedTrainLoop'), ('val_cfg.type', 'ValLop', 'ValLoop'),
    ('optim_wrapper.optimizer.type', 'AdamWW', 'AdamW'), ('optim_wrapper.type', 'AmpOptimWraper', 'AmpOptimWrapper'),
    ('optim_wrapper.constructor', 'DefaultOptimWrapperConstruktor', 'DefaultOptimWrapperConstructor'),
    ('param_scheduler.0.type', 'LinearLRR', 'LinearLR'),
    ('default_hooks.logger.type', 'LogerHook', 'LoggerHook'),
    ('custom_hooks', [dict(type='EMAHok')], 'EMAHook'),
    ('visualizer.type', 'DetLocalVisualiser', 'DetLocalVisualizer'),
    ('visualizer.vis_backends', [dict(type='LocalVisBackends')], 'LocalVisBackend'),
    ('log_processor.type', 'LogProzessor', 'LogProcessor'),
])
def test_a_misspelt_type(key, value, near):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError) as caught:
        check(cfg)
    line = str(caught.value)
    name = value if isinstance(value, str) else (value[0] if isinstance(value, list) else value)['type']
    assert f"is '{name}'" in line and near in line.partition('Similar names: ')[2] and '\n' not in line
    assert line.startswith(key.split('.')[0])


def test_a_part_that_is_not_used_is_not_looked_at():
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.test_evaluator = dict(cfg.test_evaluator, type='CocoMetrik')
    check(copy.deepcopy(cfg))
    with pytest.raises(UserError, match=r"^test_evaluator\.type is 'CocoMetrik'"):
        check(cfg, TestOptions('a.pth'))


@pytest.mark.parametrize('transform, line', [
    (dict(type='Resise'), r"^custom_hooks\[0\]\.switch_pipeline\[1\]\.type is 'Resise'"),
    (dict(type='Resize', scales=5), r'^custom_hooks\[0\]\.switch_pipeline\[1\]\.scales is not an argument of Resize'),
])
def test_pipelines_that_hooks_switch_to(transform, line):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.custom_hooks = [dict(type='mmdet.PipelineSwitchHook', switch_epoch=300, switch_pipeline=[
        dict(type='LoadImageFromFile'), transform])]
    with pytest.raises(UserError, match=line):
        check_types(cfg, ('train', 'val'))


@pytest.mark.parametrize('transform, place', [
    (dict(type='RandomChoice', transforms=[[dict(type='RandomFlip')], [dict(type='Nope')]]), 'transforms[1][0]'),
    (dict(type='RandomApply', transforms=dict(type='Nope')), 'transforms'),
    (dict(type='mmdet.MultiBranch', branch_field=['sup'], sup=[dict(type='Resize'), dict(type='Nope')]), 'sup[1]'),
    (dict(type='TestTimeAug', transforms=[[dict(type='RandomOrder', transforms=[dict(type='Nope')])]]),
     'transforms[0][0].transforms[0]'),
    (dict(type='RandomApply', _scope_='mmpretrain', transforms=[dict(type='PackInputs'), dict(type='PackDetInputs')]),
     'transforms[1]'),
])
def test_transforms_within_others(transform, place):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.train_dataloader.dataset.pipeline[2] = transform
    with pytest.raises(UserError) as caught:
        check_types(cfg, ('train', 'val'))
    assert str(caught.value).startswith(f'train_dataloader.dataset.pipeline[2].{place}.type is ')


@pytest.mark.parametrize('transform', [
    dict(type='Albu', transforms=[dict(type='ShiftScaleRotate')], bbox_params=dict(type='BboxParams')),
    dict(type='mmdet.AutoAugment', policies=[[dict(type='Rotate', prob=0.5)]]),
    dict(type='RandomApply', _scope_='mmpretrain', transforms=[dict(type='PackInputs')]),
    dict(type='RandomChoice', transforms=[[], [len]]),
])
def test_good_transforms_within_others_pass(transform):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.train_dataloader.dataset.pipeline[2] = transform
    check_types(cfg, ('train', 'val'))


def test_types_as_classes_and_import_paths(monkeypatch):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.optim_wrapper.optimizer.type = 'torch.optim.AdamW'
    cfg.val_evaluator.type = 'mmdet.evaluation.CocoMetric'
    cfg.default_hooks.logger = dict(type='LoggerHook', _scope_='mmengine')
    check(cfg)
    cfg.val_evaluator.type = 'mmdet.evaluation.CocoMetrik'
    with pytest.raises(UserError, match='CocoMetrik'):
        check(cfg)
