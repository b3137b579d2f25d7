from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmfasternet.models import FasterNet

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
ALL = sorted(CONFIGS.glob('*.py'))
# Table 7, and where the paper has no detector the recipe of S.
TABLE_7 = {
    't0': dict(lr=2e-4, drop_path_rate=0.), 't1': dict(lr=2e-4, drop_path_rate=0.02),
    't2': dict(lr=2e-4, drop_path_rate=0.05), 's': dict(lr=2e-4, drop_path_rate=0.15),
    'm': dict(lr=1e-4, drop_path_rate=0.2), 'l': dict(lr=1e-4, drop_path_rate=0.3),
}
# Parameters of Mask R-CNN with FPN; Table 4 prints 49.0, 71.2 and 110.9 M.
PARAMETERS = dict(s=48989936, m=71228448, l=110866416)


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def coco_config(arch):
    return Config.fromfile(CONFIGS / f'mask_rcnn_fasternet_{arch}_1x_coco.py')


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
def test_every_config_builds(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    assert isinstance(model.backbone, FasterNet)
    height, width = 64, 96
    with torch.no_grad():
        if cfg.default_scope == 'mmpretrain':
            scores = model(torch.rand(1, 3, height, width))
            assert scores.shape == (1, cfg.model.head.num_classes)
            return
        maps = model.extract_feat(torch.rand(1, 3, height, width))
    strides = [2 + index for index in model.backbone.out_indices]
    assert [tuple(m.shape[2:]) for m in maps][:len(strides)] == [(height >> s, width >> s) for s in strides]


@pytest.mark.parametrize('path', sorted((CONFIGS / 'comparison').glob('*_coco.py')), ids=lambda p: p.stem)
def test_every_comparison_builds_with_weights_to_start_from(path):
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.init_cfg.checkpoint.startswith(('https://', 'torchvision://', 'open-mmlab://'))
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.rand(1, 3, 64, 128))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 64 >> s, 128 >> s) for s in (2, 3, 4, 5, 6)]
    assert path.read_text().count('\n') <= 20


@pytest.mark.parametrize('name', ['mask_rcnn_fasternet_{}_1x_coco', 'fasternet_{}_in1k'])
def test_all_six_variants_have_their_configs(name):
    assert {p.stem for p in ALL} >= {name.format(arch) for arch in FasterNet.arch_settings}


@pytest.mark.parametrize('arch', list(TABLE_7))
def test_table_7(arch):
    cfg = coco_config(arch)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', TABLE_7[arch]['lr'], 1e-4)
    assert 'momentum' not in optimizer
    assert cfg.optim_wrapper.type == 'OptimWrapper' and cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.optim_wrapper.get('paramwise_cfg') is None
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ('EpochBasedTrainLoop', 12)
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end, warmup.by_epoch) == ('LinearLR', 0, 500, False)
    assert (steps.type, steps.milestones, steps.gamma, steps.by_epoch) == ('MultiStepLR', [8, 11], 0.1, True)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16 and not cfg.auto_scale_lr.enable
    for split in ('train', 'val', 'test'):
        resize = [t for t in cfg[f'{split}_dataloader'].dataset.pipeline if t.type == 'Resize']
        assert len(resize) == 1 and sorted(resize[0].scale) == [800, 1333] and resize[0].keep_ratio
        assert cfg[f'{split}_dataloader'].dataset.type == 'CocoDataset'
    assert cfg.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/instances_val2017.json'
    assert cfg.test_evaluator.type == 'CocoMetric' and cfg.test_evaluator.metric == ['bbox', 'segm']

    backbone = cfg.model.backbone
    assert backbone.arch == arch and backbone.drop_path_rate == TABLE_7[arch]['drop_path_rate']
    assert backbone.init_cfg.type == 'Pretrained' and f'/fasternet_{arch}-' in backbone.init_cfg.checkpoint


@pytest.mark.parametrize('arch', list(TABLE_7))
def test_all_of_the_backbone_is_trained_with_its_norms(arch):
    model = MODELS.build(coco_config(arch).model).train()
    assert all(p.requires_grad for p in model.parameters())
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.training for m in norms)
    rates = [block.drop_path.drop_prob for stage in model.backbone.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(TABLE_7[arch]['drop_path_rate'])
    if arch in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


def test_the_learning_rate_curve_is_table_7s():
    """Over a small epoch of 1000 iterations: linear to 2e-4 in 500, then a tenth at epochs 8 and 11."""
    from mmengine.optim import LinearLR, MultiStepLR
    cfg = coco_config('s')
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    warmup_cfg, steps_cfg = (dict(s) for s in cfg.param_scheduler)
    for config in (warmup_cfg, steps_cfg):
        config.pop('type'), config.pop('_scope_', None)
    warmup, steps = LinearLR(optimizer, **warmup_cfg), MultiStepLR(optimizer, **steps_cfg)
    curve = []
    for _ in range(12):
        for _ in range(1000):
            curve.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            warmup.step()
        steps.step()
    expected = {0: 2e-7, 250: 1e-4, 500: 2e-4, 7999: 2e-4, 8000: 2e-5, 10999: 2e-5, 11000: 2e-6}
    assert {i: pytest.approx(curve[i], rel=5e-3) for i in expected} == expected
