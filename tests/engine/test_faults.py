"""What happens in a day of training: kills at any moment, schedulers that want their machine back, full disks."""

import os
import random
import re
import signal

import psutil
import pytest
from mmengine.config import Config

from mmfasternet.benchmark.backbones.trained import read_scalars
from mmfasternet.checkpoints import read_checkpoint
from tests.conftest import SHAPES_CONFIG, data_options
from tests.engine.faults import Training
from tests.engine.hooks.test_resume import assert_alike, losses, shapes_config

KILLS = 20
ITERATIONS = 120


def write_config(shapes, path, epochs, interval, keep=2, workers=0):
    cfg = shapes_config(shapes, path.parent / 'unused', **{
        'train_cfg.max_epochs': epochs,
        'default_hooks.checkpoint': dict(by_epoch=False, interval=interval, max_keep_ckpts=keep),
        'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0,
        'experiment_name': 'faults', 'visualizer.name': 'faults'})
    cfg.dump(path)
    return path


def checkpoints(work_dir):
    """Iterations of the checkpoints that are there by their names."""
    return sorted(int(path.stem[5:]) for path in work_dir.glob('iter_*.pth'))


def is_writing(training):
    """Whether the process is, or was when it ended, writing a checkpoint."""
    return any(training.work_dir.glob(f'.*.pth.{training.process.pid}.unfinished'))


def first_iteration(training):
    match = re.search(r'resumed epoch: \d+, iter: (\d+)', training.output())
    return int(match[1]) if match else 0


@pytest.mark.slow
def test_twenty_kills_cost_only_the_iterations_since_the_last_checkpoint(shapes, tmp_path):
    config = write_config(shapes, tmp_path / 'config.py', epochs=ITERATIONS // 4, interval=2)
    unbroken = Training(config, tmp_path / 'unbroken')
    assert unbroken.join() == 0, unbroken.output()[-3000:]
    chance = random.Random(0)
    work_dir = tmp_path / 'killed'
    in_a_write = 0
    for kill in range(KILLS):
        before = checkpoints(work_dir)
        training = Training(config, work_dir)
        if kill % 2:  # within a checkpoint's write
            reached = training.wait_for(is_writing, training)
        else:  # anywhere, from the start of the process to some iterations on
            reached = training.wait_for_iterations(chance.randrange(0, 6))
            training.process.join(chance.uniform(0, 0.05))
        assert reached, training.output()[-3000:]
        os.kill(training.process.pid, signal.SIGKILL)
        assert training.join() == -signal.SIGKILL
        in_a_write += is_writing(training)
        for iteration in checkpoints(work_dir):
            assert read_checkpoint(str(work_dir / f'iter_{iteration}.pth'))['meta']['iter'] == iteration
        after = checkpoints(work_dir)
        assert not before or after and after[-1] >= before[-1]  # what was there is there, or newer
        if training.iterations():
            assert first_iteration(training) == (before[-1] if before else 0)
    assert in_a_write >= KILLS // 4  # else the kill came just after it
    last = Training(config, work_dir)
    assert last.join() == 0, last.output()[-3000:]
    assert not any(work_dir.glob('.*.unfinished'))  # what the killed ones left is gone
    expected, found = losses(tmp_path / 'unbroken'), losses(work_dir)
    assert list(expected) == sorted(found) == list(range(1, ITERATIONS + 1))
    assert_alike(dict(sorted(found.items())), expected)
    same, ours = (read_checkpoint(str(tmp_path / name / f'iter_{ITERATIONS}.pth')) for name in ('unbroken', 'killed'))
    assert_alike(ours['state_dict'], same['state_dict'])
    print(f'{KILLS} kills, {in_a_write} of them within the write of a checkpoint')


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(shapes, tmp_path):
    config = write_config(shapes, tmp_path / 'config.py', epochs=3, interval=100, workers=2)
    unbroken = Training(config, tmp_path / 'unbroken')
    assert unbroken.join() == 0
    stopped = Training(config, tmp_path / 'stopped')
    assert stopped.wait_for_iterations(2)
    for process in [*psutil.Process(stopped.process.pid).children(), stopped.process]:  # its workers, too
        os.kill(process.pid, signal.SIGTERM)
    assert stopped.join() == 0, stopped.output()[-3000:]
    message = re.search(r'stopped by SIGTERM after iteration (\d+) of 12; (\S+) is saved\. To continue: (.*)',
                        stopped.output())
    assert 2 <= int(message[1]) < 12 and message[2] == str(tmp_path / 'stopped' / 'stopped.pth')
    assert message[3] == f'python tools/train.py {config} --work-dir {tmp_path}/stopped --resume'
    resumed = Training(config, tmp_path / 'stopped')
    assert resumed.join() == 0 and first_iteration(resumed) == int(message[1])
    assert_alike(dict(sorted(losses(tmp_path / 'stopped').items())), losses(tmp_path / 'unbroken'))
    assert not (tmp_path / 'stopped' / 'stopped.pth').exists()  # a regular checkpoint has come after it


@pytest.mark.slow
@pytest.mark.parametrize('by_epoch', [True, False])
def test_sigterm_in_a_validation_saves_and_the_validation_is_done_again(shapes, tmp_path, by_epoch):
    path = tmp_path / 'config.py'
    write_config(shapes, path, epochs=2, interval=100)
    cfg, full = Config.fromfile(path), Config.fromfile(SHAPES_CONFIG)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[key] = full[key]
    cfg.merge_from_dict(dict(option.split('=', 1) for option in data_options(shapes)))
    cfg.val_dataloader.batch_size = cfg.train_cfg.val_interval = 1
    if not by_epoch:
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
        cfg.log_processor.by_epoch = cfg.default_hooks.logger.log_metric_by_epoch = False
    cfg.dump(path)
    stopped = Training(path, tmp_path / 'run', '--cfg-options', 'default_hooks.logger.interval=1')
    assert stopped.wait_for(lambda: '(val)' in stopped.output())
    os.kill(stopped.process.pid, signal.SIGTERM)
    assert stopped.join() == 0 and 'stopped by SIGTERM after iteration 4 of 8' in stopped.output()
    resumed = Training(path, tmp_path / 'run')
    assert resumed.join() == 0
    rows = read_scalars(tmp_path / 'run')
    assert [row['step'] for row in rows if 'coco/bbox_mAP' in row] == ([1, 2] if by_epoch else [4, 8])


@pytest.mark.slow
def test_a_full_disk_is_said_and_keeps_the_last_checkpoint(shapes, tmp_path):
    config = write_config(shapes, tmp_path / 'config.py', epochs=1, interval=2, keep=1)
    first = Training(config, tmp_path / 'run')
    assert first.join() == 0 and checkpoints(tmp_path / 'run') == [4]
    before = (tmp_path / 'run' / 'iter_4.pth').read_bytes()
    full = Training(config, tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=2', file_size=1_000_000)
    assert full.join() == 1
    assert re.search(r"^error: '\S+/run/iter_6\.pth' can't be written: File too large\. Allow larger files "
                     r'\(ulimit -f\), then continue with --resume: existing files were not changed$',
                     full.output(), re.M), full.output()[-2000:]
    assert (tmp_path / 'run' / 'iter_4.pth').read_bytes() == before
    assert not is_writing(full) and checkpoints(tmp_path / 'run') == [4]
