"""The code of docs/partial_convolution.md, from top to bottom, and its figures."""

import importlib
import re
import sys

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import CSPDarknet, ResNet
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.complexity import count_multiply_adds
from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.folding import folded_before
from mmfasternet.models import PartialConv
from tests.conftest import build, needs_export, randomize_norms
from tests.test_pages import OTHERS_TEST, PAGES, python_blocks

PAGE = PAGES[OTHERS_TEST]
BLOCKS = python_blocks(PAGE)
MODULE = '\n'.join(block for block in BLOCKS if 'register_module' in block)
DETECTOR, CLASSIFIER = (block for block in BLOCKS if '_base_' in block)
INFERENCE, = (block for block in BLOCKS if 'to_deploy' in block)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    """The page's module, saved under its name on Python's path."""
    folder = tmp_path_factory.mktemp('page')
    (folder / 'partial_networks.py').write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module('partial_networks')
    sys.path.remove(str(folder))
    del sys.modules['partial_networks']
    for name in ('PartialResNet', 'PartialDarknet'):
        del MODELS.module_dict[name]


@pytest.fixture(params=['resnet', 'caffe', 'darknet'])
def small(networks, request):
    """A small network in eval mode whose norms are no identity, the regular one, and how many convolutions differ."""
    if request.param == 'darknet':
        options, number = dict(deepen_factor=0.33, widen_factor=0.25), 1 + 3 + 3 + 1
        model, regular = networks.PartialDarknet(**options), CSPDarknet(**options)
    else:
        style, number = ('caffe', 16) if request.param == 'caffe' else ('pytorch', 13)
        options = dict(depth=50, base_channels=8, style=style, norm_eval=False)
        model, regular = networks.PartialResNet(**options), ResNet(**options)
    randomize_norms(model)
    model.eval()
    return model, regular, number


def cost_of(model, size):
    model.eval()
    with torch.no_grad():
        return count_multiply_adds(model, torch.rand(1, 3, size, size)), sum(p.numel() for p in model.parameters())


def as_printed(multiply_adds, parameters):
    return f'{multiply_adds / 1e9:.2f} G', f'{parameters / 1e6:.1f} M'


