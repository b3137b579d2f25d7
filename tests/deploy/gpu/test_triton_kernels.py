"""The kernels of Triton: on a GPU, and elsewhere by Triton's interpreter, in a process of its own."""

import copy
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from mmcv.ops import RoIAlign, batched_nms
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.utils import digit_version

from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.export.end_to_end import EndToEndDetector
from mmfasternet.deploy.gpu import triton_kernels
from mmfasternet.deploy.replacing import replace_modules
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.engine.config import load_config
from tests.conftest import ROOT, SHAPES_CONFIG, build

ON_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if ON_GPU else 'cpu'
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
SCALES = (1 / 4, 1 / 8, 1 / 16)
#: A GPU fuses products and sums: places of samples differ in the last bit. The references are a CPU's.
CLOSE = dict(rtol=1e-4, atol=1e-4) if ON_GPU else dict(rtol=1e-5, atol=1e-5)
kernels = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason='needs a GPU or the interpreter')

#: On two images of 96 x 108 pixels: plain, partly and fully outside, larger, empty, all of it, thin, tiny, huge.
ROIS = torch.tensor([[0, 5, 5, 60, 70.], [1, -20, -30, 40, 30], [0, 150, 150, 200, 300], [0, 50, 50, 200, 300],
                     [1, 10, 10, 10, 10], [1, 0, 0, 96, 108], [0, .3, 90.2, 1.1, 107.9],
                     [1, 50, 50, 50.01, 50.02], [0, -300, -200, 500, 400]])
NAN, INF = float('nan'), float('inf')
#: Coordinates that are NaN, then images that are not there.
UNUSABLE = torch.tensor([[1, NAN, 0, 1, 1], [0, 0, 0, INF, 4], [0, 0, -INF, 1, 1], [NAN, 0, 0, 9, 9],
                         [-1, 0, 0, 9, 9], [2, 0, 0, 9, 9], [INF, 0, 0, 9, 9]])


@pytest.mark.slow
@pytest.mark.skipif(digit_version(torch.__version__) < digit_version('2.7.0'),
                    reason="Triton 3.2's interpreter fails in the pasting of masks")
@pytest.mark.skipif(ON_GPU or INTERPRETED or importlib.util.find_spec('triton') is None,
                    reason='Triton is missing, or this is the process')
