"""What of the set-up can be tested without making an environment: the tests run in the one it made."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def setup_env():
    spec = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def steps(setup_env, monkeypatch, tmp_path):
    """The commands that a set-up would run, in a copy of the project; nothing is run."""
    root = tmp_path / 'project'
    (root / 'tools').mkdir(parents=True)
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    shutil.copy(ROOT / 'setup.cfg', root)
    monkeypatch.setattr(setup_env, 'ROOT', root)
    monkeypatch.setenv('MMFASTERNET_CACHE', str(tmp_path / 'cache'))
    commands = []

    def run(command, what, **kwargs):
        commands.append((what, [str(part) for part in command], kwargs))
        if 'venv' in what or 'virtual' in what:
            command[-1].mkdir(exist_ok=True)
        if '--wheel-dir' in commands[-1][1]:
            folder = commands[-1][1][commands[-1][1].index('--wheel-dir') + 1]
            (setup_env.Path(folder) / 'mmcv-0-cp0.whl').touch()
        return 'py3-torch2-cpu'

    monkeypatch.setattr(setup_env, 'run', run)
    return commands


def test_second_set_up_does_nothing_until_a_pin_changes(setup_env, steps, tmp_path):
    venv = tmp_path / '.venv'
    setup_env.set_up('onedl', venv)
    count = len(steps)
    assert count > 5
    setup_env.set_up('onedl', venv)
    assert len(steps) == count
    with (setup_env.ROOT / 'requirements' / 'runtime.txt').open('a') as pins:
        pins.write('six\n')
    setup_env.set_up('onedl', venv)
    assert len(steps) > count


@pytest.mark.parametrize('stack, name', [('onedl', 'onedl-mmcv==2.3.6'), ('openmmlab', 'mmcv==2.1.0')])
def test_mmcv_is_compiled_once_with_its_operators(setup_env, steps, tmp_path, stack, name):
    for venv in ('a', 'b'):
        setup_env.set_up(stack, tmp_path / venv)
    builds = [(command, kwargs) for what, command, kwargs in steps if what.startswith('compiling')]
    assert len(builds) == 1
    command, kwargs = builds[0]
    assert command[-1] == name
    assert {'--no-build-isolation', '--no-cache-dir', '--no-binary', '--no-deps'} <= set(command)
    assert kwargs['env']['MMCV_WITH_OPS'] == '1' and '-O3' in kwargs['env']['CFLAGS']
    assert len(list((tmp_path / 'cache').rglob('*.whl'))) == 1
    assert [p.name for p in (tmp_path / 'cache' / 'wheels').iterdir()] == [f'{name.replace("==", "-")}-py3-torch2-cpu']


def test_an_environment_of_another_python_is_cleared(setup_env, steps, tmp_path):
    for name, minor, cleared in (('same', sys.version_info.minor, False), ('other', sys.version_info.minor - 1, True)):
        venv = tmp_path / name
        (venv / 'lib' / f'python3.{minor}').mkdir(parents=True)
        (venv / 'pyvenv.cfg').touch()
        setup_env.set_up('onedl', venv)
        made = [command for what, command, _ in steps if 'virtual' in what][-1]
        assert ('--clear' in made) == cleared and made[-1] == str(venv)


def test_operators_that_do_not_run_stop_the_set_up(setup_env, steps, tmp_path, monkeypatch):
    record = setup_env.run

    def run(command, what, **kwargs):
        if 'operators' in what and 'running' in what:
            raise setup_env.SetupError('no module named mmcv._ext')
        return record(command, what, **kwargs)

    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(setup_env.SetupError, match='(?s)mmcv._ext.*Remove .*cache'):
        setup_env.set_up('onedl', tmp_path / 'venv')
    assert not (tmp_path / 'venv' / '.mmfasternet').exists()


def test_a_missing_compiler_is_named(setup_env, steps, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(setup_env.SetupError, match='no-such-compiler'):
        setup_env.set_up('onedl', tmp_path / 'venv')


def test_a_gpu_without_nvcc_is_named(setup_env, steps, tmp_path, monkeypatch):
    record = setup_env.run

    def run(command, what, **kwargs):
        record(command, what, **kwargs)
        return 'py3-sm90-x86_64'

    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: '/usr/bin/c++' if name == 'c++' else None)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    with pytest.raises(setup_env.SetupError, match='nvcc'):
        setup_env.set_up('onedl', tmp_path / 'venv')


def test_a_failing_step_shows_the_end_of_its_output(setup_env):
    with pytest.raises(setup_env.SetupError, match='(?s)doing this failed.*exit status 3.*last words'):
        setup_env.run([sys.executable, '-c', 'print("last words"); exit(3)'], 'doing this')


def test_the_operators_of_this_environment_run(setup_env):
    subprocess.run([sys.executable, '-c', setup_env.CHECK_OPS], check=True)
