"""Stops a training after a number of iterations of a longer schedule."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.engine.loops import TrainingStopped
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class StopAfterHook(Hook):
    """Ends a training after a number of iterations, without saving its state.

    MMEngine's loops end only with an epoch, and a shorter schedule would be a
    different training.

    Args:
        iterations: Number of iterations.
    """

    priority = 'LOWEST'

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 >= self.iterations:
            raise TrainingStopped(f'stopped after iteration {runner.iter + 1} of {runner.max_iters}')
