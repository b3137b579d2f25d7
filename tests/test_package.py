import ast
import json
import subprocess
import sys

import pytest

import mmfasternet
from mmfasternet.errors import UserError
from mmfasternet.registry import LazyRegistry
from tests.conftest import ROOT

# Finders that know nothing of some packages, as where these are not installed.
WITHOUT = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *args):
        return None if name.split('.')[0] in {names!r} else self.finder.find_spec(name, *args)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
"""
OPTIONAL = ('mmdet', 'mmpretrain', 'pycocotools', 'torchvision', 'timm', 'safetensors', 'shapely', 'sklearn', 'jinja2',
            'onnx', 'onnxruntime', 'openvino')


def run(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)


def printed(code):
    result = run(code)
    assert result.returncode == 0, result.stderr
    return result.stdout


def modules_after(code):
    """Names of the modules that are loaded after some code."""
    return set(json.loads(printed(f'{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))')))


def packages(modules):
    return {name.split('.')[0] for name in modules} - sys.stdlib_module_names


def registered():
    """Registry, name of the type, and module of all that the package registers, read off the source."""
    for path in sorted((ROOT / 'mmfasternet').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            for call in getattr(node, 'decorator_list', []):
                function = getattr(call, 'func', None)
                if isinstance(function, ast.Attribute) and function.attr == 'register_module':
                    name = call.args[0].value if call.args else node.name
                    yield function.value.id, name, '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def test_public_names():
    assert mmfasternet.__all__ == ['FasterNet', 'PartialConv', '__version__', 'config_path'] and mmfasternet.__version__
    assert set(mmfasternet.__all__) <= set(dir(mmfasternet))
    from mmfasternet import FasterNet, PartialConv, models
    assert FasterNet is models.FasterNet is mmfasternet.FasterNet and PartialConv is models.PartialConv
    with pytest.raises(AttributeError, match="'mmfasternet' has no attribute 'FastNet'"):
        _ = mmfasternet.FastNet


def test_importing_the_package_imports_no_more_than_mmengine():
    found, usual = modules_after('import mmfasternet'), modules_after('import torch, mmengine')
    assert packages(found - usual) == {'mmfasternet'}
    heavy = {'mmcv', 'mmcv.ops', 'mmdet', 'mmpretrain', 'pycocotools', 'matplotlib', 'scipy', 'cv2', 'safetensors'}
    assert not heavy & found and 'mmfasternet.models' not in found


@pytest.mark.slow
def test_the_backbone_imports_no_more_than_mmcvs_layers():
    found = modules_after('import mmfasternet.models')
    assert packages(found - modules_after('import torch, mmengine, mmcv.cnn')) == {'mmfasternet'}
    ours = {name for name in found if name.startswith('mmfasternet.')}
    assert not any(name.startswith(('mmfasternet.checkpoints', 'mmfasternet.engine', 'mmfasternet.deploy'))
                   for name in ours)
    assert not {'mmcv.ops', 'filelock', *OPTIONAL} & found


def test_a_backbone_needs_torch_mmengine_and_mmcv_only():
    text = printed(WITHOUT.format(names=OPTIONAL) + """
import torch
from mmengine.registry import MODELS
import mmfasternet
backbone = MODELS.build(dict(type='mmfasternet.FasterNet', arch='t0', norm_cfg=dict(type='LN2d')))
backbone.init_weights()
print([tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 64))])
print(mmfasternet.PartialConv(8))
for name in ('InstanceTTAModel', 'FasterNetHead', 'ExportedDetector'):
    try:
        MODELS.get('mmfasternet.' + name)
    except Exception as error:
        print(type(error).__name__, error)
""")
    assert '[(1, 40, 16, 16), (1, 80, 8, 8), (1, 160, 4, 4), (1, 320, 2, 2)]' in text and 'PartialConv(' in text
    assert "UserError type 'mmfasternet.InstanceTTAModel': mmdet is not installed: " in text
    assert "UserError type 'mmfasternet.FasterNetHead': mmpretrain is not installed: " in text
    assert "UserError type 'mmfasternet.ExportedDetector': mmdet is not installed: " in text


def test_pretrained_weights_of_pytorchs_format_need_no_extra(tmp_path):
    text = printed(WITHOUT.format(names=OPTIONAL) + f"""
