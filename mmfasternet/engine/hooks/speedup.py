"""Converts a model to the form that it is trained in."""

from dataclasses import replace
from typing import Any, Dict, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmfasternet.engine.mixed_precision import KeptFloat32
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class SpeedUpHook(Hook):
    """Converts the model to its training form once its weights are loaded; their names and values do not change.

    The type of automatic mixed precision is taken from the config's
    ``optim_wrapper``: in bfloat16, RoIs and mmcv's operators stay in float32.

    Args:
        channels_last: Use channels-last weights and feature maps. Defaults to
            False.
        compile: Compile backbone and neck with ``torch.compile``; implies
            ``channels_last``. Defaults to False.
    """

    def __init__(self, channels_last: bool = False, compile: bool = False) -> None:
        self.options = SpeedUps(channels_last=channels_last, compile=compile)
        self._kept: Optional[KeptFloat32] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        # Training in bfloat16 has no loss scale, and may be resumed in float16 on another GPU.
        if checkpoint.get('optimizer', {}).get('loss_scaler') == {}:
            del checkpoint['optimizer']['loss_scaler']

    def before_train(self, runner: Runner) -> None:
        in_bfloat16 = getattr(runner.optim_wrapper, 'cast_dtype', None) == torch.bfloat16
        options = replace(self.options, amp='bfloat16' if in_bfloat16 else None)
        self._kept = options.apply_to_model(runner.model.module if is_model_wrapper(runner.model) else runner.model)

    def after_train(self, runner: Runner) -> None:
        self.after_loop(runner)

    def after_loop(self, runner: Runner) -> None:
        """Restore mmcv's operators, also if the training has failed."""
        if self._kept:
            self._kept.remove()
