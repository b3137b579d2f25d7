#!/usr/bin/env python3
"""Make the virtual environment that everything else here runs in.

Needs Python 3.10 or later and a C++ compiler; where there is a GPU, also the CUDA toolkit (nvcc). mmcv's compiled
operators have no ready-made wheel for every torch, so they are compiled once and kept for the next time. If it is
interrupted, the same command continues it.

Example:
    python3 tools/setup_env.py --stack onedl --venv .venv
    python3 tools/setup_env.py --torch 2.14.1 --venv .venv-torch2.14.1
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACKS = {'onedl': 'onedl-mmcv', 'openmmlab': 'mmcv'}  # the stack's name -> what its mmcv is called
LIBRARIES = ('runtime', 'deploy', 'docs', 'tests')  # files in requirements/, beside the stack's and torch's
OLDEST_TORCH = (2, 6)  # whose safe loading takes a stand-in by the name of what a file asks for
PIP = ('-m', 'pip', '--disable-pip-version-check')

CHECK_OPS = """
import torch
from mmcv.ops import nms
for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30.]], device=device)
    kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), .5)[1].tolist()
    assert kept == [0, 2], f'nms keeps {kept} instead of [0, 2] on {device}'
"""

# mmcv's build makes operators for the GPUs that torch sees, or for the CPU only.
BUILD_KEY = """
import platform, sys, torch
kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
print('py{}.{}'.format(*sys.version_info), 'torch' + torch.__version__,
      *(f'sm{major}{minor}' for major, minor in sorted(kinds)) if kinds else ['cpu'], platform.machine(), sep='-')
"""


class SetupError(Exception):
    """What went wrong and what to do, in one line."""


class Display:
    """Shows the steps that run: on a terminal in one line that changes, in a log a line every 15 s."""

    def __init__(self, out=sys.stdout, interval=15.):
        self.out, self.interval = out, interval
        self.terminal = out.isatty()
        self.steps = {}  # the step -> how far it is
        self.last = time.monotonic()
        self.lock = threading.Lock()

    def update(self, step, how_far):
        with self.lock:
            self.steps[step] = how_far
            line = '; '.join(' '.join(filter(None, pair)) for pair in self.steps.items())
            if self.terminal:
                print('\r\x1b[K' + line[:shutil.get_terminal_size().columns - 1], end='', file=self.out, flush=True)
            elif time.monotonic() - self.last > self.interval:
                self.last = time.monotonic()
                print('  ' + line, file=self.out, flush=True)

    def end(self, step, text=None):
        with self.lock:
            self.steps.pop(step, None)
            if self.terminal:
                print('\r\x1b[K', end='', file=self.out)
            if text:
                print(text, file=self.out, flush=True)


DISPLAY = Display()
RUNNING: 'set[subprocess.Popen]' = set()
STOPPING = threading.Event()  # nothing is started any more


def run(command, what, how_far=lambda lines, seconds: '', **kwargs):
    """The command's output.

    ``how_far`` makes a text for the display of the lines so far and the seconds since the start.
    """
    if STOPPING.is_set():
        raise SetupError(f'{what} was not started: set-up was stopped')
    start = time.monotonic()
    lines: list[str] = []
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors='replace', start_new_session=True, **kwargs)
    RUNNING.add(process)
    if STOPPING.is_set():  # meanwhile, by another thread
        stop(process)
    reader = threading.Thread(target=lines.extend, args=(process.stdout, ), daemon=True)
    reader.start()
    done = ''
    try:
        while reader.is_alive():
            reader.join(0.2)
            DISPLAY.update(what, how_far(lines, time.monotonic() - start))
        if process.wait() == 0:
            seconds = time.monotonic() - start
            done = f'{what}: {seconds:.0f} s' if seconds >= 1 else ''
    finally:
        stop(process)
        DISPLAY.end(what, done)
    if process.returncode:
        raise SetupError(f'{what} failed with exit status {process.returncode}; it ended with:\n'
                         + ''.join(lines[-25:]).rstrip())
    return ''.join(lines).strip()


def stop(*processes):
    """End them and what they started, such as compilers; pip removes its temporary files on SIGINT alone."""
    for process in processes:
        RUNNING.discard(process)
        for number, seconds in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, None)):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def pip_how_far(site_packages):
    """How far pip is, by its lines and by the packages that are there."""
    before = len(list(site_packages.glob('*.dist-info')))

    def how_far(lines, seconds):
        for line in reversed(lines):
            if line.startswith('Installing collected packages: '):
                there = len(list(site_packages.glob('*.dist-info'))) - before
                wanted = line.count(',') + 1
                return f'{min(max(there, 0), wanted)} of {wanted} packages, {seconds:.0f} s'
        found = sum(line.startswith('Collecting ') for line in lines)
        return f'{found} packages found, {seconds:.0f} s'

    return how_far


class NinjaHowFar:
    """How far ninja is, by its lines, such as ``[2/6] c++ ...``, and an estimate of the time left.

    The estimate takes all files to be equally long, from when the last one ended, and counts down from there.
    """

    def __init__(self):
        self.done, self.ended = 0, 0.  # files, and the seconds when the last of them ended

    def __call__(self, lines, seconds):
        numbers = next(filter(None, (re.match(r'\[(\d+)/(\d+)\] ', line) for line in reversed(lines))), None)
        done, every = map(int, numbers.groups()) if numbers else (0, 0)
        if not done:
            return f'{seconds:.0f} s'
        if done != self.done:
            self.done, self.ended = done, seconds
        left = self.ended / done * every - seconds
        return f'{done} of {every} files, {seconds:.0f} s' + (f', about {left:.0f} s left' if left >= 1 else '')


def requirements(name):
    return ROOT / 'requirements' / f'{name}.txt'


def torch_pins(torch):
    """pip's arguments for torch and its torchvision: the default ones, or a given release of torch."""
    if torch is None:
        return ['-r', requirements('torch')]
    if not re.fullmatch(r'\d+\.\d+\.\d+', torch):
        raise SetupError(f"TORCH={torch} is not a release of torch: "
                         "one looks like 2.14.1, 'pip index versions torch' lists them")
    if tuple(map(int, torch.split('.'))) < OLDEST_TORCH:
        raise SetupError(f'TORCH={torch} is too old: {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}.0 is the oldest supported one')
    return [f'torch=={torch}', 'torchvision']  # torchvision names the one torch that it is for


