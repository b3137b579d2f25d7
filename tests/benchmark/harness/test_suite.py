import json
import math
import statistics
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmfasternet.benchmark.harness.suite import Conditions, Entry, Subject, read_record, run_suite
from mmfasternet.benchmark.harness.timing import MAX_WARMUP, WARMUP_PATIENCE, failures, make_record, runs_of
from mmfasternet.errors import UserError
from tests.conftest import sleep_ms

CPU = torch.device('cpu')
BEFORE = 1 + WARMUP_PATIENCE + 1  # calls before the first round: warm-up, and one for the memory


class Sleeper:
    """Sleeps, and writes down who was called; Ctrl-C comes at a given call."""

    def __init__(self, name, seconds, calls, interrupt_at=None):
        self.name, self.seconds, self.calls, self.interrupt_at = name, seconds, calls, interrupt_at
        self.count, self.slept = 0, []

    def __call__(self):
        self.count += 1
        if self.count == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append(self.name)
        self.slept.append(sleep_ms(self.seconds * 1e3))

    def entry(self, **conditions):
        return Entry(self.name, Conditions('8x8', **conditions), lambda: Subject(self))


def test_medians_are_right_and_calls_take_turns():
    calls = []
    sleepers = [Sleeper('a', 0.02, calls), Sleeper('b', 0.04, calls)]
    records = run_suite([sleeper.entry() for sleeper in sleepers], CPU, rounds=5, calls=2)
    assert [record.name for record in records] == ['a', 'b'] and [record.runs for record in records] == [10, 10]
    for record, sleeper in zip(records, sleepers):
        timed = [time for index, time in enumerate(sleeper.slept[-15:]) if index % 3]  # the first of a round is not
        assert record.median_ms == pytest.approx(statistics.median(timed), rel=0.05)
    assert ''.join(calls[-30:]) == 5 * 'aaabbb'


def test_parts_are_timed_between_the_calls():
    entry = Entry('a', Conditions('8x8'), lambda: Subject(lambda: None, lambda: {'first': 10., 'second': 20.}))
    record, = run_suite([entry], CPU, rounds=3)
    assert record.parts_ms == {'first': (10.,) * 3, 'second': (20.,) * 3} and record.runs == 3


def test_an_interrupted_suite_keeps_its_records_and_goes_on(tmp_path):
    calls = []
    third_round = BEFORE + 2 * 2 + 2
    with pytest.raises(KeyboardInterrupt, match='the same command goes on'):
        run_suite([Sleeper('a', 0.001, calls).entry(), Sleeper('b', 0.001, calls, third_round).entry()], CPU, rounds=4,
                  out=tmp_path)
    kept = {path.stem: json.loads(path.read_text())['times_ms'] for path in tmp_path.iterdir()}
    assert {name: len(times) for name, times in kept.items()} == {'a': 3, 'b': 2}

    calls.clear()
    records = run_suite([Sleeper('a', 0.001, calls).entry(), Sleeper('b', 0.001, calls).entry()], CPU, rounds=4,
                        out=tmp_path)
    assert [list(record.times_ms)[:len(kept[record.name])] for record in records] == [kept['a'], kept['b']]
    assert [record.runs for record in records] == [4, 4]
    assert ''.join(calls[2 * BEFORE - 2:]).endswith('aabbbb')  # one round of a, two of b


def test_reports_tell_when_calls_were_timed_apart(tmp_path, monkeypatch):
    entries = [Sleeper(name, 0.001, []).entry() for name in 'ab']
    moments = iter(range(1, 9))

    class Clock:

        @staticmethod
        def now(zone):
            return SimpleNamespace(isoformat=lambda timespec: f'moment {next(moments)}')

    monkeypatch.setattr('mmfasternet.benchmark.harness.suite.datetime', Clock)
    records = run_suite(entries, CPU, rounds=2, out=tmp_path)
    assert {record.sessions for record in records} == {('moment 1', )}
    assert runs_of(records) == 'medians of 2 calls in one interleaved run'
    records = run_suite(entries, CPU, rounds=3, out=tmp_path)
    assert runs_of(records) == 'medians of 3 calls in 2 interleaved runs'
    records = run_suite([*entries, Sleeper('c', 0.001, []).entry()], CPU, rounds=3, out=tmp_path)
    assert records[2].sessions == ('moment 3', ) and 'in runs of different times' in runs_of(records)


def test_records_of_earlier_releases_are_read(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    content = json.loads((tmp_path / 'a.json').read_text())
    del content['sessions']
    (tmp_path / 'a.json').write_text(json.dumps(content))
    assert read_record(tmp_path, 'a').sessions == ()
    records = run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=2, out=tmp_path)
    assert records[0].sessions[0] == 'unknown' and 'in 2 interleaved runs' in runs_of(records)


