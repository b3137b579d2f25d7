"""Tests a model in its inference form."""

import gc
from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class DeployHook(Hook):
    """Makes a test loop run the model in its inference form, and restores the model afterwards.

    Args:
        dtype: Name of the type to compute in. Defaults to ``'float32'``.
        compile: Whether its networks are compiled. Defaults to False.
        graphs: Whether a GPU replays them as CUDA graphs. Defaults to False.
    """

    priority = 'VERY_LOW'  # after hooks that swap weights, such as EMA

    def __init__(self, dtype: str = 'float32', compile: bool = False, graphs: bool = False) -> None:
        self.options = DeployOptions(True, dtype, compile, graphs)
        self._model: Optional[nn.Module] = None

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        runner.model = self.options.apply(runner.model, runner.cfg)

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        self.after_loop(runner)

    def after_loop(self, runner: Runner) -> None:
        """Restore the model, also if the test has failed."""
        if self._model is None:
            return
        runner.model, self._model = self._model, None
        gc.collect()  # graphs and the modules they replay form reference cycles that hold GPU memory
