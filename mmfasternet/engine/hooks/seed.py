"""Random numbers that are a function of seed and iteration, so that a resumed training goes on as if unbroken."""

import random
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.datasets.seeding import seed_of


class SeedHook(Hook):
    """Seeds what is random in an iteration: stochastic depth, the sampling of RoIs, Mixup."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed = seed_of(runner.seed, runner.rank, runner.iter)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def seed_by_draw(cfg: Config) -> None:
    """Have a config that trains by epochs seed its augmentations sample by sample."""
    loader: Any = cfg.get('train_dataloader') or {}
    by_epoch = str((cfg.get('train_cfg') or {}).get('type', '')).endswith('EpochBasedTrainLoop')
    if not by_epoch or not isinstance(loader.get('sampler'), dict) or 'dataset' not in loader:
        return
    if 'Track' in str(loader.sampler.type):  # their batch samplers ask for the class, and they draw pairs
        return
    loader.sampler = ConfigDict(type='mmfasternet.SeededSampler', sampler=loader.sampler)
    _visit(loader.dataset)
    _visit(cfg.get('custom_hooks'))  # some switch the pipeline


def _visit(value: Any) -> None:
    if isinstance(value, dict):
        for key, pipeline in value.items():
            # The pipeline of a data set of data sets comes after those of the inner ones.
            if key.endswith('pipeline') and isinstance(pipeline, list) and not {'dataset', 'datasets'} & set(value):
                pipeline.insert(0, ConfigDict(type='mmfasternet.SeedAugmentations'))
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _visit(item)


def make_deterministic(cfg: Config) -> None:
    """Have the same config give the same losses: deterministic operators and, where none is set, the seed 0."""
    randomness = dict(cfg.get('randomness') or {}, deterministic=True)
    if randomness.get('seed') is None:
        randomness['seed'] = 0
    cfg.randomness = randomness


@contextmanager
def restoring_determinism() -> Iterator[None]:
    """Leave PyTorch's choice of deterministic operators as it was."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def allow_what_has_no_deterministic_form() -> None:
    """Warn, and go on, where an operator has no deterministic form.

    MMEngine has them stop the training; on a GPU that is so for the
    nearest-neighbour upsampling of an FPN.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
