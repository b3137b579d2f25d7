import statistics

import pytest
import torch

from mmfasternet.benchmark.harness.timing import MAX_WARMUP, WARMUP_PATIENCE, peak_memory, time_call, warm_up
from tests.conftest import sleep_ms

CPU = torch.device('cpu')


def test_a_call_of_a_known_duration():
    slept = []
    seconds = [time_call(lambda: slept.append(sleep_ms(50)), CPU) for _ in range(5)]
    assert statistics.median(seconds) * 1e3 == pytest.approx(statistics.median(slept), rel=0.05)
    slept.clear()
    mean = time_call(lambda: slept.append(sleep_ms(20)), CPU, 5)
    assert len(slept) == 5 and mean * 1e3 == pytest.approx(statistics.mean(slept), rel=0.05)


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
    work = lambda: [x @ x for _ in range(20)]  # noqa: E731
    seconds = statistics.median(time_call(work, device) for _ in range(5))
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(20):
        x @ x
    end.record()
    torch.cuda.synchronize()
    assert seconds * 1e3 == pytest.approx(start.elapsed_time(end), rel=0.2)
    assert peak_memory(work, device) == pytest.approx(20 * x.numel() * 4 / 1e6, rel=0.2)
