import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from mmfasternet.engine import run_settings
from mmfasternet.engine.config import load_config
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from tests.conftest import ROOT, SHAPES_CONFIG

T0 = str(ROOT / 'configs' / 'fasternet_t0_in1k.py')


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(run_settings, 'print_log', lambda text, *args: texts.append(text))
    return texts


@pytest.mark.parametrize('options', [TrainOptions(), TestOptions('a.pth')])
def test_loaders_without_workers(options, warnings):
    given = dict(persistent_workers=True, prefetch_factor=2, timeout=5, multiprocessing_context='fork')
    data = torch.zeros(4, 1)
    for key, value in given.items():
        with pytest.raises((ValueError, AssertionError)):
            list(DataLoader(data, num_workers=0, **{key: value}))
    cfg = load_config(str(SHAPES_CONFIG))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(given, num_workers=0)
    cfg.val_dataloader.num_workers = 1
    prepared = prepare(cfg, options)
    for split in ('train', 'test'):
        left = {key: value for key, value in prepared[f'{split}_dataloader'].items() if key in given}
        list(DataLoader(data, num_workers=0, **left))
        assert not left
    assert {key: prepared.val_dataloader[key] for key in given} == given
    assert cfg.train_dataloader.persistent_workers  # the one that was given stays
    assert warnings == ['train_dataloader, test_dataloader: num_workers is 0, so persistent_workers and '
                        'prefetch_factor and multiprocessing_context and timeout is dropped']


def three_classes(**options):
    cfg = load_config(T0)
    cfg.model.head.num_classes = 3
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def test_topk_that_exist(warnings):
    cfg = prepare(three_classes(), TrainOptions())
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1, )
    assert 'topk' not in cfg.model.head  # it logs none
    assert warnings == ['val_evaluator, test_evaluator: topk is (1,) instead of (1, 5), because model.head.num_classes '
                        'is 3']
    assert prepare(load_config(T0), TrainOptions()).val_evaluator.topk == (1, 5)


def test_topk_of_all_that_take_it():
    several = [dict(type='mmpretrain.Accuracy', topk=(5, )), dict(type='Accuracy', topk=3),
               dict(type='SingleLabelMetric', items=('f1-score', ))]
    cfg = prepare(three_classes(test_evaluator=several, model__head__cal_acc=True), TestOptions('a.pth', tta=True))
    assert [metric.get('topk') for metric in cfg.test_evaluator] == [(1, ), 3, None]
    assert cfg.model.module.head.topk == (1, )  # its default is (1, 5)


def test_a_detector_has_none():
    cfg = load_config(str(SHAPES_CONFIG))
    before = Config(cfg.to_dict()).val_evaluator
    assert prepare(cfg, TrainOptions()).val_evaluator == dict(before, type='mmfasternet.CocoMetric')
