import pytest
import torch
import torch.nn.functional as F

from mmfasternet.models import FasterNetBlock
from tests.conftest import randomize_norms

BN, RELU = dict(type='BN'), dict(type='ReLU', inplace=True)


def test_equals_its_formula_in_float64():
    block = FasterNetBlock(8, BN, RELU, layer_scale_init_value=0.3).double().eval()
    randomize_norms(block)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    mixed = torch.cat((F.conv2d(x[:, :2], block.pconv.conv.weight, padding=1), x[:, 2:]), 1)
    norm = block.norm
    hidden = torch.einsum('oc,nchw->nohw', block.conv1.weight[:, :, 0, 0], mixed)
    hidden = (hidden - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var.view(1, -1, 1, 1) + norm.eps).sqrt()
    hidden = (hidden * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).clamp(min=0)
    expected = x + 0.3 * torch.einsum('oc,nchw->nohw', block.conv2.weight[:, :, 0, 0], hidden)
    torch.testing.assert_close(block(x), expected)


def test_recomputation_gives_the_same_gradients_and_statistics():
    torch.manual_seed(1)
    plain = FasterNetBlock(8, BN, RELU, drop_path_rate=0.5)
    recomputed = FasterNetBlock(8, BN, RELU, drop_path_rate=0.5, with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    results = []
    for block in (plain, recomputed):
        torch.manual_seed(2)
        x = torch.randn(4, 8, 6, 6, requires_grad=True)
        block(x).square().sum().backward()
        results.append([x.grad, *(p.grad for p in block.parameters()), *block.buffers()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
    assert recomputed.norm.num_batches_tracked == 1
    assert recomputed.norm.momentum == 0.1


def test_recomputation_keeps_fewer_activations():

    def kept(with_cp):
        block = FasterNetBlock(8, BN, RELU, with_cp=with_cp)
        x = torch.randn(1, 8, 16, 16, requires_grad=True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            block(x)
        return sum(sizes)

    assert kept(True) < kept(False) / 4


@pytest.mark.parametrize('rate', [0., 0.5])
def test_stochastic_depth_drops_samples_in_training_only(rate):
    block = FasterNetBlock(8, BN, RELU, drop_path_rate=rate)
    x = torch.randn(64, 8, 4, 4)
    dropped = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert (0.2 < dropped < 0.8) if rate else dropped == 0
    assert not (block.eval()(x) == x).flatten(1).all(1).any()
