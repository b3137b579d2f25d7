import copy
import json
import sys
from unittest.mock import Mock

import onnx
import pytest
import torch

from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.export import exporting
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.manifest import Manifest
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.deploy.export.targets import Target
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, build, needs_export, randomize_norms

pytestmark = needs_export

FORMATS = ('onnx', 'openvino')


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    model = FasterNet('t0')
    randomize_norms(model)
    return model.train()


@pytest.mark.slow
@pytest.mark.parametrize('file_format', FORMATS)
def test_a_backbone_with_dynamic_batch_and_size(backbone, tmp_path, file_format):
    real = torch.randn(1, 3, 96, 64)
    report, = export_model(backbone, str(tmp_path / 'out'), file_format, images=[real])
    assert backbone.training and report.name == 'backbone' and report.checked == '2 random, 1 real'
    assert 0 < report.relative <= 1e-4 and report.difference > 0
    files = list((tmp_path / 'out').iterdir())
    assert report.bytes == sum(f.stat().st_size for f in files if f.suffix != '.json') <= 1.05 * report.weight_bytes
    run = load_runtime(report.file)
    reference = FasterNet('t0')
    reference.load_state_dict(backbone.state_dict())
    reference.eval()
    for shape in ((1, 3, 64, 64), (3, 3, 97, 130), (2, 3, 224, 32)):
        x = torch.randn(shape)
        with torch.no_grad():
            for actual, wanted in zip(run(x), reference(x)):
                torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    assert not [path for path in tmp_path.iterdir() if path.name != 'out']


@pytest.mark.slow
def test_the_onnx_file_holds_no_norm_and_no_path(backbone, tmp_path):
    report, = export_model(backbone, str(tmp_path / 'out'))
    content = onnx.load(report.file)
    kinds = {node.op_type for node in content.graph.node}
    assert 'Conv' in kinds and not kinds & {'If', 'Loop', 'Transpose'}
    assert sum(node.op_type == 'BatchNormalization' for node in content.graph.node) <= 4  # on the outputs
    assert not any(node.metadata_props for node in content.graph.node)
    assert str(ROOT).encode() not in report.file.read_bytes()
    assert [value.name for value in content.graph.output] == ['map_0', 'map_1', 'map_2', 'map_3']
    dims = [dim.dim_param or dim.dim_value for dim in content.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ['batch', 3, 'height', 'width']


@pytest.mark.parametrize('file_format', FORMATS)
def test_a_classifier(tmp_path, file_format):
    from mmfasternet.engine.config import load_config
    model = build(load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py')).model, 'mmpretrain')
    randomize_norms(model)
    report, = export_model(model, str(tmp_path / 'out'), file_format)
    assert report.name == 'classifier' and report.bytes <= 1.05 * report.weight_bytes
    model.eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits, = load_runtime(report.file)(x)
        torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_differs_is_not_written(backbone, tmp_path):
    with pytest.raises(UserError, match='exceeds the tolerance of 1.0e-12'):
        export_model(backbone, str(tmp_path / 'out'), tolerance=1e-12)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_and_a_tolerance_that_is_none(backbone, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='exceeds the tolerance'):
        export_model(backbone, str(tmp_path / 'a' / 'out'), tolerance=float('nan'))
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(UserError, match='onnxscript is not installed'):
        export_model(backbone, str(tmp_path / 'a' / 'out'))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_in_half_precision(backbone, tmp_path):
    report, = export_model(copy.deepcopy(backbone).bfloat16(), str(tmp_path / 'out'))
    assert load_runtime(report.file)(torch.randn(1, 3, 32, 32))[0].dtype == torch.float32


def test_the_inference_form_in_another_type_is_refused(backbone, tmp_path):
    deployed = to_deploy(copy.deepcopy(backbone).eval(), dtype=torch.bfloat16)
    with pytest.raises(ArgumentError, match='the model computes in torch.bfloat16: export the model'):
        export_model(deployed, str(tmp_path / 'out'))


def test_a_folder_that_another_process_has_written_meanwhile_is_kept(backbone, tmp_path, monkeypatch):
    write = exporting.write_parts

    def write_slowly(*args, **options):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'theirs').touch()
        return write(*args, **options)

    monkeypatch.setattr(exporting, 'write_parts', write_slowly)
    with pytest.raises(UserError, match=r"out' exists by now .Directory not empty.\. Choose a new folder"):
        export_model(backbone, str(tmp_path / 'out'))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['theirs']


def test_a_link_to_nothing_is_kept(backbone, tmp_path):
    (tmp_path / 'out').symlink_to(tmp_path / 'gone')
    with pytest.raises(UserError, match='already exists'):
        export_model(backbone, str(tmp_path / 'out'))


def test_a_check_tells_when_it_compares_nothing_and_counts_the_outputs(tmp_path, monkeypatch):
    file, nothing = tmp_path / 'detector.onnx', torch.zeros(0, 4)
    file.touch()
    oracle = Target('detector', torch.nn.Identity(), 'images', {}, [(0, 4)])
    monkeypatch.setattr(exporting, 'load_runtime', lambda path: lambda x: [nothing])
    assert exporting._check(oracle, file, (), 1e-4, tmp_path).checked == '1 random, in which nothing is found'
    monkeypatch.setattr(exporting, 'load_runtime', lambda path: lambda x: [nothing, nothing])
    with pytest.raises(UserError, match='the exported detector has 2 outputs instead of 1. Nothing was written'):
        exporting._check(oracle, file, (), 1e-4, tmp_path)


def test_a_file_that_gives_nan_is_refused(tmp_path):
    model = FasterNet('t0')
    model.stages[0].downsample.conv.weight.data.fill_(float('nan'))
    with pytest.raises(UserError, match='differs from PyTorch by inf'):
        export_model(model, str(tmp_path / 'out'))


def test_an_existing_folder_is_kept(backbone, tmp_path):
    (tmp_path / 'out').mkdir()
    with pytest.raises(UserError, match='exists'):
        export_model(backbone, str(tmp_path / 'out'))


@pytest.mark.parametrize('options, text', [(dict(file_format='tflite'), "'tflite'"), (dict(parts=True), 'FasterNet')])
def test_bad_arguments(backbone, tmp_path, options, text):
    with pytest.raises(ArgumentError, match=text):
        export_model(backbone, str(tmp_path / 'out'), **options)


def test_the_manifest(backbone, tmp_path):
    cfg = dict(backbone=dict(type='FasterNet', arch='t0'), test_cfg=dict(score_thr=0.5))
    export_model(backbone, str(tmp_path / 'out'), model_cfg=cfg)
    manifest = Manifest.read(tmp_path / 'out')
    assert manifest.format == 'onnx' and manifest.parts[0].file == 'backbone.onnx' and len(manifest.model) == 16
    content = json.loads((tmp_path / 'out' / 'export.json').read_text())
    assert content['versions']['torch'] == torch.__version__


@pytest.mark.slow
def test_an_older_exporter_that_fails_is_one_line(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, 'export', Mock(side_effect=TypeError('an operator')))
    with pytest.raises(TypeError, match='an operator'):  # of a release that it is tested with
        export_model(backbone, tmp_path / 'out')
    for version, text in (
            ('2.8.0+cu128', r"PyTorch 2\.8\.0\+cu128 can't export the backbone: TypeError\. Export is tested with Py"),
            ('2.6.0', r'the exporter of the installed PyTorch 2\.6\.0 only writes fixed sizes: export needs 2\.7\.0,')):
        monkeypatch.setattr(torch, '__version__', version)
        with pytest.raises(UserError, match=f'^{text}'):
            export_model(backbone, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []
