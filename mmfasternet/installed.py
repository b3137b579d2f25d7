"""What is installed beside this package: releases of the OpenMMLab packages, and what only some parts need."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Optional

from mmfasternet.errors import UserError
from mmfasternet.version import __version__

#: Extra of setup.cfg by the module that it brings; what is not here a backbone needs, or is an OpenMMLab package's.
EXTRAS = {
    'filelock': 'checkpoints', 'safetensors': 'checkpoints', 'tqdm': 'checkpoints',
    'huggingface_hub': 'hub',
    'PIL': 'detection', 'rich': 'detection',
    'shapely': 'demo', 'sklearn': 'demo',
    'onnx': 'deploy', 'onnxruntime': 'deploy', 'onnxscript': 'deploy', 'openvino': 'deploy', 'torchvision': 'deploy',
    'jinja2': 'benchmark', 'matplotlib': 'benchmark', 'timm': 'benchmark',
}  # yapf: disable
# The names that an OpenMMLab package is distributed by.
_DISTRIBUTIONS = {
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}
_VERSION = re.compile(r"""^__version__\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)


def check_release(package: str, lowest: str, beyond: str, optional: bool = False) -> None:
    """Check the installed release of an OpenMMLab package, without importing it.

    Args:
        package: Its module: ``'mmcv'``, ``'mmengine'`` or ``'mmdet'``.
        lowest: The lowest release that serves.
        beyond: The first release that does not.
        optional: It may be missing. Defaults to False.

    Raises:
        ImportError: If it is missing or its release does not serve. A release
            that can't be found out is not checked.
    """
    needs = f'mmfasternet {__version__} needs >={lowest},<{beyond}'
    if package in sys.modules:
        version = getattr(sys.modules[package], '__version__', None)
    else:
        spec = importlib.util.find_spec(package)
        if spec is None and not optional:
            raise ImportError(f'{package} is not installed, but {needs}')
        version = _version_of(package, spec) if spec else None
    if version is None:
        return
    from mmengine.utils import digit_version  # MMEngine may be what is missing
    if not digit_version(lowest) <= digit_version(version) < digit_version(beyond):
        raise ImportError(f'{package} {version} is installed, but {needs}')


def _version_of(package: str, spec: ModuleSpec) -> Optional[str]:
    """The release of the package at ``spec``; None if neither metadata nor its version file tell."""
    folder = Path(next(iter(spec.submodule_search_locations or ()), ''))
    versions = {}
    for name in _DISTRIBUTIONS[package]:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        versions[Path(str(distribution.locate_file(package)))] = distribution.version
    if folder in versions:
        return versions[folder]
    # It stands elsewhere: in a source folder that is on the path or installed editable.
    file = folder / 'version.py'
    literal = _VERSION.search(file.read_text()) if file.is_file() else None
    return literal[1] if literal else next(iter(versions.values()), None)


def require(name: str) -> Any:
    """Import a module that only some parts need.

    Args:
        name: Its name, of those in :data:`EXTRAS`.

    Raises:
        UserError: If it is not installed; the message names the extra that
            brings it. Or if it is, and can't be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(missing(error) or f"{name} can't be imported: {error}") from None


def missing(error: ImportError) -> str:
    """What is missing and what brings it, in one line; empty if it is nothing that only some parts need."""
    name = (error.name or '').split('.')[0] if isinstance(error, ModuleNotFoundError) else ''
    if name in EXTRAS:
        return f'{name} is not installed: pip install "mmfasternet[{EXTRAS[name]}]" brings it'
    if name in ('mmdet', 'mmpretrain'):
        return f'{name} is not installed: requirements/onedl.txt names its release, README.md how to install it'
    return ''
