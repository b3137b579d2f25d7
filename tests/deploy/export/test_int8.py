import json

import onnx
import pytest
import torch

from mmfasternet.cpus import sums_of_int8_saturate
from mmfasternet.deploy.export import int8
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.int8 import export_int8
from mmfasternet.deploy.export.manifest import Manifest
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.engine.building import build_model, calibration_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.models import FasterNet
from tests.conftest import SHAPES_CONFIG, data_options, needs_export, needs_nncf, randomize_norms

pytestmark = needs_export

FORMATS = ['onnx', pytest.param('openvino', marks=needs_nncf)]


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    model = FasterNet('t0')
    randomize_norms(model)
    return model.eval()


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, 64, 96, generator=generator) for _ in range(4)]


def accuracies(*values):
    """An evaluation that gives these values of one metric, one after another."""
    left = iter(values)
    return lambda parts, runs: dict(AP=next(left))


@pytest.mark.slow
@pytest.mark.parametrize('file_format', FORMATS)
def test_a_backbone(backbone, images, tmp_path, file_format):
    report = export_int8(backbone, str(tmp_path / 'out'), images, file_format)
    part, = report.parts
    assert part.name == 'backbone' and report.accuracy == {} and [len(each) for each in part.layers] == [42, 1]
    files = [f for f in (tmp_path / 'out').iterdir() if f.suffix != '.json']
    assert part.bytes == sum(f.stat().st_size for f in files) < 0.29 * part.float32_bytes
    run, x = load_runtime(part.file), torch.randn(2, 3, 96, 64)  # of another batch and size than the images
    with torch.no_grad():
        errors = [((a - b).norm() / b.norm()).item() for a, b in zip(run(x), backbone(x))]
    most = 0.15 if sums_of_int8_saturate() else 0.12  # weights have a bit less there
    assert 1e-3 < max(errors) < most and 1e-3 < part.relative < most
    manifest = Manifest.read(tmp_path / 'out')
    assert (manifest.dtype, manifest.format) == ('int8', file_format)
    assert manifest.float32_layers == {'backbone': part.layers.float32} and manifest.accuracy == {}
    assert not [path for path in tmp_path.iterdir() if path.name != 'out']


def test_what_stays_in_float32(backbone, images, tmp_path):
    export_int8(backbone, str(tmp_path / 'out'), images, 'onnx')
    model = onnx.load(tmp_path / 'out' / 'backbone.onnx')
    made = {output: node for node in model.graph.node for output in node.output}
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == 'Conv']
    kept = [node for node in convolutions if node.input[1] in weights]  # the others' weights pass DequantizeLinear
    assert len(convolutions) == 43 and [node.input[0] for node in kept] == ['images']
    for node in model.graph.node:
        readers = [other.op_type for other in model.graph.node for value in node.output if value in other.input]
        if node.op_type in ('Concat', 'Split'):
            assert made[node.input[0]].op_type == 'DequantizeLinear' and set(readers) == {'QuantizeLinear'}
        if node.op_type in ('Erf', 'Div', 'Mul'):  # GELU
            assert 'QuantizeLinear' not in readers or node.op_type == 'Mul'


@pytest.mark.slow
@needs_nncf
def test_a_block_reads_its_input_rounded_once(backbone, images, tmp_path):
    """One scale for what is convolved and what is not, ahead of the split; and none after the concatenation."""
    import openvino
    export_int8(backbone, str(tmp_path / 'out'), images)
    model = openvino.Core().read_model(str(tmp_path / 'out' / 'backbone.xml'))
    splits = [op for op in model.get_ops() if op.get_type_name() == 'VariadicSplit']
    assert len(splits) == 13
    for split in splits:
        assert split.input_value(0).get_node().get_type_name() == 'FakeQuantize'
        readers = [[t.get_node().get_type_name() for t in out.get_target_inputs()] for out in split.outputs()]
        assert readers == [['Convolution'], ['Concat']]
    concats = [op for op in model.get_ops()
               if op.get_type_name() == 'Concat' and len(op.get_output_partial_shape(0)) == 4]
    assert len(concats) == 13
    for concat in concats:
        assert [t.get_node().get_type_name() for t in concat.output(0).get_target_inputs()] == ['Convolution']
    for op in model.get_ops():
        if op.get_type_name() == 'Add':
            assert 'FakeQuantize' not in [value.get_node().get_type_name() for value in op.input_values()]


