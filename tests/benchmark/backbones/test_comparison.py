"""Two detectors trained alike by ``tools/compare_backbones.py``, interrupted, and gone on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mmengine.config import Config

from mmfasternet.benchmark.backbones import trained as module
from mmfasternet.benchmark.backbones.comparison import validation_images
from mmfasternet.benchmark.backbones.trained import OUTPUT, TRAININGS, read_trained
from mmfasternet.benchmark.harness.records import RECORDS, locked_folder, read_records
from mmfasternet.cli.commands.benchmark_backbones import parse_args
from tests.conftest import ROOT, SHAPES_CONFIG, data_options

OPTIONS = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=4', 'param_scheduler=[]',
           'default_hooks.logger.interval=1']


@pytest.fixture
def compare(run_tool, shapes, tmp_path):
    """Compare two configs of the shapes; more arguments may follow."""
    for name, ratio in (('half', 1 / 2), ('quarter', 1 / 4)):
        (tmp_path / f'{name}.py').write_text(f'_base_ = {str(SHAPES_CONFIG)!r}\n'
                                             f'model = dict(backbone=dict(partial_ratio={ratio}))\n')

    def run(*arguments, options=OPTIONS):
        return run_tool('compare_backbones', tmp_path / 'half.py', tmp_path / 'quarter.py', '--work-dir',
                        tmp_path / 'work', '--out', tmp_path / 'out', '--device', 'cpu', '--runs', 2, *arguments,
                        '--cfg-options', *options, *data_options(shapes))

    return run


@pytest.mark.slow
def test_from_trainings_to_a_table(compare, tmp_path):
    result = compare('--seeds', 2)
    assert result.code == 0, result.err
    found = read_trained(tmp_path / 'out')
    assert [(each.name, each.seed) for each in found] == [('half', 0), ('quarter', 0), ('half', 1), ('quarter', 1)]
    for each in found:
        rows = [json.loads(line) for path in (tmp_path / 'work' / each.name / f'seed-{each.seed}').glob(
            '*/vis_data/scalars.json') for line in path.read_text().splitlines()]
        losses = [(row['iter'], row['loss']) for row in rows if 'loss' in row]
        assert each.iterations == 4 and list(each.curves['loss']) == losses and len(losses) == 4
        assert each.seconds == pytest.approx(sum(row['time'] for row in rows if 'loss' in row))
        aps = [row['coco/segm_mAP'] for row in rows if 'coco/segm_mAP' in row]
        assert list(each.curves['coco/segm_mAP']) == list(zip((2, 4), aps))
        assert each.metrics['coco/segm_mAP'] == aps[-1]
    assert found[0].curves['loss'] != found[2].curves['loss']  # another seed
    assert [record.name for record in read_records(tmp_path / 'out')] == [
        'half, eager', 'half, deploy', 'quarter, eager', 'quarter, deploy']
    assert str(tmp_path / 'work') not in (tmp_path / 'out' / RECORDS).read_text()
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert re.search(r'\| half \| 4\.1 \| 2 \|.*\n\| quarter \| 3\.4 \| 2 \|', text)
    kept = (tmp_path / 'out' / TRAININGS).read_bytes()
    shutil.rmtree(tmp_path / 'work' / 'half' / 'seed-0')
    (tmp_path / 'out' / RECORDS).unlink()  # latency of a detector whose first checkpoint is gone is the next one's
    assert compare('--seeds', 2).code == 0 and len(read_records(tmp_path / 'out')) == 4
    shutil.rmtree(tmp_path / 'work')  # what is measured needs no checkpoint, and its record names no folder
    assert compare('--seeds', 2).code == 0 and (tmp_path / 'out' / TRAININGS).read_bytes() == kept
    edited = compare('--seeds', 2, options=[*OPTIONS, 'optim_wrapper.optimizer.lr=1e-5'])
    assert edited.code and 'another config named half' in edited.err


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(compare, shapes, tmp_path):
    longer = [*OPTIONS, 'train_cfg.max_epochs=6']
    folder = tmp_path / 'work' / 'half' / 'seed-0'
    # Ctrl-C reaches all processes of the terminal's group, a scheduler's or timeout's SIGTERM the first one alone.
    for number, send in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
        known = len(module.read_scalars(folder))
        with open(tmp_path / 'printed', 'wb') as printed:
            process = subprocess.Popen(
                [sys.executable, '-m', 'mmfasternet', 'benchmark', 'backbones', tmp_path / 'half.py',
                 tmp_path / 'quarter.py', '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out', '--device', 'cpu',
                 '--runs', '2', '--seeds', '1', '--cfg-options', *longer, *data_options(shapes)],
                cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=printed, stderr=printed,
                start_new_session=True)
            while process.poll() is None and len(module.read_scalars(folder)) == known:
                time.sleep(.2)
            send(process.pid, number)
            code = process.wait()
        assert code == 128 + number, (tmp_path / 'printed').read_text()
        iteration = re.findall(r'stopped by SIGTERM after iteration (\d+) of 12', (folder / OUTPUT).read_text())[-1]
    assert not (tmp_path / 'out' / TRAININGS).exists()
    edited = compare('--seeds', 1, options=[*longer, 'optim_wrapper.optimizer.lr=1e-5'])
    assert edited.code == 1 and f"'{folder}' holds a training of another config" in edited.err
    assert compare('--seeds', 1, options=longer).code == 0
    assert f'iter: {iteration}' in (folder / OUTPUT).read_text()  # what MMEngine says of a resumed one
    assert [each.iterations for each in read_trained(tmp_path / 'out')] == [12, 12]


@pytest.mark.parametrize('key', ['load_from', 'auto_scale_lr', 'optim_wrapper.optimizer.lr'])
def test_what_changes_a_training_changes_its_digest(key):
    cfg = Config.fromfile(SHAPES_CONFIG)
    before = module.Training('shapes', cfg, 0).digest
    cfg.merge_from_dict({key: {'enable': True} if key == 'auto_scale_lr' else 'weights.pth'})
    assert module.Training('shapes', cfg, 0).digest != before


@pytest.mark.slow
def test_a_training_that_counts_iterations(compare, tmp_path):
    """Its validations stand at their iterations; one that was interrupted is repeated."""
    options = [*OPTIONS[2:], 'default_hooks.logger.interval=2', 'default_hooks.checkpoint.by_epoch=False',
               'default_hooks.checkpoint.interval=3', 'log_processor.by_epoch=False']
    for name in ('half', 'quarter'):
        with open(tmp_path / f'{name}.py', 'a') as file:
            file.write("train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5, val_interval=2)\n")
    assert compare('--seeds', 1, options=options).code == 0
    unbroken = read_trained(tmp_path / 'out')
    for each in unbroken:
        assert each.iterations == 5 and [at for at, _ in each.curves['coco/segm_mAP']] == [2, 4, 5]
    # As if the first had been killed in the validation at its end.
    file, folder = tmp_path / 'out' / TRAININGS, tmp_path / 'work' / 'half' / 'seed-0'
    file.write_text(file.read_text().splitlines()[1] + '\n')
    (scalars, ) = folder.glob('*/vis_data/scalars.json')
    *rows, last = scalars.read_text().splitlines()
    assert json.loads(last)['step'] == 5 and 'coco/segm_mAP' in last
    scalars.write_text('\n'.join(rows) + '\n')
    scalars.parent.parent.rename(folder / '20200101_000000')  # they are named by seconds
    assert compare('--seeds', 1, options=options).code == 0
    again = read_trained(tmp_path / 'out')[-1]
    assert again.name == 'half' and again.metrics == unbroken[0].metrics and again.curves == unbroken[0].curves


@pytest.mark.slow
def test_a_training_that_fails_is_one_line(compare, tmp_path):
    result = compare('--seeds', 1, options=['train_dataloader.dataset.ann_file=missing.json'])
    assert result.code == 1 and len(result.err.strip().splitlines()) == 1
    assert 'the training of half with seed 0 failed: error: ' in result.err and 'missing.json' in result.err
    assert str(tmp_path / 'work' / 'half' / 'seed-0' / OUTPUT) in result.err


def test_one_trains_in_a_work_folder(compare, tmp_path):
    """A training that goes on after its comparison was killed, or another comparison's, has no second beside it."""
    folder = tmp_path / 'work' / 'half' / 'seed-0'
    with locked_folder(folder) as lock:
        heir = subprocess.Popen(['sleep', '600'], pass_fds=[lock])  # which is left alone with it
    try:
        result = compare('--seeds', 1)
    finally:
        heir.kill()
        heir.wait()
    assert result.code == 1 and f"another process trains in '{folder}'" in result.err and not list(folder.iterdir())


