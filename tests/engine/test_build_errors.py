"""What libraries refuse in a config is one line that names the key; what is no refusal keeps its traceback."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmfasternet.engine import build_errors
from mmfasternet.engine.build_errors import named_build_errors
from mmfasternet.engine.building import build_unloaded
from mmfasternet.engine.config import load_config
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG

T0 = str(ROOT / 'configs' / 'fasternet_t0_in1k.py')


def refusal(changes, path=str(SHAPES_CONFIG)):
    cfg = load_config(path)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(UserError) as caught:
        build_unloaded(cfg)
    assert '\n' not in str(caught.value) and caught.value.__cause__ is not None
    return str(caught.value)


@pytest.mark.parametrize('key, value, near', [
    ('type', 'MaskRCN', 'MaskRCNN'), ('backbone.type', 'FasterNet', 'mmfasternet.FasterNet'),
    ('backbone.type', 'mmfasternet.FasterNt', 'mmfasternet.FasterNet'), ('backbone.act_cfg.type', 'Gelu', 'GELU'),
    ('neck.norm_cfg.type', 'SyncBm', 'SyncBN'), ('backbone.norm_cfg.type', 'SyncBm', 'SyncBN'),
    ('roi_head.bbox_head.loss_cls.type', 'FocalLos', 'FocalLoss'),
    ('rpn_head.anchor_generator.type', 'AnchorGen', 'AnchorGenerator'),
    ('train_cfg.rcnn.sampler.type', 'RandSampler', 'RandomSampler'),  # which the RoI head gets
])
def test_a_misspelt_type(key, value, near):
    line = refusal({key: value})
    assert line.startswith(f"model.{key} is '{value}', which is not a registered ")
    assert near in line.partition('Similar names: ')[2]


def test_a_type_that_is_near_none():
    assert refusal({'backbone.type': 'Zzzzzz'}).endswith('import its module with custom_imports')


@pytest.mark.parametrize('key, near', [
    ('backbone.archh', 'arch'), ('neck.norm_cfg.epss', 'eps'), ('roi_head.bbox_head.in_channel', 'in_channels'),
    ('rpn_head.anchor_generator.scale', 'scales'), ('data_preprocessor.means', 'mean'),
    ('neck.inn_channels', 'in_channels'),
])
def test_an_unknown_key(key, near):
    line = refusal({key: 1})
    assert line.startswith(f'model.{key} is not an argument of ') and near in line.partition('Similar names: ')[2]


@pytest.mark.parametrize('changes, start', [
    ({'backbone.norm_cfg': dict(type='GN', num_groups=32)},
     'model.backbone.norm_cfg.num_groups is 32, which does not divide 40 channels: these can have 1, 2, 4, 5, 8, 10, '),
    ({'neck.norm_cfg': dict(type='GN', num_groups=7)}, 'model.neck.norm_cfg.num_groups: num_channels'),
    ({'backbone.arch': 't9'}, "model.backbone.arch must be one of ['t0', "),
    ({'backbone.out_indices': (3, 2)}, 'model.backbone.out_indices must be increasing'),
    ({'backbone.act_cfg': 'ReLU'}, "model.backbone.act_cfg must be a dict with a type, got 'ReLU'"),
    ({'neck': 'FPN'}, "model.neck must be a dict with a type, got 'FPN'"),
    ({'roi_head.bbox_head': 2}, 'model.roi_head.bbox_head must be a dict with a type, got 2'),
    ({'neck.num_outs': 2}, 'model.neck (FPN): assert num_outs >= '),  # it says no more
    ({'neck.out_channels': -1}, 'model.neck (FPN): Trying to create tensor with negative dimension -1'),
    ({'data_preprocessor.mean': [1., 2.]}, 'model.data_preprocessor (DetDataPreprocessor): `mean` should have 1 or 3'),
])
def test_a_refused_value(changes, start):
    assert refusal(changes).startswith(start)


def test_a_classifiers_head():
    assert refusal({'head.hidden_channels': 0}, T0).startswith('model.head.hidden_channels must be positive, got 0')
    cfg = load_config(T0)
    del cfg.model.head.in_channels
    with pytest.raises(UserError, match=r"^model\.head lacks 'in_channels', which mmfasternet\.FasterNetHead needs$"):
        build_unloaded(cfg)


def test_the_key_is_the_configs_own_where_parts_are_alike():
    """Both heads have the same loss_bbox; the second is the one that can't be built."""
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.model.rpn_head.loss_bbox = dict(type='L1Loss', loss_weight=1.)
    cfg.model.roi_head.bbox_head.loss_bbox = dict(type='L1Loss', loss_weight=1., beta=1)
    with pytest.raises(UserError, match=r'^model\.roi_head\.bbox_head\.loss_bbox\.beta is not an argument of L1Loss'):
        build_unloaded(cfg)


class _Faulty(nn.Module):

    def __init__(self, **kwargs):
        super().__init__()
        {}['gone']


def test_a_fault_in_your_own_module_keeps_its_traceback():
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.model.backbone = dict(type='mmfasternet.FaultyBackbone')
    MODELS.children['mmfasternet'].register_module('FaultyBackbone', module=_Faulty)
    try:
        with pytest.raises(KeyError, match='gone'):
            build_unloaded(cfg)
    finally:
        del MODELS.children['mmfasternet'].module_dict['FaultyBackbone']


class _WithAFault(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, None, 3)


class _Popping(nn.Module):

    def __init__(self, inner):
        super().__init__()
        inner.pop('extra')
        self.inner = MODELS.build(inner)


@pytest.fixture
def register():
    names = []

    def add(module):
        MODELS.children['mmfasternet'].register_module(module.__name__, module=module)
        names.append(module.__name__)
        return f'mmfasternet.{module.__name__}'

    yield add
    for name in names:
        del MODELS.children['mmfasternet'].module_dict[name]


def test_a_fault_of_your_own_that_a_library_finds_keeps_its_traceback(register):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.model.backbone = dict(type=register(_WithAFault))
    with pytest.raises(TypeError):
        build_unloaded(cfg)


class _OutOfMemory(nn.Module):

    def __init__(self):
        raise torch.OutOfMemoryError('CUDA out of memory')


def test_what_is_of_the_machine_keeps_its_traceback(register, monkeypatch):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.model.backbone = dict(type=register(_OutOfMemory))
    monkeypatch.setattr(build_errors, '_NO_OWN', {*build_errors._NO_OWN, 'tests'})  # as if a library had raised it
    with pytest.raises(torch.OutOfMemoryError):
        build_unloaded(cfg)


def test_a_part_that_loses_keys_while_it_is_built(register):
    inner = dict(type='RPNHead', extra=1, feat_channels=2)
    line = refusal({'backbone': dict(_delete_=True, type=register(_Popping), inner=inner)})
    assert line == "model.backbone.inner lacks 'in_channels', which RPNHead needs"


def test_errors_outside_of_a_build_stay():
    with pytest.raises(KeyError), named_build_errors(load_config(T0)):
        raise KeyError('X is not in the mmdet::model registry')
