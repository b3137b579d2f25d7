import json
import math
from dataclasses import replace

import pytest
import torch

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import RECORDS, LatencyRecord, RecordFile, Summary, read_records
from mmfasternet.benchmark.harness.suite import Entry, Subject, run_suite
from mmfasternet.errors import UserError
from tests.conftest import ROOT

CPU = torch.device('cpu')
RECORD = LatencyRecord('a', Conditions(((8, 16), ), 2).on(CPU), times_ms=tuple(range(1, 12)), warmup=3)


def test_percentiles_and_throughput():
    assert (RECORD.p10_ms, RECORD.median_ms, RECORD.p90_ms, RECORD.runs) == (2, 6, 10, 11)
    assert RECORD.images_per_second == pytest.approx(2000 / RECORD.median_ms)
    assert str(RECORD).startswith(f'a: {RECORD.median_ms:.1f} ms') and 'batch 2, 8x16 pixels' in str(RECORD)
    assert replace(RECORD, operations=12_000_000).gflops == 2 and RECORD.gflops is None


def test_a_record_survives_json(tmp_path):
    conditions = replace(RECORD.conditions, dtype=torch.bfloat16, tf32=('convolutions', ), compiled=True,
                         sizes=((8, 16), (16, 8)))
    record = replace(RECORD, conditions=conditions, parts_ms={'backbone': (1., 2., 9.)}, sessions=('now', ),
                     times_ms=(0.1, 1 / 3), operations=7, difference=1e-7)
    content = json.loads(json.dumps(record.to_dict()))
    assert content['part_medians_ms'] == {'backbone': 2} and content['median_ms'] == record.median_ms
    assert content['conditions']['dtype'] == 'bfloat16'
    assert LatencyRecord.from_dict(content) == record
    file = RecordFile(tmp_path)
    file.keep(record)
    assert read_records(tmp_path) == [record]


def test_a_summary_stands_for_calls_that_were_not_kept(tmp_path):
    record = replace(RECORD, times_ms=(), summary=Summary(3., 2., 5., 60))
    assert (record.median_ms, record.p10_ms, record.p90_ms, record.runs) == (3, 2, 5, 60)
    assert LatencyRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    RecordFile(tmp_path).keep(record)
    entry = Entry('a', Conditions(((8, 16), ), 2), lambda: pytest.fail('built'))
    assert run_suite([entry], CPU, 20, 3, tmp_path) == [record]
    with pytest.raises(UserError, match="can't be continued"):
        run_suite([replace(entry, build=lambda: Subject(lambda: None))], CPU, 21, 3, tmp_path)


def test_parts_are_compared_with_the_call_of_their_round():
    """Not their median with its: a machine that slows down slows both."""
    parts = {'first': (10., 20., 39.), 'second': (10., 20., 40.)}
    record = replace(RECORD, times_ms=(20., 20., 40., 40., 80., 80.), parts_ms=parts)
    assert record.parts_over_total == 1.
    assert math.isnan(RECORD.parts_over_total)


@pytest.mark.parametrize('line', ['{"name": "a"}', '{', '[]', '{"name": "a", "conditions": {}, "times_ms": []}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    RecordFile(tmp_path).keep(RECORD)
    with (tmp_path / RECORDS).open('a') as file:
        file.write(f'{line}\n')
    with pytest.raises(UserError, match='line 2 of .*records.jsonl'):
        read_records(tmp_path)


def test_kept_records_are_readable():
    """Those of this repository, in which names are there once."""
    files = list((ROOT / 'benchmarks').rglob(RECORDS))
    for file in files:
        records = read_records(file.parent)
        assert len({record.name for record in records}) == len(records) > 0
        assert all(record.runs and record.kind and record.model and record.error is None for record in records)
    assert len(files) >= 14
