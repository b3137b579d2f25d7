"""timm's FasterNet, an implementation of its own, computes the same from the same weights."""

import pytest
import timm
import torch
from torch import nn

import mmfasternet.models.heads  # noqa: F401  (registers the head)
from mmfasternet.checkpoints import convert
from mmfasternet.models import FasterNet
from tests.conftest import build, randomize_norms

ARCHS = list(FasterNet.arch_settings)


def pair(arch, num_classes=10):
    """The classifier of timm and ours, with the same weights and statistics."""
    theirs = timm.create_model(f'fasternet_{arch}', num_classes=num_classes, drop_path_rate=0.)
    randomize_norms(theirs)
    settings = FasterNet.arch_settings[arch]
    ours = build(dict(
        type='ImageClassifier',
        backbone=dict(type='mmfasternet.FasterNet', arch=arch, out_indices=(3, ), out_norm=False),
        head=dict(type='mmfasternet.FasterNetHead', num_classes=num_classes, act_cfg=settings['act_cfg'],
                  in_channels=settings['embed_channels'] * 8)), 'mmpretrain')
    ours.load_state_dict(convert(theirs.state_dict()), strict=True)
    return theirs, ours


@pytest.mark.parametrize('arch', ARCHS)
def test_scores_and_features_in_eval_mode(arch):
    theirs, ours = pair(arch)
    theirs.eval()
    ours.train(False)
    x = torch.randn(2, 3, 64, 64)
    backbone = FasterNet(arch, out_norm=False)
    backbone.load_state_dict(convert(theirs.state_dict(), 'backbone'), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        for a, b in zip(backbone.eval()(x), theirs.forward_intermediates(x, intermediates_only=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('arch', ARCHS)
def test_gradients_and_statistics_in_train_mode(arch):
    theirs, ours = (model.double() for model in pair(arch))
    theirs.train()
    ours.train(True)
    x, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.tensor([1, 3, 5, 7])
    nn.functional.cross_entropy(theirs(x), labels).backward()
    nn.functional.cross_entropy(ours(x), labels).backward()
    expected = convert({**theirs.state_dict(), **{name: p.grad for name, p in theirs.named_parameters()}})
    found = {**ours.state_dict(), **{name: p.grad for name, p in ours.named_parameters()}}
    assert sum(1 for _ in ours.parameters()) >= 80 and set(found) == set(expected)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-9, msg=lambda text, k=key: f'{k}: {text}')
