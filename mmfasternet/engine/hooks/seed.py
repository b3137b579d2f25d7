"""Makes random numbers depend on seed and iteration only, so that a resumed training equals an uninterrupted one."""

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
    """Seeds the randomness of each iteration: stochastic depth, sampling of RoIs, Mixup.

    In a deterministic run on a GPU, operators without a deterministic
    implementation, such as the nearest-neighbour upsampling of an FPN, give a
    warning. In MMEngine they stop the training.
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