@pytest.mark.parametrize('file_format', FORMATS)
def test_accuracy_that_is_kept(backbone, images, tmp_path, file_format):
    report = export_int8(backbone, str(tmp_path / 'out'), images, file_format, evaluate=accuracies(0.5, 0.495),
                         max_drop=0.005)
    assert report.accuracy == {'AP': [0.5, 0.495]} == Manifest.read(tmp_path / 'out').accuracy


def test_accuracy_that_is_lost(backbone, images, tmp_path):
    with pytest.raises(UserError, match=r'^int8 costs 0.020 of accuracy, more than the accepted 0.01 '
                       r'\(AP 0.500 -> 0.480\). Nothing was written$'):
        export_int8(backbone, str(tmp_path / 'out'), images, 'onnx', evaluate=accuracies(0.5, 0.48))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('after, text', [({}, '0.500 -> 0.000'), (dict(AP=float('nan')), '0.500 -> nan')])
def test_nothing_is_detected_any_more(backbone, images, tmp_path, after, text):
    values = iter((dict(AP=0.5), after))
    with pytest.raises(UserError, match=f'of accuracy, more than the accepted 0.01 .AP {text}.'):
        export_int8(backbone, str(tmp_path / 'out'), images, 'onnx', evaluate=lambda parts, runs: next(values))


@pytest.mark.slow
def test_nothing_is_detected_from_the_start(backbone, images, tmp_path):
    with pytest.raises(UserError, match='^nothing is detected in the validation data in float32, .*--no-accuracy'):
        export_int8(backbone, str(tmp_path / 'out'), images, 'onnx', evaluate=lambda parts, runs: {})
    assert not list(tmp_path.iterdir())


def test_nan_in_the_last_output(backbone, images, tmp_path, monkeypatch):
    def load(file):
        run = load_runtime(file)
        is_int8 = file.parent.name == 'out'
        return lambda x: [*run(x)[:-1], run(x)[-1] * float('nan')] if is_int8 else run(x)

    monkeypatch.setattr(int8, 'load_runtime', load)
    with pytest.raises(UserError, match='^the int8 file of the backbone gives NaN or infinite values. Nothing was'):
        export_int8(backbone, str(tmp_path / 'out'), images, 'onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_nncf
def test_accuracy_that_nncf_could_find_again(backbone, images, tmp_path):
    with pytest.raises(UserError, match='Nothing was written. --accuracy-drop 0.01 lets NNCF search for layers'):
        export_int8(backbone, str(tmp_path / 'out'), images, evaluate=accuracies(0.5, 0.48))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_nncf
def test_a_search_for_layers(backbone, images, tmp_path):
    """The metric is how close the outputs are to PyTorch's."""
    with torch.no_grad():
        expected = torch.cat([y.flatten() for x in images for y in backbone(x)])

    def evaluate(parts, runs):
        actual = torch.cat([y.flatten() for x in images for y in runs[0](x)])
        return dict(closeness=1 - ((actual - expected).norm() / expected.norm()).item())

    plain = export_int8(backbone, str(tmp_path / 'plain'), images, evaluate=evaluate, max_drop=1.)
    lost = 1 - plain.accuracy['closeness'][1]
    found = export_int8(backbone, str(tmp_path / 'found'), images, evaluate=evaluate, max_drop=0.8 * lost, search=True)
    assert 1 - found.accuracy['closeness'][1] <= 0.8 * lost < lost
    layers = found.parts[0].layers.float32
    assert 1 < len(layers) < 43 and layers == Manifest.read(tmp_path / 'found').float32_layers['backbone']
    assert found.parts[0].relative < plain.parts[0].relative


@pytest.mark.slow
@needs_nncf
def test_a_search_that_leaves_nothing_in_int8(backbone, images, tmp_path):
    def evaluate(parts, runs):
        return dict(exact=float(all(torch.allclose(*each, atol=1e-4) for each in zip(runs[0](images[0]), expected))))

    with torch.no_grad():
        expected = backbone(images[0])
    with pytest.raises(UserError, match='^no layer can be int8 with an accuracy drop of at most 0.01: .* Nothing was'):
        export_int8(backbone, str(tmp_path / 'out'), images, evaluate=evaluate, search=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options, error, text', [
    (dict(calibration=[]), UserError, 'needs images to calibrate on'),
    (dict(file_format='onnx', search=True), ArgumentError, 'NNCF'),
    (dict(file_format='tflite'), ArgumentError, "'tflite'"),
])
def test_bad_arguments(backbone, images, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        export_int8(backbone, str(tmp_path / 'out'), **{'calibration': images, **options})
    assert not list(tmp_path.iterdir())


def test_nan_is_refused(images, tmp_path):
    model = FasterNet('t0').eval()
    model.stages[0].downsample.conv.weight.data.fill_(float('nan'))
    with pytest.raises(UserError, match='differs from PyTorch by inf'):
        export_int8(model, str(tmp_path / 'out'), images, 'onnx')
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def cfg(shapes):
    return load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))


