import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.deploy.folding import fold_norms, fold_output_norms, folded_before, folded_behind
from mmfasternet.models import FasterNet
from mmfasternet.models.layers import PatchConv
from tests.conftest import build, randomize_norms


def num_norms(model):
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def assert_same_outputs(model, folded, *inputs, **tolerance):
    with torch.no_grad():
        expected, actual = model(*inputs), folded(*inputs)
    torch.testing.assert_close(actual, expected, **(tolerance or dict(rtol=1e-4, atol=1e-4)))


def in_eval(model):
    randomize_norms(model)
    for module in model.modules():
        module.training = False
    return model


def folded_copy(model):
    folded = copy.deepcopy(model)
    fold_norms(folded)
    return folded


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('affine', [False, True])
def test_a_fold_is_the_closed_form_in_float64(bias, affine):
    norm = in_eval(nn.BatchNorm2d(6))
    if not affine:
        norm.weight = norm.bias = None
    x = torch.randn(2, 4, 5, 7).double()
    behind = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
    weight, bias_ = folded_behind(behind, norm)
    expected = copy.deepcopy(norm).double()(copy.deepcopy(behind).double()(x))
    torch.testing.assert_close(nn.functional.conv2d(x, weight.double(), bias_.double(), padding=1), expected,
                               rtol=1e-5, atol=1e-6)
    before = nn.Conv2d(6, 3, 1, bias=bias)
    x = torch.randn(2, 6, 5, 7).double()
    weight, bias_ = folded_before(before, norm)
    expected = copy.deepcopy(before).double()(copy.deepcopy(norm).double()(x))
    torch.testing.assert_close(nn.functional.conv2d(x, weight.double(), bias_.double()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('backbone', [
    dict(type='ResNet', depth=18),
    dict(type='ResNet', depth=50),
    dict(type='ResNet', depth=50, style='caffe', norm_cfg=dict(type='BN', requires_grad=False), frozen_stages=1),
    dict(type='ResNetV1d', depth=50),
    dict(type='ResNeXt', depth=50, groups=32, base_width=4),
    dict(type='RegNet', arch='regnetx_400mf', out_indices=(0, 1, 2, 3)),
    dict(type='MobileNetV2', out_indices=(1, 2)),
    dict(type='CSPDarknet', arch='P5', deepen_factor=0.33, widen_factor=0.25),
    dict(type='mmpretrain.ResNet', depth=18, out_indices=(0, 1, 2, 3)),
    dict(type='mmpretrain.ShuffleNetV2', widen_factor=0.5, out_indices=(0, 1, 2)),
], ids=lambda cfg: '-'.join(map(str, cfg.values()))[:40])
def test_all_norms_of_other_backbones_fold(backbone):
    model = in_eval(build(backbone))
    folded = folded_copy(model)
    assert num_norms(model) and not num_norms(folded)
    assert_same_outputs(model, folded, torch.randn(1, 3, 64, 64), rtol=1e-3, atol=1e-3)


def test_norms_that_follow_no_plain_convolution_are_left():
    awsconv = in_eval(ConvModule(4, 4, 3, conv_cfg=dict(type='ConvAWS'), norm_cfg=dict(type='BN')))
    activated = in_eval(ConvModule(4, 4, 3, norm_cfg=dict(type='BN'), order=('conv', 'act', 'norm')))
    before = in_eval(ConvModule(4, 4, 3, norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act')))
    own_forward = in_eval(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    without_statistics = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    for model in (awsconv, activated, before, own_forward, without_statistics):
        folded = folded_copy(model)
        assert num_norms(folded) == 1
        assert_same_outputs(model, folded, torch.randn(2, 4, 8, 8), rtol=0, atol=0)


class ActiveNorm(nn.BatchNorm2d):
    """As timm's norms: with an activation behind it."""

    def forward(self, x):
        return super().forward(x).relu()


class ActivePatchConv(PatchConv):

    def forward(self, x):
        return self.norm(self.conv(x).relu())


class ActiveConvModule(ConvModule):

    def forward(self, x):
        return self.bn(self.conv(x).relu())


@pytest.mark.parametrize('model', [
    nn.Sequential(nn.Conv2d(4, 4, 1), ActiveNorm(4)), ActivePatchConv(4, 4, 2, dict(type='BN')),
    ActiveConvModule(4, 4, 1, norm_cfg=dict(type='BN'))])
def test_subclasses_that_do_more_are_left(model):
    folded = folded_copy(in_eval(model))
    assert num_norms(folded) == 1
    assert_same_outputs(model, folded, torch.randn(2, 4, 8, 8), rtol=0, atol=0)


def test_a_norm_with_a_hook_is_left():
    model = in_eval(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].register_forward_hook(lambda module, inputs, output: output.relu())
    assert_same_outputs(model, folded_copy(model), torch.randn(2, 4, 8, 8), rtol=0, atol=0)


def test_a_convolution_whose_weight_a_hook_makes_is_left():
    model = in_eval(ConvModule(4, 4, 3, norm_cfg=dict(type='BN'), with_spectral_norm=True))
    fold_norms(model)
    assert num_norms(model) == 1


def test_a_norm_is_not_folded_by_the_order_of_registration():
    class Crossed(nn.Module):
        """Registers a norm behind the convolution that it comes before."""

        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.conv2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.conv1(self.bn1(self.conv2(x)))

    model = in_eval(Crossed())
    assert_same_outputs(model, folded_copy(model), torch.randn(1, 4, 3, 3), rtol=0, atol=0)


def test_convolutions_shared_by_levels_with_norms_of_their_own():
    head = in_eval(build(dict(
        type='RTMDetSepBNHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=2, share_conv=True,
        with_objectness=False, pred_kernel_size=1, norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU'),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss'))))
    assert head.cls_convs[0][0].conv is head.cls_convs[1][0].conv
    folded = folded_copy(head)
    assert not num_norms(folded)
    assert_same_outputs(head, folded, [torch.randn(1, 8, s, s) for s in (8, 4, 2)])


def with_fpn(**options):
    backbone = in_eval(FasterNet('t0'))
    neck = in_eval(build(dict(type='FPN', in_channels=[40, 80, 160, 320], out_channels=16, num_outs=5, **options)))
    return nn.Sequential(backbone, neck)


@pytest.mark.parametrize('options, left', [
    (dict(), []),
    (dict(norm_cfg=dict(type='BN')), []),
    (dict(start_level=1, add_extra_convs='on_output'), ['norm0']),
    (dict(start_level=1, add_extra_convs='on_input'), ['norm0', 'norm3']),
    (dict(start_level=1, add_extra_convs='on_lateral'), ['norm0']),
    (dict(end_level=2, num_outs=3), ['norm3']),
], ids=str)
def test_output_norms_fold_into_the_laterals_of_an_fpn(options, left):
    options = dict(dict(num_outs=5), **options)
    backbone = in_eval(FasterNet('t0'))
    neck = in_eval(build(dict(type='FPN', in_channels=[40, 80, 160, 320], out_channels=16, **options)))
    model = nn.Sequential(backbone, neck)
    folded = copy.deepcopy(model)
    fold_output_norms(folded[0], folded[1])
    fold_norms(folded)
    assert [name for name, module in folded[0].named_children() if isinstance(module, _BatchNorm)] == left
    assert_same_outputs(model, folded, torch.randn(2, 3, 64, 96))


def test_other_necks_and_backbones_keep_their_output_norms():
    backbone = in_eval(FasterNet('t0'))
    mapper = build(dict(type='ChannelMapper', in_channels=[40, 80, 160, 320], kernel_size=3, out_channels=8))
    fold_output_norms(backbone, mapper)
    fold_output_norms(backbone, None)
    assert isinstance(backbone.norm0, _BatchNorm)
    fold_output_norms(build(dict(type='ResNet', depth=18)), mapper)


def test_a_resnet_detector_folds():
    cfg = Config.fromfile(build.__globals__['ROOT'] / 'configs' / 'mask_rcnn_fasternet_t0_shapes.py')
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    model = in_eval(build(cfg.model))
    folded = folded_copy(model)
    assert not num_norms(folded)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded.extract_feat(x), model.extract_feat(x), rtol=1e-4, atol=1e-4)
