"""What of the set-up can be tested without making an environment: the tests run in the one it made."""

import fcntl
import importlib.util
import io
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from packaging.requirements import Requirement

from tests.conftest import ROOT


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup_env():
    return tool('setup_env')


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
        words = [str(part) for part in command]  # not those of the last command: two threads are at it
        commands.append((what, words, kwargs))
        if 'venv' in what or 'virtual' in what:
            command[-1].mkdir(exist_ok=True)
        if what.startswith('downloading'):
            sources = tmp_path / 'sources' / 'mmcv-0'
            sources.mkdir(parents=True, exist_ok=True)
            (sources / 'setup.py').touch()
            folder = words[words.index('--dest') + 1]
            shutil.make_archive(str(setup_env.Path(folder) / 'mmcv-0'), 'gztar', sources.parent, 'mmcv-0')
        if '--dist-dir' in words:
            command[-1].mkdir()
            (command[-1] / 'mmcv-0-cp0.whl').touch()
        pins = ' '.join(next((line for what, line, _ in commands if what.startswith('installing torch')), ()))
        return f"py3-torch{''.join(re.findall(r'torch==(.*?) ', pins)) or 2}-cpu"

    monkeypatch.setattr(setup_env, 'run', run)
    return commands


def test_second_set_up_does_nothing_until_a_pin_changes(setup_env, steps, tmp_path):
    venv = tmp_path / '.venv'
    setup_env.set_up('onedl', None, venv)
    count = len(steps)
    assert count > 5
    setup_env.set_up('onedl', None, venv)
    assert len(steps) == count
    with (setup_env.ROOT / 'requirements' / 'runtime.txt').open('a') as pins:
        pins.write('six\n')
    setup_env.set_up('onedl', None, venv)
    assert len(steps) > count


@pytest.mark.parametrize('stack, name', [('onedl', 'onedl-mmcv==2.3.6'), ('openmmlab', 'mmcv==2.1.0')])
def test_mmcv_is_compiled_once_with_its_operators(setup_env, steps, tmp_path, stack, name):
    for venv in ('a', 'b'):
        setup_env.set_up(stack, None, tmp_path / venv)
    builds = [(command, kwargs) for what, command, kwargs in steps if what.startswith('compiling')]
    assert len(builds) == 1
    download = next(command for what, command, _ in steps if what.startswith('downloading'))
    assert download[-1] == name
    assert {'--no-build-isolation', '--no-binary', '--no-deps'} <= set(download)
    command, kwargs = builds[0]
    assert 'bdist_wheel' in command and kwargs['cwd'].name == 'mmcv-0'
    assert kwargs['env']['MMCV_WITH_OPS'] == '1' and '-O3' in kwargs['env']['CFLAGS']
    assert len(list((tmp_path / 'cache').rglob('*.whl'))) == 1
    key = f'{name.replace("==", "-")}-py3-torch2-cpu'
    assert [p.name for p in (tmp_path / 'cache' / 'wheels').iterdir()] == [key]
    assert [p.name for p in (tmp_path / 'cache' / 'builds').iterdir()] == [f'{key}.lock']  # and no objects are left


def test_an_interrupted_build_goes_on_with_its_objects(setup_env, steps, tmp_path, monkeypatch):
    record, objects = setup_env.run, []

    def run(command, what, **kwargs):
        if what.startswith('compiling'):
            objects.append([path.name for path in kwargs['cwd'].glob('*.o')])
            if len(objects) == 1:
                (kwargs['cwd'] / 'first.o').touch()
                raise KeyboardInterrupt
        return record(command, what, **kwargs)

    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(KeyboardInterrupt):
        setup_env.set_up('onedl', None, tmp_path / 'venv')
    assert not (tmp_path / 'venv' / '.mmfasternet').exists() and not list((tmp_path / 'cache').rglob('*.whl'))
    setup_env.set_up('onedl', None, tmp_path / 'venv')
    assert objects == [[], ['first.o']] and len(list((tmp_path / 'cache').rglob('*.whl'))) == 1
    assert sum(what.startswith('downloading') for what, *_ in steps) == 1


