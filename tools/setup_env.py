#!/usr/bin/env python3
"""Make the virtual environment that everything else here runs in.

Needs Python 3.10 or later and a C++ compiler; where there is a GPU, also the CUDA toolkit (nvcc). mmcv's compiled
operators have no ready-made wheel for every torch, so they are compiled once and kept for the next time.

Example:
    python3 tools/setup_env.py --stack onedl --venv .venv
    python3 tools/setup_env.py --torch 2.14.1 --venv .venv-torch2.14.1
"""

import argparse
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACKS = {'onedl': 'onedl-mmcv', 'openmmlab': 'mmcv'}  # the stack's name -> what its mmcv is called
LIBRARIES = ('build', 'runtime', 'deploy', 'tests')  # files in requirements/, beside the stack's and torch's
OLDEST_TORCH = (2, 6)  # whose safe loading takes a stand-in by the name of what a file asks for
PIP = ('-m', 'pip', '--disable-pip-version-check', '--quiet')

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

# mmcv asks for C++17, which the headers of torch 2.14 refuse. Where no standard is named, torch's build names that of
# its own headers, to the compiler and to nvcc.
BUILD_OPS = """
import runpy
from torch.utils.cpp_extension import BuildExtension
build = BuildExtension.build_extensions
def build_extensions(self):
    for extension in self.extensions:
        for flags in extension.extra_compile_args.values():
            flags[:] = [flag for flag in flags if not flag.startswith('-std=')]
    build(self)
BuildExtension.build_extensions = build_extensions
runpy.run_path('setup.py', run_name='__main__')
"""


class SetupError(Exception):
    """What went wrong and what to do, in one line."""


def run(command, what, **kwargs):
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, **kwargs)
    if result.returncode:
        raise SetupError(f'{what} failed with exit status {result.returncode}; it ended with:\n'
                         + '\n'.join(result.stdout.splitlines()[-25:]))
    return result.stdout.strip()


def requirements(name):
    return ROOT / 'requirements' / f'{name}.txt'


def torch_pins(torch):
    """pip's arguments for torch and its torchvision: the default ones, or a given release of torch."""
    if torch is None:
        return ['-r', requirements('torch')]
    if not re.fullmatch(r'\d+\.\d+\.\d+', torch):
        raise SetupError(f"TORCH={torch} is no release of torch: "
                         "one looks like 2.14.1, 'pip index versions torch' lists them")
    if tuple(map(int, torch.split('.'))) < OLDEST_TORCH:
        raise SetupError(f'TORCH={torch} is too old: {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}.0 is the oldest that serves')
    return [f'torch=={torch}', 'torchvision']  # torchvision names the one torch that it is for


