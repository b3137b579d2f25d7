import time

import pytest
import torch

from mmfasternet.benchmark import measure


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