def test_the_kernels_by_the_interpreter():
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__], cwd=ROOT,
                          env={**os.environ, 'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    if 'only 0-dimensional arrays can be converted' in done.stdout:
        pytest.skip("this release of Triton's interpreter does not know this release of numpy")
    assert done.returncode == 0, done.stdout
    assert ' passed' in done.stdout


def maps(channels, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(2, channels, side, side + 3, device=DEVICE).to(dtype) for side in (24, 12, 6)]


@kernels
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('channels, size', [(20, (7, 7)), (300, (2, 3))])
def test_roi_align_is_mmcvs(channels, size, ratio, aligned):
    features, rois = maps(channels), ROIS.to(DEVICE)
    levels = torch.arange(len(rois), device=DEVICE) % 3
    out = triton_kernels.roi_align_levels(features, rois, levels, size, SCALES, ratio, aligned)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for level in range(3):
        layer = RoIAlign(size, SCALES[level], ratio, aligned=aligned)
        expected = layer(features[level].cpu(), rois[levels == level].cpu())
        torch.testing.assert_close(out[levels == level].cpu().contiguous(), expected, **CLOSE)


@kernels
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_rounds_maps_and_nothing_else(dtype):
    features, rois = maps(16, dtype), ROIS.to(DEVICE)
    levels = torch.arange(len(rois), device=DEVICE) % 3
    out = triton_kernels.roi_align_levels(features, rois, levels, (7, 7), SCALES, 0, True)
    exact = triton_kernels.roi_align_levels([x.float() for x in features], rois, levels, (7, 7), SCALES, 0, True)
    rounding = 2**-10 if dtype == torch.float16 else 2**-7  # the interpreter cuts bfloat16 off
    torch.testing.assert_close(out, exact.to(dtype), rtol=rounding, atol=1e-6)


@kernels
def test_rois_that_are_nan_read_nothing():
    rois = UNUSABLE.to(DEVICE)
    levels = torch.tensor([-2**40, 7, 2**40, 0, 1, 2, -1], device=DEVICE)
    out = triton_kernels.roi_align_levels(maps(8), rois, levels, (2, 2), SCALES, 0, True)
    assert torch.equal(out, torch.zeros_like(out))
    assert triton_kernels.roi_align_levels(maps(8), rois[:0], levels[:0], (2, 2), SCALES, 0, True).shape == (0, 8, 2, 2)


@kernels
def test_reversed_rois():
    features, roi = maps(8), torch.tensor([[0, 5, 5, 60, 70.]], device=DEVICE)
    args = torch.zeros(1, dtype=torch.int64, device=DEVICE), (4, 3), SCALES
    expected = triton_kernels.roi_align_levels(features, roi, *args, 2, True).flip(2, 3)
    turned = roi[:, [0, 3, 4, 1, 2]]  # mmcv takes those on a GPU only
    torch.testing.assert_close(triton_kernels.roi_align_levels(features, turned, *args, 2, True), expected, **CLOSE)
    assert not triton_kernels.roi_align_levels(features, turned, *args, 0, True).any()


@kernels
@pytest.mark.parametrize('bins', [7, 14])
def test_as_many_samples_as_the_bin_has_positions(bins):
    # An approximate quotient rounds some of these up to the next whole number of samples.
    torch.manual_seed(0)
    feature = torch.randn(1, 8, 4, 180, device=DEVICE)
    rois = torch.tensor([[0, .25, 1, .25 + bins * k, 2.5] for k in range(1, 13)], device=DEVICE)
    levels = torch.zeros(len(rois), dtype=torch.int32, device=DEVICE)
    out = triton_kernels.roi_align_levels([feature], rois, levels, (1, bins), [1.], 0, True)
    expected = RoIAlign((1, bins), 1., 0)(feature.cpu(), rois.cpu())
    torch.testing.assert_close(out.cpu().contiguous(), expected, **CLOSE)


@kernels
@pytest.mark.parametrize('factor', [None, 1.5])
def test_the_extractor_is_mmdetections(factor):
    plain = SingleRoIExtractor(dict(type='RoIAlign', output_size=3, sampling_ratio=0), 8, [4, 8, 16], finest_scale=8)
    extractor = triton_kernels.TritonRoIExtractor.of(copy.deepcopy(plain))
    features, rois = maps(8), ROIS.to(DEVICE)
    expected = plain([x.cpu() for x in features], rois.cpu(), factor)
    torch.testing.assert_close(extractor(features, rois, factor).cpu().contiguous(), expected, **CLOSE)


def test_extractors_that_it_cannot_stand_for():
    layer = dict(type='RoIAlign', output_size=3, sampling_ratio=0)
    assert triton_kernels.TritonRoIExtractor.of(SingleRoIExtractor(layer, 8, [4])) is not None
    assert triton_kernels.TritonRoIExtractor.of(SingleRoIExtractor({**layer, 'pool_mode': 'max'}, 8, [4])) is None
    assert triton_kernels.TritonRoIExtractor.of(SingleRoIExtractor(layer, 8, [4, 8, 16, 32, 64, 128])) is None
    assert triton_kernels.TritonRoIExtractor.of(torch.nn.Identity()) is None
    assert triton_kernels.TritonRoIExtractor.of(
        triton_kernels.TritonRoIExtractor.of(SingleRoIExtractor(layer, 8, [4]))) is None  # is one already
    assert not triton_kernels.available(torch.device('cpu'))


@kernels
@pytest.mark.parametrize('threshold', [0.5, 0.3, 0.])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_masks_are_pasted_as_mmdetection_does(threshold, dtype):
    torch.manual_seed(0)
    masks = torch.rand(6, 28, 28, device=DEVICE).to(dtype)
    boxes = torch.tensor([[3.2, 4.1, 30.7, 50.2], [-5, -5, 20, 20.], [40, 30, 70, 90], [10, 10, 10, 20],
                          [10, 10, 10, 10], [0.5, 0.5, 64, 48]], device=DEVICE)
    out = triton_kernels.paste_masks(masks, boxes, 48, 64, threshold)
    expected = _do_paste_mask(masks[:, None], boxes, 48, 64, skip_empty=False)[0] >= threshold
    assert out.dtype == torch.bool and out.shape == (6, 48, 64)
    assert (out != expected).sum() <= 2  # a pixel whose probability is the threshold but for rounding
    boxes[0, 0] = float('nan')
    assert threshold == 0 or not triton_kernels.paste_masks(masks, boxes, 48, 64, threshold)[0].any()
    assert triton_kernels.paste_masks(masks[:0], boxes[:0], 48, 64, threshold).shape == (0, 48, 64)


@kernels
@pytest.mark.parametrize('count, limit', [(1, 5), (64, 64), (150, 20), (200, 200)])
@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_suppression_is_mmcvs(count, limit, threshold):
    torch.manual_seed(0)
    corners = torch.rand(2, count, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, count, 2) * 40], dim=2).to(DEVICE)
    groups, valid = torch.randint(0, 3, (2, count), device=DEVICE), torch.rand(2, count, device=DEVICE) > 0.1
    kept, numbers = triton_kernels.suppress(boxes, groups, valid, threshold, limit)
    for image in range(2):
        places = valid[image].nonzero()[:, 0]
        scores = torch.linspace(1, 0, len(places), device=DEVICE)
        _, expected = batched_nms(boxes[image, places], scores, groups[image, places],
                                  dict(type='nms', iou_threshold=threshold))
        assert kept[image, :numbers[image]].tolist() == places[expected][:limit].tolist()


