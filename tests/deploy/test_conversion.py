import copy

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.subjects.detectors import random_batch
from mmfasternet.deploy import DeployedBlock, to_deploy
from mmfasternet.deploy.conversion import compiled_algorithm, fastest_algorithm
from mmfasternet.deploy.deployed_block import ALGORITHMS
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.deploy.tf32 import set_tf32
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError
from mmfasternet.models import FasterNet, FasterNetBlock
from tests.conftest import ROOT, SHAPES_CONFIG, assert_same_objects, build, randomize_norms


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def detector(trained):
    return build_model(load_config(str(SHAPES_CONFIG)), str(trained / 'epoch_2.pth'))


@pytest.fixture
def batches(shapes):
    return load_batches(load_config(str(SHAPES_CONFIG)), sorted(map(str, (shapes / 'val').iterdir()))[:3])


def predict(model, batches):
    with torch.no_grad():
        return [model.test_step(copy.deepcopy(batch))[0].pred_instances for batch in batches]


def assert_same(actual, expected, score=1e-3, pixels=1.):
    for one, other in zip(actual, expected):
        assert_same_objects(one, other, score, pixels)


def test_it_copies_and_leaves_the_original_as_it_is():
    backbone = FasterNet('t0').train()
    randomize_norms(backbone)
    before, modules = state(backbone), [type(module) for module in backbone.modules()]
    deployed = to_deploy(backbone)
    assert deployed is not backbone and backbone.training and not any(m.training for m in deployed.modules())
    assert modules == [type(module) for module in backbone.modules()]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(p.requires_grad for p in backbone.parameters()) and not any(
        p.requires_grad for p in deployed.parameters())
    assert {p.data_ptr() for p in backbone.parameters()}.isdisjoint(p.data_ptr() for p in deployed.parameters())


def test_inplace_changes_the_model_itself():
    backbone = FasterNet('t0')
    assert to_deploy(backbone, inplace=True) is backbone
    assert isinstance(backbone.stages[0].blocks[0], DeployedBlock)


def test_it_is_idempotent_and_changes_the_form():
    backbone = FasterNet('t0')
    randomize_norms(backbone)
    once = to_deploy(backbone, algorithm='matmul')
    twice = to_deploy(once, algorithm='matmul')
    assert str(twice) == str(once)
    assert all(torch.equal(value, twice.state_dict()[name]) for name, value in once.state_dict().items())
    assert len(twice._forward_pre_hooks) == len(once._forward_pre_hooks) == 1
    other = to_deploy(once, algorithm='conv', dtype=torch.bfloat16)
    assert {m.algorithm for m in other.modules() if isinstance(m, DeployedBlock)} == {'conv'}
    with torch.no_grad():
        assert other(torch.randn(1, 3, 32, 32))[0].dtype == torch.bfloat16


def test_blocks_write_into_maps_of_their_own_only():
    backbone = FasterNet('t0').eval()
    kept = []
    deployed = to_deploy(backbone, algorithm='matmul')
    assert all(m.owns_input for m in deployed.modules() if isinstance(m, DeployedBlock))
    x = torch.randn(1, 40, 8, 8)
    kept.append(x.clone())
    with torch.no_grad():
        to_deploy(backbone.stages[0].blocks, algorithm='matmul')(x)
        to_deploy(deployed.stages[0].blocks, algorithm='matmul')(x)
        first, second = deployed(torch.ones(1, 3, 64, 64)), deployed(torch.ones(1, 3, 64, 64))
    assert torch.equal(x, kept[0])
    assert all(torch.equal(one, other) for one, other in zip(first, second))


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_a_detector_predicts_the_same(detector, batches, algorithm):
    before = state(detector)
    expected = predict(detector, batches)
    deployed = to_deploy(detector, algorithm=algorithm)
    assert not any(isinstance(module, _BatchNorm) for module in deployed.modules())
    assert isinstance(deployed.roi_head.mask_roi_extractor, DeployedRoIExtractor)
    assert_same(predict(deployed, batches), expected)
    assert_same(predict(detector, batches), expected, 1e-6, 1e-3)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_detector_in_half_precision(detector, batches, dtype):
    deployed = to_deploy(detector, dtype=dtype)
    assert deployed.roi_head.mask_head.conv_logits.weight.dtype == dtype
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        maps = deployed.extract_feat(x)
        assert {m.dtype for m in maps} == {dtype}
        scores, _ = deployed.rpn_head(maps)
        assert {s.dtype for s in scores} == {torch.float32}
        expected, _ = detector.rpn_head(detector.extract_feat(x))
    for actual, wanted in zip(scores, expected):
        assert (actual - wanted).abs().max() / wanted.abs().max() < 3e-2
    for instances in predict(deployed, batches):
        assert instances.scores.dtype == instances.bboxes.dtype == torch.float32


