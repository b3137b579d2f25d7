import json
import math
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import RECORDS, RecordFile, failures, read_records, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject, run_suite
from mmfasternet.benchmark.harness.timing import MAX_WARMUP, WARMUP_PATIENCE
from mmfasternet.errors import UserError
from tests.conftest import ROOT, environment, sleep_ms

CPU = torch.device('cpu')
SIZES = ((8, 8), )
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
        return Entry(self.name, Conditions(SIZES, **conditions), lambda: Subject(self))


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
    entry = Entry('a', Conditions(SIZES), lambda: Subject(lambda: None, lambda: {'first': 10., 'second': 20.}))
    record, = run_suite([entry], CPU, rounds=3)
    assert record.parts_ms == {'first': (10.,) * 3, 'second': (20.,) * 3} and record.runs == 3


def test_an_interrupted_suite_keeps_its_records_and_goes_on(tmp_path):
    calls = []
    third_round = BEFORE + 2 * 2 + 2
    with pytest.raises(KeyboardInterrupt, match='run the same command to continue'):
        run_suite([Sleeper('a', 0.001, calls).entry(), Sleeper('b', 0.001, calls, third_round).entry()], CPU, rounds=4,
                  out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS]
    kept = {row['name']: row['times_ms'] for row in map(json.loads, (tmp_path / RECORDS).read_text().splitlines())}
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
    assert records[2].sessions == ('moment 3', ) and 'in runs at different times' in runs_of(records)


def test_records_of_earlier_releases_are_read(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    content = json.loads((tmp_path / RECORDS).read_text())
    del content['sessions']
    (tmp_path / RECORDS).write_text(json.dumps(content))
    assert read_records(tmp_path)[0].sessions == ()
    records = run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=2, out=tmp_path)
    assert records[0].sessions[0] == 'unknown' and 'in 2 interleaved runs' in runs_of(records)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_batches_on_a_gpu_are_timed_in_a_row():
    device, x = torch.device('cuda:0'), torch.rand(64, 64, device='cuda')
    calls = []
    entries = [Entry(f'{size}', Conditions(SIZES, size), lambda size=size: Subject(lambda: calls.append((size, x @ x))))
               for size in (1, 32)]
    records = run_suite(entries, device, rounds=2)
    assert [record.runs for record in records] == [2, 2]
    assert [size for size, _ in calls[-2 * (1 + 1 + 1 + 10):]] == 2 * ([1] * 2 + [32] * 11)


def test_what_is_complete_is_not_even_built(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=2, out=tmp_path)
    record, = run_suite([Entry('a', Conditions(SIZES), lambda: pytest.fail('built'))], CPU, rounds=2, out=tmp_path)
    assert record.runs == 2


@pytest.mark.parametrize('rounds', [1, 2])
@pytest.mark.parametrize('conditions', [
    dict(batch_size=2), dict(dtype=torch.bfloat16), dict(form='deploy'), dict(weights='a.pth'), dict(images='b/')])
def test_records_of_other_conditions_are_not_taken_nor_continued(tmp_path, conditions, rounds):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    other = Sleeper('a', 0.001, [])
    with pytest.raises(UserError, match="'a' in .*records.jsonl.*other conditions"):
        run_suite([other.entry(**conditions)], CPU, rounds=rounds, out=tmp_path)
    assert other.count == 0


def test_a_spoilt_record_is_named(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    with (tmp_path / RECORDS).open('a') as file:
        file.write('{"median_ms": 3}\n')
    with pytest.raises(UserError, match='line 2 of .*records.jsonl'):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, out=tmp_path)


@pytest.mark.parametrize('options', [dict(rounds=0), dict(calls=0)])
def test_no_rounds(options):
    with pytest.raises(UserError, match=next(iter(options))):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, **options)


def test_no_images():
    with pytest.raises(UserError, match='batch size must be at least 1, got 0'):
        run_suite([Sleeper('a', 0.001, []).entry(batch_size=0)], CPU)


