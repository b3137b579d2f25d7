import pytest
import torch

from mmfasternet.benchmark.approximation import salient_positions
from mmfasternet.errors import CheckpointError


def test_the_position_with_the_largest_norm_is_counted():
    kernel = torch.full((4, 2, 3, 3), 0.1)
    kernel[:3, :, 1, 1] = 1.  # three filters weigh most in the middle
    kernel[3, :, 0, 2] = -2.  # one in the upper right
    shares = salient_positions({'layer1.0.conv2.weight': kernel, 'layer1.0.conv1.weight': torch.rand(4, 4, 1, 1),
                                'layer2.0.conv2.weight': kernel[3:], 'layer2.0.bn.weight': torch.rand(4)})
    assert shares == {'layer1': [0, 0, .25, 0, .75, 0, 0, 0, 0], 'layer2': [0, 0, 1, 0, 0, 0, 0, 0, 0]}


def test_the_norm_is_over_all_channels():
    kernel = torch.zeros(1, 2, 3, 3)
    kernel[0, :, 2, 2] = 0.8  # norm 1.13
    kernel[0, 0, 0, 0] = 1.
    assert salient_positions({'stages.0.conv.weight': kernel}) == {'stages.0': [0, 0, 0, 0, 0, 0, 0, 0, 1]}


def test_a_network_without_such_kernels():
    with pytest.raises(CheckpointError, match='no 3x3'):
        salient_positions({'fc.weight': torch.rand(3, 3)})