@pytest.fixture(scope='module')
def detector(cfg, trained):
    return build_model(cfg, str(trained / 'epoch_2.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('file_format', FORMATS)
def test_the_heads_of_rois(cfg, detector, tmp_path, file_format):
    images = calibration_batches(cfg, None, 4)
    assert len(images) == 4
    report = export_int8(detector, str(tmp_path / 'out'), images, file_format, parts=True, model_cfg=cfg.model)
    assert [part.name for part in report.parts] == ['dense', 'bbox_head', 'mask_head']
    assert [len(part.layers.float32) for part in report.parts] == [1, 0, 1 if file_format == 'onnx' else 0]
    assert all(1e-4 < part.relative < 0.2 for part in report.parts)
    assert sum(p.bytes for p in report.parts) < 0.30 * sum(p.float32_bytes for p in report.parts)
    assert json.loads((tmp_path / 'out' / 'export.json').read_text())['model'] == Manifest.of('', [], cfg.model).model


@pytest.mark.slow
def test_a_backbone_of_a_detector(cfg, detector, tmp_path):
    report = export_int8(detector, str(tmp_path / 'out'), calibration_batches(cfg, None, 2), 'onnx', backbone=True)
    assert [part.name for part in report.parts] == ['backbone']


@pytest.mark.slow
def test_heads_that_get_nothing(cfg, detector, tmp_path):
    before = detector.test_cfg.rcnn.score_thr
    detector.roi_head.test_cfg.score_thr = 1.1
    try:
        with pytest.raises(UserError, match='^the mask_head has nothing to calibrate on: the detector finds no'):
            export_int8(detector, str(tmp_path / 'out'), calibration_batches(cfg, None, 2), 'onnx', parts=True)
    finally:
        detector.roi_head.test_cfg.score_thr = before
    assert not list(tmp_path.iterdir())


def test_an_older_folder_is_one_of_float32(backbone, tmp_path):
    export_model(backbone, str(tmp_path / 'out'))
    path = tmp_path / 'out' / 'export.json'
    content = {key: value for key, value in json.loads(path.read_text()).items()
               if key not in ('dtype', 'float32_layers', 'accuracy')}
    path.write_text(json.dumps(content))
    assert Manifest.read(tmp_path / 'out').dtype == 'float32'
