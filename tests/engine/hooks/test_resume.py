"""What a resumed training starts from, and where in the epoch."""

import json
import os
import shutil
import time

import pytest
import torch

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.config import load_config
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.engine.saved_trainings import saved_trainings
from mmfasternet.engine.train_test import train
from mmfasternet.errors import CheckpointError
from tests.conftest import SHAPES_CONFIG, data_options


def shapes_config(shapes, work_dir, **options):
    """Four iterations an epoch, each logged, with a checkpoint after each and no validation."""
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)), str(work_dir))
    cfg.merge_from_dict({
        'train_dataloader.batch_size': 2,
        'train_cfg.max_epochs': 2,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
        'default_hooks.checkpoint': dict(by_epoch=False, interval=1, max_keep_ckpts=-1),
        'default_hooks.logger.interval': 1,
        'randomness.seed': 0,
        # MMEngine keeps what has the same name in the process.
        'visualizer.name': str(work_dir),
        'experiment_name': str(work_dir).replace('/', '-'),
        **options
    })
    return cfg


def losses(work_dir):
    """The loss of each iteration; where one was repeated, the last."""
    found = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if 'loss' in row:
                found[row['iter']] = row['loss']
    return found


def assert_alike(actual, expected):
    """Losses or weights of two trainings: bit-identical, but a GPU adds RoIAlign's gradients up in any order."""
    assert list(actual) == list(expected)
    for key, value in expected.items():
        if torch.cuda.is_available():
            torch.testing.assert_close(torch.as_tensor(actual[key]), torch.as_tensor(value), rtol=0.1, atol=0.02)
        else:
            assert torch.equal(torch.as_tensor(actual[key]), torch.as_tensor(value)), key


@pytest.fixture
def work_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / 'run')


def resumed(work_dir, resume='auto'):
    cfg = load_config(str(SHAPES_CONFIG), dict(load_from='start.pth'), str(work_dir))
    return prepare(cfg, TrainOptions(resume=resume))


def test_the_newest_is_resumed_with_its_seed(work_dir):
    cfg = resumed(work_dir)
    assert cfg.resume and cfg.load_from == str(work_dir / 'epoch_2.pth')  # though it was written elsewhere
    assert cfg.randomness.seed == read_checkpoint(cfg.load_from)['meta']['seed'] == 0
    assert resumed(work_dir, str(work_dir / 'epoch_1.pth')).load_from == str(work_dir / 'epoch_1.pth')


def test_a_link_to_a_checkpoint_that_is_gone_is_passed_over(work_dir):
    expected = saved_trainings(work_dir)
    (work_dir / 'latest.pth').symlink_to(work_dir / 'epoch_9.pth')
    assert saved_trainings(work_dir) == expected


@pytest.mark.parametrize('pointer', ['', 'gone.pth', None])
def test_a_lost_pointer_is_made_up_for(work_dir, pointer):
    if pointer is None:
        (work_dir / 'last_checkpoint').unlink()
    else:
        (work_dir / 'last_checkpoint').write_text(pointer)
    assert resumed(work_dir).load_from == str(work_dir / 'epoch_2.pth')