def test_a_training_that_is_killed_says_so(monkeypatch, shapes, tmp_path):
    cfg = Config.fromfile(SHAPES_CONFIG)
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))
    (tmp_path / 'python').write_text('#!/bin/sh\necho an ordinary line\nkill -9 $$\n')
    (tmp_path / 'python').chmod(0o755)
    with pytest.raises(module.UserError, match='seed 0 failed: it was killed by SIGKILL'):
        module.train_all([module.Training('shapes', cfg, 0)], tmp_path / 'work', tmp_path / 'out')


def test_images_of_a_wrapped_data_set(shapes):
    cfg = Config.fromfile(SHAPES_CONFIG)
    cfg.merge_from_dict(dict(pair.split('=') for pair in data_options(shapes)))
    alone = validation_images(cfg, 3)
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.val_dataloader.dataset])
    assert validation_images(cfg, 3) == alone and len(set(alone)) == 3


def test_a_config_without_validation(run_tool, tmp_path):
    config = tmp_path / 'blind.py'
    config.write_text(f'_base_ = {str(SHAPES_CONFIG)!r}\nval_cfg = val_dataloader = val_evaluator = None\n')
    result = run_tool('compare_backbones', config, '--work-dir', tmp_path / 'work')
    assert result.code == 1 and "'blind' has no validation" in result.err


