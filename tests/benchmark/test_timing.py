import time

import pytest
import torch

from mmfasternet.benchmark import measure, measure_interleaved


def test_median_of_a_known_duration():
    calls = []

    def work():
        calls.append(1)
        time.sleep(0.05 if len(calls) > 2 else 0.2)

    record = measure(work, 'sleep', torch.device('cpu'), '8x16', batch_size=2, warmup=2, runs=11)
    assert len(calls) == 13
    assert record.median_ms == pytest.approx(50, rel=0.05)
    assert record.p10_ms <= record.median_ms <= record.p90_ms
    assert (record.batch_size, record.input_size, record.dtype) == (2, '8x16', 'float32')
    assert record.threads == torch.get_num_threads() and record.versions['torch'] == torch.__version__ and record.device
    assert str(record).startswith('sleep: 5') and 'batch 2, 8x16 pixels' in str(record)


def test_no_runs():
    with pytest.raises(ValueError, match='runs'):
        measure(time.sleep, 'sleep', torch.device('cpu'), '8x16', runs=0)


def test_interleaved_calls_take_turns():
    calls = []

    def work(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    first, second = measure_interleaved([lambda: work('a', 0.02), lambda: work('b', 0.04)], torch.device('cpu'),
                                        rounds=3, calls=2)
    assert ''.join(calls) == 'ab' + 3 * 'aaabbb'
    assert len(first) == len(second) == 6
    assert sum(second) / sum(first) == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize('options', [dict(rounds=0), dict(calls=0)])
def test_no_interleaved_rounds(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        measure_interleaved([time.sleep], torch.device('cpu'), **options)