def test_a_detector_deployed_twice_predicts_the_same(detector, batches):
    expected = predict(detector, batches)
    twice = to_deploy(to_deploy(detector, dtype=torch.bfloat16))
    once = to_deploy(to_deploy(detector), algorithm='conv')
    assert_same(predict(once, batches), expected)
    assert predict(twice, batches)[0].scores.dtype == torch.float32


@pytest.mark.parametrize('name', ['double_heads/dh-faster-rcnn_r50_fpn_1x_coco',
                                  'sabl/sabl-faster-rcnn_r50_fpn_1x_coco'])
def test_heads_that_view_their_maps_as_rows(name):
    cfg = get_config(f'mmdet::{name}.py')
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    cfg.model.test_cfg.rcnn.score_thr = 0.  # random weights give low scores
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
    batch = random_batch((96, 128))
    with torch.no_grad():
        expected, found = (each.test_step(copy.deepcopy(batch))[0].pred_instances for each in (model, to_deploy(model)))
    assert len(expected.scores) > 50 and expected.bboxes.std() > 1
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-2)


def test_an_inference_form_can_be_saved_whole(tmp_path):
    backbone = to_deploy(FasterNet('t0'))
    torch.save(backbone, tmp_path / 'whole.pth')
    x = torch.rand(1, 3, 64, 64)
    again = torch.load(tmp_path / 'whole.pth', weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(backbone(x), again(x)))


@pytest.mark.parametrize('change, named', [
    (lambda roi_head, dcn: dcn, 'ModulatedDeformConv2dPack does not compute in torch.bfloat16: keep float32'),
    (lambda roi_head, dcn: roi_head.bbox_roi_extractor.register_parameter('own', nn.Parameter(torch.zeros(1))),
     'SingleRoIExtractor does not compute')])
