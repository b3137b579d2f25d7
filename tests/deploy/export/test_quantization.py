import os
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmfasternet.cpus import sums_of_int8_saturate
from mmfasternet.deploy.export.quantization import InputData, quantize_onnx, quantize_openvino
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.errors import UserError
from tests.conftest import needs_export, needs_nncf

pytestmark = needs_export

FORMATS = ['onnx', pytest.param('openvino', marks=needs_nncf)]


class TwoLayers(nn.Module):
    """A first layer that hands its input on, and a second one of random weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1, bias=False)
        self.first.weight.data = torch.eye(4).reshape(4, 4, 1, 1)
        self.second = nn.Conv2d(4, 8, 1, bias=False)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return TwoLayers().eval()


@pytest.fixture(scope='module')
def files(network, tmp_path_factory):
    """The network in float32, by format."""
    import openvino
    folder = tmp_path_factory.mktemp('two-layers')
    torch.onnx.export(network, (torch.rand(1, 4, 5, 6), ), str(folder / 'net.onnx'), dynamo=True, external_data=False,
                      input_names=['images'], output_names=['out'], verbose=False)
    openvino.save_model(openvino.convert_model(str(folder / 'net.onnx')), str(folder / 'net.xml'),
                        compress_to_fp16=False)
    return dict(onnx=folder / 'net.onnx', openvino=folder / 'net.xml')


def quantize(files, file_format, inputs, folder, **options):
    function = quantize_onnx if file_format == 'onnx' else quantize_openvino
    out = folder / files[file_format].name
    layers = function(files[file_format], out, InputData(inputs, len(inputs)), **{'is_entry': True, **options})
    return load_runtime(out), layers


def rounded(x, least, largest, levels):
    """Values on a grid that 0 lies on, in float64."""
    least, largest = min(least, 0.), max(largest, 0.)
    step = (largest - least) / (levels - 1)
    zero = round(-least / step)
    return ((x.double() / step + zero).round().clamp(0, levels - 1) - zero) * step


@pytest.fixture(scope='module')
def maps():
    return torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(1)) * 3 - 1


def product(weight, maps):
    return torch.einsum('oi,nihw->nohw', weight.double().flatten(1), maps.double())


def test_onnx_runtimes_numbers_are_those_of_rounded_weights_and_maps(network, files, maps, tmp_path):
    run, layers = quantize(files, 'onnx', [maps], tmp_path)
    assert [len(each) for each in layers] == [1, 1]
    weight, exact = network.second.weight.detach().double(), product(network.second.weight.detach(), maps)
    largest = 64 if sums_of_int8_saturate() else 127
    scales = weight.abs().amax((1, 2, 3), keepdim=True) / largest  # symmetric, for each output channel
    expected = product((weight / scales).round() * scales, rounded(maps, maps.min().item(), maps.max().item(), 256))
    expected = rounded(expected, exact.min().item(), exact.max().item(), 256)  # an int8 layer gives int8
    error = (expected - exact).norm()
    assert error > 1e-3 * exact.norm()
    assert (run(maps)[0].double() - expected).norm() < 0.2 * error  # but for ties


@needs_nncf
def test_nncfs_numbers_are_within_the_steps_of_weights_and_maps(network, files, maps, tmp_path):
    run, layers = quantize(files, 'openvino', [maps], tmp_path)
    assert [len(each) for each in layers] == [1, 1]
    weight = network.second.weight.detach().double()
    # NNCF spares the first int8 layer a bit, so that sums of 16 bits do: 127 steps from the least to the largest.
    step = 2 * weight.abs().amax((1, 2, 3), keepdim=True) / 127
    of_maps = 1.02 * (maps.max() - maps.min()).item() / 255  # the range is widened until 0 is on the grid
    bound = product(step.expand_as(weight), maps.abs()) + product(weight.abs(), torch.full_like(maps, of_maps / 2))
    difference = (run(maps)[0].double() - product(weight, maps)).abs()
    assert (difference <= bound).all() and difference.max() > 0.1 * bound.max()


@pytest.mark.parametrize('file_format', FORMATS)
def test_a_rare_large_value_is_not_clipped(network, files, file_format, tmp_path):
    images = [torch.rand(1, 4, 5, 6) for _ in range(9)]
    rare = images[0].clone()
    rare[0, :, 2, 3] = 20.
    run, _ = quantize(files, file_format, [*images, rare], tmp_path)
    actual, = run(rare)
    with torch.no_grad():
        torch.testing.assert_close(actual[..., 2, 3], network(rare)[..., 2, 3], rtol=0.02, atol=0.2)


@pytest.mark.parametrize('file_format', FORMATS)
def test_a_part_that_takes_no_image_has_all_its_layers_in_int8(files, file_format, tmp_path):
    x = torch.rand(1, 4, 5, 6)
    (tmp_path / 'all').mkdir()
    assert quantize(files, file_format, [x], tmp_path / 'all', is_entry=False)[1].float32 == []
    quantize(files, file_format, [x], tmp_path)
    counts = [int8_weights(folder / files[file_format].name) for folder in (tmp_path / 'all', tmp_path)]
    assert counts == [2, 1]


def int8_weights(file):
    if file.suffix == '.onnx':
        model = onnx.load(file)
        return sum(w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 4 for w in model.graph.initializer)
    import openvino
    constants = [op for op in openvino.Core().read_model(str(file)).get_ops() if op.get_type_name() == 'Constant']
    return sum(op.get_element_type() == openvino.Type.i8 and len(op.get_output_shape(0)) == 4 for op in constants)


@needs_nncf
def test_a_search_puts_layers_back_until_the_drop_is_small_enough(network, files, tmp_path):
    x = torch.rand(1, 4, 5, 6)
    drops = []

    def drop(run):
        with torch.no_grad():
            drops.append(((run(x)[0] - network(x)).norm() / network(x).norm()).item())
        return drops[-1]

    run, layers = quantize(files, 'openvino', [x], tmp_path, drop=drop, max_drop=1e-6)
    assert max(drops) > 1e-4 > 1e-6 > drop(run) and layers.int8 == []


@needs_nncf
def test_a_search_with_nothing_to_do(files, tmp_path):
    x = torch.rand(1, 4, 5, 6)
    _, layers = quantize(files, 'openvino', [x], tmp_path, drop=lambda run: 0., max_drop=0.01)
    assert len(layers.int8) == 1


def test_without_nncf_one_line_says_so(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nncf', None)
    before = dict(os.environ)
    with pytest.raises(UserError, match=r'^nncf is not installed: pip install "mmfasternet\[int8\]" installs it$'):
        quantize(files, 'openvino', [torch.rand(1, 4, 5, 6)], tmp_path)
    assert dict(os.environ) == before


def test_inputs_can_be_gone_through_again():
    data = InputData([torch.zeros(1, 2), torch.ones(1, 2)], 2)
    assert len(data) == 2
    for _ in range(2):
        assert [x.sum() for x in data] == [0, 2] and all(isinstance(x, np.ndarray) for x in data)
