import ast
import configparser
import re
import subprocess
import sys
from unittest.mock import Mock

import mmcv
import pytest

from mmfasternet.errors import UserError
from mmfasternet.installed import EXTRAS, check_releases, missing, require
from tests.conftest import ROOT

DISTRIBUTIONS = dict(PIL='pillow', sklearn='scikit-learn')
OPENMMLAB = {'mmcv', 'mmengine', 'mmdet', 'mmpretrain'}
BROUGHT = {'cv2', 'triton', 'pycocotools'}  # by mmcv, as one of two distributions; by PyTorch for GPUs; by MMDetection
NEVER_BROUGHT = {'torch', 'torchvision', 'numpy'}  # what is there is what others were compiled against
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
    """Distributions by the extra that declares them; no references to others."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert 'install_requires' not in config['options']
    lines = config['options.extras_require']
    return {extra: {re.split(r'[<>=\[ ]', line)[0] for line in text.split('\n') if line} - {'mmfasternet'}
            for extra, text in lines.items()}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    imported = set(imported_modules()) - sys.stdlib_module_names - {'mmfasternet'} - OPENMMLAB - BROUGHT
    assert NEVER_BROUGHT <= imported
    imported -= NEVER_BROUGHT
    declarations = declared()
    tests = declarations.pop('tests')
    assert tests == {'build', 'hypothesis', 'ipykernel', 'nbclient', 'nbformat', 'pytest', 'pytest-timeout',
                     'pytest-xdist', 'twine'}
    assert declarations.pop('docs') == {'furo', 'myst-nb', 'sphinx'}  # which Sphinx imports by docs/conf.py
    assert {DISTRIBUTIONS.get(name, name) for name in imported} | IMPORTED_BY_OTHERS == set().union(
        *declarations.values())


def test_no_extra_brings_what_others_were_compiled_against():
    assert not set().union(*declared().values()) & {*NEVER_BROUGHT, *OPENMMLAB}


def test_each_module_is_brought_by_the_extra_that_the_message_names():
    declarations = declared()
    for name, extra in EXTRAS.items():
        assert DISTRIBUTIONS.get(name, name) in declarations[extra], name
    optional = set().union(*(names for extra, names in declarations.items()
                             if extra not in ('docs', 'tests')))
    assert {DISTRIBUTIONS.get(name, name) for name in EXTRAS} == optional


def test_a_missing_module_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    line = r'^openvino is not installed: pip install "mmfasternet\[deploy\]" installs it$'
    with pytest.raises(UserError, match=line):
        require('openvino')
    monkeypatch.setattr('importlib.import_module', Mock(side_effect=ImportError('libfoo.so: not found', name='onnx')))
    with pytest.raises(UserError, match="^onnx can't be imported: libfoo.so: not found$"):
        require('onnx')
    monkeypatch.undo()
    assert require('numpy') is sys.modules['numpy']
    assert re.fullmatch('mmpretrain is not installed: pip install (onedl-)?mmpretrain installs it',
                        missing(ModuleNotFoundError(name='mmpretrain.models')))
    assert missing(ModuleNotFoundError(name='mmfasternet.x')) == missing(ModuleNotFoundError(name='theirs')) == ''


def test_torchvision_comes_without_another_torch(monkeypatch):
    monkeypatch.setattr(sys.modules['torch'], '__version__', '2.11.0+cu130')
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    with pytest.raises(UserError, match='^torchvision is not installed: pip install torchvision torch==2.11.0 instal'):
        require('torchvision')


def test_a_tool_that_lacks_a_module_says_so_in_one_line(run_tool, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'shapely', None)
    monkeypatch.delitem(sys.modules, 'mmfasternet.datasets.shapes', raising=False)
    result = run_tool('make_shapes_coco', tmp_path / 'shapes')
    assert result.code == 1
    assert result.err == 'error: shapely is not installed: pip install "mmfasternet[demo]" installs it\n'


def run(code, *folders):
    """Run code with folders of packages before all others."""
    path = ''.join(f'sys.path.insert(0, {str(folder)!r}); ' for folder in folders)
    return subprocess.run([sys.executable, '-c', f'import sys; {path}{code}'], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize('package', ['torch', 'numpy', 'mmcv', 'mmengine', 'mmdet'])
def test_a_release_is_known_without_importing_its_package(package):
    result = run(f"""
from mmfasternet.installed import check_releases
check_releases(dict({package}=('0.1', '99')))
try:
    check_releases(dict({package}=('98.0', '99.0')))
except ImportError as error:
    print('mmcv' in sys.modules, 'mmdet' in sys.modules, error)
import {package}
print({package}.__version__)
""")
    message, version = result.stdout.splitlines()[-2:]
    version = version.partition('+')[0]  # torch adds to it what it was built for
    needs = f'{package} {re.escape(version)} is installed, but mmfasternet [.0-9]+ needs {package}>=98.0,<99.0: '
    beyond = '99.0|2.2' if package == 'mmcv' else '99.0'  # the bound of the original mmcv, where that is installed
    assert re.match(f'False False {needs}.*pip install .*{package}.*>=98.0,<({beyond})"', message), result


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
    check_releases({}, dict(no_such_package=('1.0', '2.0')))
    with pytest.raises(ImportError) as caught:
        check_releases(dict(no_such_package=('1.0', '2.0'), mmcv=('98', '99')))
    assert re.match(r'no_such_package is not installed, mmcv [\d.]+ is installed, but mmfasternet [\d.]+ needs '
                    'no_such_package>=1.0,<2.0, mmcv>=98,<99: '
                    'pip install "no_such_package>=1.0,<2.0", then MMCV_WITH_OPS=1 .*mmcv>=98,<(99|2.2)"$',
                    str(caught.value))


@pytest.mark.parametrize('version, serves', [
    ('2.6.0', True), ('2.6', True), ('2.10.1+cpu', True), ('2.6.0a0+df5bbc09d1.nv24.12', True), ('unknown', True),
    ('2.5.1', False), ('3.0.0', False), ('3.0.0rc1', False)])  # yapf: disable
def test_releases_are_compared_by_their_numbers(monkeypatch, version, serves):
    """NVIDIA's containers have pre-releases of PyTorch for good."""
    monkeypatch.setattr(sys.modules['torch'], '__version__', version)
    if serves:
        check_releases(dict(torch=('2.6', '3')))
    else:
        with pytest.raises(ImportError, match=f'^torch {re.escape(version)} is installed'):
            check_releases(dict(torch=('2.6', '3')))


def test_another_torch_needs_mmcv_compiled_again(monkeypatch):
    monkeypatch.setattr(sys.modules['torch'], '__version__', '2.4.1')
    with pytest.raises(ImportError, match=rf'pip install "torch>=2.6,<3", then .* (onedl-)?mmcv=={mmcv.__version__}$'):
        check_releases(dict(torch=('2.6', '3')))


@pytest.mark.parametrize('typed, argv0, alone', [
    (['mmfasternet', 'train'], '/opt/bin/mmfasternet', True),
    (['python', '-W', 'ignore', '-m', 'mmfasternet', 'train'], '-m', True),
    (['python', '-m', 'theirs', 'mmfasternet'], '-m', False),
    (['python', 'train.py'], 'train.py', False)])  # yapf: disable
def test_the_command_ends_with_the_line_alone(monkeypatch, typed, argv0, alone):
    monkeypatch.setattr(sys, 'orig_argv', typed)
    monkeypatch.setattr(sys, 'argv', [argv0])
    with pytest.raises(SystemExit if alone else ImportError, match='^(error: )?no_such_package is not installed'):
        check_releases(dict(no_such_package=('1', '2')))
