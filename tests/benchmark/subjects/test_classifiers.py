import copy
from dataclasses import replace

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.paper import TABLE_3
from mmfasternet.benchmark.subjects.classifiers import (
    _front,
    build_folded,
    classifier_entry,
    classifier_report,
    count_as_table_3,
)
from mmfasternet.benchmark.subjects.cycle_mlp import CycleFC
from mmfasternet.benchmark.subjects.networks import NETWORKS, Network, find_network
from mmfasternet.errors import UserError
from tests.conftest import randomize_norms

CPU = torch.device('cpu')
# Millions of parameters of the others: those that their authors print.
COMPACT = {'MobileNetV1': 4.2, 'ShuffleNetV1': 1.9, 'MobileNetV3-S': 2.5, 'MobileNetV3-L': 5.5, 'GhostNet': 5.2,
           'EfficientNet-B0': 5.3, 'EfficientNet-B1': 7.8, 'EfficientNet-B2': 9.1, 'EfficientNet-B3': 12.2}


MORE = {'CycleMLP-B1': 0.02}  # 2.13 here, 2.10 in the table; B2 agrees


@pytest.mark.slow
@pytest.mark.parametrize('name', list(TABLE_3))
def test_table_3(name):
    counted, published = count_as_table_3(NETWORKS[name]), TABLE_3[name]
    assert counted.parameters / 1e6 == pytest.approx(published.parameters, abs=0.1)
    tolerance = 0.01 + 0.005 * published.flops + MORE.get(name, 0)
    assert counted.multiply_adds / 1e9 == pytest.approx(published.flops, abs=tolerance)
    assert NETWORKS[name].accuracy == published.accuracy


@pytest.mark.parametrize('name', list(COMPACT))
def test_compact_networks(name):
    assert count_as_table_3(NETWORKS[name]).parameters / 1e6 == pytest.approx(COMPACT[name], abs=0.06)


@pytest.mark.parametrize('name', ['GhostNet', 'MobileNetV1', 'EfficientNet-B0', 'MobileViT-XXS', 'ResNet50',
                                  'FasterNet-T0', 'ShuffleNetV1'])
def test_folding_is_exact_and_complete(name):
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.build()
    model.eval()
    randomize_norms(model)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        built = type(network)(name, network.family, lambda: model, network.size, None)
        folded = build_folded(built)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())


def test_networks_are_built_in_whatever_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert NETWORKS['ResNet50'].build() and NETWORKS['FasterNet-T0'].build()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('deploy', [False, True])
def test_fasternet_in_half_types(dtype, deploy):
    torch.manual_seed(0)
    network = NETWORKS['FasterNet-T0']
    model = network.build()
    built = type(network)('FasterNet-T0', 'FasterNet', lambda: copy.deepcopy(model), 64, None)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = build_folded(built)(images), build_folded(built, deploy, dtype)(images.to(dtype)).float()
    assert 0 < (actual - expected).norm() / expected.norm() < 3e-2


def test_a_cycle_is_a_shift_of_each_channel():
    """CycleFC, a deformable convolution as published, against rolled channels in the middle of the map."""
    torch.manual_seed(0)
    layer, x = CycleFC(8, (1, 3)), torch.randn(1, 8, 7, 9)
    shifted = torch.stack([torch.roll(x[0, c], -((c + 1) % 3 - 1), 1) for c in range(8)])
    expected = torch.einsum('oc,chw->ohw', layer.conv.weight[:, :, 0, 0], shifted) + layer.conv.bias[:, None, None]
    torch.testing.assert_close(layer(x)[0, :, :, 1:-1], expected[:, :, 1:-1])


def test_ours_is_timms():
    ours, theirs = NETWORKS['FasterNet-T0'].build(), timm.create_model('fasternet_t0')
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_report_has_the_paper_beside():
    networks = [NETWORKS['FasterNet-T0'], NETWORKS['MobileNetV1']]
    records = {1: run_suite([classifier_entry(n, CPU) for n in networks], CPU, rounds=1)}
    report = classifier_report(networks, records)
    first, second = report.tables[0].rows
    assert first['paper: CPU ms'] == 8.2 and 'paper: CPU ms' not in second
    record = records[1][0]
    assert first['G/s, batch 1'] == pytest.approx(335422720 / record.median_ms / 1e6)
    assert len(report.plots) == 4


def test_report_of_a_network_of_timm_has_no_accuracy_and_no_paper():
    networks = [find_network(name) for name in ('FasterNet-T0', 'timm:test_convnext', 'timm:resnet18')]
    records = {1: run_suite([classifier_entry(n, CPU) for n in networks], CPU, rounds=1)}
    report = classifier_report(networks, records)
    row = report.tables[0].rows[1]
    assert (row['network'], row['pixels'], row['top-1 (%)']) == ('timm:test_convnext', 160, None)
    assert row['parameters (M)'] == pytest.approx(
        sum(p.numel() for p in timm.create_model('test_convnext').parameters()) / 1e6)
    assert row['FLOPs (G)'] > 0 and row['ms, batch 1'] > 0 and 'paper: CPU ms' not in row
    assert report.tables[0].rows[2]['top-1 (%)'] == 72.12
    source, = (note for note in report.notes if note.startswith('Accuracy of '))
    assert source.startswith('Accuracy of timm:resnet18: Deep Residual Learning')


def test_report_of_a_network_that_can_not_be_built():
    def fail():
        raise UserError('timm is not installed')

    networks = [NETWORKS['FasterNet-T0'], Network('gone', 'gone', fail, 224, 70.)]
    given = Conditions(((224, 224), ), device='cpu')
    records = [LatencyRecord('FasterNet-T0', given, times_ms=(2., )),
               LatencyRecord('gone', given, error='timm is not installed')]
    report = classifier_report(networks, {1: records})
    first, second = report.tables[0].cells()
    assert first['ms, batch 1'] == '2.00' and second['ms, batch 1'] == second['parameters (M)'] == '-'
    assert 'Batch 1: gone was not measured: timm is not installed' in report.notes


def test_the_front_has_what_nothing_beats():
    networks = [Network(name, 'a', lambda: None, 224, accuracy)
                for name, accuracy in (('slow', 70.), ('fast', 60.), ('beaten', 59.), ('best', 71.), ('failed', 99.))]
    conditions = Conditions(((224, 224), )).on(CPU)
    records = [LatencyRecord(network.name, conditions, times_ms=(seconds * 1e3, ))
               for network, seconds in zip(networks, (2., 1., 1.5, 3., 1.))]
    records[-1] = replace(records[-1], times_ms=(), error='out of memory')
    report = classifier_report([NETWORKS['FasterNet-T0']], {1: [replace(records[0], name='FasterNet-T0')]})
    assert 'Batch 1: no other network is both as accurate and as fast as each of FasterNet-T0.' in report.notes
    assert _front(networks, records) == ['fast', 'slow', 'best']
