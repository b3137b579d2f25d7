import json
import statistics
import time

import pytest
import torch

from mmfasternet.benchmark import LatencyRecord, measure, measure_interleaved
from mmfasternet.benchmark.harness.timing import MAX_WARMUP, WARMUP_PATIENCE, peak_memory, warm_up
from tests.conftest import sleep_ms

CPU = torch.device('cpu')


def test_median_of_a_known_duration():
    calls = []

    def work():
        calls.append(sleep_ms(50 if len(calls) >= 2 else 200))

    record = measure(work, 'sleep', CPU, '8x16', batch_size=2, warmup=2, runs=11)
    assert len(calls) == 2 + 1 + 11  # one for the memory
    assert record.median_ms == pytest.approx(statistics.median(calls[3:]), rel=0.05)
    assert record.p10_ms <= record.median_ms <= record.p90_ms
    assert record.images_per_second == pytest.approx(2000 / record.median_ms)
    assert (record.batch_size, record.input_size, record.dtype, record.runs) == (2, '8x16', 'float32', 11)
    assert record.threads == torch.get_num_threads() and record.versions['torch'] == torch.__version__ and record.device
    assert str(record).startswith(f'sleep: {record.median_ms:.1f} ms') and 'batch 2, 8x16 pixels' in str(record)


def test_percentiles():
    record = measure(lambda: None, 'nothing', CPU, '-', runs=1)
    record = LatencyRecord(**{**vars(record), 'times_ms': tuple(range(1, 12))})
    assert (record.p10_ms, record.median_ms, record.p90_ms) == (2, 6, 10)


def test_a_record_survives_json():
    record = measure(lambda: None, 'nothing', CPU, '8x16', runs=3)
    record = LatencyRecord(**{**vars(record), 'parts_ms': {'backbone': (1., 2., 9.)}})
    content = json.loads(json.dumps(record.to_dict()))
    assert content['part_medians_ms'] == {'backbone': 2} and content['median_ms'] == record.median_ms
    assert LatencyRecord.from_dict(content) == record


def test_no_runs():
    with pytest.raises(ValueError, match='runs'):
        measure(time.sleep, 'sleep', CPU, '8x16', runs=0)


@pytest.mark.parametrize('durations, calls', [
    ([8, 6, 4, 2] + [2] * MAX_WARMUP, 4 + WARMUP_PATIENCE),
    ([8, 8, 8, 8] + [2] * MAX_WARMUP, 1 + WARMUP_PATIENCE),
    ([8, 7.9, 7.8, 7.7] + [2] * MAX_WARMUP, 1 + WARMUP_PATIENCE),
    ([0.9**call for call in range(MAX_WARMUP + 1)], MAX_WARMUP),
])
def test_warm_up_goes_on_while_it_gets_faster(monkeypatch, durations, calls):
    turns = iter(durations)
    monkeypatch.setattr('mmfasternet.benchmark.harness.timing.time_call', lambda function, device: next(turns))
    assert warm_up(lambda: None, CPU) == calls


def test_peak_memory_is_that_of_the_call():
    found = [peak_memory(lambda: torch.ones(50_000_000), CPU) for _ in range(5)]
    # The system may take other pages away meanwhile: the most is right, and none is far over it.
    assert None in found or 150 < max(found) < 250


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_is_waited_for():
    device = torch.device('cuda:0')
    x = torch.rand(4096, 4096, device=device)
    record = measure(lambda: [x @ x for _ in range(20)], 'products', device, '-', runs=5)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(20):
        x @ x
    end.record()
    torch.cuda.synchronize()
    assert record.median_ms == pytest.approx(start.elapsed_time(end), rel=0.2)
    assert record.memory_mb == pytest.approx(20 * x.numel() * 4 / 1e6, rel=0.2)


def test_interleaved_calls_take_turns():
    calls = []

    def work(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    first, second = measure_interleaved([lambda: work('a', 0.02), lambda: work('b', 0.04)], CPU, rounds=3, calls=2)
    assert ''.join(calls) == 'ab' + 3 * 'aaabbb'
    assert len(first) == len(second) == 6
    assert min(first) >= 0.02 and min(second) >= 0.04


@pytest.mark.parametrize('options', [dict(rounds=0), dict(calls=0)])
def test_no_interleaved_rounds(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        measure_interleaved([time.sleep], CPU, **options)
