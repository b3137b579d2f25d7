"""Learning rates of layers, in a detector and in a classifier."""

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build

OURS = 'mmfasternet.LayerDecayOptimWrapperConstructor'
MMPRETRAINS = 'mmpretrain.LearningRateDecayOptimWrapperConstructor'
#: The groups of T0, from the image on; its stages have 1, 2, 8 and 2 blocks.
T0 = [
    ['stages.0.downsample'],
    ['stages.0.blocks.0', 'norm0'],
    ['stages.1.downsample', 'stages.1.blocks.0'],
    ['stages.1.blocks.1', 'norm1'],
    ['stages.2.downsample', 'stages.2.blocks.0'],
    *([f'stages.2.blocks.{index}'] for index in range(1, 7)),
    ['stages.2.blocks.7', 'norm2'],
    ['stages.3.downsample', 'stages.3.blocks.0'],
    ['stages.3.blocks.1', 'norm3'],
    ['head'],
]


def expected_group(name):
    """The group of a backbone's parameter, or of another's, by the list above."""
    return next((index for index, modules in enumerate(T0) if f'{name}.'.startswith(tuple(f'{m}.' for m in modules))),
                len(T0) - 1)


def built(model, constructor, **paramwise_cfg):
    """Learning rates and weight decays by the names of parameters, in an optimizer of learning rate 1."""
    config = dict(
        type='OptimWrapper', constructor=constructor, paramwise_cfg=dict(layer_decay_rate=0.5, **paramwise_cfg),
        optimizer=dict(type='AdamW', lr=1., weight_decay=0.1))
    optimizer = build_optim_wrapper(model, config).optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[group['params'][0]]: (group['lr'], group['weight_decay']) for group in optimizer.param_groups}


@pytest.fixture(scope='module')
def classifier():
    return build(Config.fromfile(ROOT / 'configs' / 'fasternet_t0_in1k.py').model, 'mmpretrain')


def test_t0_has_fifteen_groups():
    backbone = FasterNet('t0')
    groups = {name: backbone.get_layer_depth(name) for name, _ in backbone.named_parameters()}
    assert len(T0) == 15 and {count for _, count in groups.values()} == {15}
    assert {name: index for name, (index, _) in groups.items()} == {name: expected_group(name) for name in groups}
    assert {index for index, _ in groups.values()} == set(range(14))
    assert backbone.get_layer_depth('backbone.stages.3.blocks.1.conv1.weight', 'backbone.') == (13, 15)
    for prefix in ('', 'backbone.'):
        assert backbone.get_layer_depth('neck.lateral_convs.0.conv.weight', prefix) == (14, 15)


@pytest.mark.parametrize('arch, out_indices, count', [
    ('s', (0, 1, 2, 3), 20), ('l', (0, 1, 2, 3), 30), ('t0', (1, 2), 13)])
def test_a_group_for_each_block_that_is_built(arch, out_indices, count):
    backbone = FasterNet(arch, out_indices=out_indices)
    groups = [backbone.get_layer_depth(name) for name, _ in backbone.named_parameters()]
    assert {index for index, _ in groups} == set(range(count - 1)) and {total for _, total in groups} == {count}


@pytest.mark.parametrize('constructor', [OURS, MMPRETRAINS])
def test_learning_rates_of_a_classifier(classifier, constructor):
    rates = built(classifier, constructor)
    assert rates.keys() == dict(classifier.named_parameters()).keys()
    for name, (rate, _) in rates.items():
        group = expected_group(name.removeprefix('backbone.')) if name.startswith('backbone.') else 14
        assert rate == 0.5**(14 - group), name


def test_learning_rates_of_a_detector():
    cfg = Config.fromfile(SHAPES_CONFIG)
    detector = build(cfg.model)
    rates = built(detector, OURS, norm_decay_mult=0., custom_keys={'rpn_head': dict(lr_mult=10.)})
    assert rates['backbone.stages.0.downsample.conv.weight'] == (0.5**14, 0.1)
    assert rates['backbone.norm2.weight'] == (0.5**3, 0.)  # MMEngine's own options hold beside
    assert rates['neck.lateral_convs.0.conv.weight'] == (1., 0.1)
    assert rates['rpn_head.rpn_cls.weight'] == (10., 0.1)


@pytest.mark.parametrize('rate', [None, 0, 1.5])
def test_a_rate_out_of_its_range_is_refused(classifier, rate):
    with pytest.raises(UserError, match=r'paramwise_cfg\.layer_decay_rate must lie in \(0, 1\], got'):
        build_optim_wrapper(classifier, dict(
            type='OptimWrapper', constructor=OURS, paramwise_cfg=dict(layer_decay_rate=rate, norm_decay_mult=0.),
            optimizer=dict(type='SGD', lr=1., weight_decay=0.)))


def test_a_backbone_without_groups_is_refused():
    with pytest.raises(UserError, match='needs a model whose backbone has get_layer_depth.*got Sequential with'):
        built(nn.Sequential(nn.Conv2d(3, 4, 1)), OURS)


def test_an_optimizer_without_a_learning_rate_is_refused(classifier):
    with pytest.raises(UserError, match=r'optim_wrapper\.optimizer\.lr must be set'):
        build_optim_wrapper(classifier, dict(type='OptimWrapper', constructor=OURS, optimizer=dict(type='AdamW'),
                                             paramwise_cfg=dict(layer_decay_rate=0.5)))
