import functools
import gc
import http.server
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import digit_version
from mmengine.visualization import Visualizer
from torch import nn

needs_export = pytest.mark.skipif(digit_version(torch.__version__) < digit_version('2.7.0'),
                                  reason="PyTorch's exporter writes fixed sizes only")
needs_nncf = pytest.mark.skipif(importlib.util.find_spec('nncf') is None, reason='NNCF refuses this numpy')
ROOT = Path(__file__).resolve().parent.parent
#: A file that is there, and can't be read.
UNREADABLE = '/proc/self/mem'
SHAPES_CONFIG = ROOT / 'configs' / 'mask_rcnn_fasternet_t0_shapes.py'


def pytest_configure():
    """Workers of pytest-xdist share the cores; processes that tests start can be interrupted."""
    # Shells start background processes with SIGINT ignored, nohup with SIGHUP, and children inherit this. A handler is
    # not inherited: one that does nothing ignores the signal in this process alone.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    if workers > 1:
        threads = max(len(os.sched_getaffinity(0)) // workers, 1)
        os.environ['OMP_NUM_THREADS'] = str(threads)  # of the processes that tests start
        torch.set_num_threads(threads)


def pytest_collection_finish():
    """Keep what is imported out of garbage collections, of which MMEngine makes one at each build of a dataset."""
    gc.freeze()


def environment(**variables) -> dict:
    """The process's own with changes; a path of modules goes before those that are there."""
    if 'PYTHONPATH' in variables:
        variables['PYTHONPATH'] = os.pathsep.join(filter(None, [variables['PYTHONPATH'], os.environ.get('PYTHONPATH')]))
    return dict(os.environ, PATH=f'{os.path.dirname(sys.executable)}{os.pathsep}{os.environ["PATH"]}', **variables)


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def randomize_norms(model: nn.Module) -> None:
    """Give batch norms statistics and affine parameters under which they are no identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def build(model: dict, scope: str = 'mmdet') -> nn.Module:
    """A model of a config, in its own scope whatever ran before."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(model))


def data_options(root) -> list:
    """--cfg-options that point the shapes config to another folder."""
    options = [f'{split}_dataloader.dataset.data_root={root}/' for split in ('train', 'val', 'test')]
    return options + [f'{split}_evaluator.ann_file={root}/annotations/instances_val.json' for split in ('val', 'test')]


def assert_same_objects(actual, expected, score=1e-3, pixels=1.):
    """Predictions of an image are the same objects, in whatever order near ties come, but for ties at the cut."""
    assert len(actual['labels']) == len(expected['labels']) > 0
    same = (actual['labels'][:, None] == expected['labels'][None]) & (
        (actual['scores'][:, None] - expected['scores'][None]).abs() <= score) & (
        (actual['bboxes'][:, None] - expected['bboxes'][None]).abs().amax(2) <= pixels)
    assert same.any(0).float().mean() >= 0.9 and same.any(1).float().mean() >= 0.9
    found, wanted = same.any(0), same.float().argmax(0)
    if 'masks' in actual:
        masks = actual['masks'][wanted[found]] != expected['masks'][found]
        assert masks.float().mean() < 1e-3


def copy_project(folder: Path) -> Path:
    """A copy to build in: the files that git tracks, or all but leftovers where there is no git, as in an sdist."""
    if not (ROOT / '.git').exists():
        leftovers = shutil.ignore_patterns(
            '.venv*', '__pycache__', '*.egg-info', 'PKG-INFO', 'build', 'dist', 'data', 'work_dirs')
        return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=leftovers))
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split('\0')):
        if os.path.lexists(ROOT / name):  # else it is deleted, but not yet in a commit
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def make_venv(folder: Path, *beside: Path) -> Path:
    """Python of a new environment that holds nothing, but sees the packages in other folders."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    site_packages = next(folder.glob('lib/python*/site-packages'))
    # The .pth files within those folders, an editable mmfasternet's among them, have no effect then.
    (site_packages / 'beside.pth').write_text(''.join(f'{path}\n' for path in beside))
    return folder / 'bin' / 'python'


def installed_packages() -> list:
    """The folders that this Python's packages are installed in."""
    return [Path(path) for path in sys.path if Path(path).name in ('site-packages', 'dist-packages')]


