import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet50

from mmfasternet.benchmark.approximation import OPERATORS, approximate_conv, collect_maps
from mmfasternet.errors import CheckpointError, DataError

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(generator.integers(0, 256, (60, 80 + index, 3), dtype=np.uint8)).save(folder / f'{index}.png')
    return sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize('operator', list(OPERATORS))
def test_what_an_operator_can_do_it_learns(operator):
    torch.manual_seed(1)
    target = OPERATORS[operator](32)
    inputs = torch.randn(40, 32, 6, 6)
    with torch.no_grad():
        outputs = target(inputs)
    early = approximate_conv(operator, (inputs, outputs), CPU, epochs=1, lr=1e-2, batch_size=4)
    late = approximate_conv(operator, (inputs, outputs), CPU, epochs=60, lr=1e-2, batch_size=4)
    assert late < 0.02 * outputs.var() < early


def test_pconv_comes_closest_to_what_mixes_few_channels():
    """A target that is spatial in a quarter of the channels: only PConv mixes these among each other."""
    torch.manual_seed(1)
    inputs = torch.randn(60, 32, 6, 6)
    with torch.no_grad():
        mixed = nn.Conv2d(8, 8, 3, padding=1, bias=False)(inputs[:, :8])
        outputs = torch.cat([4 * mixed, inputs[:, 8:]], 1)
    errors = {name: approximate_conv(name, (inputs, outputs), CPU, epochs=60, lr=1e-2, batch_size=4)
              for name in OPERATORS}
    assert errors['PConv + PWConv'] < 0.3 * min(errors['DWConv + PWConv'], errors['GConv + PWConv'])


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_maps_are_those_of_the_convolutions(pictures, prefix):
    torch.manual_seed(0)
    weights = resnet50().state_dict()
    maps = collect_maps({f'{prefix}{key}': value for key, value in weights.items()}, pictures, CPU, batch_size=4)
    shapes = [(10, 64, 56, 56), (10, 128, 28, 28), (10, 256, 14, 14), (10, 512, 7, 7)]
    assert [tuple(x.shape) for x, _ in maps] == shapes
    for (x, y), name in zip(maps, ('layer1.0', 'layer2.1', 'layer3.1', 'layer4.1')):
        expected = nn.functional.conv2d(x, weights[f'{name}.conv2.weight'], padding=1)
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4)


def test_bad_input(pictures, tmp_path):
    weights = resnet50().state_dict()
    with pytest.raises(DataError, match='3 images are too few'):
        collect_maps(weights, pictures[:3], CPU)
    with pytest.raises(CheckpointError, match='not a ResNet-50: it lacks'):
        collect_maps({'layer1.0.conv2.weight': torch.rand(64, 64, 3, 3)}, pictures, CPU)
    with pytest.raises(CheckpointError, match='not a ResNet-50'):
        collect_maps({**weights, 'conv1.weight': torch.rand(32, 3, 7, 7)}, pictures, CPU)
    (tmp_path / 'broken.png').write_bytes(b'')
    with pytest.raises(DataError, match='broken.png'):
        collect_maps(weights, [*pictures, str(tmp_path / 'broken.png')], CPU)