@kernels
def test_a_long_chain_is_settled_in_turns():
    """Each box overlaps the next only: every other one is kept."""
    starts = torch.arange(130.)
    boxes = torch.stack((starts, starts * 0, starts + 1.5, starts * 0 + 1), dim=1)[None].to(DEVICE)
    kept, numbers = triton_kernels.suppress(boxes, torch.zeros(1, 130, dtype=torch.long, device=DEVICE),
                                            torch.ones(1, 130, dtype=torch.bool, device=DEVICE), 0.19, 100)
    assert numbers.tolist() == [65] and kept[0, :65].tolist() == list(range(0, 130, 2))


@kernels
@pytest.mark.parametrize('threshold', [0.5, 0., -0.1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_masks_are_pasted_over_several_parts_of_an_image(threshold, dtype):
    torch.manual_seed(0)
    masks = torch.rand(6, 5, 7, device=DEVICE).to(dtype)
    boxes = torch.tensor([[100.3, 20, 150, 60.5], [-50, -50, 400, 300], [140, 36, 141, 37], [150, 60, 100, 20],
                          [500, 500, 600, 600], [128, 32, 128, 40]], device=DEVICE)
    out = triton_kernels.paste_masks(masks, boxes, 70, 261, threshold)
    expected = _do_paste_mask(masks[:, None], boxes, 70, 261, skip_empty=False)[0] >= threshold
    assert (out != expected).sum() <= 2


@kernels
@pytest.mark.parametrize('box', [[NAN, 0, 9, 9], [0, 0, 9, NAN], [9.5, 0, 9.5, 9], [INF, 0, INF, 9], [-INF, 0, INF, 9]])
@pytest.mark.parametrize('threshold', [0.5, 0.])
def test_boxes_that_are_nan(box, threshold):
    masks, boxes = torch.ones(1, 28, 28, device=DEVICE), torch.tensor([box], device=DEVICE)
    out = triton_kernels.paste_masks(masks, boxes, 20, 30, threshold)
    expected = _do_paste_mask(masks.cpu()[:, None], boxes.cpu(), 20, 30, skip_empty=False)[0] >= threshold
    assert torch.equal(out.cpu(), expected)


@pytest.mark.skipif(not ON_GPU, reason='needs a GPU')
def test_they_are_recorded_in_graphs():
    from mmfasternet.deploy.gpu.cuda_graphs import Graph, GraphPool
    features, rois = maps(256, torch.float16), ROIS.to(DEVICE)
    levels = torch.arange(len(rois), device=DEVICE) % 3

    def both(rois):
        pooled = triton_kernels.roi_align_levels(features, rois, levels, (14, 14), SCALES, 0, True)
        masks = triton_kernels.paste_masks(pooled[:, 0].float().sigmoid(), rois[:, 1:].contiguous(), 90, 80, 0.5)
        valid = torch.ones(1, len(rois), dtype=torch.bool, device=DEVICE)
        return pooled, masks, *triton_kernels.suppress(rois[None, :, 1:], levels[None], valid, 0.5, 4)

    graph = Graph(both, GraphPool())
    for shift in (0, 3, 7):
        moved = rois + torch.tensor([0, shift, shift, shift, shift], device=DEVICE)
        for actual, expected in zip(graph(moved), both(moved)):
            assert torch.equal(actual, expected)


def test_a_detector_converted_on_a_gpu_is_converted_anew_on_a_cpu():
    on_gpu = to_deploy(build(load_config(str(SHAPES_CONFIG)).model))
    replace_modules(on_gpu, triton_kernels.TritonRoIExtractor.of)
    assert isinstance(on_gpu.roi_head.bbox_roi_extractor, triton_kernels.TritonRoIExtractor)
    back = to_deploy(on_gpu)
    assert type(back.roi_head.bbox_roi_extractor) is type(back.roi_head.mask_roi_extractor) is DeployedRoIExtractor
    EndToEndDetector(on_gpu)  # refuses what it can't export
