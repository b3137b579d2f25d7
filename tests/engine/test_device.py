import pytest
import torch
from mmengine.config import Config

from mmfasternet.engine import device
from mmfasternet.engine.config import load_config
from mmfasternet.engine.device import limit_workers, set_threads
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from mmfasternet.errors import UserError
from tests.conftest import SHAPES_CONFIG

KEYS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture
def lines(monkeypatch):
    """What is logged, by a process that may use two CPUs of many and whose user set no threads."""
    said = []
    monkeypatch.setattr(device, 'usable_cpus', lambda: 2)
    monkeypatch.setattr(device, 'is_limited', lambda: True)
    monkeypatch.setattr(device, 'print_log', lambda line, *args: said.append(line))
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    return said


def test_threads_follow_the_quota(lines):
    torch.set_num_threads(8)
    set_threads()
    assert torch.get_num_threads() == 2 and '2 threads' in lines[0] and 'instead of 8;' in lines[0]


def test_there_are_no_more_threads_than_pytorch_takes(lines):
    torch.set_num_threads(1)
    set_threads()
    assert torch.get_num_threads() == 1 and not lines


@pytest.mark.parametrize('name', ['OMP_NUM_THREADS', 'MKL_NUM_THREADS'])
def test_what_the_user_sets_holds(lines, monkeypatch, name):
    monkeypatch.setenv(name, '8')
    torch.set_num_threads(8)
    set_threads()
    assert torch.get_num_threads() == 8
    monkeypatch.delenv(name)
    set_threads(5)
    assert torch.get_num_threads() == 5 and not lines
    with pytest.raises(UserError, match='^the number of threads must be at least 1, got 0$'):
        set_threads(0)


def workers(cfg):
    return [cfg[key].get('num_workers') for key in KEYS]


@pytest.mark.parametrize('processes, expected', [(None, 2), ('1', 2), ('2', 1), ('8', 1)])
def test_workers_follow_the_quota(lines, monkeypatch, processes, expected):
    if processes:
        monkeypatch.setenv('LOCAL_WORLD_SIZE', processes)
    cfg = Config(dict(train_dataloader=dict(num_workers=8), val_dataloader=dict(num_workers=0), test_dataloader=dict()))
    limit_workers(cfg)
    assert workers(cfg) == [expected, 0, None]
    assert len(lines) == 1 and f'num_workers is {expected} instead of train_dataloader 8:' in lines[0]


def test_on_a_whole_machine_workers_are_as_many_as_the_config_says(lines, monkeypatch):
    monkeypatch.setattr(device, 'is_limited', lambda: False)
    cfg = Config({key: dict(num_workers=8) for key in KEYS})
    limit_workers(cfg)
    assert workers(cfg) == [8, 8, 8] and not lines


@pytest.mark.parametrize('options', [TrainOptions(), TestOptions('a.pth')])
def test_each_run_has_so_many_workers(lines, options):
    cfg = load_config(str(SHAPES_CONFIG), {f'{key}.num_workers': 8 for key in KEYS})
    prepared = prepare(cfg, options)
    assert workers(prepared) == [2, 2, 2] and workers(cfg) == [8, 8, 8]


@pytest.mark.parametrize('tool, arguments', [
    ('train', [SHAPES_CONFIG]), ('test', [SHAPES_CONFIG, 'gone.pth']), ('export', [SHAPES_CONFIG, 'gone.pth']),
    ('image_demo', ['{image}', SHAPES_CONFIG, 'gone.pth']),
    ('benchmark_detector', [SHAPES_CONFIG, '--checkpoint', 'gone.pth']),
])
def test_each_command_follows_the_quota(lines, run_tool, shapes, tmp_path, monkeypatch, tool, arguments):
    """They end, since a file is missing."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(8)
    run_tool(tool, *(shapes / 'val' / '000000.png' if word == '{image}' else word for word in arguments))
    assert torch.get_num_threads() == 2
