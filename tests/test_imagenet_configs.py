"""The classifiers' configs against the paper's Table 6, and what they do when they run."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmfasternet.checkpoints import read_checkpoint
from tests.conftest import ROOT, build

# The supplement's Table 6: batch size, lr, weight decay, stochastic depth, RandAugment, Mixup alpha, gradient clipping.
TABLE_6 = dict(
    t0=(4096, 4e-3, 0.005, 0., None, 0.05, None), t1=(4096, 4e-3, 0.01, 0.02, 3, 0.1, None),
    t2=(4096, 4e-3, 0.02, 0.05, 5, 0.1, None), s=(4096, 4e-3, 0.03, 0.1, 7, 0.3, None),
    m=(2048, 2e-3, 0.05, 0.2, 7, 0.5, 1), l=(2048, 2e-3, 0.05, 0.3, 7, 0.7, 0.01))
NUM_GPUS = 8
T0 = ROOT / 'configs' / 'fasternet_t0_in1k.py'
ACTIVATIONS = dict(t0=nn.GELU, t1=nn.GELU, t2=nn.ReLU, s=nn.ReLU, m=nn.ReLU, l=nn.ReLU)


def config(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def in_list(transforms, kind):
    return [transform for transform in transforms if transform.type == kind]


@pytest.mark.parametrize('arch', list(TABLE_6))
def test_settings_are_table_6s(arch):
    batch_size, lr, weight_decay, drop_path_rate, magnitude, mixup, clipping = TABLE_6[arch]
    cfg = config(f'fasternet_{arch}_in1k')
    assert cfg.train_dataloader.batch_size * NUM_GPUS == cfg.auto_scale_lr.base_batch_size == batch_size
    assert not cfg.auto_scale_lr.get('enable')
    wrapper = cfg.optim_wrapper
    assert wrapper.type == 'AmpOptimWrapper' and 'paramwise_cfg' not in wrapper
    assert wrapper.optimizer == dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)
    assert wrapper.get('clip_grad') == (None if clipping is None else dict(max_norm=clipping))
    assert cfg.train_cfg.max_epochs == 300 and cfg.val_evaluator.topk == (1, 5)

    assert cfg.model.backbone.get('drop_path_rate', 0.) == drop_path_rate
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=mixup), dict(type='CutMix', alpha=1.0)]
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')

    (switch, ), = (hook.schedule for hook in cfg.custom_hooks)  # and no EMA
    assert switch.action_epoch == 281
    for pipeline, size in ((cfg.train_dataloader.dataset.pipeline, 192), (switch.train_pipeline, 224)):
        crop, = in_list(pipeline, 'RandomResizedCrop')
        assert (crop.scale, crop.interpolation, crop.backend) == (size, 'bicubic', 'pillow')
        flip, = in_list(pipeline, 'RandomFlip')
        assert flip.prob == 0.5 and flip.direction == 'horizontal'
        augment = in_list(pipeline, 'RandAugment')
        assert len(pipeline) == 4 + len(augment)  # no erasing, colour jitter, lighting
        if magnitude is None:
            assert not augment
        else:
            assert augment[0].magnitude_level == magnitude and augment[0].magnitude_std == 0.5
            assert augment[0].policies == 'timm_increasing' and augment[0].total_level == 10
    resize, = in_list(cfg.test_dataloader.dataset.pipeline, 'ResizeEdge')
    crop, = in_list(cfg.test_dataloader.dataset.pipeline, 'CenterCrop')
    assert crop.crop_size == 224 and resize.scale == int(224 / 0.9) and resize.interpolation == 'bicubic'


@pytest.mark.parametrize('arch', list(TABLE_6))
def test_activations_and_stochastic_depth(arch):
    cfg = config(f'fasternet_{arch}_in1k')
    model = build(cfg.model, 'mmpretrain')
    activations = [m for m in model.modules() if isinstance(m, (nn.GELU, nn.ReLU))]
    assert isinstance(model.head.act, ACTIVATIONS[arch]) and {type(m) for m in activations} == {ACTIVATIONS[arch]}
    rates = [block.drop_path.drop_prob for stage in model.backbone.stages for block in stage.blocks]
    assert rates[-1] == pytest.approx(TABLE_6[arch][3]) and rates[0] == 0


@pytest.mark.parametrize('arch', ['t0', 'l'])
def test_the_learning_rate_curve_is_the_papers(arch):
    """Linear from 1e-6 to the peak in 20 epochs, then a cosine to 1e-5 in 280; 10 iterations an epoch here."""
    cfg = config(f'fasternet_{arch}_in1k')
    peak = TABLE_6[arch][1]
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer),
                                             default_args=dict(epoch_length=10)) for scheduler in cfg.param_scheduler]
    curve = []
    for _ in range(3000):
        curve.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    half = 1e-5 + (peak - 1e-5) / 2
    expected = {0: 1e-6, 100: 1e-6 + (peak - 1e-6) / 2, 200: peak, 1600: half, 2300: 1e-5 + (peak - 1e-5) * 0.1464466,
                2999: 1e-5}
    for iteration, rate in expected.items():
        assert curve[iteration] == pytest.approx(rate, rel=6e-3), iteration


@pytest.fixture
def tree(tmp_path):
    """Two classes in the usual folder tree."""
    for split in ('train', 'val'):
        for name in ('n01440764', 'n01443537'):
            folder = tmp_path / 'imagenet' / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{index}.JPEG')
    return tmp_path / 'imagenet'


def options(tree):
    """Make it a config for small data, which switches to the last recipe in its second epoch."""
    classes = "('tench','goldfish')"
    return ['model.head.num_classes=2',
            'model.head.topk=1,', 'data_preprocessor.num_classes=2', 'train_cfg.max_epochs=2',
            'custom_hooks.0.schedule.0.action_epoch=2', 'default_hooks.logger.interval=1',
            *(f'{split}_evaluator.topk=1,' for split in ('val', 'test')),
            *(f'{split}_dataloader.dataset.{key}={value}' for split in ('train', 'val', 'test')
              for key, value in (('data_root', tree), ('metainfo.classes', classes))),
            *(f'{split}_dataloader.{key}={value}' for split in ('train', 'val', 'test')
              for key, value in (('batch_size', 4), ('num_workers', 1)))]


@pytest.fixture
def image_sizes(monkeypatch):
    """The sizes of the batches that a run trains on."""
    sizes = []
    original = Runner.call_hook

    def call_hook(self, name, **kwargs):
        if name == 'before_train_iter':
            sizes.append(tuple(kwargs['data_batch']['inputs'][0].shape[-2:]))
        return original(self, name, **kwargs)

    monkeypatch.setattr(Runner, 'call_hook', call_hook)
    return sizes


@pytest.mark.slow
def test_the_resolution_switches_and_stays_switched(run_tool, tree, image_sizes, tmp_path):
    arguments = [T0, '--work-dir', tmp_path / 'work']
    result = run_tool('train', *arguments, '--cfg-options', *options(tree))
    assert result.code == 0, result.err
    assert image_sizes == [(192, 192)] * 2 + [(224, 224)] * 2
    image_sizes.clear()
    result = run_tool('train', *arguments, '--resume', '--cfg-options', *options(tree), 'train_cfg.max_epochs=3')
    assert result.code == 0, result.err
    assert image_sizes == [(224, 224)] * 2
    assert read_checkpoint(str(tmp_path / 'work' / 'epoch_3.pth'))['meta']['epoch'] == 3


@pytest.mark.slow
def test_evaluation_and_prediction(run_tool, tree, tmp_path):
    run_tool('train', T0, '--work-dir', tmp_path / 'work', '--cfg-options', *options(tree))
    weights = tmp_path / 'work' / 'epoch_2.pth'
    result = run_tool('test', T0, weights, '--work-dir', tmp_path / 'work', '--cfg-options', *options(tree))
    assert result.code == 0 and re.search(r'accuracy/top1 +│ +\d', result.out), result.err


@pytest.mark.parametrize('spoil, problem', [
    (lambda tree: tree.rename(tree.parent / 'away'), "imagenet' of the train data does not exist. ImageNet holds"),
    (lambda tree: (tree / 'val').rename(tree / 'away'), "imagenet/val' of the val data does not exist"),
    (lambda tree: None, 'holds 2 class folders, but 1000 are expected. ImageNet holds train/CLASS'),
])
def test_a_tree_that_is_not_imagenets_is_one_line(run_tool, tree, tmp_path, spoil, problem):
    spoil(tree)
    roots = [f'{split}_dataloader.dataset.data_root={tree}' for split in ('train', 'val')]
    if 'val' in problem.split("'")[0]:
        roots += ["train_dataloader.dataset.metainfo.classes=('a','b')", 'model.head.num_classes=2']
    result = run_tool('train', T0, '--work-dir', tmp_path / 'work',
                      '--cfg-options', *roots)
    line = result.err.splitlines()[-1]
    assert result.code == 1 and line.startswith('error: ') and problem in line, result.err
    assert not (tmp_path / 'work').exists()


def test_a_head_for_another_number_of_classes_is_one_line(run_tool, tree, tmp_path):
    result = run_tool('train', T0, '--work-dir', tmp_path / 'work', '--cfg-options', *options(tree),
                      'model.head.num_classes=3')
    assert result.code == 1 and 'model.head.num_classes is 3, but the train data has 2 classes' in result.err


ABLATIONS = {
    'fasternet_t0_ratio-1-2_in1k': lambda block: block.pconv.conv_channels == 20,
    'fasternet_t0_ratio-1-8_in1k': lambda block: block.pconv.conv_channels == 5,
    'fasternet_t0_ln_in1k': lambda block: 'LayerNorm' in type(block.norm).__name__,
    'fasternet_t0_relu_in1k': lambda block: isinstance(block.act, nn.ReLU),
    'fasternet_t2_gelu_in1k': lambda block: isinstance(block.act, nn.GELU),
}


@pytest.mark.parametrize('name', list(ABLATIONS))
def test_ablations_of_table_5(name):
    cfg = config(f'ablation/{name}')
    model = build(cfg.model, 'mmpretrain')
    assert ABLATIONS[name](model.backbone.stages[0].blocks[0])
    assert type(model.head.act) is type(model.backbone.stages[0].blocks[0].act)
    assert cfg.optim_wrapper == config(f'fasternet_{name[10:12]}_in1k').optim_wrapper


def test_all_ablations_are_tested():
    assert {path.stem for path in (ROOT / 'configs' / 'ablation').glob('*.py')} == set(ABLATIONS)
