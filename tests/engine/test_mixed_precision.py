"""What stays in float32 in bfloat16; the autocast of a CPU takes the place of a GPU's."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmcv.ops import DeformConv2dPack, RoIAlign, sigmoid_focal_loss
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.autograd import Function

from mmfasternet.engine.config import load_config
from mmfasternet.engine.mixed_precision import keep_float32
from tests.conftest import SHAPES_CONFIG, build
from tests.engine.test_speedups import losses_and_gradients

OPERATORS = [function for function in Function.__subclasses__() if function.__module__.startswith('mmcv.ops.')]
ROIS = torch.tensor([[0, 1001., 1003., 1041., 1057.], [0, 1.5, 2.5, 1301., 1207.]])


def extractor():
    return SingleRoIExtractor(dict(type='RoIAlign', output_size=7, sampling_ratio=0), 8, [4, 8])


def maps(dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 8, size, size, generator=generator).to(dtype).requires_grad_() for size in (330, 165)]


def test_rois_are_not_rounded_to_bfloat16():
    layer, narrow = extractor(), maps(torch.bfloat16)
    keep_float32(layer)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer(narrow, ROIS)
    assert found.dtype == torch.float32
    assert torch.equal(found, extractor()([x.float() for x in narrow], ROIS))
    rounded = extractor()([x.float() for x in narrow], ROIS.bfloat16().float())
    assert (found - rounded).abs().max() > 0.05
    found.sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.any() for x in narrow)


def narrow_head(type_, **options):
    torch.manual_seed(0)
    scale = dict(octave_base_scale=4, scales_per_octave=3) if type_ == 'RetinaHead' else dict(scales=[8])
    anchors = {} if type_ == 'FCOSHead' else dict(anchor_generator=dict(
        type='AnchorGenerator', ratios=[0.5, 1., 2.], strides=[16, 32, 64, 128, 256], **scale))
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type=type_, in_channels=8, feat_channels=8, **anchors, **options))


@pytest.mark.parametrize('type_, options', [
    ('RPNHead', {}), ('RetinaHead', dict(num_classes=3)), ('FCOSHead', dict(num_classes=3, norm_cfg=dict(type='BN')))])
def test_boxes_are_not_rounded_to_bfloat16(type_, options):
    head = narrow_head(type_, **options)
    strides = [stride for stride, _ in head.prior_generator.strides]
    size = 8 * strides[-1]
    x = [torch.rand(1, 8, size // stride, size // stride) for stride in strides]
    how = dict(batch_img_metas=[dict(img_shape=(size, size))], with_nms=False,
               cfg=ConfigDict(nms_pre=1000, min_bbox_size=0, score_thr=0., max_per_img=1000, nms=None))
    rounded, kept = [], []
    for outputs in (rounded, kept):
        with nullcontext() if outputs is rounded else keep_float32(head), torch.autocast('cpu', torch.bfloat16):
            outputs.extend(head(x))
    assert rounded[0][0].dtype == torch.bfloat16  # which MMDetection makes anchors and points in
    assert {each.dtype for level in kept for each in level} == {torch.float32}
    widened = [[each.float() for each in level] for level in rounded]
    assert all(torch.equal(a, b) for own, other in zip(kept, widened) for a, b in zip(own, other))
    exact, found = (head.predict_by_feat(*outputs, **how)[0].bboxes for outputs in (kept, rounded))
    assert exact.dtype == torch.float32 and torch.equal(exact, head.predict_by_feat(*widened, **how)[0].bboxes)
    assert (found.float()[:, None] - exact).abs().amax(2).amin(1).max() > 2  # pixels


def test_operators_of_mmcv_compute_in_float32_under_autocast():
    layer = DeformConv2dPack(8, 8, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.rand(2, 8, 12, 12)
    with keep_float32(layer), torch.autocast('cpu', torch.bfloat16):  # in which it computes its offsets
        found = layer(x.bfloat16())
    assert found.dtype == torch.float32 and (found - layer(x)).norm() < 0.02 * found.norm()
    found.sum().backward()
    assert layer.weight.grad.any() and layer.conv_offset.weight.grad.any()


def test_losses_of_mmcv_compute_in_float32_under_autocast(monkeypatch):
    seen = []
    monkeypatch.setattr('mmcv.ops.focal_loss.ext_module', SimpleNamespace(  # which has it for GPUs only
        sigmoid_focal_loss_forward=lambda *tensors, gamma, alpha: seen.append([x.dtype for x in tensors])))
    scores = torch.rand(3, 4).bfloat16().requires_grad_()
    with keep_float32(nn.Identity()), torch.autocast('cpu', torch.bfloat16):
        sigmoid_focal_loss(scores, torch.tensor([0, 2, 4]), 2., 0.25, None, 'none')
    assert seen == [[torch.float32, torch.int64, torch.float32, torch.float32]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_other_types_stay_as_they_are(dtype):
    layer = RoIAlign(7)
    keep_float32(layer)
    x = maps(dtype)[0]
    with torch.autocast('cpu', torch.float16):
        assert layer(x, ROIS.to(dtype)).dtype == dtype


def test_bfloat16_without_autocast_stays_as_it_is():
    with keep_float32(nn.Identity()), pytest.raises(RuntimeError, match='BFloat16'):
        RoIAlign(7)(maps(torch.bfloat16)[0], ROIS.bfloat16())


def test_a_detector_trains_in_bfloat16():
    torch.manual_seed(0)
    model = build(load_config(str(SHAPES_CONFIG)).model).train()
    narrow = copy.deepcopy(model)
    keep_float32(narrow)
    seen = []
    narrow.roi_head.bbox_roi_extractor.register_forward_pre_hook(
        lambda module, inputs: seen.append([x.dtype for x in (*inputs[0], inputs[1])]), prepend=True)
    expected, gradients = losses_and_gradients(model)
    with torch.autocast('cpu', torch.bfloat16):
        loss, found = losses_and_gradients(narrow)
    assert seen and seen[0] == [torch.bfloat16] * 4 + [torch.float32]  # what there was to widen
    assert loss == pytest.approx(expected, rel=0.03) and loss != expected
    assert found.keys() == gradients.keys() and all(grad.isfinite().all() for grad in found.values())


def pooled_type():
    """The type that mmcv's operator gives, or None where it can't compute."""
    with torch.autocast('cpu', torch.bfloat16):
        try:
            return RoIAlign(7)(maps(torch.bfloat16)[0], ROIS.bfloat16()).dtype
        except RuntimeError:
            return None


def test_operators_are_mmcvs_own_again_once_the_last_training_ends():
    own = [vars(function)['forward'] for function in OPERATORS]
    first, second = (keep_float32(nn.Identity()) for _ in range(2))
    assert pooled_type() == torch.float32
    first.remove()
    first.remove()  # which does not count again
    assert pooled_type() == torch.float32
    with pytest.raises(KeyError), second:
        raise KeyError
    assert pooled_type() is None
    assert [vars(function)['forward'] for function in OPERATORS] == own
    with keep_float32(nn.Identity()):
        assert pooled_type() == torch.float32
    assert pooled_type() is None


def test_a_training_that_failed_gives_the_operators_back_with_its_model():
    model = nn.Identity()
    keep_float32(model)
    assert pooled_type() == torch.float32
    del model
    assert pooled_type() is None


def test_extractors_are_their_own_again():
    layer = extractor()
    kept = keep_float32(layer)
    kept.remove()
    with torch.autocast('cpu', torch.bfloat16), pytest.raises(RuntimeError, match='BFloat16'):
        layer(maps(torch.bfloat16), ROIS)
