"""The terminal shows how a run goes; the log file has everything."""

import warnings

import pytest

from tests.conftest import SHAPES_CONFIG, data_options

DUMPS = ('System environment:', 'auto_scale_lr = dict(', 'Hooks will be executed in the following order:')


@pytest.fixture(scope='module')
def options(shapes):
    return ['--cfg-options', *data_options(shapes)]


def test_dumps_are_in_the_log_file_only(run_tool, options, tmp_path):
    with warnings.catch_warnings(record=True):
        result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path, *options, 'train_dataloader.batch_size=4',
                          'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1', 'param_scheduler=[]')
    assert result.code == 0, result.err
    log, = tmp_path.glob('*/*.log')
    content = log.read_text()
    for dump in DUMPS:
        assert dump in content and dump not in result.out, dump
    for line in ('Epoch(train) [1][2/2]', 'loss_mask: ', 'eta: ', 'coco/bbox_mAP: ', 'mmfasternet added to the config'):
        assert line in content and line in result.out, line
    assert str(log) in result.out and 'FileClient' not in result.out
    assert len(result.out.splitlines()) < 80 < len(content.splitlines())


def test_a_test_is_as_quiet(run_tool, trained, options, tmp_path):
    result = run_tool('test', SHAPES_CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path, *options)
    assert result.code == 0 and '│ mask' in result.out, result.err
    assert not [dump for dump in DUMPS if dump in result.out] and len(result.out.splitlines()) < 80
    content = next(tmp_path.glob('*/*.log')).read_text()
    assert all(dump in content for dump in DUMPS)
