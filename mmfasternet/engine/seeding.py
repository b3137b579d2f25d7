"""Random numbers that are a function of seed and iteration, so that a resumed training goes on as if unbroken."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.datasets.seeding import seed_of

_LOADERS = ('LoadImageFromFile', 'mmfasternet.LoadImageFromFile')


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
    loader = cfg.get('train_dataloader') or {}
    by_epoch = str((cfg.get('train_cfg') or {}).get('type', '')).endswith('EpochBasedTrainLoop')
    if not by_epoch or not isinstance(loader.get('sampler'), dict) or 'dataset' not in loader:
        return
    loader.sampler = ConfigDict(type='mmfasternet.SeededSampler', sampler=loader.sampler)
    _visit(loader.dataset)
    _visit(cfg.get('custom_hooks'))  # some switch the pipeline


def _visit(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return
    for item in value:
        _visit(item)
    first = value[0] if value else None
    if isinstance(value, list) and isinstance(first, dict) and first.get('type') in _LOADERS:
        value.insert(0, ConfigDict(type='mmfasternet.SeedAugmentations'))


def make_deterministic(cfg: Config) -> None:
    """Have the same config give the same losses: deterministic operators and, where none is set, the seed 0."""
    randomness = dict(cfg.get('randomness') or {}, deterministic=True)
    if randomness.get('seed') is None:
        randomness['seed'] = 0
    cfg.randomness = randomness


def allow_what_has_no_deterministic_form() -> None:
    """Warn, and go on, where an operator has no deterministic form.

    MMEngine has them stop the training; on a GPU that is so for the
    nearest-neighbour upsampling of an FPN.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