def test_what_has_no_half_precision_is_refused(detector, change, named):
    model = copy.deepcopy(detector)
    added = change(model.roi_head, ModulatedDeformConv2dPack(4, 4, 3))
    if added is not None:
        model.neck.add_module('dcn', added)
    with pytest.raises(ArgumentError, match=named):
        to_deploy(model, dtype=torch.bfloat16)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_operators_of_mmcv_that_stay_get_maps_in_their_order(trained, batches, dtype):
    """They read memory as if it were NCHW, whatever the strides."""
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.model.roi_head.bbox_roi_extractor.type = 'GenericRoIExtractor'
    cfg.model.roi_head.bbox_roi_extractor.aggregation = 'sum'
    cfg.model.roi_head.mask_roi_extractor.roi_layer.pool_mode = 'max'
    model = build_model(cfg, str(trained / 'epoch_2.pth'))
    deployed = to_deploy(model, dtype=dtype)
    feats = [torch.randn(1, 64, 96 // s, 96 // s) for s in (4, 8, 16, 32)]
    rois = torch.tensor([[0., 10.3, 12.7, 70.2, 61.9], [0, 3, 5, 20, 40]])
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        expected = getattr(model.roi_head, name)(feats, rois)
        maps = [x.to(dtype=dtype, memory_format=torch.channels_last) for x in feats]
        actual = getattr(deployed.roi_head, name)(maps, rois)
        assert actual.dtype == dtype
        assert (actual.float() - expected).norm() / expected.norm() < (1e-6 if dtype == torch.float32 else 1e-2)
    if dtype == torch.float32:
        assert_same(predict(deployed, batches), predict(model, batches))


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_deformable_convolutions(kind):
    model = build(dict(type='ResNet', depth=50, dcn=dict(type=kind, deform_groups=1),
                       stage_with_dcn=(False, True, True, True)))
    for module in model.modules():
        if hasattr(module, 'conv_offset'):
            torch.nn.init.normal_(module.conv_offset.weight, std=0.05)
    randomize_norms(model)
    for module in model.modules():
        module.training = False
    x = torch.randn(1, 3, 128, 160)  # large enough for the last stage's kernels
    with torch.no_grad():
        for actual, wanted in zip(to_deploy(model)(x), model(x)):
            assert (actual - wanted).norm() / wanted.norm() < 1e-4


def test_a_block_that_computes_something_else_is_left():
    class Doubled(FasterNetBlock):
        def _forward(self, x):
            return 2 * super()._forward(x)

    backbone = FasterNet('t0').eval()
    backbone.stages[0].blocks[0].__class__ = Doubled
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = backbone(x), to_deploy(backbone)(x)
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_output_norms_stay_where_more_than_the_neck_reads_the_maps(detector):
    class Reader(type(detector)):
        def extract_feat(self, images):
            maps = self.backbone(images)
            return (*self.neck(maps), maps[0])

    detector.__class__ = Reader
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, wanted in zip(to_deploy(detector).extract_feat(x), detector.extract_feat(x)):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


def test_a_classifier_gives_the_same_logits():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    model = build(cfg.model, 'mmpretrain')
    randomize_norms(model)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(to_deploy(model)(x), expected, rtol=1e-4, atol=1e-5)
        half = to_deploy(model, dtype=torch.bfloat16)(x)
    assert half.dtype == torch.float32 and (half - expected).norm() / expected.norm() < 2e-2


def test_a_single_stage_detector():
    cfg = dict(
        type='RetinaNet', backbone=dict(type='mmfasternet.FasterNet', arch='t0', out_indices=(1, 2, 3)),
        neck=dict(type='FPN', in_channels=[80, 160, 320], out_channels=16, num_outs=5, add_extra_convs='on_input'),
        bbox_head=dict(
            type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[1.],
                                  strides=[8, 16, 32, 64, 128])),
        test_cfg=dict(nms_pre=100, score_thr=0., nms=dict(type='nms', iou_threshold=.5), max_per_img=10))
    model = build(cfg)
    randomize_norms(model)
    model.eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = model(x)
        for actual, wanted in zip(to_deploy(model)(x), expected):
            torch.testing.assert_close(list(actual), list(wanted), rtol=1e-4, atol=1e-4)
        half = to_deploy(model, dtype=torch.bfloat16)
        scores, _ = half.bbox_head(half.extract_feat(x))
    assert scores[0].dtype == torch.float32


@pytest.mark.parametrize('options, text', [
    (dict(algorithm='magic'), "'magic'"),
    (dict(dtype=torch.int8), 'torch.int8'),
    (dict(memory_format=torch.channels_last_3d), 'memory_format'),
    (dict(sizes=[(64, 64)]), 'compile=True'),
], ids=lambda value: str(value)[:30])
def test_bad_arguments(options, text):
    with pytest.raises(ArgumentError, match=text):
        to_deploy(FasterNet('t0'), **options)


def test_half_precision_is_refused_for_detectors_that_are_not_known():
    class Unknown(BaseModel):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            return inputs

    with pytest.raises(ArgumentError, match='Unknown'):
        to_deploy(Unknown(), dtype=torch.bfloat16)


def test_half_precision_is_refused_for_heads_that_pass_maps_on(detector):
    class Other(type(detector.roi_head)):
        pass

    detector.roi_head.__class__ = Other
    with pytest.raises(ArgumentError, match='StandardRoIHead'):
        to_deploy(detector, inplace=True, dtype=torch.bfloat16)
    assert any(isinstance(module, _BatchNorm) for module in detector.modules())


def test_the_fastest_form_is_one_of_them():
    assert fastest_algorithm(torch.device('cpu'), torch.float32) in ALGORITHMS
    gpu = torch.device('cuda')
    for setting, expected in (('convolutions', 'conv'), ('on', 'gemm'), ('off', 'gemm')):
        set_tf32(setting)
        assert fastest_algorithm(gpu, torch.float16) == 'gemm' and fastest_algorithm(gpu, torch.float32) == expected
        assert compiled_algorithm(gpu, torch.float32) == ('conv' if setting == 'convolutions' else 'linear')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_algorithms_on_a_gpu(algorithm):
    backbone = FasterNet('t0').cuda().eval()
    randomize_norms(backbone)
    x = torch.randn(2, 3, 64, 64, device='cuda')
    with torch.no_grad():
        for actual, wanted in zip(to_deploy(backbone, algorithm=algorithm)(x), backbone(x)):
            torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3)
        compiled = to_deploy(backbone, compile=True, sizes=[(96, 96)], dtype=torch.float16)
        assert compiled(x)[0].shape[-2:] == (24, 24)
