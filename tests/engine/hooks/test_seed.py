"""The same seed gives the same losses."""

import re

import torch

from mmfasternet.engine.config import load_config
from mmfasternet.engine.hooks.resume import use_resumable_loop
from mmfasternet.engine.hooks.seed import make_deterministic, seed_by_draw
from tests.conftest import ROOT, SHAPES_CONFIG
from tests.engine.hooks.test_resume import losses, shapes_config


def test_augmentations_are_seeded_where_images_are_loaded():
    cfg = load_config(str(SHAPES_CONFIG))
    sampler = dict(cfg.train_dataloader.sampler)
    seed_by_draw(cfg)
    assert cfg.train_dataloader.sampler == dict(type='mmfasternet.SeededSampler', sampler=sampler)
    types = [transform.type for transform in cfg.train_dataloader.dataset.pipeline]
    assert types[:2] == ['mmfasternet.SeedAugmentations', 'LoadImageFromFile']
    digits = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))  # which are no files
    use_resumable_loop(digits)
    seed_by_draw(digits)
    assert digits.train_dataloader.dataset.pipeline[0].type == 'mmfasternet.SeedAugmentations'
    assert cfg.val_dataloader.dataset.pipeline[0].type == 'LoadImageFromFile'


def test_pipelines_that_a_hook_brings_in_are_seeded_too():
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=1,
                             switch_pipeline=list(cfg.train_dataloader.dataset.pipeline))]
    seed_by_draw(cfg)
    assert cfg.custom_hooks[0]['switch_pipeline'][0].type == 'mmfasternet.SeedAugmentations'


def test_loops_by_iterations_keep_their_sampler():
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5)
    before = cfg.train_dataloader.to_dict()
    seed_by_draw(cfg)
    assert cfg.train_dataloader.to_dict() == before


def test_the_seed_is_0_unless_the_config_has_one():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'), {'randomness.seed': None})
    make_deterministic(cfg)
    assert cfg.randomness.seed == 0 and cfg.randomness.deterministic
    cfg.randomness.seed = 5
    make_deterministic(cfg)
    assert cfg.randomness.seed == 5


def test_deterministic_losses_are_the_same_to_the_bit(run_tool, shapes, tmp_path):
    options = shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'randomness.seed': None})
    found = []
    for name, flags in (('a', ['--deterministic']), ('b', ['--deterministic']), ('c', [])):
        path = tmp_path / f'{name}.py'
        options.visualizer.name = options.experiment_name = name
        options.dump(path)
        assert run_tool('train', path, '--work-dir', tmp_path / name, *flags).code == 0
        assert not torch.are_deterministic_algorithms_enabled()  # any more
        log = next((tmp_path / name).glob('*/*.log')).read_text()
        assert bool(re.search(r'deterministic: True', log)) == bool(flags)
        found.append(losses(tmp_path / name))
    assert len(found[0]) == 4 and found[0] == found[1] != found[2]