def test_a_name_is_there_once():
    with pytest.raises(UserError, match='names must be unique'):
        run_suite([Sleeper('a', 0.001, []).entry()] * 2, CPU)


def test_what_a_device_cannot_run_is_named_and_the_others_go_on(tmp_path):
    triton = pytest.importorskip('triton')
    def build():
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB.\nMore.')

    def call():
        raise RuntimeError('"conv" not implemented for \'Half\'\nMore.')

    def compile_():
        raise triton.errors.TritonError('out of resource: shared memory\nMore.')

    entries = [Sleeper('a', 0.001, []).entry(), Entry('large', Conditions(SIZES), build),
               Entry('half', Conditions(SIZES), lambda: Subject(call)),
               Entry('kernel', Conditions(SIZES), lambda: Subject(compile_)), Sleeper('b', 0.001, []).entry()]
    records = run_suite(entries, CPU, rounds=2, out=tmp_path)
    assert [record.runs for record in records] == [2, 0, 0, 0, 2]
    assert [record.error for record in records] == [None, 'out of memory', '"conv" not implemented for \'Half\'',
                                                    'out of resource: shared memory', None]
    assert math.isnan(records[1].median_ms) and math.isnan(records[1].images_per_second)
    kept = read_records(tmp_path)
    assert [record.name for record in kept] == ['a', 'large', 'half', 'kernel', 'b']
    assert failures(kept) == failures(records)
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

    records = run_suite([Entry('a', Conditions(SIZES), lambda: Subject(call)), Sleeper('b', 0.001, []).entry()], CPU,
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
    entry = Entry('a', Conditions(SIZES), build)
    record, = run_suite([entry], CPU, rounds=1, out=tmp_path)
    assert record.conditions.versions['timm'] == '1'
    monkeypatch.delitem(sys.modules, 'timm')
    library.__version__ = '2'
    with pytest.raises(UserError, match='other conditions'):
        run_suite([entry], CPU, rounds=2, out=tmp_path)


def test_calls_are_not_lost_when_an_entry_fails_later(tmp_path):
    run_suite([Sleeper('a', 0.001, []).entry(), Sleeper('b', 0.001, []).entry()], CPU, rounds=2, out=tmp_path)

    def build():
        raise UserError('the file is gone')

    records = run_suite([Entry('a', Conditions(SIZES), build), Sleeper('b', 0.001, []).entry()], CPU, rounds=3,
                        out=tmp_path)
    assert failures(records) == ['a was not measured: the file is gone'] and records[1].runs == 3
    kept = read_records(tmp_path)
    assert [record.runs for record in kept] == [2, 3] and failures(kept) == failures(records)
    assert math.isnan(kept[0].median_ms)
    again = run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=3, out=tmp_path)  # it is tried again
    assert (again[0].error, again[0].runs) == (None, 3) and again[0].times_ms[:2] == kept[0].times_ms


def test_records_of_another_model_are_not_taken(tmp_path):
    run_suite([Entry('matmul', Conditions(SIZES), lambda: Subject(lambda: None), 'forms', 'T0')], CPU, 1, out=tmp_path)
    other = Entry('matmul', Conditions(SIZES), lambda: pytest.fail('it is not built'), 'forms', 'T1')
    with pytest.raises(UserError, match="'matmul' in '.*' is of T0, not of T1: name another folder with --out"):
        run_suite([other], CPU, 1, out=tmp_path)


def test_records_of_an_early_release_are_named(tmp_path):
    (tmp_path / 'a.json').write_text('{"name": "a", "times_ms": [1.0]}')
    with pytest.raises(UserError, match='holds records of an earlier release, in one file each'):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    (tmp_path / 'a.json').write_text('{"copy, GB/s": 3}')
    assert run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)[0].runs == 1


def test_one_process_writes_at_a_time(tmp_path):
    with RecordFile(tmp_path).locked(), pytest.raises(UserError, match='another process is writing records to'):
        run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    assert run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)[0].runs == 1


@pytest.mark.parametrize('before, now, taken', [('1a', '1a', True), ('1a', '2b', False), (None, '2b', True),
                                                ('1a', None, True)])