def test_a_half_written_checkpoint_is_passed_over(work_dir, capfd):
    newest = work_dir / 'epoch_2.pth'
    newest.write_bytes(newest.read_bytes()[:newest.stat().st_size // 2])
    assert resumed(work_dir).load_from == str(work_dir / 'epoch_1.pth')
    (work_dir / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r"no checkpoint in '.*run' can be resumed: .*epoch_2\.pth' is broken"):
        resumed(work_dir)


def test_without_a_checkpoint_training_starts_anew(tmp_path):
    cfg = resumed(tmp_path)
    assert not cfg.resume and cfg.load_from == 'start.pth'


def test_weights_alone_are_refused(work_dir):
    torch.save(read_checkpoint(str(work_dir / 'epoch_2.pth'))['state_dict'], work_dir / 'weights.pth')
    with pytest.raises(CheckpointError, match=r"weights\.pth' holds weights, .*load_from=PATH"):
        resumed(work_dir, str(work_dir / 'weights.pth'))


@pytest.mark.parametrize('loop, expected', [
    (dict(by_epoch=True, max_epochs=3), 'mmfasternet.EpochBasedTrainLoop'),
    (dict(max_epochs=3), 'mmfasternet.EpochBasedTrainLoop'),
    (dict(type='EpochBasedTrainLoop', max_epochs=3), 'mmfasternet.EpochBasedTrainLoop'),
    (dict(type='IterBasedTrainLoop', max_iters=3), 'mmfasternet.IterBasedTrainLoop'),
    (dict(type='mmengine.EpochBasedTrainLoop', max_epochs=3), 'mmfasternet.EpochBasedTrainLoop'),
    (dict(by_epoch=False, max_iters=3), 'mmfasternet.IterBasedTrainLoop'),
])
def test_loops_are_resumable(loop, expected):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.train_cfg = loop
    cfg = prepare(cfg, TrainOptions())
    assert cfg.train_cfg.type == expected and 'by_epoch' not in cfg.train_cfg


@pytest.mark.slow
def test_from_the_middle_of_an_epoch_the_losses_go_on_bit_identically(shapes, tmp_path):
    train(shapes_config(shapes, tmp_path / 'unbroken'))
    expected = losses(tmp_path / 'unbroken')
    assert list(expected) == list(range(1, 9))
    for start, workers in ((3, 2), (4, 0)):  # within the first epoch, with other workers; at its end
        cfg = shapes_config(shapes, tmp_path / str(start), **{
            'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0})
        cfg.resume = str(tmp_path / 'unbroken' / f'iter_{start}.pth')
        train(cfg)
        assert_alike(losses(tmp_path / str(start)), {i: loss for i, loss in expected.items() if i > start})
        last, same = (read_checkpoint(str(tmp_path / name / 'iter_8.pth')) for name in ('unbroken', str(start)))
        assert same['meta']['epoch'] == last['meta']['epoch']
        assert_alike(same['state_dict'], last['state_dict'])


@pytest.mark.slow
@pytest.mark.parametrize('start', [2, 3])
def test_with_another_batch_size_the_epoch_begins_anew(shapes, tmp_path, capfd, start):
    train(shapes_config(shapes, tmp_path / 'run', **{'train_cfg.max_epochs': 1}))
    # There are half as many iterations in an epoch now: the second would be its end, the third behind it.
    cfg = shapes_config(shapes, tmp_path / 'larger', **{'train_dataloader.batch_size': 4})
    cfg.resume = str(tmp_path / 'run' / f'iter_{start}.pth')
    train(cfg)
    assert capfd.readouterr().out.count('is restarted') == 1
    assert list(losses(tmp_path / 'larger')) == [1, 2, 3, 4]  # counted as if it had been so from the start


@pytest.mark.slow
@pytest.mark.parametrize('name', ['iter_4.pth', 'epoch_1.pth'])
def test_with_another_batch_size_iterations_of_whole_epochs_are_counted_anew(shapes, tmp_path, capfd, name):
    """Else iterations end behind the schedule's, SIGTERM is not obeyed, and accumulated gradients get no step."""
    options = {'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.by_epoch': name.startswith('epoch')}
    train(shapes_config(shapes, tmp_path / 'run', **options))
    for batch_size, length in ((4, 2), (1, 8)):
        cfg = shapes_config(shapes, tmp_path / str(batch_size), **{
            'train_dataloader.batch_size': batch_size, 'train_cfg.max_epochs': 3,
            'optim_wrapper.accumulative_counts': 2})
        cfg.resume = str(tmp_path / 'run' / name)
        runner = train(cfg)
        assert list(losses(tmp_path / str(batch_size))) == list(range(length + 1, 3 * length + 1))
        assert (runner.iter, runner.max_iters, runner.epoch) == (3 * length, 3 * length, 3)
    assert 'is restarted' not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('name, batch_size', [('iter_3.pth', 2), ('epoch_1.pth', 4)])
def test_without_the_number_of_batches_no_batch_is_skipped(shapes, tmp_path, capfd, name, batch_size):
    """Such as in checkpoints of MMDetection's own tools."""
    options = {'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.by_epoch': name.startswith('epoch')}
    train(shapes_config(shapes, tmp_path / 'run', **options))
    path = tmp_path / 'run' / name
    content = torch.load(path, weights_only=False)
    del content['meta']['batches_per_epoch']
    torch.save(content, path)
    cfg = shapes_config(shapes, tmp_path / 'resumed', **{'train_dataloader.batch_size': batch_size})
    cfg.resume = str(path)
    train(cfg)
    length = 8 // batch_size
    assert list(losses(tmp_path / 'resumed')) == list(range(length * name.startswith('epoch') + 1, 2 * length + 1))
    assert capfd.readouterr().out.count('an unknown number of batches per epoch') == 1


@pytest.mark.slow
def test_between_two_steps_of_accumulated_gradients(shapes, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'optim_wrapper.accumulative_counts': 2}
    train(shapes_config(shapes, tmp_path / 'unbroken', **options))
    cfg = shapes_config(shapes, tmp_path / 'resumed', **options)
    cfg.resume = str(tmp_path / 'unbroken' / 'iter_1.pth')
    train(cfg)
    last, same = (read_checkpoint(str(tmp_path / name / 'iter_4.pth')) for name in ('unbroken', 'resumed'))
    for key, value in last['state_dict'].items():
        assert torch.equal(value, same['state_dict'][key]), key
    assert 'accumulated_gradients' not in same


def test_a_checkpoint_that_was_completed_and_not_named_is_the_newest(work_dir):
    pointer = work_dir / 'last_checkpoint'
    for name, age in (('epoch_1.pth', 30), ('last_checkpoint', 20), ('epoch_2.pth', 10)):
        os.utime(work_dir / name, (time.time() - age, ) * 2)
    pointer.write_text(str(work_dir / 'epoch_1.pth'))
    os.utime(pointer, (time.time() - 20, ) * 2)
    assert resumed(work_dir).load_from == str(work_dir / 'epoch_2.pth')


def test_checkpoints_in_another_folder_are_found(work_dir, tmp_path):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    for path in work_dir.glob('*.pth'):
        path.rename(tmp_path / 'out' / 'run' / path.name)
    (work_dir / 'last_checkpoint').unlink()
    cfg = load_config(str(SHAPES_CONFIG), {'default_hooks.checkpoint.out_dir': str(tmp_path / 'out')}, str(work_dir))
    cfg = prepare(cfg, TrainOptions(resume='auto'))
    assert cfg.load_from == str(tmp_path / 'out' / 'run' / 'epoch_2.pth')
