"""Checks of other installed packages: releases of requirements, and optional packages."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from mmfasternet.errors import UserError
from mmfasternet.version import __version__

#: Extra of setup.cfg by the module that it brings; what is not here a backbone needs, or is an OpenMMLab package's.
EXTRAS = {
    'filelock': 'checkpoints', 'safetensors': 'checkpoints', 'tqdm': 'checkpoints',
    'huggingface_hub': 'hub',
    'PIL': 'detection', 'rich': 'detection',
    'shapely': 'demo', 'sklearn': 'demo',
    'onnx': 'deploy', 'onnxruntime': 'deploy', 'onnxscript': 'deploy', 'openvino': 'deploy',
    'nncf': 'int8',
    'jinja2': 'benchmark', 'matplotlib': 'benchmark', 'timm': 'benchmark',
}  # yapf: disable
# The distribution names of an OpenMMLab package; the first is the maintained one.
_DISTRIBUTIONS = {
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
# The first release of an original package that the others refuse, such as MMDetection 3.3.0.
_ORIGINAL_BEYOND = {'mmcv': '2.2'}
_VERSION = re.compile(r"""^__version__\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)
# Compiled against the installed torch: pip would hide it from the build, or use a wheel built against another torch.
_COMPILE = 'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall'
# What this build needs and does not install.
_TO_COMPILE = {'cv2': 'opencv-python-headless', 'setuptools': '"setuptools<80"'}


def check_releases(required: Mapping[str, Tuple[str, str]], optional: Mapping[str, Tuple[str, str]] = {}) -> None:
    """Check the installed releases of other packages, without importing them.

    Args:
        required: The lowest supported release and the first unsupported one,
            by the package's module, in installation order.
        optional: The same for packages that may be missing. Defaults to none.

    Raises:
        ImportError: If one is missing or its release is not supported. One
            line names all of these, and the commands that install them. A
            pre-release counts as its release; an unknown release is not
            checked.
        SystemExit: Instead, if this process is the command ``mmfasternet``,
            which then ends with only this line.
    """
    faults, needs, wanted = [], [], {}
    for package, (lowest, beyond) in {**required, **optional}.items():
        name, version = _installed(package)
        if name is None:
            if package in optional:
                continue
            faults.append(f'{package} is not installed')
        elif not _numbers(version) or _numbers(lowest) <= _numbers(version) < _numbers(beyond):
            continue
        else:
            faults.append(f'{package} {version} is installed')
        needs.append(f'{package}>={lowest},<{beyond}')
        name = name or _to_install(package)
        wanted[package] = f'"{name}>={lowest},<{_ORIGINAL_BEYOND.get(name, beyond)}"'
    if not faults:
        return
    line = f'{", ".join(faults)}, but mmfasternet {__version__} needs {", ".join(needs)}: {_commands(wanted)}'
    if _is_command():
        sys.exit(f'error: {line}')
    raise ImportError(line)


def _commands(wanted: Dict[str, str]) -> str:
    """The commands that install these requirements, given by module."""
    pip = [requirement for package, requirement in wanted.items() if package != 'mmcv']
    mmcv, (name, version) = wanted.get('mmcv'), _installed('mmcv')
    if 'torch' in wanted and not mmcv and name:  # rebuilt for another torch
        mmcv = f'{name}=={version}'
    if mmcv:
        pip += [name for module, name in _TO_COMPILE.items() if importlib.util.find_spec(module) is None]
    return ', then '.join([f'pip install {" ".join(pip)}'] * bool(pip) + [f'{_COMPILE} {mmcv}'] * bool(mmcv))


def _is_command() -> bool:
    """Whether this process is ``mmfasternet`` or ``python -m mmfasternet``, whose name is -m during module lookup."""
    as_module = sys.argv[0] == '-m' and ('-m', 'mmfasternet') in zip(sys.orig_argv, sys.orig_argv[1:])
    return as_module or Path(sys.argv[0]).name == 'mmfasternet'


def _numbers(version: Optional[str]) -> Tuple[int, ...]:
    """The numbers of a release, without suffixes: 2.6.0a0+nv25.1 is 2.6.0. Empty for an unknown one."""
    return tuple(map(int, re.findall(r'\d+', version or '')[:3]))


def _names(package: str) -> Tuple[str, ...]:
    return _DISTRIBUTIONS.get(package, (package,))


def _to_install(package: str) -> str:
    """The distribution of a package among OpenMMLab's maintained releases, or the original ones if installed.
    """
    names = _names(package)
    originals = [other for other in _DISTRIBUTIONS if other != package and _installed(other)[0] in _names(other)[1:]]
    return names[1] if originals and len(names) > 1 else names[0]


def _installed(package: str) -> Tuple[Optional[str], Optional[str]]:
    """A package's distribution, None if it is missing; and its release, None if unknown."""
    module = sys.modules.get(package)
    spec = importlib.util.find_spec(package) if module is None else None
    if module is None and spec is None:
        return None, None
    folders = getattr(module, '__path__', None) or getattr(spec, 'submodule_search_locations', None)
    folder = Path(next(iter(folders or ()), ''))
    found = {}
    for name in _names(package):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[Path(str(distribution.locate_file(package)))] = name, distribution.version
    name, version = found.get(folder) or next(iter(found.values()), (_names(package)[0], None))
    if module is not None:
        version = getattr(module, '__version__', None)
    elif folder not in found and (folder / 'version.py').is_file():
        # It is elsewhere: in a source folder on the path, or an editable install.
        literal = _VERSION.search((folder / 'version.py').read_text())
        version = literal[1] if literal else version
    return name, version


def require(name: str) -> Any:
    """Import an optional module.

    Args:
        name: Its name, one of :data:`EXTRAS`.

    Raises:
        UserError: If it is not installed (the message names the extra that
            installs it), or if it can't be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(missing(error) or f"{name} can't be imported: {error}") from None


def missing(error: ImportError) -> str:
    """What is missing and how to install it, in one line; empty if it is not an optional package."""
    name = (error.name or '').split('.')[0] if isinstance(error, ModuleNotFoundError) else ''
    if name in EXTRAS:
        return f'{name} is not installed: pip install "mmfasternet[{EXTRAS[name]}]" installs it'
    if name == 'torchvision':  # it requires one release of torch: the installed one should be kept
        release = '.'.join(map(str, _numbers(_installed('torch')[1])))
        return f'torchvision is not installed: pip install torchvision torch=={release} installs it'
    if name in ('mmdet', 'mmpretrain'):
        return f'{name} is not installed: pip install {_to_install(name)} installs it'
    return ''
