"""Losses that are NaN or infinite."""

import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.hooks import finite_loss
from mmfasternet.engine.hooks.finite_loss import FiniteLossHook, TrainingDiverged
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.engine.train_test import train
from tests.engine.hooks.test_resume import losses, shapes_config


class Spoil(Hook):
    """Multiplies a loss at some iterations."""

    def __init__(self, iterations, name='loss_cls', factor=float('nan')):
        self.iterations, self.name, self.factor = iterations, name, factor

    def before_train(self, runner):
        loss = runner.model.loss

        def spoilt(*args, **kwargs):
            found = loss(*args, **kwargs)
            if runner.iter + 1 in self.iterations:
                found[self.name] = found[self.name] * self.factor
            return found

        runner.model.loss = spoilt


def run(shapes, work_dir, iterations, skip_nan=False, **options):
    cfg = shapes_config(shapes, work_dir, **{'train_cfg.max_epochs': 1, **options})
    cfg.custom_hooks = [dict(type=Spoil, iterations=list(iterations))]
    return train(cfg, TrainOptions(skip_nan=skip_nan))


def weights(path):
    return read_checkpoint(str(path))['state_dict']


def test_training_stops_with_the_state_before_it(shapes, tmp_path):
    message = (r'^loss_cls is nan at iteration 3 \(epoch 1\)\. .*stopped\.pth holds .*--resume .*skip=True .*--skip-nan'
               '.*load_from=')
    with pytest.raises(TrainingDiverged, match=message):
        run(shapes, tmp_path, [3])
    saved, expected = weights(tmp_path / 'stopped.pth'), weights(tmp_path / 'iter_2.pth')
    for key, value in expected.items():  # the statistics of batch norms, too, which the batch went through
        assert torch.equal(saved[key], value), key
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'stopped.pth')
    meta = read_checkpoint(str(tmp_path / 'stopped.pth'))['meta']
    assert (meta['epoch'], meta['iter']) == (0, 2)
    # As the message says: it stays for a second try with other settings.
    run(shapes, tmp_path, [], **{'load_from': str(tmp_path / 'stopped.pth'), 'optim_wrapper.optimizer.lr': 1e-4})
    assert (tmp_path / 'iter_4.pth').is_file() and (tmp_path / 'stopped.pth').is_file()


def test_a_skipped_batch_of_several_optimizers():
    each = OptimWrapper(torch.optim.SGD([torch.zeros(1)], 0.1))
    finite_loss._count_skipped(OptimWrapperDict(a=each))  # which don't accumulate


@pytest.mark.parametrize('factor', [float('inf'), -float('inf')])
def test_infinite_losses_stop_it_too(shapes, tmp_path, factor):
    cfg = shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1})
    cfg.custom_hooks = [dict(type=Spoil, iterations=[1], name='loss_mask', factor=factor)]
    with pytest.raises(TrainingDiverged, match=f'^loss_mask is {factor} at iteration 1 '):
        train(cfg)


def test_skipped_batches_leave_no_trace(shapes, tmp_path, capfd):
    run(shapes, tmp_path, [2, 3], skip_nan=True)
    assert capfd.readouterr().out.count('the batch is skipped') == 2
    assert list(losses(tmp_path)) and read_checkpoint(str(tmp_path / 'iter_4.pth'))['meta']['iter'] == 4
    first, second, third, fourth = (weights(tmp_path / f'iter_{i}.pth') for i in (1, 2, 3, 4))
    for key, value in first.items():
        assert torch.equal(second[key], value) and torch.equal(third[key], value), key
    assert not torch.equal(fourth['backbone.norm0.weight'], third['backbone.norm0.weight'])


@pytest.mark.slow
def test_too_many_in_a_row_are_not_skipped(shapes, tmp_path):
    with pytest.raises(TrainingDiverged, match=r'iteration 11 \(epoch 3\), 10 batches after the first skipped one'):
        run(shapes, tmp_path, range(1, 99), skip_nan=True, **{'train_cfg.max_epochs': 9})


class SpoilWeights(Hook):
    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        torch.nn.init.constant_(runner.model.backbone.norm0.weight, float('nan'))


def test_weights_that_are_nan_are_not_saved(shapes, tmp_path):
    cfg = shapes_config(shapes, tmp_path)
    cfg.custom_hooks = [dict(type=SpoilWeights)]
    with pytest.raises(TrainingDiverged, match=f'iteration 2 .*the weights are NaN or infinite, too. .*{tmp_path}'):
        train(cfg)
    assert not (tmp_path / 'stopped.pth').exists()


def test_the_model_is_left_as_it_was(shapes, tmp_path):
    runner = run(shapes, tmp_path, [])
    assert 'parse_losses' not in vars(runner.model) and 'train_step' not in vars(runner.model)
    assert any(isinstance(hook, FiniteLossHook) for hook in runner.hooks)


class Fail(Hook):

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        MODELS.append(runner.model)
        raise RuntimeError('something else')


MODELS = []


@pytest.mark.parametrize('omit', [[], ['EpochBasedTrainLoop']])
def test_the_model_is_left_as_it_was_where_something_else_fails(shapes, tmp_path, omit):
    cfg = shapes_config(shapes, tmp_path, **{'mmfasternet.omit': omit})
    cfg.custom_hooks = [dict(type=Fail)]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match='something else'):
        train(cfg)
    assert not {'parse_losses', 'train_step'} & set(vars(MODELS.pop()))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_skipped_batch_counts_for_accumulation(shapes, tmp_path):
    """The second of two: the step is made by the first."""
    run(shapes, tmp_path, [2], skip_nan=True, **{'optim_wrapper.accumulative_counts': 2})
    first, second = (weights(tmp_path / f'iter_{i}.pth') for i in (1, 2))
    assert not torch.equal(first['backbone.stages.0.downsample.conv.weight'],
                           second['backbone.stages.0.downsample.conv.weight'])
    state = read_checkpoint(str(tmp_path / 'iter_4.pth'))['optimizer']['state']
    assert {int(each['step']) for each in state.values()} == {2}


def test_gradients_of_several_processes_are_averaged_before_such_a_step(monkeypatch):
    weight, unused = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    wrapper = OptimWrapper(torch.optim.SGD([weight, unused], lr=1.), accumulative_counts=2)
    weight.grad, wrapper._inner_count = torch.ones(1), 1
    monkeypatch.setattr(finite_loss, 'get_world_size', lambda: 2)
    monkeypatch.setattr(finite_loss, 'all_reduce', lambda gradient, operation: gradient.copy_(gradient / 2 + 0.75))
    finite_loss._count_skipped(wrapper)
    assert float(weight) == -1.25 and float(unused) == -0.75 and weight.grad is None