def fingerprint(stack, torch):
    """Changes whenever the environment has to be made anew or brought up to date: GPUs come and go, too."""
    digest = hashlib.sha256(f"{sys.version} {ROOT} {torch} {os.environ.get('CUDA_VISIBLE_DEVICES')}".encode())
    digest.update(str(shutil.which('nvcc')).encode())
    if shutil.which('nvidia-smi'):
        digest.update(subprocess.run(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    for path in [*map(requirements, ('build', *LIBRARIES, 'torch', stack)), ROOT / 'setup.cfg', Path(__file__),
                 Path(__file__).with_name('build_mmcv.py')]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def wheel_folder(python, stack):
    """Where the wheel of mmcv is kept that is compiled against the environment's own torch."""
    cache = Path(os.environ.get('MMFASTERNET_CACHE')
                 or Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmfasternet')
    key = run([python, '-W', 'ignore', '-c', BUILD_KEY], 'looking at torch').splitlines()[-1]
    return cache / 'wheels' / f'{mmcv_pin(stack).replace("==", "-")}-{key}'


def mmcv_pin(stack):
    return next(line for line in requirements(stack).read_text().split() if line.startswith(f'{STACKS[stack]}=='))


def check_compilers(key):
    compiler = os.environ.get('CXX', 'c++')
    if not shutil.which(compiler):
        raise SetupError(f"no C++ compiler: '{compiler}' is not on the PATH. Install one (Debian: g++), or set CXX")
    if not (Path(sysconfig.get_path('include')) / 'Python.h').is_file():
        raise SetupError("Python's headers are missing. Install them (Debian: python3-dev)")
    nvcc = Path(os.environ.get('CUDA_HOME', '/usr/local/cuda')) / 'bin' / 'nvcc'
    if '-cpu' not in key and not (shutil.which('nvcc') or nvcc.exists()):
        raise SetupError('torch sees a GPU, but nvcc is not there to compile operators for it. Install the CUDA '
                         'toolkit of torch.version.cuda and set CUDA_HOME, or hide the GPU with CUDA_VISIBLE_DEVICES=')


def compile_mmcv(python, stack, folder):
    """Put a wheel of mmcv with its operators into the folder.

    pip would hide torch from the build (then mmcv leaves its operators out without a word) and would hand out a wheel
    compiled against another torch from its cache, hence the build and the cache of our own. The objects stay until the
    wheel is complete, so that an interrupted build goes on.
    """
    pin, build = mmcv_pin(stack), folder.parent.parent / 'builds' / folder.name
    build.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(exist_ok=True)
    with build.with_name(f'{folder.name}.lock').open('w') as lock:
        wait_for(lock)
        if list(folder.glob('*.whl')):
            return
        if not list(build.glob('*.tar.gz')):
            download = build / 'download'  # an archive that is only half there stays here
            shutil.rmtree(download, ignore_errors=True)
            run([python, *PIP, 'download', '--quiet', '--no-deps', '--no-build-isolation', '--no-binary', STACKS[stack],
                 '--dest', download, pin], f'downloading {pin}')
            archive = next(download.glob('*.tar.gz'))
            archive.rename(build / archive.name)
        # The archive keeps the times of the files, by which ninja knows what it has compiled.
        shutil.unpack_archive(next(build.glob('*.tar.gz')), build)
        # Given flags replace Python's own: they must name the optimisation too.
        flags = '-O3 -DNDEBUG -fwrapv -g0'
        environment = dict(os.environ, MMCV_WITH_OPS='1', CFLAGS=flags, CXXFLAGS=flags)
        environment.setdefault('MAX_JOBS', str(usable_cpus()))
        environment['PATH'] = f'{python.parent}{os.pathsep}{environment["PATH"]}'  # where ninja is
        run([python, Path(__file__).with_name('build_mmcv.py'), '--quiet', 'bdist_wheel', '--dist-dir', build / 'done'],
            "compiling mmcv's operators", how_far=NinjaHowFar(), env=environment,
            # The build has the lock too, and keeps it if this process is killed.
            cwd=next(build.glob('*/setup.py')).parent, pass_fds=[lock.fileno()])
        shutil.rmtree(folder, ignore_errors=True)
        (build / 'done').rename(folder)  # atomic
        shutil.rmtree(build)


def wait_for(lock):
    """Take the lock, unless another set-up has it; then show that, and take it later."""
    what = 'waiting for another set-up that compiles mmcv'
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if STOPPING.is_set():
                raise SetupError(f'{what} was stopped') from None
            DISPLAY.update(what, f'{time.monotonic() - start:.0f} s')
            time.sleep(0.5)
    DISPLAY.end(what)


def usable_cpus():
    """Those of a container's quota, too; the package itself can't be imported yet."""
    return runpy.run_path(str(Path(__file__).resolve().parent.parent / 'mmfasternet' / 'cpus.py'))['usable_cpus']()


def set_up(stack, torch, venv):
    venv = venv.absolute()  # mmcv is compiled in a folder of its own
    python, stamp = venv / 'bin' / 'python', venv / '.mmfasternet'
    pins = torch_pins(torch)
    wanted = fingerprint(stack, torch)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    start, fresh = time.monotonic(), not venv.exists()
    print(f'setting up {venv}', flush=True)
    stamp.unlink(missing_ok=True)
    major, minor = sys.version_info[:2]
    other_python = (venv / 'pyvenv.cfg').exists() and not (venv / 'lib' / f'python{major}.{minor}').exists()
    run([sys.executable, '-m', 'venv', *['--clear'] * other_python, venv],
        'making the virtual environment (Debian: install python3-venv)')
    site_packages = venv / 'lib' / f'python{major}.{minor}' / 'site-packages'
    install = [python, *PIP, 'install', '--no-warn-script-location', '--no-compile']
    constraints = [option for name in LIBRARIES for option in ('-c', requirements(name))]
    libraries = [option for name in LIBRARIES for option in ('-r', requirements(name))]
    try:
        run([*install, *pins, '-r', requirements('build'), *constraints], 'installing torch',
            how_far=pip_how_far(site_packages))
    except SetupError as error:
        if f'No matching distribution found for torch=={torch}' not in str(error):
            raise
        if fresh:
            shutil.rmtree(venv)
        raise SetupError(f"TORCH={torch} is not available for Python {major}.{minor} here: "
                         "'pip index versions torch' lists what is") from None
    folder = wheel_folder(python, stack)
    with ThreadPoolExecutor(1) as pool:
        compiled = None
        if not list(folder.glob('*.whl')):
            check_compilers(folder.name)
            print("mmcv's operators are compiled: minutes on a CPU, longer for a GPU, once on this machine", flush=True)
            compiled = pool.submit(compile_mmcv, python, stack, folder)
        try:
            run([*install, *libraries], 'installing the libraries', how_far=pip_how_far(site_packages))
            if compiled:
                compiled.result()
        except BaseException:
            STOPPING.set()
            stop(*RUNNING)
            raise
    # The OpenMMLab packages ask for the OpenCV that needs a desktop; runtime.txt holds what they do need.
    # Forced: pip takes a wheel of the same version for the same wheel, whatever torch it was compiled against.
    run([*install, '--no-deps', '--force-reinstall', next(folder.glob('*.whl'))], 'installing mmcv')
    run([*install, '--no-deps', '--no-build-isolation', '-r', requirements(stack), '-e', ROOT],
        'installing the OpenMMLab packages and mmfasternet')
    try:
        run([python, '-c', CHECK_OPS], "running mmcv's operators")
    except SetupError as error:
        raise SetupError(f'{error}\nRemove {folder} and {venv}, then run this again') from None
    stamp.write_text(wanted)
    print(f'{venv} is ready after {time.monotonic() - start:.0f} s', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stack', choices=list(STACKS), default='onedl',
                        help='onedl: the maintained OpenMMLab releases (default); openmmlab: the original ones')
    parser.add_argument('--torch', metavar='RELEASE',
                        help='a release of torch, such as 2.14.1 (default: the one in requirements/torch.txt)')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='folder of the environment')
    args = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 (that of the system may be older)
        sys.exit(f'error: Python {sys.version.split()[0]} is too old, 3.10 or later is needed: make PYTHON=python3.12')
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    try:
        set_up(args.stack, args.torch, args.venv)
    except SetupError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted: run the same command to continue')


if __name__ == '__main__':
    main()