def test_half_an_archive_is_not_taken(setup_env, steps, tmp_path, monkeypatch):
    record = setup_env.run

    def run(command, what, **kwargs):
        output = record(command, what, **kwargs)
        if what.startswith('downloading') and len(killed) == 0:
            archive, = command[command.index('--dest') + 1].glob('*.tar.gz')
            archive.write_bytes(archive.read_bytes()[:20])
            killed.append(archive)
            raise KeyboardInterrupt
        return output

    killed = []
    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(KeyboardInterrupt):
        setup_env.set_up('onedl', None, tmp_path / 'venv')
    setup_env.STOPPING.clear()  # another process
    setup_env.set_up('onedl', None, tmp_path / 'venv')
    assert killed and len(list((tmp_path / 'cache').rglob('*.whl'))) == 1


def test_a_second_set_up_waits_visibly_and_can_be_stopped(setup_env, display, tmp_path):
    with (tmp_path / 'lock').open('w') as first, (tmp_path / 'lock').open('w') as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        setup_env.STOPPING.set()
        with pytest.raises(setup_env.SetupError, match='was stopped'):
            setup_env.wait_for(second)
        setup_env.STOPPING.clear()
        threading.Timer(0.2, lambda: fcntl.flock(first, fcntl.LOCK_UN)).start()
        setup_env.wait_for(second)
        assert '  waiting for another set-up that compiles mmcv 0 s\n' in display.out.getvalue() and not display.steps


def test_nothing_starts_after_an_interruption(setup_env, tmp_path):
    setup_env.STOPPING.set()
    with pytest.raises(setup_env.SetupError, match='doing this was not started'):
        setup_env.run([sys.executable, '-c', f'open({str(tmp_path / "started")!r}, "w")'], 'doing this')
    assert not (tmp_path / 'started').exists()


def test_an_environment_of_another_python_is_cleared(setup_env, steps, tmp_path):
    for name, minor, cleared in (('same', sys.version_info.minor, False), ('other', sys.version_info.minor - 1, True)):
        venv = tmp_path / name
        (venv / 'lib' / f'python3.{minor}').mkdir(parents=True)
        (venv / 'pyvenv.cfg').touch()
        setup_env.set_up('onedl', None, venv)
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
        setup_env.set_up('onedl', None, tmp_path / 'venv')
    assert not (tmp_path / 'venv' / '.mmfasternet').exists()


def test_a_missing_compiler_is_named(setup_env, steps, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(setup_env.SetupError, match='no-such-compiler'):
        setup_env.set_up('onedl', None, tmp_path / 'venv')


def test_a_gpu_without_nvcc_is_named(setup_env, steps, tmp_path, monkeypatch):
    record = setup_env.run

    def run(command, what, **kwargs):
        record(command, what, **kwargs)
        return 'py3-sm90-x86_64'

    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: '/usr/bin/c++' if name == 'c++' else None)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    with pytest.raises(setup_env.SetupError, match='nvcc'):
        setup_env.set_up('onedl', None, tmp_path / 'venv')


def test_a_failing_step_shows_the_end_of_its_output(setup_env):
    with pytest.raises(setup_env.SetupError, match='(?s)doing this failed.*exit status 3.*last words'):
        setup_env.run([sys.executable, '-c', 'print("last words"); exit(3)'], 'doing this')


@pytest.fixture
def display(setup_env, monkeypatch):
    """What a set-up shows in a log, every time that a step has news."""
    display = setup_env.Display(io.StringIO(), interval=0)
    monkeypatch.setattr(setup_env, 'DISPLAY', display)
    return display


def test_a_log_has_a_line_for_each_step_and_for_how_far_it_is(setup_env, display):
    script = 'import time; print("one", flush=True); time.sleep(1.2); print("two")'
    output = setup_env.run([sys.executable, '-c', script], 'doing this', how_far=lambda lines, _: f'{len(lines)} lines')
    assert output == 'one\ntwo'
    shown = display.out.getvalue().splitlines()
    assert '  doing this 1 lines' in shown and re.fullmatch(r'doing this: \d+ s', shown[-1])
    assert not display.steps


