import multiprocessing
import signal
import sys
import threading
import time

import pytest

from mmfasternet.engine.hooks.stop import StopHook, how_to_resume


def wait_for_sigterm(started):
    started.set()
    time.sleep(600)


@pytest.mark.parametrize('in_thread', [False, True])
def test_sigterm_ends_processes_that_a_training_forks(in_thread):
    """Those of multiprocessing.Pool, as of evaluators with use_mp_eval, are ended by it: else it waits for ever."""
    context, before = multiprocessing.get_context('fork'), signal.getsignal(signal.SIGTERM)
    started, hook = context.Event(), StopHook()
    process = context.Process(target=wait_for_sigterm, args=(started, ))
    hook.before_train(None)
    try:
        if in_thread:
            thread = threading.Thread(target=process.start)
            thread.start()
            thread.join()
        else:
            process.start()
        assert started.wait(60)
        process.terminate()
        process.join(60)
        assert process.exitcode == -signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == hook._ask  # of the training itself
    finally:
        process.kill()
        hook.after_loop(None)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('given', [[], ['--resume'], ['--resume', 'a b.pth'], ['--resume=a.pth']])
def test_the_command_to_go_on_with(monkeypatch, given):
    for variable in ('WORLD_SIZE', 'SLURM_PROCID'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'my config.py', *given, '--amp'])
    assert how_to_resume() == "python tools/train.py 'my config.py' --amp --resume"
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmfasternet', 'train', 'my config.py', *given, '--amp'])
    assert how_to_resume() == "mmfasternet train 'my config.py' --amp --resume"
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert how_to_resume() == 'the same command with --resume'