import torch
from mmfasternet import FasterNet
path = {str(tmp_path / 'a.pth')!r}
torch.save(FasterNet('t0').state_dict(), path)
backbone = FasterNet('t0', init_cfg=dict(type='Pretrained', checkpoint=path))
backbone.init_weights()
print(all(torch.equal(value, backbone.state_dict()[key]) for key, value in torch.load(path).items()))
open(path.replace('.pth', '.safetensors'), 'wb').write(bytes(8) + b'{{')
try:
    FasterNet('t0', init_cfg=dict(type='Pretrained', checkpoint=path.replace('.pth', '.safetensors'))).init_weights()
except Exception as error:
    print(error)
""")
    assert 'True\n' in text
    assert text.endswith('safetensors is not installed: pip install "mmfasternet[checkpoints]" installs it\n')


@pytest.mark.slow
def test_detection_works_without_mmpretrain():
    result = run("""
import sys
sys.modules['mmpretrain'] = None
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
import mmfasternet.engine.train_test, mmfasternet.engine.inference, mmfasternet.benchmark.subjects.detectors
init_default_scope('mmdet')
print(type(MODELS.build(Config.fromfile('configs/mask_rcnn_fasternet_t0_shapes.py').model).backbone))
print(MODELS.get('mmfasternet.InstanceTTAModel'))
""")
    assert "FasterNet" in result.stdout and 'InstanceTTAModel' in result.stdout, result.stderr


@pytest.mark.parametrize('package, version', [
    ('torch', '2.5.1'), ('numpy', '3.0.0'), ('mmengine', '0.9.0'), ('mmdet', '2.28.0'), ('mmcv', '3.0.0')])
def test_a_release_out_of_bounds_is_named(package, version):
    result = run(f'import mmdet, {package}; {package}.__version__ = "{version}"; import mmfasternet')
    assert result.returncode and f'{package} {version} is installed, but mmfasternet' in result.stderr


@pytest.mark.slow
def test_types_are_found_without_custom_imports():
    result = run("""
from mmdet.registry import MODELS, TRANSFORMS
print(MODELS.build(dict(type='mmfasternet.FasterNet')), TRANSFORMS.build(dict(type='mmfasternet.LoadImageFromFile')))
""")
    assert 'FasterNet' in result.stdout and 'LoadImageFromFile' in result.stdout, result.stderr


@pytest.mark.slow
def test_all_types_are_found_from_all_scopes_after_importing_the_package_alone():
    types = [(registry, name) for registry, name, _ in registered()]
    assert {('MODELS', 'FasterNet'), ('DATASETS', 'Digits')} <= set(types)
    text = printed(f"""
import mmfasternet
import mmengine.registry, mmdet.registry, mmpretrain.registry
for registry, name in {types!r}:
    for scope in (mmengine, mmdet, mmpretrain):
        found = getattr(scope.registry, registry, None)
        print(scope.__name__, registry, name, found is None or found.get('mmfasternet.' + name) is not None)
""")
    found = [line.split() for line in text.splitlines() if line.startswith(('mmengine ', 'mmdet ', 'mmpretrain '))]
    assert len(found) == 3 * len(types) and [line for line in found if line[-1] != 'True'] == []


def test_lazy_registries_name_the_modules_of_their_types():
    for name in ('MODELS', 'DATASETS'):
        registry = getattr(mmfasternet.registry, name)
        assert registry.modules == {kind: module for where, kind, module in registered() if where == name}


def test_a_module_that_is_broken_itself_keeps_its_error():
    registry = LazyRegistry('model', dict(A='mmfasternet.no_such_module', B='mmfasternet.registry'), scope='test')
    with pytest.raises(ModuleNotFoundError, match='no_such_module') as caught:
        registry.get('A')
    assert not isinstance(caught.value, UserError)
    assert registry.get('test.C') is None
