"""The command ``mmfasternet``, beside the scripts in ``tools/``, whose own tests are in test_tools.py."""

import configparser
import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.cli.command import COMMANDS, main
from mmfasternet.config_files import config_names, config_path, configs_folder
from mmfasternet.version import __version__
from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.test_pages import TEXT

SCRIPTS = dict(re.findall(r'^\| `mmfasternet ([\w -]+)` \| `python tools/(\w+)\.py` \|$', TEXT, re.M))
ENTRY = configparser.ConfigParser()
ENTRY.read(ROOT / 'setup.cfg')


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the installed command in this process; gives its status, and what it printed."""
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmfasternet'])
    monkeypatch.setenv('COLUMNS', '200')
    name, _, where = ENTRY['options.entry_points']['console_scripts'].strip().partition(' = ')
    module, _, function = where.partition(':')
    assert name == 'mmfasternet'
    entry = getattr(importlib.import_module(module), function)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmfasternet', *map(str, words)])
        capsys.readouterr()
        try:
            code = entry() or 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def as_a_module(*words, cwd=ROOT, start=(sys.executable, '-m', 'mmfasternet')):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment,
                          timeout=600)


def flags(text):
    return set(re.findall(r'--[a-z][\w-]*', text))


def test_the_pages_have_every_command_and_every_script():
    assert list(SCRIPTS) == [name for name in COMMANDS if name != 'configs']
    assert sorted(SCRIPTS.values()) == sorted(path.stem for path in (ROOT / 'tools').glob('*.py')
                                              if path.stem not in ('setup_env', 'build_mmcv'))


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_command_is_its_script(command, run_tool, monkeypatch, name):
    code, out, _ = command(*name.split(), '--help')
    script = run_tool(SCRIPTS[name], '--help')
    assert code == script.code == 0 and flags(out) == flags(script.out) > {'--help'}
    assert out.startswith(f'usage: mmfasternet {name} [-h]')
    assert script.out.startswith(f'usage: python tools/{SCRIPTS[name]}.py [-h]')
    example, = re.findall(rf'^example: mmfasternet {name} (.+)$', out, re.M)
    by_script, = re.findall(rf'^example: python tools/{SCRIPTS[name]}\.py (.+)$', script.out, re.M)
    # By names, since who installed a wheel has no folder of configs.
    configs = [word for word in shlex.split(by_script) if word.startswith('configs/')]
    assert all((configs_folder() / config.removeprefix('configs/')).is_file() for config in configs)
    assert example == re.sub(r'configs/(\w+)\.py', r'\1', by_script) and 'configs' not in example
    module = importlib.import_module(f'mmfasternet.cli.commands.{re.sub("[ -]", "_", name)}')
    module.parse_args(shlex.split(example))  # it would exit


@pytest.mark.parametrize('words', [[], ['--help'], ['-h']])
def test_commands_are_listed(command, words):
    code, out, _ = command(*words)
    assert code == 0 and out.startswith('usage: mmfasternet COMMAND')
    assert re.findall(r'^  (\S+(?: \S+)*)  +\S', out, re.M) == list(COMMANDS)
    assert max(map(len, out.splitlines())) <= 100


def test_commands_of_a_group_are_listed(command):
    for words in (['benchmark'], ['benchmark', '--help']):
        code, out, _ = command(*words)
        assert code == 0 and out.startswith('usage: mmfasternet benchmark COMMAND')
        assert re.findall(r'^  (\S+)  +\S', out, re.M) == [name[10:] for name in COMMANDS if 'benchmark' in name]


def test_the_list_needs_no_torch():
    code = 'import sys; from mmfasternet.cli.command import main; main([]); print({"torch", "mmcv"} & set(sys.modules))'
    assert as_a_module(code, start=(sys.executable, '-c')).stdout.endswith('\nset()\n')


def test_the_version(command):
    assert command('--version') == (0, f'mmfasternet {__version__}\n', '')


@pytest.mark.parametrize('words, near', [(['trian'], 'train'), (['benchmark', 'detectors'], 'benchmark detector'),
                                         (['detector'], 'benchmark detector'), (['--trust'], None)])
def test_an_unknown_command_is_one_line(command, words, near):
    code, out, err = command(*words)
    assert code == 2 and not out and err.count('\n') == 1
    assert err.startswith(f"error: there is no command '{' '.join(words)}'. "
                          f"{f'Similar names: {near}' if near else 'To list all'}")
    assert err.endswith('To list all: mmfasternet --help\n')


def test_arguments_may_be_given_in_python(capsys):
    with pytest.raises(SystemExit, match='1'):
        main(['flops', 'gone.py'])
    assert "'gone.py'" in capsys.readouterr().err


@pytest.mark.slow
def test_train_test_and_predict(command, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ['--cfg-options', *data_options(shapes)]
    code, _, err = command('train', SHAPES_CONFIG, '--work-dir', 'work', *options, 'train_dataloader.batch_size=4',
                           'train_cfg.max_epochs=1', 'param_scheduler=[]', 'val_cfg=None', 'val_dataloader=None',
                           'val_evaluator=None')
    assert code == 0, err
    weights = tmp_path / 'work' / 'epoch_1.pth'
    assert read_checkpoint(str(weights))['meta']['iter'] == 2  # eight images, four at a time
    code, out, err = command('test', SHAPES_CONFIG, weights, '--work-dir', 'work', *options)
    assert code == 0 and '│ mask' in out, err
    code, out, err = command('predict', shapes / 'val', SHAPES_CONFIG, weights, '--score-thr', '0')
    assert code == 0 and out.endswith('predictions: see outputs\n'), err
    rows = json.loads((tmp_path / 'outputs' / 'predictions.json').read_text())
    assert {row['file_name'] for row in rows} == {path.name for path in (shapes / 'val').iterdir()}


@pytest.mark.slow
def test_as_a_module_from_another_folder(tmp_path):
    result = as_a_module('make-shapes', 'shapes', '--num-train', 1, '--num-val', 1, '--size', 64, cwd=tmp_path)
    assert result.returncode == 0 and len(list(tmp_path.glob('shapes/train/*.png'))) == 1, result.stderr
    again = as_a_module('make-shapes', 'shapes', cwd=tmp_path)
    assert again.returncode == 1 and again.stderr.startswith('error: ') and again.stderr.count('\n') == 1


@pytest.mark.slow
def test_several_processes_of_torchrun(shapes, tmp_path):
    result = as_a_module('train', SHAPES_CONFIG, '--launcher', 'pytorch', '--work-dir', tmp_path / 'work',
                         '--cfg-options', *data_options(shapes), 'train_dataloader.batch_size=2', 'param_scheduler=[]',
                         'train_cfg.max_epochs=1', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
                         start=(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                                '-m', 'mmfasternet'))
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_checkpoint(str(tmp_path / 'work' / 'epoch_1.pth'))['meta']['iter'] == 2  # eight images, twice two


def test_configs_are_listed_and_found(command):
    assert command('configs') == (0, '\n'.join(config_names()) + '\n', '')
    name = 'mask_rcnn_fasternet_s_1x_coco'
    assert command('configs', name) == (0, f'{config_path(name)}\n', '')
    code, out, error = command('configs', 'mask_rcnn_fasternet_s')
    assert code == 1 and out == ''
    assert error.startswith("error: the package has no config named 'mask_rcnn_fasternet_s'. Similar")
