"""Random numbers that are a function of seed and iteration, so that a resumed training goes on as if unbroken."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.datasets.seeding import seed_of
from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class SeedHook(Hook):
    """Seeds what is random in an iteration: stochastic depth, the sampling of RoIs, Mixup.

    In a deterministic run on a GPU, an operator without a deterministic
    implementation is a warning. MMEngine has it stop the training: the
    nearest-neighbour upsampling of an FPN is one.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        if torch.are_deterministic_algorithms_enabled() and torch.cuda.is_available():
            torch.use_deterministic_algorithms(True, warn_only=True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed = seed_of(runner.seed, runner.rank, runner.iter)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
