"""More batches than one for a step, more processes than one."""

import os
import re
import signal
import subprocess
import time

import pytest
import torch

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.config import load_config
from mmfasternet.engine.hooks import finite_loss
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.engine.train_test import train
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, environment, free_port
from tests.engine.hooks.test_resume import losses, shapes_config
from tests.engine.test_faults import write_config


@pytest.mark.slow
@pytest.mark.parametrize('counts, steps', [(1, 4), (2, 2)])
def test_accumulated_batches_make_one_step(shapes, tmp_path, counts, steps):
    train(shapes_config(shapes, tmp_path, **{
        'train_cfg.max_epochs': 1, 'optim_wrapper.accumulative_counts': counts}))
    state = read_checkpoint(str(tmp_path / 'iter_4.pth'))['optimizer']['state']
    assert {int(each['step']) for each in state.values()} == {steps}


@pytest.mark.slow
def test_recomputed_blocks_train_alike(shapes, tmp_path):
    for name, recompute in (('plain', False), ('recomputed', True)):
        train(shapes_config(shapes, tmp_path / name, **{
            'train_cfg.max_epochs': 1, 'model.backbone.with_cp': recompute, 'model.backbone.drop_path_rate': 0.2}))
    assert losses(tmp_path / 'recomputed') == pytest.approx(losses(tmp_path / 'plain'), rel=1e-3)


@pytest.mark.parametrize('options, advice', [
    ({'model.backbone.norm_cfg.type': 'SyncBN'}, 'model.backbone.norm_cfg.type=BN'),
    ({'model.backbone.norm_cfg.type': 'MMSyncBN'}, 'model.backbone.norm_cfg.type=BN'),
    ({'model.neck.norm_cfg': dict(type=torch.nn.SyncBatchNorm)}, 'model.neck.norm_cfg.type=BN'),
    ({'model.neck.norm_cfg': dict(type='torch.nn.SyncBatchNorm')}, 'model.neck.norm_cfg.type=BN'),
    ({'sync_bn': 'torch'}, 'sync_bn=None'),
])
def test_synchronised_norms_of_several_processes_need_gpus(monkeypatch, options, advice):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    cfg = load_config(str(SHAPES_CONFIG), options, launcher='pytorch')
    with pytest.raises(UserError, match=rf'^SyncBN of several processes needs GPUs, .*\(--cfg-options {advice}\)$'):
        prepare(cfg, TrainOptions())


def test_all_processes_skip_a_batch_if_one_has_to(monkeypatch):
    """The loss here is finite, that of another process is not."""
    monkeypatch.setattr(finite_loss, 'get_world_size', lambda: 2)
    monkeypatch.setattr(finite_loss, 'all_reduce', lambda flag, operation: flag.fill_(1))
    checked = finite_loss._checking(lambda found: (torch.tensor(1.), dict(loss_cls=torch.tensor(1.))))
    with pytest.raises(finite_loss._LossNotFinite, match='a loss of another process'):
        checked({})


class Processes:
    """Two of them, by ``tools/dist_train.sh``."""

    def __init__(self, config, work_dir, *flags):
        self.log = work_dir.parent / f'{time.time_ns()}.log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [ROOT / 'tools' / 'dist_train.sh', config, '2', '--work-dir', work_dir, *flags], stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=environment(MASTER_PORT=free_port(), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
                                PYTHONPATH=f"{work_dir.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"))

    def wait(self, code=0):
        assert self.process.wait(300) == code, self.log.read_text()[-3000:]
        return self.log.read_text()


@pytest.mark.slow
def test_sigterm_stops_two_processes_after_the_same_iteration(shapes, tmp_path):
    config = write_config(shapes, tmp_path / 'config.py', epochs=10, interval=100, workers=1)
    unbroken = Processes(config, tmp_path / 'unbroken')
    unbroken.wait()
    stopped = Processes(config, tmp_path / 'stopped')
    while 'Epoch(train)' not in stopped.log.read_text():
        assert stopped.process.poll() is None, stopped.log.read_text()[-3000:]
        time.sleep(0.01)
    os.killpg(stopped.process.pid, signal.SIGTERM)  # as schedulers do
    message = re.search(r'stopped by SIGTERM after iteration (\d+) of 20; \S+/stopped\.pth is saved\. '
                        r'To continue: the same command with --resume', stopped.wait())
    assert message
    resumed = Processes(config, tmp_path / 'stopped', '--resume').wait()
    assert f'iter: {message[1]}' in resumed
    assert losses(tmp_path / 'stopped') == pytest.approx(losses(tmp_path / 'unbroken'), rel=1e-5)


SPOIL = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SpoilOneProcess(Hook):
    def before_train(self, runner):
        model = runner.model.module
        loss = model.loss

        def spoilt(*args, **kwargs):
            found = loss(*args, **kwargs)
            if runner.rank == 1 and runner.iter == 1:
                found['loss_cls'] = found['loss_cls'] * float('nan')
            return found

        model.loss = spoilt
"""


@pytest.mark.slow
def test_a_nan_in_one_process_stops_both_with_the_state_saved(shapes, tmp_path):
    (tmp_path / 'spoil_one_process.py').write_text(SPOIL)
    config = write_config(shapes, tmp_path / 'config.py', epochs=2, interval=100, workers=1)
    config.write_text(config.read_text() + """
custom_imports['imports'] = ['mmfasternet.models', 'spoil_one_process']
custom_hooks = [dict(type='SpoilOneProcess')]
""")
    output = Processes(config, tmp_path / 'run').wait(code=1)
    message = "error: a loss of another process is NaN or infinite at iteration 2 "
    assert re.search(message + r".*/stopped\.pth holds", output)
    assert read_checkpoint(str(tmp_path / 'run' / 'stopped.pth'))['meta']['iter'] == 1