def test_records_of_an_edited_config_are_not_taken(tmp_path, before, now, taken):
    """Those of early releases do not say which config they are of."""
    first, second = (Entry('a', Conditions(SIZES), lambda: Subject(lambda: None), digest=digest)
                     for digest in (before, now))
    run_suite([first], CPU, rounds=2, out=tmp_path)
    assert read_records(tmp_path)[0].digest == before
    if taken:
        assert run_suite([second], CPU, rounds=3, out=tmp_path)[0].runs == 3
        return
    with pytest.raises(UserError, match="'a' in .*is of another config named a, or of an earlier version of this "
                       'config: .*--out'):
        run_suite([second], CPU, rounds=3, out=tmp_path)


def test_records_of_other_names_stay(tmp_path):
    run_suite([Sleeper('b', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    records = run_suite([Sleeper('a', 0.001, []).entry()], CPU, rounds=1, out=tmp_path)
    assert [record.name for record in records] == ['a']
    assert [record.name for record in read_records(tmp_path)] == ['a', 'b']


def recompile_limit():
    config = torch._dynamo.config
    return config.recompile_limit if hasattr(config, 'recompile_limit') else config.cache_size_limit  # PyTorch 2.6


def test_dynamo_has_room_for_each_compiled_entry_and_size():
    limits = []
    entries = [Entry(f'{count}', Conditions(((8, 8), (8, 16))[:count], compiled=True),
                     lambda: Subject(lambda: limits.append(recompile_limit()))) for count in (1, 2)]
    before = recompile_limit()
    run_suite([*entries, Sleeper('eager', 0.001, []).entry()], CPU, rounds=1)
    assert set(limits) == {3 * 8} and recompile_limit() == before


def test_what_a_model_tells_of_itself_is_recorded(tmp_path):
    entry = Entry('a', Conditions(SIZES), lambda: Subject(lambda: None, operations=6, difference=0.5), 'kind', 'model')
    record, = run_suite([entry], CPU, rounds=1, out=tmp_path)
    assert (record.operations, record.difference, record.kind, record.model) == (6, 0.5, 'kind', 'model')
    assert read_records(tmp_path) == [record]


KILLED = """
import sys
import time
import torch
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.suite import Entry, Subject, run_suite
entries = [Entry(name, Conditions(((8, 8), )), lambda: Subject(lambda: time.sleep(1e-4))) for name in 'abcd']
run_suite(entries, torch.device('cpu'), rounds=100_000, out=sys.argv[1])
"""


@pytest.mark.slow
def test_a_suite_that_is_killed_leaves_a_sound_file_and_goes_on(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', KILLED, tmp_path], env=environment(PYTHONPATH=str(ROOT)))
    end = time.monotonic() + 120
    while time.monotonic() < end and sum(record.runs for record in read_records(tmp_path)) < 20:
        time.sleep(0.05)  # and each of these looks finds a sound file
    process.kill()
    process.wait()
    (tmp_path / f'.{RECORDS}.{process.pid}.unfinished').write_text('{"name": "a", "ti')  # killed as it was written
    kept = read_records(tmp_path)
    assert [record.name for record in kept] == list('abcd') and sum(record.runs for record in kept) >= 20
    rounds = kept[0].runs + 1
    records = run_suite([Sleeper(name, 1e-4, []).entry() for name in 'abcd'], CPU, rounds, out=tmp_path)
    assert all(record.times_ms[:before.runs] == before.times_ms for record, before in zip(records, kept))
    assert {record.runs for record in records} == {rounds}
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS]


def test_all_calls_of_a_round_have_the_same_input():
    seen, turns = [], iter(range(9))
    current = []
    subject = Subject(lambda: seen.append(current[-1]), lambda: seen.append(current[-1]) or {},
                      lambda: current.append(next(turns)))
    current.append('warm-up')
    run_suite([Entry('a', Conditions(SIZES), lambda: subject)], CPU, rounds=3, calls=2)
    assert seen[-12:] == [turn for turn in range(3) for _ in range(4)]
