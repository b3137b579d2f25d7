import copy
import subprocess
import sys

import pytest
import torch
from mmcv.ops import RoIAlign

from mmfasternet.deploy.replacing import replace_modules
from mmfasternet.deploy.roi_align import DeployedRoIExtractor, roi_align
from tests.conftest import build

WIDTH, HEIGHT = 320, 192


def make_rois(number, generator, images=2):
    """Boxes of all sizes and shapes, some of them across the border or outside of the image."""
    center = torch.rand(number, 2, generator=generator) * torch.tensor([WIDTH * 1.2, HEIGHT * 1.2]) - 20
    size = torch.exp(torch.rand(number, 2, generator=generator) * 5.5)
    index = torch.randint(0, images, (number, 1), generator=generator).float()
    return torch.cat([index, center - size / 2, center + size / 2], dim=1)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2])
@pytest.mark.parametrize('size, scale', [((7, 7), 1 / 4), ((14, 14), 1 / 8), ((3, 5), 1 / 16)])
def test_it_is_mmcvs(size, scale, sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 12, int(HEIGHT * scale), int(WIDTH * scale), generator=generator)
    rois = make_rois(60, generator)
    expected = RoIAlign(size, scale, sampling_ratio, aligned=aligned)(maps, rois)
    for x in (maps, maps.contiguous(memory_format=torch.channels_last)):
        actual = roi_align(x, rois, size, scale, sampling_ratio, aligned)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        half = roi_align(maps.to(dtype), rois, size, scale, sampling_ratio, aligned)
        assert half.dtype == dtype
        assert (half.float() - expected).norm() / expected.norm() < tolerance


def test_a_linear_map_is_read_at_the_centres_of_the_bins():
    y, x = torch.meshgrid(torch.arange(32.), torch.arange(40.), indexing='ij')
    maps = (2 * x + 3 * y)[None, None]
    out = roi_align(maps, torch.tensor([[0., 4, 8, 18, 22]]), (7, 7), 1., 0)
    centre = torch.arange(7) * 2 + 1 - 0.5
    torch.testing.assert_close(out[0, 0], 2 * (4 + centre)[None, :] + 3 * (8 + centre)[:, None])


def test_no_rois_and_rois_without_extent():
    maps = torch.randn(1, 4, 8, 8)
    assert roi_align(maps, torch.zeros(0, 5), (7, 7), 1., 0).shape == (0, 4, 7, 7)
    points = torch.tensor([[0., 3, 3, 3, 3], [0, 100, 100, 200, 200], [0, 1, 1, 5, 5]])
    expected = RoIAlign(7, 1., 0)(maps, points)
    torch.testing.assert_close(roi_align(maps, points, (7, 7), 1., 0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_filters_of_warnings_stay_as_they_are():
    """In a fresh process, in which PyTorch has not made its remarks yet."""
    code = (
        'import warnings, torch\n'
        'from mmfasternet.deploy.roi_align import roi_align\n'
        'filters = list(warnings.filters)\n'
        'with warnings.catch_warnings(record=True) as said:\n'
        "    warnings.simplefilter('always')\n"
        '    roi_align(torch.rand(1, 4, 8, 8), torch.tensor([[0., 1, 1, 5, 5]]), (7, 7), 1., 0)\n'
        'print([str(each.message) for each in said], warnings.filters == filters,\n'
        "      any('Sparse' in str(each) for each in filters))")
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[] True False'


def make_extractor(**layer):
    return build(dict(
        type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0, **layer),
        out_channels=6, featmap_strides=[4, 8, 16, 32]))


@pytest.mark.parametrize('factor', [None, 1.5])
def test_the_extractor_is_mmdetections(factor):
    extractor = make_extractor()
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(2, 6, HEIGHT // s, WIDTH // s, generator=generator) for s in (4, 8, 16, 32)]
    for rois in (make_rois(50, generator), torch.zeros(0, 5)):
        torch.testing.assert_close(
            DeployedRoIExtractor(extractor)(feats, rois, factor), extractor(feats, rois, factor), rtol=1e-4, atol=1e-4)


def test_rois_keep_their_coordinates_in_half_precision():
    extractor = make_extractor()
    feats = [torch.randn(1, 6, HEIGHT // s, WIDTH // s) for s in (4, 8, 16, 32)]
    rois = torch.tensor([[0., 201.3, 77.7, 260.9, 140.2]])
    halves = [x.bfloat16() for x in feats]
    expected = extractor(feats, rois)
    actual = DeployedRoIExtractor(extractor)(halves, rois).float()
    assert (actual - expected).norm() / expected.norm() < 1e-2
    blurred = extractor([x.float() for x in halves], rois.bfloat16().float())
    assert (blurred - expected).norm() / expected.norm() > 3e-2


def test_only_what_it_computes_is_replaced():
    shared = make_extractor()
    model = torch.nn.ModuleDict(dict(average=shared, maximum=make_extractor(pool_mode='max'), shared=shared))
    replace_modules(model, DeployedRoIExtractor.of)
    replace_modules(model, DeployedRoIExtractor.of)
    assert isinstance(model['average'], DeployedRoIExtractor) and model['average'] is model['shared']
    assert not isinstance(model['maximum'], DeployedRoIExtractor)
    copied = copy.deepcopy(model)['average']
    assert (copied.num_inputs, copied.featmap_strides, copied.finest_scale) == (4, [4, 8, 16, 32], 56)
    feats = [torch.randn(1, 6, HEIGHT // s, WIDTH // s) for s in (4, 8, 16, 32)]
    rois = make_rois(9, torch.Generator().manual_seed(0), images=1)
    torch.testing.assert_close(copied(feats, rois), shared(feats, rois), rtol=1e-4, atol=1e-4)


def test_a_roi_that_is_nan_gives_zeros_as_in_mmdetection():
    feats = [torch.randn(1, 6, HEIGHT // s, WIDTH // s) for s in (4, 8, 16, 32)]
    extractor, rois = make_extractor(), torch.tensor([[0, 5., 5, 60, 70], [0, float('nan'), 5, 60, 70]])
    found = DeployedRoIExtractor(extractor)(feats, rois)
    assert found[0].any() and not found[1].any() and not extractor(feats, rois)[1].any()


@pytest.mark.parametrize('channels_last', [False, True])
def test_maps_are_contiguous_unless_the_heads_take_both(channels_last):
    extractor = DeployedRoIExtractor(make_extractor())
    extractor.channels_last = channels_last
    found = extractor([torch.randn(1, 6, HEIGHT // s, WIDTH // s) for s in (4, 8, 16, 32)],
                      torch.tensor([[0, 5., 5, 60, 70]]))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert found.is_contiguous(memory_format=memory_format)
