import signal
import sys

import pytest
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SubprocessContext, start_processes

from mmfasternet.cli.launch import noting_exit_codes
from mmfasternet.compat import exit_codes


@pytest.fixture(autouse=True)
def handlers():
    """torchrun's agent sets handlers for good: a pool that a later test forks would not end, for the one of SIGTERM."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


def start(*codes):
    """Processes that end by themselves, as torchrun's agent starts them."""
    return start_processes(
        'test', sys.executable, {i: ('-c', f'raise SystemExit({code})') for i, code in enumerate(codes)},
        {i: {} for i in range(len(codes))}, DefaultLogsSpecs())


def test_the_exit_codes_of_processes_are_noted():
    with noting_exit_codes() as codes:
        context = start(0, 0)
        assert exit_codes(context) == [None, None] and codes == []
        assert not context.wait(60).is_failed()
        assert codes == exit_codes(context) == [0, 0]


def test_torchruns_own_method_is_brought_back():
    before, own = SubprocessContext.close, 'close' in vars(SubprocessContext)
    with pytest.raises(KeyError), noting_exit_codes():
        with noting_exit_codes():
            pass
        assert SubprocessContext.close is not before
        raise KeyError
    assert SubprocessContext.close is before and ('close' in vars(SubprocessContext)) == own
