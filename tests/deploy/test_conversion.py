import copy

import pytest
import torch
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.deploy import DeployedBlock, to_deploy
from mmfasternet.deploy.blocks import FORMS
from mmfasternet.deploy.conversion import fastest_form
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build, randomize_norms


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


def assert_same_objects(actual, expected, tolerance=1e-3):
    for one, other in zip(actual, expected):
        assert len(other) and torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=tolerance)
        torch.testing.assert_close(one.bboxes, other.bboxes, rtol=0, atol=1000 * tolerance)
        assert (one.masks != other.masks).float().mean() < tolerance


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
    once = to_deploy(backbone, form='matmul')
    twice = to_deploy(once, form='matmul')
    assert str(twice) == str(once)
    assert all(torch.equal(value, twice.state_dict()[name]) for name, value in once.state_dict().items())
    assert len(twice._forward_pre_hooks) == len(once._forward_pre_hooks) == 1
    other = to_deploy(once, form='conv', dtype=torch.bfloat16)
    assert {m.form for m in other.modules() if isinstance(m, DeployedBlock)} == {'conv'}
    with torch.no_grad():
        assert other(torch.randn(1, 3, 32, 32))[0].dtype == torch.bfloat16


def test_blocks_write_into_maps_of_their_own_only():
    backbone = FasterNet('t0').eval()
    kept = []
    deployed = to_deploy(backbone, form='matmul')
    assert all(m.owns_input for m in deployed.modules() if isinstance(m, DeployedBlock))
    bare = to_deploy(backbone.stages[0].blocks, form='matmul')
    x = torch.randn(1, 40, 8, 8)
    kept.append(x.clone())
    with torch.no_grad():
        bare(x)
        first, second = deployed(torch.ones(1, 3, 64, 64)), deployed(torch.ones(1, 3, 64, 64))
    assert torch.equal(x, kept[0])
    assert all(torch.equal(one, other) for one, other in zip(first, second))


@pytest.mark.parametrize('form', FORMS)
def test_a_detector_predicts_the_same(detector, batches, form):
    before = state(detector)
    expected = predict(detector, batches)
    deployed = to_deploy(detector, form=form)
    assert not any(isinstance(module, _BatchNorm) for module in deployed.modules())
    assert isinstance(deployed.roi_head.mask_roi_extractor, DeployedRoIExtractor)
    assert_same_objects(predict(deployed, batches), expected)
    assert_same_objects(predict(detector, batches), expected, 1e-6)
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
    (dict(form='magic'), "'magic'"),
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


def test_the_fastest_form_is_one_of_them():
    assert fastest_form(torch.device('cpu'), torch.float32) in FORMS
    assert fastest_form(torch.device('cuda'), torch.float16) == 'conv'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('form', FORMS)
def test_forms_on_a_gpu(form):
    backbone = FasterNet('t0').cuda().eval()
    randomize_norms(backbone)
    x = torch.randn(2, 3, 64, 64, device='cuda')
    with torch.no_grad():
        for actual, wanted in zip(to_deploy(backbone, form=form)(x), backbone(x)):
            torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3)
        compiled = to_deploy(backbone, compile=True, sizes=[(96, 96)], dtype=torch.float16)
        assert compiled(x)[0].shape[-2:] == (24, 24)
