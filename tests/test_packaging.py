"""What users get: the sdist, the wheel, and the wheel beside the pinned packages, seen from another folder."""

import email.message
import email.parser
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import mmfasternet
from tests.conftest import ROOT, copy_project, make_venv

PAGE = (ROOT / 'docs' / 'package_index.md').read_text()
NOT_IN_SDIST = {'.gitignore', '.ci/run'}
MADE_BY_SETUPTOOLS = ('PKG-INFO', 'mmfasternet.egg-info/')
#: What lies about in a folder that is worked in.
STRAY = ['.venv/lib/a.py', 'work_dirs/a/b.log', 'shared/a.md', 'data/a.json', 'outputs/a.json', 'notes.txt',
         'build/lib/mmfasternet/a.py', 'mmfasternet/__pycache__/a.cpython-311.pyc', 'tests/__pycache__/a.pyc',
         'configs/__pycache__/a.pyc', 'tests/a.pth', 'benchmarks/a/report.html', '.pytest_cache/a',
         'docs/.ipynb_checkpoints/a.ipynb']


def run(*command, **kwargs):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_pip(python, *options):
    """pip of this environment at work in another one, without a network."""
    return run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-index', *options)


def make_wheel(folder, name, version):
    """A wheel of an empty package."""
    path = folder / f'{name}-{version}-py3-none-any.whl'
    info = f'{name}-{version}.dist-info'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr(f'{name}/__init__.py', f'__version__ = {version!r}\n')
        file.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        file.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        file.writestr(f'{info}/RECORD', '')
    return path


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The sdist and the wheel that is built from it, of a copy with stray files; what both hold; the metadata."""
    source, out = tmp_path_factory.mktemp('source') / 'mmfasternet', tmp_path_factory.mktemp('dist')
    tracked = {path.relative_to(source).as_posix() for path in copy_project(source).rglob('*') if not path.is_dir()}
    for name in STRAY:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text('stray')
    before = made_by_builds()
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, source, cwd=out)
    assert made_by_builds() == before
    sdist, wheel = next(out.glob('*.tar.gz')), next(out.glob('*.whl'))
    with tarfile.open(sdist) as file:
        in_sdist = {member.name.partition('/')[2] for member in file if not member.isdir()}
        assert not [member.name for member in file if member.issym() or member.islnk()]
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
        text = file.read(f'mmfasternet-{mmfasternet.__version__}.dist-info/METADATA').decode()
    return SimpleNamespace(sdist=sdist, wheel=wheel, tracked=tracked, in_sdist=in_sdist, in_wheel=in_wheel,
                           metadata=email.parser.Parser().parsestr(text))


def made_by_builds():
    """What builds leave in the repository, if they are not of a copy."""
    return {path: path.stat().st_mtime_ns for pattern in ('build', 'dist', '*.egg-info') for path in ROOT.glob(pattern)}


def mim_files(tracked):
    """What the links in mmfasternet/.mim stand for."""
    return {f'mmfasternet/.mim/{name}' for name in tracked
            if name.startswith(('configs/', 'tools/')) or name == 'model-index.yml'}


@pytest.mark.slow
def test_the_sdist_holds_what_is_tracked_and_no_more(built):
    found = {name for name in built.in_sdist if not name.startswith(MADE_BY_SETUPTOOLS)}
    links = {name for name in built.tracked if name.startswith('mmfasternet/.mim/')}
    assert found == built.tracked - NOT_IN_SDIST - links | mim_files(built.tracked)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_no_more(built):
    found = {name for name in built.in_wheel if '.dist-info/' not in name}
    assert found == {name for name in built.tracked if name.startswith('mmfasternet/') and name.endswith('.py')
                     } | mim_files(built.tracked)
    assert {name.partition('.dist-info/')[2] for name in built.in_wheel - found} >= {'METADATA', 'licenses/LICENSE'}


@pytest.mark.slow
def test_both_may_be_put_on_an_index(built):
    out = run(sys.executable, '-m', 'twine', '--no-color', 'check', '--strict', built.sdist, built.wheel)
    assert out.count('PASSED') == 2


@pytest.mark.slow
def test_metadata(built):
    metadata = built.metadata
    assert metadata['Name'] == 'mmfasternet' and metadata['Version'] == mmfasternet.__version__
    assert metadata['License-Expression'] == 'Apache-2.0' and metadata['License-File'] == 'LICENSE'
    assert not [line for line in metadata.get_all('Classifier') if line.startswith('License')]  # PEP 639 has no both
    assert metadata['Requires-Python'].startswith('>=3.10') and 'partial convolution' in metadata['Keywords'].split(',')
    assert {line.rpartition(', ')[2] for line in metadata.get_all('Project-URL')} == {
        'https://arxiv.org/abs/2303.03667', 'https://github.com/JierunChen/FasterNet'}
    assert metadata['Description-Content-Type'] == 'text/markdown' and metadata.get_payload().strip() == PAGE.strip()
    assert {'checkpoints', 'detection', 'demo', 'deploy', 'benchmark', 'tests'} <= {*metadata.get_all('Provides-Extra')}
    assert [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line] == []


@pytest.mark.slow
@pytest.mark.parametrize('options', [(), ('--upgrade', '--upgrade-strategy', 'eager')], ids=['install', 'upgrade'])
def test_installing_it_replaces_nothing(built, tmp_path, options):
    """Newer releases of all are at hand."""
    there = {'torch': '2.4.1', 'numpy': '1.26.4', 'mmcv': '2.1.0', 'mmengine': '0.10.3', 'mmdet': '3.3.0'}
    python = make_venv(tmp_path / 'venv')
    run_pip(python, *(make_wheel(tmp_path, *item) for item in there.items()))
    for name in there:
        make_wheel(tmp_path, name, '9.0')
    run_pip(python, '--find-links', tmp_path, *options, built.wheel)
    found = run(sys.executable, '-m', 'pip', '--python', python, 'list', '--format=freeze').split()
    assert set(found) == {f'{name}=={version}' for name, version in there.items()} | {
        f'mmfasternet=={mmfasternet.__version__}'}
    result = subprocess.run([python, '-c', 'import mmfasternet'], capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr.splitlines()[-1].startswith(
        'ImportError: torch 2.4.1 is installed, mmengine 0.10.3 is installed, but mmfasternet')
    assert result.stderr.endswith('--force-reinstall mmcv==2.1.0\n')


@pytest.mark.slow
def test_on_a_bare_machine_one_line_says_what_is_missing(built, tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONPATH', raising=False)
    python = make_venv(tmp_path / 'venv')
    run_pip(python, built.wheel)
    result = subprocess.run([python, '-c', 'import mmfasternet'], capture_output=True, text=True, cwd=tmp_path)
    error, line = result.stderr.splitlines()[-1].split(': ', 1)
    assert error == 'ImportError' and line.startswith(
        'torch is not installed, numpy is not installed, mmengine is not installed, mmcv is not installed, but')
    assert re.search('pip install "torch>=.*,<3" "numpy>=.*" "onedl-mmengine>=.*", then MMCV_WITH_OPS=1 .*mmcv', line)
    command = subprocess.run([python, '-m', 'mmfasternet'], capture_output=True, text=True, cwd=tmp_path)
    assert command.returncode == 1 and command.stderr == f'error: {line}\n' and command.stdout == ''
    script = tmp_path / 'mmfasternet'
    script.write_text('from mmfasternet.cli import options')
    assert subprocess.run([python, script], capture_output=True, text=True, cwd=tmp_path).stderr == command.stderr


@pytest.mark.slow
def test_the_wheel_is_what_is_imported(wheel_python, wheel_venv):
    folder = Path(run(wheel_python, '-c', 'import mmfasternet; print(*mmfasternet.__path__)').strip())
    assert folder.is_relative_to(wheel_venv)
    assert not [path for path in folder.rglob('*') if path.is_symlink()]
    assert {path.name for path in (folder / '.mim').iterdir()} == {'configs', 'tools', 'model-index.yml'}
    assert os.access(folder / '.mim' / 'tools' / 'dist_train.sh', os.X_OK)  # mim runs it


@pytest.mark.slow
def test_a_config_of_the_wheel_builds_its_detector(wheel_python):
    out = run(wheel_python, '-c', """