def test_a_log_is_not_flooded(setup_env):
    display = setup_env.Display(io.StringIO(), interval=60)
    for number in range(100):
        display.update('doing this', f'{number}')
    assert display.out.getvalue() == ''


def test_a_terminal_has_one_line_that_changes(setup_env, monkeypatch):
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr(setup_env.shutil, 'get_terminal_size', lambda: SimpleNamespace(columns=40))
    display = setup_env.Display(out)
    display.update('installing', '1 of 2 packages')
    display.update('compiling', '37 of 96 files, about 20 s left')
    display.end('installing', 'installing: 3 s')
    start = '\r\x1b[K'
    assert out.getvalue().split(start) == ['', 'installing 1 of 2 packages', 'installing 1 of 2 packages; compiling 3',
                                           'installing: 3 s\n']


def test_how_far_ninja_is(setup_env):
    how_far = setup_env.NinjaHowFar()
    assert how_far(['running build_ext\n'], 3.) == '3 s'
    lines = ['[1/4] c++ -c a.cpp\n', 'a.cpp:3: warning\n']
    assert how_far(lines, 10.) == '1 of 4 files, 10 s, about 30 s left'
    assert how_far(lines, 15.) == '1 of 4 files, 15 s, about 25 s left'  # counts down
    assert how_far(lines, 60.) == '1 of 4 files, 60 s'  # and does not grow
    assert how_far([*lines, '[3/4] c++\n'], 61.) == '3 of 4 files, 61 s, about 20 s left'
    assert how_far([*lines, '[4/4] c++\n'], 80.) == '4 of 4 files, 80 s'
    assert setup_env.NinjaHowFar()(['[0/4] c++ -c a.cpp\n'], 1.) == '1 s'


def test_how_far_pip_is(setup_env, tmp_path):
    (tmp_path / 'old-1.dist-info').mkdir()
    how_far = setup_env.pip_how_far(tmp_path)
    lines = ['Collecting a\n', '  Using cached a.whl\n', 'Collecting b\n']
    assert how_far(lines, 4.2) == '2 packages found, 4 s'
    lines.append('Installing collected packages: c, b, a\n')
    assert how_far(lines, 5.) == '0 of 3 packages, 5 s'
    (tmp_path / 'c-1.dist-info').mkdir()
    assert how_far(lines, 6.) == '1 of 3 packages, 6 s'


def test_a_step_that_is_interrupted_ends_with_all_that_it_started(setup_env, display, tmp_path, monkeypatch):
    child = f'import time; open({str(tmp_path / "started")!r}, "w"); time.sleep(600)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'

    def interrupt(lines, seconds):
        if (tmp_path / 'started').exists():
            processes.extend(set(psutil.Process().children(recursive=True)) - before)
            raise KeyboardInterrupt
        return ''

    processes, before = [], set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        setup_env.run([sys.executable, '-c', parent], 'doing this', how_far=interrupt)
    assert len(processes) == 2 and not psutil.wait_procs(processes, 10)[1]
    assert not setup_env.RUNNING