def modules_of(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def config_of(text, folder, **options):
    (folder / 'config.py').write_text(text)
    cfg = Config.fromfile(folder / 'config.py')
    cfg.merge_from_dict({f'model.{key.replace("__", ".")}': value for key, value in options.items()})
    return cfg


def test_a_pair_is_a_t_shaped_convolution():
    channels, part = 16, 4
    pconv, pointwise = PartialConv(channels).double(), nn.Conv2d(channels, channels, 1).double()
    weight = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    weight[:, :part] = torch.einsum('om,mikl->oikl', pointwise.weight[:, :part, 0, 0], pconv.conv.weight)
    weight[:, part:, 1, 1] = pointwise.weight[:, part:, 0, 0]
    x = torch.randn(2, channels, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(pointwise(pconv(x)), F.conv2d(x, weight, pointwise.bias, padding=1))
    assert torch.count_nonzero(weight) == 3 * channels**2  # eq. 6
    assert pconv.conv.weight.numel() + pointwise.weight.numel() == 1.5625 * channels**2


def test_the_table_of_widths_is_what_is_counted(networks):
    rows = re.findall(r'^\| `(\w+)`, depth (\d+)(?:, `style=.(\w+).`)? \| (\d+) \| (.*) \| (.*) \|$', PAGE, re.M)
    assert len(rows) == 5
    costs = {}
    for name, depth, style, width, *printed in rows:
        cls = {'ResNet': ResNet, 'PartialResNet': networks.PartialResNet}[name]
        model = cls(depth=int(depth), base_channels=int(width), style=style or 'pytorch')
        costs[name, style, int(width)] = cost_of(model, 224)
        assert tuple(printed) == as_printed(*costs[name, style, int(width)])
    regular, partial = costs['ResNet', '', 64], costs['PartialResNet', '', 64]
    stages = [(blocks, 56 // 2**i, 64 * 2**i) for i, blocks in enumerate((3, 3, 5, 2))]  # blocks of stride 1
    saved = [(blocks * 9 * (c**2 - (c // 4)**2), size) for blocks, size, c in stages]
    assert regular[0] - partial[0] == sum(weights * size**2 for weights, size in saved)  # eq. 4
    norms = sum(blocks * 2 * c for blocks, _, c in stages)
    assert regular[1] - partial[1] == sum(weights for weights, _ in saved) + norms
    assert costs['PartialResNet', '', 80][0] == pytest.approx(regular[0], rel=0.02)


def test_the_figures_of_darknet_are_what_is_counted(networks):
    (before, weights), (after, fewer) = (as_printed(*cost_of(cls(deepen_factor=0.33, widen_factor=0.5), 640))
                                         for cls in (CSPDarknet, networks.PartialDarknet))
    figures = f'from {before} multiply-adds and {weights} parameters to {after} and {fewer};'
    assert f"At 640 x 640, YOLOX-S's backbone goes {figures}" in PAGE.replace('\n', ' ')


@pytest.mark.slow
def test_shapes_initial_weights_and_a_step(small):
    model, regular, number = small
    assert len(modules_of(model, PartialConv)) == number
    images = torch.rand(2, 3, 64, 64)
    assert [x.shape for x in model(images)] == [x.shape for x in regular(images)]
    model.init_weights()
    if isinstance(model, ResNet):  # a residual branch begins at zero, in blocks of both kinds
        assert not any(block.norm3.weight.any() for name in model.res_layers for block in getattr(model, name))
    randomize_norms(model)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(x.square().mean() for x in model(images)).backward()
    assert all(p.grad is not None for p in model.parameters())  # DistributedDataParallel asks for all of them
    optimizer.step()
    convs = [name for name in before if name.endswith('.conv.weight')]
    assert len(convs) >= number and not any(torch.equal(model.get_parameter(name), before[name]) for name in convs)


@pytest.mark.parametrize('option', [
    dict(with_cp=True), dict(plugins=[dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3')])])
def test_options_that_the_block_does_not_know_are_refused(networks, option):
    with pytest.raises(AssertionError, match='not written for'):
        networks.PartialBottleneck(32, 8, **option)


def test_dilated_blocks_stay_regular(networks):
    model = networks.PartialResNet(depth=50, base_channels=8, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    assert not modules_of(model.layer4, PartialConv)
    assert model(torch.rand(1, 3, 64, 64))[-1].shape[2:] == (4, 4)


def test_a_stride_of_two_halves_maps_of_even_sizes(networks):
    old = ConvModule(8, 16, 3, stride=2, padding=1, norm_cfg=dict(type='BN'))
    new, x = networks.make_partial(old), torch.rand(2, 8, 6, 10)
    assert new(x).shape == old(x).shape
    assert new[1].kernel_size == new[1].stride == (2, 2)


@pytest.mark.slow
def test_classifier_and_detector_train(networks, tmp_path):
    """By the page's configs, with fewer channels; the detector starts from the classifier."""
    cfg = config_of(CLASSIFIER, tmp_path, backbone__base_channels=8, head__in_channels=256, head__num_classes=5)
    classifier = build(cfg.model, 'mmpretrain').train()
    assert all(norm.training for norm in modules_of(classifier, _BatchNorm))
    samples = [DataSample().set_gt_label(label) for label in range(2)]
    classifier.loss(torch.rand(2, 3, 64, 64), samples)['loss'].backward()
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'epoch_100.pth')

    pretrained, = re.findall(r"`init_cfg=(dict\(type='Pretrained'.*\))`", PAGE)
    cfg = config_of(
        DETECTOR, tmp_path, backbone__base_channels=8, neck__in_channels=[32, 64, 128, 256], neck__out_channels=16,
        bbox_head__in_channels=16, bbox_head__feat_channels=16)
    cfg.model.backbone.init_cfg = eval(pretrained.replace('epoch_100', str(tmp_path / 'epoch_100')))
    detector = build(cfg.model)
    detector.init_weights()
    weights = detector.backbone.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in classifier.backbone.state_dict().items())
    detector.train()
    assert all(norm.training for norm in modules_of(detector, _BatchNorm))
    data = detector.data_preprocessor(demo_mm_inputs(2, [[3, 64, 64]] * 2), True)
    loss, _ = detector.parse_losses(detector(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.requires_grad and p.grad is not None for p in detector.parameters())


def test_the_configs_build_as_they_are(networks, tmp_path):
    for text, scope in ((DETECTOR, 'mmdet'), (CLASSIFIER, 'mmpretrain')):
        model = build(config_of(text, tmp_path).model, scope)
        assert type(model.backbone) is networks.PartialResNet and model.backbone.base_channels == 80
        with torch.no_grad():
            model.extract_feat(torch.rand(2, 3, 64, 64))


@pytest.mark.slow
def test_the_detector_is_counted_by_the_tool(networks, tmp_path, run_tool):
    (tmp_path / 'config.py').write_text(DETECTOR)
    result = run_tool('get_flops', tmp_path / 'config.py', '--size', '224', '224')
    assert result.code == 0, result.err
    assert re.search(r'backbone.*24\.66.*4\.15', result.out), result.out


def test_weights_of_a_resnet_load_in_part(networks, tmp_path):
    regular = ResNet(depth=50, base_channels=8)
    torch.save(regular.state_dict(), tmp_path / 'resnet.pth')
    model = networks.PartialResNet(
        depth=50, base_channels=8, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth')))
    block, initial = model.layer1[0], model.layer1[0].conv2.conv.weight.clone()
    model.init_weights()
    assert torch.equal(block.conv1.weight, regular.layer1[0].conv1.weight)
    assert torch.equal(block.conv2.conv.weight, initial)


def test_all_norms_fold_and_slicing_changes_nothing(small):
    model, _, number = small
    images, deployed = torch.rand(1, 3, 64, 64), to_deploy(model)
    assert modules_of(model, _BatchNorm) and not modules_of(deployed, _BatchNorm)
    assert len(modules_of(deployed, PartialConv)) == number
    with torch.no_grad():
        maps = deployed(images)
        torch.testing.assert_close(maps, model(images), rtol=1e-4, atol=1e-4)
        for module in modules_of(deployed, PartialConv):
            module.mode = 'slicing'
        assert all(map(torch.equal, deployed(images), maps))


def test_a_norm_before_the_pointwise_convolution_is_left_alone():
    model = nn.Sequential(PartialConv(8), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1)).eval()
    randomize_norms(model)
    x, deployed = torch.rand(2, 8, 6, 6), to_deploy(model)
    pconv, norm, conv = model
    weight, bias = folded_before(conv, norm)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(deployed(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(F.conv2d(pconv(x), weight, bias), expected, rtol=1e-5, atol=1e-5)
    assert len(modules_of(deployed, _BatchNorm)) == 1


@pytest.mark.slow
@needs_export
def test_the_code_for_inference_runs(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(INFERENCE.replace('depth=50', 'depth=50, base_channels=8'), found)
    backbone, deployed, images = found['backbone'], found['deployed'], torch.rand(1, 3, 64, 64)
    assert backbone.training and not deployed.training
    assert (tmp_path / 'partial_resnet_onnx' / 'backbone.onnx').is_file()
    export_model(backbone, 'partial_resnet_openvino', file_format='openvino')
    assert backbone.eval() is None
    torch.testing.assert_close(deployed(images), backbone(images), rtol=1e-4, atol=1e-4)
