"""The config that a run writes down is the run: MMDetection's own ``tools/train.py`` does the same by it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.train_test import train
from tests.conftest import ROOT, environment
from tests.engine.hooks.test_resume import assert_alike, losses, shapes_config

MMDETS_TOOL = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'


@HOOKS.register_module()
class KillOnce(Hook):
    """Ends its own process by a signal after an iteration, unless a file says that it has done so before."""

    def __init__(self, iteration, number, done):
        self.iteration, self.number, self.done = iteration, number, Path(done)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration and not self.done.exists():
            self.done.touch()
            signal.raise_signal(self.number)


@HOOKS.register_module()
class SpoilOnce(Hook):
    """Makes a loss NaN at an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train(self, runner):
        loss = runner.model.loss

        def spoilt(*args, **kwargs):
            found = loss(*args, **kwargs)
            if runner.iter + 1 == self.iteration:
                found['loss_cls'] = found['loss_cls'] * float('nan')
            return found

        runner.model.loss = spoilt


def with_hook(cfg, **hook):
    """A dumped config with a hook of the tests, after its own."""
    cfg = Config.fromfile(cfg)
    cfg.custom_imports.imports = [*cfg.custom_imports.imports, __name__]
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    return cfg


def mmdets_train(config, work_dir, *flags):
    """Run MMDetection's script; gives its exit status and what it printed."""
    done = subprocess.run([sys.executable, MMDETS_TOOL, config, '--work-dir', work_dir, *flags],
                          env=environment(PYTHONPATH=f'{ROOT}{os.pathsep}{config.parent}'), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


@pytest.fixture(scope='module')
def ours(shapes, tmp_path_factory):
    """Twenty iterations in five epochs by our own ``train``, from a config without a seed."""
    work_dir = tmp_path_factory.mktemp('ours') / 'run'
    cfg = shapes_config(shapes, work_dir, **{
        'train_cfg.max_epochs': 5, 'randomness.seed': None, 'default_hooks.checkpoint.interval': 3,
        'default_hooks.checkpoint.max_keep_ckpts': 2, 'model.backbone.drop_path_rate': 0.1})
    train(cfg)
    assert list(losses(work_dir)) == list(range(1, 21))
    return work_dir


@pytest.fixture(scope='module')
def dumped(ours):
    return next(ours.glob('*.py'))


@pytest.mark.slow
def test_the_losses_are_bit_identical(ours, dumped, tmp_path):
    status, output = mmdets_train(dumped, tmp_path / 'theirs')
    assert status == 0, output[-3000:]
    assert_alike(losses(tmp_path / 'theirs'), losses(ours))
    assert (tmp_path / 'theirs' / 'curves.png').is_file()
    expected, actual = (read_checkpoint(str(folder / 'iter_20.pth'))['state_dict']
                        for folder in (ours, tmp_path / 'theirs'))
    assert_alike(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize('number, iteration', [(signal.SIGKILL, 11), (signal.SIGTERM, 6)])
def test_it_goes_on_in_the_middle_of_an_epoch(ours, dumped, tmp_path, number, iteration):
    work_dir = tmp_path / 'theirs'
    cfg = with_hook(dumped, type='KillOnce', iteration=iteration, number=int(number), done=str(tmp_path / 'done'))
    cfg.dump(tmp_path / 'config.py')
    status, output = mmdets_train(tmp_path / 'config.py', work_dir)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL and (work_dir / 'last_checkpoint').read_text().endswith('iter_9.pth')
    else:
        assert status == 0 and f'stopped by SIGTERM after iteration {iteration} of 20' in output, output[-3000:]
        assert (work_dir / 'last_checkpoint').read_text().endswith('stopped.pth')
    status, output = mmdets_train(tmp_path / 'config.py', work_dir, '--resume')
    assert status == 0 and re.search(r'resumed epoch: \d, iter: (9|6)', output), output[-3000:]
    assert_alike(dict(sorted(losses(work_dir).items())), losses(ours))


@pytest.mark.slow
def test_it_stops_at_a_nan_with_the_state_before_it(dumped, tmp_path):
    with_hook(dumped, type='SpoilOnce', iteration=5).dump(tmp_path / 'config.py')
    status, output = mmdets_train(tmp_path / 'config.py', tmp_path / 'theirs')
    assert status == 1 and 'loss_cls is nan at iteration 5 (epoch 2)' in output.splitlines()[-1]
    assert read_checkpoint(str(tmp_path / 'theirs' / 'stopped.pth'))['meta']['iter'] == 4


@pytest.mark.slow
def test_its_checkpoints_are_atomic(dumped, tmp_path):
    """A file that may not become large enough ends the training, and what was there before stays."""
    work_dir = tmp_path / 'theirs'
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))'
    cfg = Config.fromfile(dumped)
    (tmp_path / 'limited.py').write_text(f'{limit}\n')
    cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'limited']
    cfg.dump(tmp_path / 'config.py')
    work_dir.mkdir()
    (work_dir / 'iter_3.pth').write_bytes(b'the one before')
    status, output = mmdets_train(tmp_path / 'config.py', work_dir)
    assert status == 1 and "iter_3.pth' can't be written: File too large" in output.splitlines()[-1]
    assert (work_dir / 'iter_3.pth').read_bytes() == b'the one before'
    assert not list(work_dir.glob('.*unfinished'))
