from dataclasses import replace

import pytest
import torch

from mmfasternet.benchmark.complexity import count_multiply_adds
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord
from mmfasternet.benchmark.paper import TABLE_1, TABLE_1_SIZES
from mmfasternet.benchmark.subjects.operators import (
    FRAGMENTS,
    RATIOS,
    RULE_GROUPS,
    build_operator,
    least_access,
    operator_entries,
    operator_report,
    rule_layers,
    work_of,
)
from mmfasternet.errors import UserError

CPU = torch.device('cpu')
RECORD = LatencyRecord('', Conditions(((56, 56), )).on(CPU), times_ms=(2., ))


@pytest.mark.parametrize('index, size', enumerate(TABLE_1_SIZES))
@pytest.mark.parametrize('operator', list(TABLE_1))
def test_flops_are_table_1s(operator, index, size):
    work = work_of(operator, *size)
    assert work.multiply_adds / 1e6 == pytest.approx(TABLE_1[operator][index].flops, rel=5e-3)
    x = torch.rand(1, size[0], size[1], size[1])
    assert count_multiply_adds(build_operator(operator, *size).eval(), x) == work.multiply_adds


def test_memory_access_is_that_of_the_equations():
    conv, pconv, depthwise = (work_of(name, 96, 56) for name in ('Conv', 'PConv', 'DWConv'))
    assert conv.map_access == 10 * 56 * 56 * 2 * 96 and conv.weight_access == 10 * 9 * 96 * 96
    assert pconv.map_access * 4 == conv.map_access == depthwise.map_access
    assert pconv.multiply_adds * 16 == conv.multiply_adds
    assert depthwise.weight_access == 10 * 9 * 96
    assert conv.bytes(2, torch.float32) == 4 * (2 * conv.map_access + conv.weight_access)


def test_rules_of_shufflenet_v2():
    """Equal work, and the least access at equal channels, in one group and in one piece."""
    layers = rule_layers()
    for names, others in ((['rule 1'], RATIOS), (['rule 2'], RULE_GROUPS), (['1 fragment', 'series'], FRAGMENTS),
                          (['1 fragment', 'parallel'], FRAGMENTS)):
        works = [layer.work for name, layer in layers.items() if any(part in name for part in names)]
        adds = [work.multiply_adds for work in works]
        assert max(adds) / min(adds) < 1.03 and len(works) == len(others)
        access = [(work.map_access + work.weight_access) / least_access(work) for work in works]
        assert access[0] == pytest.approx(1) and access == sorted(access)
    alone, whole = (layers[f'rule 4, {name}'].work for name in ('convolutions alone', 'activations and shortcut'))
    assert alone.multiply_adds == whole.multiply_adds
    # Per pixel: 160, 64 and 160 channels of convolutions; twice 32, 32 and 128 of activations; three times 128.
    assert alone.map_access == 56**2 * 384 and whole.map_access == 56**2 * (384 + 384 + 384)


@pytest.mark.parametrize('name', list(rule_layers()))
def test_work_of_the_rules_layers_is_counted_right(name):
    layer = rule_layers()[name]
    model, x = layer.build().eval(), torch.rand(1, layer.inputs, 56, 56)
    assert count_multiply_adds(model, x) == layer.work.multiply_adds
    assert sum(p.numel() for p in model.parameters()) == layer.work.weight_access


def test_fragments_and_bottlenecks_compute_what_they_are_called():
    x = torch.rand(1, 64, 3, 3)
    series, parallel = (rule_layers()[f'rule 3, 4 in {how}'].build() for how in ('series', 'parallel'))
    torch.testing.assert_close(series(x), torch.nn.Sequential(*series.layers)(x))
    torch.testing.assert_close(parallel(x), sum(layer(x) for layer in parallel.layers))
    x = torch.randn(1, 128, 3, 3)
    for name, expected in (('shortcut', lambda f: f(x) + x), ('convolutions alone', lambda f: f(x))):
        block = rule_layers()[f'rule 4, {name}'].build()
        torch.testing.assert_close(block(x), expected(torch.nn.Sequential(*block.layers)))
    for name, shortcut in (('activations', 0), ('activations and shortcut', x)):
        block = rule_layers()[f'rule 4, {name}'].build()
        first, second, third = block.layers
        torch.testing.assert_close(block(x), (third(second(first(x).relu()).relu()) + shortcut).relu())


def test_report():
    records = [replace(RECORD, name=entry.name, model=entry.model) for entry in operator_entries(CPU)]
    report = operator_report(records)
    rows = report.tables[0].rows
    assert len(rows) == 16 and rows[0]['G/s'] == pytest.approx(2601.1 / 2, rel=1e-3)
    assert rows[0]['paper: CPU ms'] == 35.67 and 'Roofline' in report.plots
    assert {row['bound / ms'] > 0 for row in rows} == {True}
    with pytest.raises(UserError, match='needs a record of its yardstick, copy'):
        operator_report(records[:-1])