def sleep_ms(milliseconds: float) -> float:
    """Sleep, and give the milliseconds it took: a busy machine oversleeps."""
    start = time.perf_counter()
    time.sleep(milliseconds / 1e3)
    return (time.perf_counter() - start) * 1e3


@pytest.fixture(autouse=True)
def same_surroundings(monkeypatch):
    """The same seed and threads, and no variables that change what the tools do."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    for name in ('MMDET_DATASETS', 'RANK', 'SLURM_PROCID', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.delenv(name, raising=False)
    for backend in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(backend, 'allow_tf32', False)  # on a GPU, float32 is to be that
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_checkpoints_left(tmp_path):
    """Together they take 10 GB. The folders stay, since some caches go by their names."""
    yield
    for path in tmp_path.rglob('*.pth'):
        if not path.is_dir():
            path.unlink()


@pytest.fixture
def web_server(tmp_path, monkeypatch):
    """A web server of the folder ``site``, with the downloads kept in ``hub``; gives its address and its requests."""
    (tmp_path / 'site').mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):

        def log_message(self, *args):
            requests.append(self.path)

    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(
            Handler, directory=tmp_path / 'site')) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_address[1]}', requests
        running.shutdown()


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A tiny dataset of shapes."""
    from mmfasternet.datasets.shapes import make_shapes_coco
    return make_shapes_coco(tmp_path_factory.mktemp('data') / 'shapes', num_train=8, num_val=6, size=96, seed=3)


@pytest.fixture(scope='session')
def wheel_venv(tmp_path_factory):
    """Folder of an environment with mmfasternet as a wheel beside the packages of this one; one for all workers."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    folder, done = base / 'wheel_venv', base / 'wheel_venv_done'
    with FileLock(base / 'wheel_venv.lock'):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
            python = make_venv(folder, *installed_packages())
            source = copy_project(tmp_path_factory.mktemp('source') / 'mmfasternet')
            environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
            # Ignored: the mmfasternet that is installed beside it; it is not removed.
            subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
                            '--no-build-isolation', '--ignore-installed', source], env=environment, check=True)
            done.touch()
    return folder


@pytest.fixture
def wheel_python(wheel_venv, tmp_path, monkeypatch):
    """Python of that environment, for tests that run in another folder and without this repository on the path."""
    monkeypatch.delenv('PYTHONPATH', raising=False)
    monkeypatch.chdir(tmp_path)
    return wheel_venv / 'bin' / 'python'


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run ``tools/NAME.py`` in this process; gives ``code``, ``out`` and ``err``."""

    def run(name, *args):
        spec = importlib.util.spec_from_file_location(f'tools_{name}', ROOT / 'tools' / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        Visualizer._instance_dict.clear()  # hooks draw with the newest, which may be of another scope's run
        monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers of earlier runs write to closed streams
        monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, args)])
        capsys.readouterr()
        try:
            module.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture(scope='session')
def trained(shapes, tmp_path_factory):
    """Work folder of a short training run of the shapes config: two epochs of two iterations."""
    from mmfasternet.engine.config import load_config
    from mmfasternet.engine.train_test import train
    work_dir = tmp_path_factory.mktemp('work') / 'run'
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)), str(work_dir))
    cfg.merge_from_dict({
        'train_dataloader.batch_size': 4,
        'train_cfg.max_epochs': 2,
        'train_cfg.val_interval': 2,
        'param_scheduler': [],
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'default_hooks.logger.interval': 1,
        'randomness.seed': 0,  # the same weights whatever tests ran before
    })
    train(cfg)
    return work_dir
