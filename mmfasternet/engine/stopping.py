"""Training that stops in order when it is asked to."""

import os
import shlex
import signal
import sys
import threading
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.engine.saving import save_stopped


class TrainingStopped(Exception):
    """The training was asked to stop, and its state is saved; the text says so and how to go on."""


class StopHook(Hook):
    """On SIGTERM, which schedulers send before they kill, saves after the iteration and stops.

    With several processes all of them stop after the same iteration, if one
    of them is asked to.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def before_train(self, runner: Runner) -> None:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def after_train(self, runner: Runner) -> None:
        self.release()

    def release(self) -> None:
        """Put back what SIGTERM did before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # After the last one there is nothing to go on with.
        if self._is_asked() and runner.iter + 1 < runner.max_iters:
            path = save_stopped(runner, runner.epoch, runner.iter + 1)
            raise TrainingStopped(f'stopped by SIGTERM after iteration {runner.iter + 1} of {runner.max_iters}; {path} '
                                  f'is saved. To go on: {how_to_resume()}')

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def _is_asked(self) -> bool:
        if get_world_size() == 1:
            return self._asked
        asked = torch.tensor(int(self._asked), device='cuda' if torch.cuda.is_available() else 'cpu')
        all_reduce(asked, 'max')
        return bool(asked)


def how_to_resume() -> str:
    """What to type to go on with the training that this command line started."""
    arguments = [argument for argument in sys.argv if argument.split('=')[0] != '--resume']
    if 'WORLD_SIZE' not in os.environ and 'SLURM_PROCID' not in os.environ:
        return f'python {shlex.join([*arguments, "--resume"])}'
    return 'the same command with --resume'
