import onnx
import pytest

from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.float_layers import Node, first_layers, nodes_of_onnx, nodes_of_openvino
from mmfasternet.models import FasterNet
from tests.conftest import needs_export


def test_a_first_layer_has_none_before_it():
    nodes = [Node('scale', False, ['image'], ['scaled']), Node('stem', True, ['scaled'], ['a']),
             Node('second stem', True, ['image', 'weight'], ['b']), Node('add', False, ['a', 'b'], ['c']),
             Node('deep', True, ['c'], ['d']), Node('shortcut', True, ['scaled', 'd'], ['e'])]
    assert first_layers(nodes) == ['stem', 'second stem']


def test_no_layer_at_all():
    assert first_layers([Node('relu', False, ['image'], ['out'])]) == []


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize('file_format', ['onnx', 'openvino'])
def test_the_patch_embedding_is_the_first_layer_of_fasternet(file_format, tmp_path):
    model = FasterNet('t0')
    report, = export_model(model, str(tmp_path / 'out'), file_format)
    if file_format == 'onnx':
        nodes = nodes_of_onnx(onnx.load(report.file))
    else:
        import openvino
        content = openvino.Core().read_model(str(report.file))
        nodes = nodes_of_openvino(content)
    # Of FasterNet's convolutions: four of patches, and three in each of its blocks.
    assert sum(node.is_layer for node in nodes) == 4 + 3 * (1 + 2 + 8 + 2)
    name, = first_layers(nodes)
    if file_format == 'onnx':
        node = next(node for node in onnx.load(report.file).graph.node if node.name == name)
        weight = next(w for w in onnx.load(report.file).graph.initializer if w.name == node.input[1])
        assert list(weight.dims) == [40, 3, 4, 4]
    else:
        node = next(op for op in content.get_ops() if op.get_friendly_name() == name)
        assert list(node.input_value(1).get_shape()) == [40, 3, 4, 4]
