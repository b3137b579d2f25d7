"""The same seed gives the same losses."""

import re

import pytest
import torch

from tests.engine.hooks.test_resume import assert_alike, losses, shapes_config


@pytest.mark.slow
def test_deterministic_losses_are_bit_identical(run_tool, shapes, tmp_path):
    options = shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'randomness.seed': None})
    found = []
    for name, flags in (('a', ['--deterministic']), ('b', ['--deterministic']), ('c', [])):
        path = tmp_path / f'{name}.py'
        options.experiment_name = name
        options.dump(path)
        assert run_tool('train', path, '--work-dir', tmp_path / name, *flags).code == 0
        assert not torch.are_deterministic_algorithms_enabled()  # any more
        log = next((tmp_path / name).glob('*/*.log')).read_text()
        assert bool(re.search(r'deterministic: True', log)) == bool(flags)
        found.append(losses(tmp_path / name))
    assert len(found[0]) == 4 and found[0] != found[2]
    assert_alike(found[1], found[0])