def fingerprint(stack, torch):
    """Changes whenever the environment has to be made anew or brought up to date: GPUs come and go, too."""
    digest = hashlib.sha256(f"{sys.version} {ROOT} {torch} {os.environ.get('CUDA_VISIBLE_DEVICES')}".encode())
    digest.update(str(shutil.which('nvcc')).encode())
    if shutil.which('nvidia-smi'):
        digest.update(subprocess.run(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    for path in [*map(requirements, (*LIBRARIES, 'torch', stack)), ROOT / 'setup.cfg', Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def mmcv_wheel(python, stack):
    """Path of a wheel of mmcv with its operators, compiled against the environment's own torch.

    pip would hide torch from the build (then mmcv leaves its operators out without a word) and would hand out a wheel
    compiled against another torch from its cache, hence the build and the cache of our own.
    """
    name = STACKS[stack]
    pin = next(line for line in requirements(stack).read_text().split() if line.startswith(f'{name}=='))
    cache = Path(os.environ.get('MMFASTERNET_CACHE')
                 or Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmfasternet')
    key = run([python, '-W', 'ignore', '-c', BUILD_KEY], 'looking at torch').splitlines()[-1]
    folder = cache / 'wheels' / f'{pin.replace("==", "-")}-{key}'
    for wheel in folder.glob('*.whl'):
        return wheel
    compiler = os.environ.get('CXX', 'c++')
    if not shutil.which(compiler):
        raise SetupError(f"no C++ compiler: '{compiler}' is not on the PATH. Install one (Debian: g++), or set CXX")
    if not (Path(sysconfig.get_path('include')) / 'Python.h').is_file():
        raise SetupError("Python's headers are missing. Install them (Debian: python3-dev)")
    nvcc = Path(os.environ.get('CUDA_HOME', '/usr/local/cuda')) / 'bin' / 'nvcc'
    if '-cpu' not in key and not (shutil.which('nvcc') or nvcc.exists()):
        raise SetupError('torch sees a GPU, but nvcc is not there to compile operators for it. Install the CUDA '
                         'toolkit of torch.version.cuda and set CUDA_HOME, or hide the GPU with CUDA_VISIBLE_DEVICES=')
    print('compiling the operators of mmcv, minutes on a CPU, longer for a GPU, once on this machine ...', flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as build:
        # Given flags replace Python's own: they must name the optimisation too.
        flags = '-O3 -DNDEBUG -fwrapv -g0'
        environment = dict(os.environ, MMCV_WITH_OPS='1', CFLAGS=flags, CXXFLAGS=flags)
        environment.setdefault('MAX_JOBS', str(usable_cpus()))
        environment['PATH'] = f'{python.parent}{os.pathsep}{environment["PATH"]}'  # where ninja is
        run([python, *PIP, 'download', '--no-deps', '--no-build-isolation', '--no-binary', name, '--dest', build, pin],
            f'downloading {pin}')
        shutil.unpack_archive(next(Path(build).glob('*.tar.gz')), build)
        done = Path(build) / 'done'
        run([python, '-c', BUILD_OPS, '--quiet', 'bdist_wheel', '--dist-dir', done], f'compiling {pin}',
            env=environment, cwd=next(Path(build).glob('*/setup.py')).parent)
        shutil.rmtree(folder, ignore_errors=True)
        done.rename(folder)  # atomic
    return next(folder.glob('*.whl'))


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
    print(f'setting up {venv} ...', flush=True)
    stamp.unlink(missing_ok=True)
    major, minor = sys.version_info[:2]
    other_python = (venv / 'pyvenv.cfg').exists() and not (venv / 'lib' / f'python{major}.{minor}').exists()
    run([sys.executable, '-m', 'venv', *['--clear'] * other_python, venv],
        'making the virtual environment (Debian: install python3-venv)')
    pip = [python, *PIP]
    install = [*pip, 'install', '--no-warn-script-location', '--no-compile']
    pins += [option for name in LIBRARIES for option in ('-r', requirements(name))]
    try:
        run([*install, *pins], 'installing torch and the libraries')
    except SetupError as error:
        if f'No matching distribution found for torch=={torch}' not in str(error):
            raise
        if fresh:
            shutil.rmtree(venv)
        raise SetupError(f"TORCH={torch} cannot be had for Python {major}.{minor} here: "
                         "'pip index versions torch' lists what can") from None
    # The OpenMMLab packages ask for the OpenCV that needs a desktop; runtime.txt holds what they do need.
    # Forced: pip takes a wheel of the same version for the same wheel, whatever torch it was compiled against.
    run([*install, '--no-deps', '--force-reinstall', mmcv_wheel(python, stack)], 'installing mmcv')
    run([*install, '--no-deps', '--no-build-isolation', '-r', requirements(stack)], 'installing the OpenMMLab packages')
    run([*install, '--no-deps', '--no-build-isolation', '-e', ROOT], 'installing mmfasternet')
    try:
        run([python, '-c', CHECK_OPS], "running mmcv's operators")
    except SetupError as error:
        wheel = mmcv_wheel(python, stack)
        raise SetupError(f'{error}\nRemove {wheel.parent} and {venv}, then run this again') from None
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
        sys.exit(f'error: Python {sys.version.split()[0]} does not serve, 3.10 and later do: make PYTHON=python3.12')
    try:
        set_up(args.stack, args.torch, args.venv)
    except SetupError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
