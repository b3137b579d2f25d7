"""Seeds the augmentations of each sample, independently of the samples drawn before.

MMEngine seeds the workers of a data loader once. Their random numbers then depend on the number of workers
and on everything loaded before, so a resumed training gets other images than an uninterrupted one.
"""

import random
from typing import Any, Dict, Iterator, Optional

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import Sampler

from mmfasternet.registry import DATA_SAMPLERS, TRANSFORMS


class Draw(int):
    """An index into a dataset with the seed of this draw.

    Datasets that repeat or join others compute their index with ``-`` and
    ``%``, which keep the seed. Those that look the index up, such as
    ``ClassBalancedDataset``, lose it: their samples are not seeded.
    """
    seed: int

    def __new__(cls, index: int, seed: int) -> 'Draw':
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> Any:
        return int(self), self.seed

    def __sub__(self, other: int) -> 'Draw':
        return Draw(int(self) - int(other), self.seed)

    def __mod__(self, other: int) -> 'Draw':
        return Draw(int(self) % int(other), self.seed)


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits from several numbers, such as base, epoch, and position."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Another sampler's indices, each with a seed from the run's seed, the epoch, the process and the position in it.

    Args:
        sampler: Config of the other sampler.
        dataset: The dataset.
        seed: The run's seed. Defaults to None, that of the other sampler.
    """

    def __init__(self, sampler: Dict[str, Any], dataset: Any, seed: Optional[int] = None) -> None:
        self.sampler = MMENGINE_DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.dataset = dataset  # where batch samplers look for the shapes of images
        self.seed = int(seed if seed is not None else getattr(self.sampler, 'seed', None) or 0)
        self.epoch = 0

    def __iter__(self) -> Iterator[Draw]:
        rank, _ = get_dist_info()
        for position, index in enumerate(self.sampler):
            yield Draw(index, seed_of(self.seed, self.epoch, rank, position))

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':
            raise AttributeError(name)  # while it is unpickled, there is none yet
        return getattr(self.sampler, name)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also of the other sampler."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)


@TRANSFORMS.register_module()
class SeedAugmentations(BaseTransform):
    """Seeds the random numbers of the transforms after it with the seed of the sample's :class:`Draw`."""

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Return the sample unchanged."""
        draw = results.get('sample_idx')
        if isinstance(draw, Draw):
            random.seed(draw.seed)
            np.random.seed(draw.seed)
            torch.default_generator.manual_seed(draw.seed)
        return results
