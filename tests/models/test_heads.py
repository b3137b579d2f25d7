import pytest
import torch
from mmpretrain.structures import DataSample
from torch import nn

from mmfasternet.models.heads import FasterNetHead
from tests.conftest import build

RELU = dict(type='ReLU')


def test_scores_are_the_closed_form():
    head = FasterNetHead(5, 16, dict(type='GELU'), hidden_channels=7)
    head.init_weights()
    maps = torch.randn(2, 16, 3, 4)
    hidden = nn.functional.gelu(maps.mean((2, 3)) @ head.conv.weight[:, :, 0, 0].T)
    torch.testing.assert_close(head((torch.randn(2, 8, 6, 8), maps)), hidden @ head.fc.weight.T + head.fc.bias)
    torch.testing.assert_close(head.pre_logits((maps, )), hidden)


@pytest.mark.parametrize('channels, classes, parameters', [(320, 1000, 1690600), (1536, 1000, 3247080)])
def test_parameters_are_table_8s(channels, classes, parameters):
    """What the classifiers of T0 and L have beyond their backbones."""
    assert sum(p.numel() for p in FasterNetHead(classes, channels, RELU).parameters()) == parameters


def test_loss_and_prediction_under_an_image_classifier():
    model = build(dict(
        type='ImageClassifier',
        backbone=dict(type='mmfasternet.FasterNet', arch='t0', out_indices=(3, ), out_norm=False),
        head=dict(
            type='mmfasternet.FasterNetHead', num_classes=4, in_channels=320, act_cfg=RELU, topk=(1, 2), cal_acc=True,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'))), 'mmpretrain')
    samples = [DataSample().set_gt_label(label) for label in (0, 3)]
    losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    assert set(losses) == {'loss', 'accuracy_top-1', 'accuracy_top-2'} and losses['loss'] > 0
    predictions = model(torch.randn(2, 3, 64, 64), samples, mode='predict')
    assert predictions[0].pred_score.shape == (4, )
    torch.testing.assert_close(predictions[0].pred_score.sum(), torch.tensor(1.))


def test_initialisation():
    head = FasterNetHead(50, 64, RELU)
    head.init_weights()
    for weight in (head.conv.weight, head.fc.weight):
        assert abs(weight.std().item() - 0.02) < 0.001
    assert head.fc.bias.eq(0).all() and head.conv.bias is None


@pytest.mark.parametrize('name', ['num_classes', 'in_channels', 'hidden_channels'])
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match=name):
        FasterNetHead(**{**dict(num_classes=2, in_channels=8, act_cfg=RELU, hidden_channels=8), name: 0})
    with pytest.raises(TypeError, match='nim_classes'):
        FasterNetHead(2, 8, RELU, nim_classes=3)
