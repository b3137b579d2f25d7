"""Stops a training cleanly on SIGTERM."""

import functools
import os
import shlex
import signal
import sys
import threading
from typing import Any, Callable, List, Optional

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmfasternet.calling import program
from mmfasternet.compat import built_loops
from mmfasternet.engine.loops import TrainingStopped
from mmfasternet.engine.saved_trainings import save_stopped
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class StopHook(Hook):
    """On SIGTERM, which schedulers send before they kill a job, saves a checkpoint after the iteration and stops.

    If one of several processes gets the signal, all stop after the same
    iteration; a running validation is finished first, also by a single process
    with an ``EMAHook``.
    """

    priority = 'LOWEST'

    _handling: Optional['StopHook'] = None  # the hook that currently handles SIGTERM

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None
        self._trains = False

    def before_run(self, runner: Runner) -> None:
        for loop in built_loops(runner):
            if isinstance(getattr(loop, 'dataloader', None), DataLoader):  # some have several
                loop.dataloader.worker_init_fn = functools.partial(_shelter, loop.dataloader.worker_init_fn)

    def before_train(self, runner: Runner) -> None:
        self._trains = True
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            _free_children()
            self._before = signal.signal(signal.SIGTERM, self._ask)
            StopHook._handling = self

    def after_train(self, runner: Runner) -> None:
        self.after_loop(runner)

    def after_loop(self, runner: Runner) -> None:
        """Restore the previous SIGTERM handler, also if the training has failed."""
        self._trains = False
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = StopHook._handling = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # After the last iteration there is nothing to resume.
        if self._is_asked() and runner.iter + 1 < runner.max_iters:
            self._stop(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        if self._trains and self._is_asked():
            self._stop(runner, runner.iter)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # The weights are currently swapped with an EMA, and processes may have different numbers of images.
        if self._trains and self._asked and get_world_size() == 1 and not any(
                isinstance(hook, EMAHook) for hook in runner.hooks):
            self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, iteration: int) -> None:
        path = save_stopped(runner, runner.epoch, iteration)
        raise TrainingStopped(f'stopped by SIGTERM after iteration {iteration} of {runner.max_iters}; {path} is saved. '
                              f'To continue: {how_to_resume()}')

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def _is_asked(self) -> bool:
        if get_world_size() == 1:
            return self._asked
        asked = torch.tensor(int(self._asked), device='cuda' if torch.cuda.is_available() else 'cpu')
        all_reduce(asked, 'max')
        return bool(asked)


@functools.lru_cache(None)
def _free_children() -> None:
    """Restore the previous SIGTERM handler in forked processes: ``multiprocessing.Pool`` ends them with SIGTERM."""
    def give_back() -> None:
        if StopHook._handling is not None:
            StopHook._handling.after_loop(None)

    os.register_at_fork(after_in_child=give_back)


def how_to_resume() -> str:
    """The command that resumes the training started by this command line."""
    if 'WORLD_SIZE' in os.environ or 'SLURM_PROCID' in os.environ:
        return 'the same command with --resume'
    arguments: List[str] = []
    for argument in sys.argv[1:]:
        is_named_checkpoint = arguments[-1:] == ['--resume'] and not argument.startswith('-')
        if not is_named_checkpoint and not argument.startswith('--resume='):
            arguments.append(argument)
    return f'{program()} {shlex.join([*(argument for argument in arguments if argument != "--resume"), "--resume"])}'


def _shelter(inner: Optional[Callable[[int], None]], worker: int) -> None:
    """Make a data loader worker follow only its own process's SIGTERM.

    Schedulers send SIGTERM to all processes. A worker would end, and its
    process would fail because of that instead of saving.
    """
    if inner is not None:
        inner(worker)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(), ), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