def test_a_config_that_ends_before_its_first_validation(compare, tmp_path):
    result = compare('--seeds', 1, options=[*OPTIONS, 'train_cfg.val_begin=3'])
    assert result.code == 1
    assert "'half' would end without a validation: train_cfg.val_begin is 3, but the training ends at 2" in result.err
    assert not (tmp_path / 'work').exists()


def test_what_latency_needs_is_checked_before_training(run_tool, tmp_path):
    config = tmp_path / 'config.py'
    for lines, problem in (
        ('test_cfg = test_dataloader = test_evaluator = None', "'config' has no test_dataloader"),
        ("data_root = 'nowhere/'\nval_dataloader = dict(dataset=dict(data_root=data_root))", 'nowhere')):
        config.write_text(f'_base_ = {str(SHAPES_CONFIG)!r}\n{lines}\n')
        result = run_tool('compare_backbones', config, '--work-dir', tmp_path / 'work')
        assert result.code == 1 and problem in result.err and not (tmp_path / 'work').exists()


def test_amp_takes_no_config_for_its_type():
    args = parse_args(['--amp', 'a.py', 'b.py'])
    assert args.configs == ['a.py', 'b.py'] and args.amp == 'auto'


def test_a_classifier(run_tool, tmp_path):
    result = run_tool('compare_backbones', ROOT / 'configs' / 'fasternet_t0_digits.py', '--out', tmp_path)
    assert result.code == 1 and "'fasternet_t0_digits' is the config of a classifier" in result.err


def test_a_line_that_is_no_record(tmp_path):
    (tmp_path / TRAININGS).write_text('{"name": "a"}\n')
    with pytest.raises(module.UserError, match='line 1 of .* is not a record of a training'):
        read_trained(tmp_path)
