"""Training that stops in order when it is asked to."""

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
    """On SIGTERM, which schedulers send before they kill, saves after the iteration and stops.

    With several processes all of them stop after the same iteration, if one
    of them is asked to; they finish a validation first, and so does one
    process with an ``EMAHook``.
    """

    priority = 'LOWEST'

    _handling: Optional['StopHook'] = None  # the one that handles SIGTERM now

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
        if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
            _free_children()
            self._before = signal.signal(signal.SIGTERM, self._ask)
            StopHook._handling = self

    def after_train(self, runner: Runner) -> None:
        self.after_loop(runner)

    def after_loop(self, runner: Runner) -> None:
        """Put back what SIGTERM did before, also where the training has failed."""
        self._trains = False
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = StopHook._handling = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # After the last one there is nothing to go on with.
        if self._is_asked() and runner.iter + 1 < runner.max_iters:
            self._stop(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        if self._trains and self._is_asked():
            self._stop(runner, runner.iter)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # An EMA is in the place of the weights now; and processes may have different numbers of images.
        if self._trains and self._asked and get_world_size() == 1 and not any(
                isinstance(hook, EMAHook) for hook in runner.hooks):
            self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, iteration: int) -> None:
        path = save_stopped(runner, runner.epoch, iteration)
        raise TrainingStopped(f'stopped by SIGTERM after iteration {iteration} of {runner.max_iters}; {path} is saved. '
                              f'To go on: {how_to_resume()}')

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
    """Have SIGTERM do in forked processes what it did before: ``multiprocessing.Pool`` ends them by it, and waits."""
    def give_back() -> None:
        if StopHook._handling is not None:
            StopHook._handling.after_loop(None)

    os.register_at_fork(after_in_child=give_back)


def how_to_resume() -> str:
    """What to type to go on with the training that this command line started."""
    if 'WORLD_SIZE' in os.environ or 'SLURM_PROCID' in os.environ:
        return 'the same command with --resume'
    arguments: List[str] = []
    for argument in sys.argv[1:]:
        is_named_checkpoint = arguments[-1:] == ['--resume'] and not argument.startswith('-')
        if not is_named_checkpoint and not argument.startswith('--resume='):
            arguments.append(argument)
    return f'{program()} {shlex.join([*(argument for argument in arguments if argument != "--resume"), "--resume"])}'


def _shelter(inner: Optional[Callable[[int], None]], worker: int) -> None:
    """Have a data loader's worker follow its own process's SIGTERM only.

    Schedulers send theirs to all processes. A worker would end, and its
    process, which was about to save, with an error for that.
    """
    if inner is not None:
        inner(worker)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(), ), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
