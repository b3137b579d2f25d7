import ast
import configparser
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest

from mmfasternet.errors import UserError
from mmfasternet.installed import EXTRAS, missing, require
from tests.conftest import ROOT

DISTRIBUTIONS = dict(PIL='pillow', sklearn='scikit-learn')
OPENMMLAB = {'mmcv', 'mmengine', 'mmdet', 'mmpretrain'}
BROUGHT = {'cv2', 'triton'}  # by mmcv, as one of two distributions; by PyTorch for GPUs
IMPORTED_BY_OTHERS = {'onnxscript'}  # by PyTorch's exporter


def imported_modules():
    """Top-level modules that the source imports, or asks for by ``require``."""
    for path in [*(ROOT / 'mmfasternet').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'require':
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (name.split('.')[0] for name in names)


def declared():
    """Distributions by where they are declared: '' for install_requires, else the extra; no references to others."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = {'': config['options']['install_requires'], **config['options.extras_require']}
    return {extra: {re.split(r'[<>=\[ ]', line)[0] for line in text.split('\n') if line} - {'mmfasternet'}
            for extra, text in lines.items()}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    imported = set(imported_modules()) - sys.stdlib_module_names - {'mmfasternet'} - OPENMMLAB - BROUGHT
    declarations = declared()
    tests = declarations.pop('tests')
    assert tests == {'pytest', 'pytest-xdist'}
    assert {DISTRIBUTIONS.get(name, name) for name in imported} | IMPORTED_BY_OTHERS == set().union(
        *declarations.values())


def test_a_backbone_needs_little():
    assert declared()[''] == {'torch', 'numpy'}


def test_each_module_is_brought_by_the_extra_that_the_message_names():
    declarations = declared()
    for name, extra in EXTRAS.items():
        assert DISTRIBUTIONS.get(name, name) in declarations[extra], name
    optional = set().union(*(names for extra, names in declarations.items() if extra not in ('', 'tests')))
    assert {DISTRIBUTIONS.get(name, name) for name in EXTRAS} == optional


def test_a_missing_module_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(UserError, match=r'^openvino is not installed: pip install "mmfasternet\[deploy\]" brings it$'):
        require('openvino')
    monkeypatch.setattr('importlib.import_module', Mock(side_effect=ImportError('libfoo.so: not found', name='onnx')))
    with pytest.raises(UserError, match="^onnx can't be imported: libfoo.so: not found$"):
        require('onnx')
    monkeypatch.undo()
    assert require('numpy') is sys.modules['numpy']
    assert 'README' in missing(ModuleNotFoundError(name='mmpretrain.models'))
    assert missing(ModuleNotFoundError(name='mmfasternet.x')) == missing(ModuleNotFoundError(name='theirs')) == ''


def test_a_tool_that_lacks_a_module_says_so_in_one_line(run_tool, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'shapely', None)
    monkeypatch.delitem(sys.modules, 'mmfasternet.datasets.shapes', raising=False)
    result = run_tool('make_shapes_coco', tmp_path / 'shapes')
    assert result.code == 1
    assert result.err == 'error: shapely is not installed: pip install "mmfasternet[demo]" brings it\n'


def run(code, *folders):
    """Run code with folders of packages before all others."""
    path = ''.join(f'sys.path.insert(0, {str(folder)!r}); ' for folder in folders)
    return subprocess.run([sys.executable, '-c', f'import sys; {path}{code}'], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize('package', ['mmcv', 'mmengine', 'mmdet'])
def test_a_release_is_known_without_importing_its_package(package):
    result = run(f"""
from mmfasternet.installed import check_release
check_release({package!r}, '0.1', '99.0')
try:
    check_release({package!r}, '98.0', '99.0')
except ImportError as error:
    print('mmcv' in sys.modules, 'mmdet' in sys.modules, error)
import {package}
print({package}.__version__)
""")
    message, version = result.stdout.splitlines()[-2:]
    assert message.startswith(f'False False {package} {version} is installed, but mmfasternet'), result
    assert message.endswith('needs >=98.0,<99.0')


def test_a_package_in_a_source_folder_tells_by_its_version_file(tmp_path):
    """Another release is installed, too, and comes behind it."""
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet' / '__init__.py').touch()
    (tmp_path / 'mmdet' / 'version.py').write_text("# a comment\n__version__ = '2.28.0'\n")
    result = run('import mmfasternet', tmp_path)
    assert result.returncode and 'ImportError: mmdet 2.28.0 is installed, but mmfasternet' in result.stderr
    (tmp_path / 'mmdet' / 'version.py').write_text("__version__ = '3.3.1'\n")
    assert run('import mmfasternet', tmp_path).returncode == 0


def test_what_must_be_there_is_named_and_what_may_be_missing_is_not():
    result = run("""
from mmfasternet.installed import check_release
check_release('no_such_package', '1.0', '2.0', optional=True)
check_release('no_such_package', '1.0', '2.0')
""")
    assert 'ImportError: no_such_package is not installed, but mmfasternet' in result.stderr
    assert result.stderr.endswith('needs >=1.0,<2.0\n')
