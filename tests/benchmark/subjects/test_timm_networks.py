import pytest
import timm
import torch
from timm.layers import StdConv2d
from timm.utils.model import reparameterize_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.subjects.networks import _NEWER
from mmfasternet.benchmark.subjects.timm_networks import build_timm, count_attention, fold_timm_norms
from tests.conftest import randomize_norms

# Norms that follow no convolution, and stay.
LEFT = {'starnet_s4': ['norm'], 'fastvit_sa12': ['stages.3.blocks.0.norm', 'stages.3.blocks.1.norm']}


@pytest.mark.parametrize('name', [row[2] for row in _NEWER] + ['mobilenetv1_100', 'ghostnet_100', 'tf_efficientnet_b0'])
def test_merging_and_folding_are_exact(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    randomize_norms(model)
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = model(images)
        folded = reparameterize_model(model)
        fold_timm_norms(folded, images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert [n for n, module in folded.named_modules() if isinstance(module, _BatchNorm)] == LEFT.get(name, [])


class Net(nn.Module):
    """Convolutions whose norms look as if they could be folded."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        if self.kind == 'read twice':
            return self.norm(y) + y
        if self.kind == 'also an output':
            return self.norm(y), y
        if self.kind == 'two norms':
            return self.norm(y) * self.other(y)
        if self.kind == 'called twice':
            return self.norm(y) + self.conv(2 * x)
        if self.kind == 'norm called twice':
            return self.norm(y) + self.norm(x)
        if self.kind == 'not in between':
            return self.norm(y.relu())
        return self.other(self.norm(y))  # one after the other: the first is folded


def assert_folded_exactly(model):
    randomize_norms(model)
    images = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        expected = model(images)
        fold_timm_norms(model, images)
        torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize('kind, left', [
    ('read twice', 2), ('also an output', 2), ('two norms', 2), ('called twice', 2), ('norm called twice', 2),
    ('not in between', 2), ('plain', 1)])
def test_a_norm_is_folded_only_if_it_alone_reads_the_convolution(kind, left):
    torch.manual_seed(0)
    model = Net(kind).eval()
    assert_folded_exactly(model)
    assert sum(isinstance(module, _BatchNorm) for module in model.modules()) == left


def test_a_convolution_that_standardises_its_weights_keeps_its_norm():
    torch.manual_seed(0)
    model = Net('plain').eval()
    model.conv = StdConv2d(3, 3, 1, bias=True)
    assert_folded_exactly(model)
    assert isinstance(model.norm, _BatchNorm)


def test_attention_is_counted():
    model = build_timm('vit_tiny_patch16_224')
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(images)
        count_attention(model)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert not any(getattr(module, 'fused_attn', False) for module in model.modules())
