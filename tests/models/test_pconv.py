import pytest
import torch
import torch.nn.functional as F

from mmfasternet.models import PartialConv


@pytest.mark.parametrize('mode', ['split_cat', 'slicing'])
@pytest.mark.parametrize('ratio', [1 / 2, 1 / 4, 1 / 8, 1])
def test_equals_a_convolution_of_the_first_channels_in_float64(mode, ratio):
    pconv = PartialConv(16, ratio, mode=mode)
    x = torch.randn(2, 16, 7, 9)
    part = int(16 * ratio)
    expected = F.conv2d(x[:, :part].double(), pconv.conv.weight.double(), padding=1)
    with torch.no_grad():
        out = pconv(x)
    torch.testing.assert_close(out[:, :part].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[:, part:], x[:, part:])


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_modes_agree_bitwise_and_leave_the_input_alone(memory_format):
    x = torch.randn(2, 12, 8, 8).contiguous(memory_format=memory_format)
    before = x.clone()
    split_cat, slicing = PartialConv(12), PartialConv(12, mode='slicing')
    slicing.load_state_dict(split_cat.state_dict())
    with torch.no_grad():
        a, b = split_cat(x), slicing(x)
    assert torch.equal(a, b)
    assert torch.equal(x, before)
    assert b.data_ptr() != x.data_ptr()
    assert a.is_contiguous(memory_format=memory_format) == b.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('needs_gradient', ['input', 'weight'])
def test_slicing_refuses_where_a_gradient_is_needed(needs_gradient):
    pconv = PartialConv(8, mode='slicing')
    x = torch.randn(1, 8, 4, 4, requires_grad=needs_gradient == 'input')
    pconv.conv.weight.requires_grad_(needs_gradient == 'weight')
    with pytest.raises(RuntimeError, match='slicing'):
        pconv(x)
    with torch.no_grad():
        assert pconv(x).shape == x.shape


def test_gradients_of_split_cat():
    pconv = PartialConv(8).double()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pconv, (x, ))


def test_multiply_adds_and_parameters_follow_equation_4():
    from mmengine.analysis import FlopAnalyzer
    channels, size, kernel = 96, 56, 3
    pconv = PartialConv(channels, kernel_size=kernel)
    part = channels // 4
    flops = FlopAnalyzer(pconv, torch.rand(1, channels, size, size)).total()
    assert flops == size * size * kernel**2 * part**2  # a tenth of Table 1's 162 M for ten layers
    assert sum(p.numel() for p in pconv.parameters()) == kernel**2 * part**2


def test_n_div_is_the_reciprocal_ratio():
    assert PartialConv(96, n_div=3).conv_channels == 32
    assert PartialConv(64, 1 / 4, 3, 'slicing').mode == 'slicing'
    assert PartialConv(40, n_div=4).conv_channels == PartialConv(40, 1 / 4).conv_channels == 10
    assert PartialConv(64).conv_channels == 16
    assert PartialConv(10, 0.1).conv_channels == 1
    assert PartialConv(11, 1 / 4).conv_channels == 2


@pytest.mark.parametrize('kwargs, names', [
    (dict(channels=3), 'partial_ratio'),
    (dict(channels=3, n_div=4), 'n_div'),
    (dict(channels=8, partial_ratio=0), 'partial_ratio'),
    (dict(channels=8, partial_ratio=1.5), 'partial_ratio'),
    (dict(channels=8, partial_ratio=-0.5), 'partial_ratio'),
    (dict(channels=8, n_div=0), 'n_div'),
    (dict(channels=8, n_div=2, partial_ratio=0.5), 'n_div'),
    (dict(channels=8, kernel_size=2), 'kernel_size'),
    (dict(channels=8, kernel_size=-1), 'kernel_size'),
    (dict(channels=8, mode='inplace'), 'mode'),
])
def test_bad_arguments_are_named(kwargs, names):
    with pytest.raises(ValueError, match=names):
        PartialConv(**kwargs)


def test_there_is_no_stride():
    with pytest.raises(TypeError, match='stride'):
        PartialConv(8, stride=2)


def test_wrong_number_of_input_channels():
    with pytest.raises(ValueError, match='channels is 8, but the input has 6'):
        PartialConv(8)(torch.rand(1, 6, 4, 4))
