import pytest
import torch

from mmfasternet.benchmark.harness.gpu_work import gpu_work
from mmfasternet.benchmark.harness.machine import machine_facts

ON_GPU = torch.cuda.is_available()


def test_the_ceilings_of_a_machine():
    facts = machine_facts(torch.device('cuda:0' if ON_GPU else 'cpu'), small=True)
    kinds = ('matrix product', '3x3 convolution')
    types = ('float32', 'TF32', 'float16', 'bfloat16') if ON_GPU else ('float32', 'bfloat16')
    ceilings = [facts[f'{kind} in {dtype}, TFLOP/s'] for kind in kinds for dtype in types]
    assert all(value > 0 for value in [*ceilings, facts['copy, GB/s']]) and facts['torch'] == torch.__version__
    assert ('launch, us' in facts) == ON_GPU


@pytest.mark.skipif(not ON_GPU, reason='needs a GPU')
def test_kernels_of_a_call_are_counted():
    x = torch.rand(1 << 24, device='cuda')
    work = gpu_work(lambda: [x.add_(1), x.mul_(0.5), x.mul_(0.5)])
    assert work.kernels == 3 and len(work.longest) == 2 and 0 < work.busy_ms < 100
