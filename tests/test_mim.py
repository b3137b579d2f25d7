"""OpenMMLab's mim with an installed wheel: runs in an environment that has both, which no requirement asks for."""

import importlib.metadata
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import data_options

CONFIG = 'mask_rcnn_fasternet_t0_shapes.py'  # mim finds it in the package


def distribution(name):
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


OPENMIM, ONEDL_MIM = distribution('openmim'), distribution('onedl-mim')


@pytest.fixture
def mim(tmp_path):
    """Run mim in a folder of its own."""
    ours = distribution('mmfasternet')
    origin = json.loads(ours.read_text('direct_url.json') or '{}') if ours else {}
    if not ours or origin.get('dir_info', {}).get('editable'):
        pytest.skip('mmfasternet is not installed from a wheel')

    def run(*words):
        # Not the checkout that these tests are in.
        environment = dict(os.environ, PYTHONPATH='', PAGER='cat', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
        return subprocess.run([sys.executable, '-m', 'mim', *map(str, words)], capture_output=True, text=True,
                              cwd=tmp_path, env=environment)

    return SimpleNamespace(run=run, place=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not OPENMIM, reason='openmim is not installed')
def test_openmim_searches_and_downloads(mim):
    found = mim.run('search', 'mmfasternet', '--local', '--config', 'fasternet_t0_in1k')
    assert found.returncode == 0 and 'top_1_accuracy  71.9' in found.stdout, found.stderr
    weights = mim.place / 'files' / 'fasternet_t0-epoch.281-val_acc1.71.9180.pth'
    weights.parent.mkdir()
    weights.touch()  # mim goes on to the config where the file is there
    got = mim.run('download', 'mmfasternet', '--config', 'fasternet_t0_in1k', '--dest', 'files')
    assert got.returncode == 0 and (weights.parent / 'fasternet_t0_in1k.py').is_file(), got.stderr


@pytest.mark.slow
@pytest.mark.skipif(not OPENMIM, reason='openmim is not installed')
def test_openmim_trains_and_tests(mim, shapes):
    options = ['--cfg-options', *data_options(shapes)]
    trained = mim.run('train', 'mmfasternet', CONFIG, '-y', '--gpus', 0, '--work-dir', 'work', *options,
                  'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', 'param_scheduler=[]', 'val_cfg=None',
                  'val_dataloader=None', 'val_evaluator=None')
    assert trained.returncode == 0 and (mim.place / 'work' / 'epoch_1.pth').is_file(), trained.stderr
    tested = mim.run('test', 'mmfasternet', CONFIG, '--checkpoint', 'work/epoch_1.pth', *options)
    assert tested.returncode == 0 and '│ mask' in tested.stdout, tested.stderr


@pytest.mark.slow
@pytest.mark.skipif(not ONEDL_MIM or ONEDL_MIM.version != '0.5.1', reason='onedl-mim 0.5.1 is not installed')
def test_onedl_mim_looks_elsewhere(mim):
    """As docs/getting_started.md says; where this fails, its lines on mim can be shorter."""
    found = mim.run('search', 'mmfasternet', '--local')
    assert found.returncode and 'site-packages/../model-index.yml' in found.stderr and 'is not found' in found.stderr