from pathlib import Path
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
import mmfasternet
init_default_scope('mmdet')
config = Config.fromfile(Path(*mmfasternet.__path__) / '.mim' / 'configs' / 'mask_rcnn_fasternet_t0_shapes.py')
detector = MODELS.build(config.model)
print(type(detector.backbone).__module__, [x.shape[1] for x in detector.extract_feat(torch.rand(1, 3, 64, 64))])
""")
    module, channels = out.splitlines()[-1].split(' ', 1)
    assert module == 'mmfasternet.models.backbones.fasternet' and len(set(channels.strip('[]').split(', '))) == 1


@pytest.mark.slow
@pytest.mark.parametrize('way', ['script', 'module'])
def test_the_command_of_the_wheel_runs(wheel_python, way):
    command = [wheel_python, '-m', 'mmfasternet'] if way == 'module' else [wheel_python.with_name('mmfasternet')]
    assert run(*command, '--version').strip() == f'mmfasternet {mmfasternet.__version__}'
    assert 'train' in run(*command, '--help')


@pytest.mark.slow
def test_the_page_of_the_index_has_absolute_links_and_code_that_runs(wheel_python):
    targets = re.findall(r'\]\(([^)]*)\)', PAGE)
    assert targets and [link for link in targets if not link.startswith('https://')] == []
    assert not re.search(r'<(img|a) |^\[.*\]:', PAGE, re.M)  # links of other kinds
    code, = re.findall(r'```python\n(.*?)```', PAGE, re.S)
    shapes = [(1, 128, 56, 56), (1, 256, 28, 28), (1, 512, 14, 14), (1, 1024, 7, 7)]
    assert run(wheel_python, '-c', code).splitlines()[-1] == str(shapes)


@pytest.mark.slow
def test_the_tests_of_the_sdist_run(built, tmp_path, monkeypatch):
    """In its own folder, with what it holds before all that is installed."""
    with tarfile.open(built.sdist) as file:
        file.extractall(tmp_path, filter='data')
    source, = tmp_path.glob('mmfasternet-*')
    monkeypatch.setenv('PYTHONPATH', str(source))
    where = run(sys.executable, '-c', 'import mmfasternet; print(mmfasternet.__file__)', cwd=source)
    assert where.strip() == str(source / 'mmfasternet' / '__init__.py')
    out = run(sys.executable, '-m', 'pytest', '-q', '-m', 'not slow', '-p', 'no:cacheprovider', '--basetemp',
              tmp_path / 'temporary', 'tests/models/test_pconv.py', *(f'tests/test_{name}.py' for name in (
                  'architecture', 'configs', 'installed', 'model_index', 'package', 'packaging')), cwd=source)
    assert re.search(r'\d{3} passed', out)
