import numpy as np
import pytest
import torch

from mmfasternet.benchmark.backbones.backbone_report import backbone_report, mean_curve
from mmfasternet.benchmark.backbones.trained import Trained
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord


def trained(name, seed, ap, seconds=60., device='one processor'):
    curves = {'loss': [(1, 2.), (2, 1. + seed)], 'coco/segm_mAP': [(2, ap)]}
    return Trained(name, seed, 'digest', 2, seconds, {'coco/segm_mAP': ap}, curves, device=device)


def latency(name, form, ms):
    conditions = Conditions(((8, 8), ), form=form).on(torch.device('cpu'))
    return LatencyRecord(f'{name}, {form}', conditions, 'detectors', name, times_ms=(ms, ms, 3 * ms))


def test_means_and_spreads():
    aps = {'a': (.4, .5, .45), 'b': (.2, .3, .4)}
    runs = [trained(name, seed, ap, 60. * (seed + 1)) for name, each in aps.items() for seed, ap in enumerate(each)]
    latencies = [latency('a', 'eager', 10.), latency('a', 'deploy', 5.), latency('b', 'eager', 20.)]
    report = backbone_report(runs, latencies, {'a': 3_000_000, 'b': 4_000_000})
    rows = {row['config']: row for row in report.tables[0].rows}
    for name, each in aps.items():
        assert rows[name]['mask AP'] == pytest.approx(np.mean(each))
        assert rows[name]['± mask AP'] == pytest.approx(np.std(each, ddof=1))
        assert rows[name]['training (min)'] == pytest.approx(2) and rows[name]['seeds'] == 3
    assert (rows['a']['eager (ms)'], rows['a']['deploy (ms)'], rows['b']['eager (ms)']) == (10, 5, 20)
    assert 'box AP' not in report.tables[0].columns
    assert set(report.plots) == {'Accuracy and latency', 'loss over iterations', 'mask AP over iterations'}


def test_times_of_training_are_of_one_machine():
    runs = [trained('a', 0, .4), trained('a', 1, .5, 600., 'another'), trained('b', 0, .4, 600., 'another')]
    report = backbone_report(runs, [], {'a': 1, 'b': 1})
    assert report.tables[0].rows[0]['training (min)'] == 1 and 'on one processor' in report.notes[0]
    assert 'training (min)' not in report.tables[0].rows[1] and report.tables[0].markdown().endswith('| - |\n')


def test_one_seed_has_no_spread():
    report = backbone_report([trained('a', 0, .4)], [], {'a': 1})
    assert '| a | 0.0 | 1 | 0.400 | - |' in report.tables[0].markdown()


@pytest.mark.parametrize('given, headings', [
    (('lvis/bbox_AP', 'lvis/bbox_AP50', 'lvis/segm_AP'), ['box AP', 'mask AP']),
    (('pascal_voc/mAP', 'pascal_voc/AP50'), ['mAP', 'AP50']),
])
def test_metrics_of_other_evaluators(given, headings):
    metrics = {name: .1 * (at + 1) for at, name in enumerate(given)}
    run = Trained('a', 0, 'digest', 2, 1., metrics, {name: [(2, value)] for name, value in metrics.items()})
    report = backbone_report([run], [latency('a', 'eager', 10.)], {'a': 1})
    columns = [name for name in report.tables[0].columns if f'± {name}' in report.tables[0].columns]
    assert columns == headings and 'Accuracy and latency' in report.plots


def test_the_mean_of_curves():
    assert mean_curve([[(1, 1.), (2, 3.)], [(2, 5.), (3, 9.)]]) == [(2, 4.)] and mean_curve([]) == []