def test_parts_are_compared_with_the_whole_of_their_round():
    """Not their median with its: a machine that slows down slows both."""
    parts = {'first': (10., 20., 39.), 'second': (10., 20., 40.)}
    record = replace(make_record([], 'a', CPU, '8x8', 1), times_ms=(20., 20., 40., 40., 80., 80.), parts_ms=parts)
    assert record.parts_over_total == 1.
    assert math.isnan(make_record([0.1], 'a', CPU, '8x8', 1).parts_over_total)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_batches_on_a_gpu_are_timed_in_a_row():
    device, x = torch.device('cuda:0'), torch.rand(64, 64, device='cuda')
    calls = []
    entries = [Entry(f'{size}', Conditions('8x8', size), lambda size=size: Subject(lambda: calls.append((size, x @ x))))
               for size in (1, 32)]
    records = run_suite(entries, device, rounds=2)
    assert [record.runs for record in records] == [2, 2]
    assert [size for size, _ in calls[-2 * (1 + 1 + 1 + 10):]] == 2 * ([1] * 2 + [32] * 11)


def test_what_is_complete_is_not_even_built(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=2, out=tmp_path)
    record, = run_suite([Entry('a', Conditions('8x8'), lambda: pytest.fail('built'))], CPU, rounds=2, out=tmp_path)
    assert record.runs == 2


@pytest.mark.parametrize('rounds', [1, 2])
@pytest.mark.parametrize('conditions', [
    dict(batch_size=2), dict(dtype=torch.bfloat16), dict(form='deploy'), dict(weights='a.pth'), dict(images='b/')])
def test_records_of_other_conditions_are_not_taken_nor_continued(tmp_path, conditions, rounds):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    other = Sleeper('a', 0.001, [])
    with pytest.raises(UserError, match='a.json.*other conditions'):
        run_suite([other.entry(**conditions)], CPU, rounds=rounds, out=tmp_path)
    assert other.count == 0


def test_a_spoilt_record_is_named(tmp_path):
    (tmp_path / 'a.json').write_text('{"median_ms": 3}')
    with pytest.raises(UserError, match='a.json'):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, out=tmp_path)


@pytest.mark.parametrize('options', [dict(rounds=0), dict(calls=0)])
def test_no_rounds(options):
    with pytest.raises(UserError, match=next(iter(options))):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, **options)


def test_no_images():
    with pytest.raises(UserError, match='batch size must be at least 1, got 0'):
        run_suite([Sleeper('a', 0.001, []).entry(batch_size=0)], CPU)


def test_a_name_is_there_once():
    with pytest.raises(UserError, match='once'):
        run_suite([Sleeper('a', 0.001, []).entry()] * 2, CPU)


def test_what_a_device_cannot_run_is_left_out(tmp_path):
    def build():
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB.\nMore.')

    def call():
        raise RuntimeError('"conv" not implemented for \'Half\'\nMore.')

    entries = [Sleeper('a', 0.001, []).entry(), Entry('large', Conditions('8x8'), build),
               Entry('half', Conditions('8x8'), lambda: Subject(call)), Sleeper('b', 0.001, []).entry()]
    records = run_suite(entries, CPU, rounds=2, out=tmp_path)
    assert [record.runs for record in records] == [2, 0, 0, 2]
    assert [record.error for record in records] == [None, 'out of memory', '"conv" not implemented for \'Half\'', None]
    assert math.isnan(records[1].median_ms) and math.isnan(records[1].images_per_second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.json', 'b.json']
    assert failures(records)[0] == 'large was not measured: out of memory'
    with pytest.raises(UserError, match="'large' can't be measured: out of memory"):
        run_suite(entries[1:3], CPU)


def test_a_failure_between_the_calls_ends_one_entry_only():
    count = 0

    def call():
        nonlocal count
        count += 1
        if count > MAX_WARMUP + 5:
            raise RuntimeError('worn out')

    records = run_suite([Entry('a', Conditions('8x8'), lambda: Subject(call)), Sleeper('b', 0.001, []).entry()], CPU,
                        rounds=50)
    assert records[0].warmup > 1  # it was between the calls
    assert (records[0].error, records[0].runs, records[1].runs) == ('worn out', 0, 50)
    assert records[0].memory_mb is None


def test_libraries_that_come_with_a_model_are_conditions(tmp_path, monkeypatch):
    library = SimpleNamespace(__version__='1')

    def build():
        monkeypatch.setitem(sys.modules, 'timm', library)
        return Subject(lambda: None)

    monkeypatch.delitem(sys.modules, 'timm', raising=False)
    entry = Entry('a', Conditions('8x8'), build)
    record, = run_suite([entry], CPU, rounds=1, out=tmp_path)
    assert record.versions['timm'] == '1'
    monkeypatch.delitem(sys.modules, 'timm')
    library.__version__ = '2'
    with pytest.raises(UserError, match='other conditions'):
        run_suite([entry], CPU, rounds=2, out=tmp_path)


def test_all_calls_of_a_round_have_the_same_input():
    seen, turns = [], iter(range(9))
    current = []
    subject = Subject(lambda: seen.append(current[-1]), lambda: seen.append(current[-1]) or {},
                      lambda: current.append(next(turns)))
    current.append('warm-up')
    run_suite([Entry('a', Conditions('8x8'), lambda: subject)], CPU, rounds=3, calls=2)
    assert seen[-12:] == [turn for turn in range(3) for _ in range(4)]
