import subprocess
import sys

import pytest

import mmfasternet
from tests.conftest import ROOT


def run(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)


def test_public_names():
    assert len(mmfasternet.__all__) <= 3


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
""")
    assert "FasterNet" in result.stdout, result.stderr


@pytest.mark.parametrize('package, version', [('mmengine', '0.9.0'), ('mmdet', '2.28.0'), ('mmcv', '3.0.0')])
def test_a_release_out_of_bounds_is_named(package, version):
    result = run(f'import mmdet, {package}; {package}.__version__ = "{version}"; import mmfasternet')
    assert result.returncode and f'{package} {version} is installed, but mmfasternet' in result.stderr


def test_types_are_found_without_custom_imports():
    result = run("""
from mmdet.registry import MODELS, TRANSFORMS
print(MODELS.build(dict(type='mmfasternet.FasterNet')), TRANSFORMS.build(dict(type='mmfasternet.LoadImageFromFile')))
""")
    assert 'FasterNet' in result.stdout and 'LoadImageFromFile' in result.stdout, result.stderr
