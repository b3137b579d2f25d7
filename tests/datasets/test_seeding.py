import pickle

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler

from mmfasternet.datasets import SeedAugmentations, SeededSampler
from mmfasternet.datasets.seeding import Draw, seed_of


def test_a_draw_is_its_index_and_keeps_its_seed():
    draw = Draw(7, 42)
    assert draw == 7 and [*range(10)][draw] == 7 and draw.seed == 42
    for kept, index in ((pickle.loads(pickle.dumps(draw)), 7), (draw - 4, 3), (draw % 5, 2)):
        assert kept == index and kept.seed == 42


def test_seeds_depend_on_all_numbers_and_their_order():
    seeds = {seed_of(*numbers) for numbers in [(1, 2, 3), (3, 2, 1), (1, 2, 4), (0, 2, 3)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**32 for seed in seeds)


def sampler(seed=3):
    return SeededSampler(dict(type='DefaultSampler', shuffle=True), dataset=range(50), seed=seed)


def test_the_sampler_draws_what_the_other_does_with_a_seed_each():
    ours, other = sampler(), DefaultSampler(range(50), shuffle=True, seed=3)
    seeds = set()
    for epoch in range(3):
        ours.set_epoch(epoch)
        other.set_epoch(epoch)
        draws = list(ours)
        assert draws == list(other) and len(ours) == len(other)
        assert [draw.seed for draw in draws] == [draw.seed for draw in ours]  # the same again
        seeds |= {draw.seed for draw in draws}
    assert len(seeds) == 150
    assert not seeds & {draw.seed for draw in sampler(seed=4)}


def test_processes_have_seeds_of_their_own(monkeypatch):
    first = [draw.seed for draw in sampler()]
    monkeypatch.setattr('mmfasternet.datasets.seeding.get_dist_info', lambda: (1, 2))
    assert not set(first) & {draw.seed for draw in sampler()}


@pytest.mark.parametrize('random', [lambda: np.random.rand(), lambda: torch.rand(1).item(),
                                    lambda: __import__('random').random()])
def test_augmentations_depend_on_the_draw_alone(random):
    seed = SeedAugmentations()

    def drawn(index):
        random()  # whatever was drawn before
        seed.transform(dict(sample_idx=index))
        return random()

    assert drawn(Draw(1, 5)) == drawn(Draw(2, 5)) != drawn(Draw(1, 6))
    assert drawn(1) != drawn(1)  # without a seed nothing is seeded