def waiting_setup(folder, **options):
    """A set-up that is at its first step, a process of its own."""
    process = subprocess.Popen([sys.executable, ROOT / 'tools' / 'setup_env.py', '--venv', folder / 'venv'],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline().startswith('setting up')
    time.sleep(0.5)
    return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interruption(tmp_path, number):
    process = waiting_setup(tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == 'interrupted: run the same command to continue\n'
    assert process.returncode == 1 and not (tmp_path / 'venv' / '.mmfasternet').exists()


def test_below_nohup_a_hangup_is_ignored(tmp_path):
    process = waiting_setup(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    assert process.communicate(timeout=60)[1] == 'interrupted: run the same command to continue\n'


def sources(root, *names):
    for name in names:
        path = root / 'csrc' / 'pytorch' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        yield str(path)


def test_files_are_joined_in_units_each_file_once(tmp_path):
    build_mmcv = tool('build_mmcv')
    names = ['nms.cpp', 'pybind.cpp', 'cpu/nms.cpp', 'cpu/psamask.cpp', 'cpu/roi_align.cpp', 'cpu/bezier_align.cpp',
             'cpu/voxelization.cpp']
    files = build_mmcv.join(sources(tmp_path, *names), tmp_path / 'units')
    included = [re.findall(r'#include ".*?/csrc/pytorch/(.*?)"', Path(file).read_text()) for file in files]
    assert included == [['nms.cpp', 'pybind.cpp'], ['cpu/nms.cpp', 'cpu/voxelization.cpp', 'cpu/psamask.cpp'],
                        ['cpu/bezier_align.cpp'], ['cpu/roi_align.cpp']]
    assert len(set(files)) == 4


def test_units_that_have_not_changed_are_not_written_again(tmp_path):
    build_mmcv = tool('build_mmcv')
    paths = list(sources(tmp_path, 'nms.cpp', 'pybind.cpp'))
    first, = build_mmcv.join(paths, tmp_path / 'units')
    before = Path(first).stat().st_mtime_ns
    assert build_mmcv.join(paths, tmp_path / 'units') == [first] and Path(first).stat().st_mtime_ns == before
    Path(first).write_text('')
    build_mmcv.join(paths, tmp_path / 'units')
    assert 'pybind.cpp' in Path(first).read_text()


def test_the_operators_of_this_environment_run(setup_env):
    subprocess.run([sys.executable, '-c', setup_env.CHECK_OPS], check=True)


def installed(steps):
    return [' '.join(command) for what, command, _ in steps if what.startswith('installing torch')]


def test_another_torch_is_installed_with_its_torchvision_and_has_a_wheel_of_its_own(setup_env, steps, tmp_path):
    for release in ('2.14.1', '2.6.0'):
        steps.clear()
        setup_env.set_up('onedl', release, tmp_path / release)
        line, = installed(steps)
        assert f'torch=={release} torchvision ' in line and 'requirements/torch.txt' not in line
        assert 'requirements/build.txt' in line and 'requirements/runtime.txt' in line
    steps.clear()
    setup_env.set_up('onedl', None, tmp_path / 'default')
    assert 'requirements/torch.txt' in installed(steps)[0] and 'torch==' not in installed(steps)[0]
    assert sorted(p.name for p in (tmp_path / 'cache' / 'wheels').iterdir()) == [
        f'onedl-mmcv-2.3.6-py3-torch{release}-cpu' for release in ('2', '2.14.1', '2.6.0')]


def test_another_torch_brings_an_environment_up_to_date(setup_env, steps, tmp_path):
    for release, changes in (('2.14.1', True), ('2.14.1', False), ('2.13.0', True), (None, True)):
        steps.clear()
        setup_env.set_up('onedl', release, tmp_path / 'venv')
        assert bool(steps) == changes


@pytest.mark.parametrize('release, message', [
    ('abc', 'TORCH=abc is not a release.*2.14.1'),
    ('2.14', 'TORCH=2.14 is not a release.*2.14.1'),
    ('2.14.1+cpu', r'TORCH=2.14.1\+cpu is not a release'),
    ('2.5.1', 'TORCH=2.5.1 is too old: 2.6.0 is the oldest'),
])
def test_a_wrong_torch_is_one_line_and_makes_nothing(tmp_path, release, message):
    result = subprocess.run([sys.executable, ROOT / 'tools' / 'setup_env.py', '--torch', release, '--venv',
                             tmp_path / 'venv'], capture_output=True, text=True)
    assert result.returncode == 1 and not (tmp_path / 'venv').exists()
    assert re.fullmatch(f'error: {message}.*\n', result.stderr), result.stderr


def test_the_oldest_torch_is_the_packages(setup_env):
    texts = (ROOT / 'setup.cfg').read_text() + (ROOT / 'mmfasternet' / '__init__.py').read_text()
    oldest = re.findall(r"\btorch(?:>=|=\(')([\d.]+)", texts)
    assert oldest and {tuple(map(int, release.split('.'))) for release in oldest} == {setup_env.OLDEST_TORCH}


@pytest.mark.parametrize('there', [False, True])
def test_a_torch_that_cannot_be_had_is_one_line_and_leaves_nothing(setup_env, steps, tmp_path, monkeypatch, there):
    record, venv = setup_env.run, tmp_path / 'venv'
    if there:
        venv.mkdir()

    def run(command, what, **kwargs):
        record(command, what, **kwargs)
        if what.startswith('installing torch'):  # pip's words
            raise setup_env.SetupError('ERROR: Could not find a version that satisfies the requirement torch==2.99.0 '
                                       '(versions: 2.6.0)\nERROR: No matching distribution found for torch==2.99.0')

    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(setup_env.SetupError, match=r'^TORCH=2.99.0 is not available for Python 3.\d+ .*[^\n]$'):
        setup_env.set_up('onedl', '2.99.0', venv)
    assert venv.exists() == there


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13', '3.14', '3.15'])
def test_each_python_has_one_pin_of_each_library(python):
    names, of_this_python = set(), []
    for path in sorted((ROOT / 'requirements').glob('*.txt')):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith('#')]
        pins = [Requirement(line) for line in lines]
        names |= {(path.name, pin.name) for pin in pins}
        of_this_python += [(path.name, pin.name) for pin in pins
                           if pin.marker is None or pin.marker.evaluate(dict(python_version=python))]
    if int(python.partition('.')[2]) >= 12:
        names.remove(('deploy.txt', 'nncf'))  # which refuses the numpy of these
    assert sorted(of_this_python) == sorted(names)


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize('variables, folder, options', [
    ([], '.venv', '--stack onedl'),
    (['TORCH=2.14.1'], '.venv-torch2.14.1', '--stack onedl --torch 2.14.1'),
    (['STACK=openmmlab', 'TORCH=2.6.0'], '.venv-openmmlab-torch2.6.0', '--stack openmmlab --torch 2.6.0'),
])
@pytest.mark.parametrize('target', ['setup', 'test', 'demo', 'lint', 'docs'])
def test_make_has_an_environment_for_each_torch(target, variables, folder, options, monkeypatch):
    for name in ('MAKEFLAGS', 'MAKEOVERRIDES', 'TORCH', 'STACK'):  # as `make test TORCH=...` passes them on
        monkeypatch.delenv(name, raising=False)
    lines = subprocess.run(['make', '-n', '--no-print-directory', target, *variables], cwd=ROOT, capture_output=True,
                           text=True, check=True).stdout
    made, rest = lines.split('\n', 1)
    assert made.replace('"', '').split()[1:] == f'tools/setup_env.py {options} --venv {ROOT / folder}'.split()
    used = set(re.findall(r'"([^"]*)/bin/', rest))
    assert used == (set() if target == 'setup' else {str(ROOT / folder)})


def headers_standard():
    """What torch's headers ask of ``__cplusplus``."""
    text = (Path(torch.__file__).parent / 'include' / 'ATen' / 'ATen.h').read_text()
    return re.search(r'__cplusplus < (\d+)L', text).group(1)


@pytest.mark.skipif(not shutil.which('c++'), reason='needs a C++ compiler')
@pytest.mark.parametrize('options', [dict(cxx=['-std=c++14', '-DFIRST']), dict(cxx=['-DFIRST'], nvcc=['-std=c++14'])])
def test_mmcv_is_compiled_by_the_standard_of_torchs_headers(tmp_path, options):
    (tmp_path / 'setup.py').write_text(f"""
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

class Shown(BuildExtension):
    def run(self):
        super().run()
        print('flags', [extension.extra_compile_args for extension in self.extensions])

setup(name='mmcv-0', ext_modules=[CppExtension('ops', ['ops.cpp'], include_dirs=[], extra_compile_args={options})],
      cmdclass=dict(build_ext=Shown))
""")
    # Without torch's headers, which take a minute.
    (tmp_path / 'ops.cpp').write_text(f"""
#ifndef FIRST
#error an option is lost
#endif
static_assert(__cplusplus == {headers_standard()}L, "the standard is another");
""")
    result = subprocess.run([sys.executable, ROOT / 'tools' / 'build_mmcv.py', 'build_ext'], cwd=tmp_path,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'c++14' not in result.stdout.split('flags')[-1] and len(list((tmp_path / 'build').rglob('ops*.so'))) == 1
