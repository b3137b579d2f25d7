import json

import pytest
import torch

from mmfasternet.benchmark.subjects.forms import (
    measure_backbone_forms,
    measure_detector_forms,
    measure_forms,
    results_table,
    write_results,
)
from mmfasternet.benchmark.subjects.published_blocks import CloneSlicingBlock, InPlaceSlicingBlock
from mmfasternet.deploy.export.runtimes import OpenVinoModel
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet, FasterNetBlock
from tests.conftest import ROOT, SHAPES_CONFIG, assert_same_objects, randomize_norms

ARCH = dict(embed_channels=16, depths=(1, 2))


@pytest.fixture(scope='module')
def results():
    torch.manual_seed(0)
    backbone = FasterNet(ARCH, out_indices=(0, 1))
    randomize_norms(backbone)
    return measure_backbone_forms(backbone, 'tiny', (32, 48), 2, compile=False, rounds=2, calls=1)


def test_every_form_is_there_with_its_error_and_its_conditions(results):
    forms = [result.record.form for result in results]
    assert forms[:4] == [
        'split_cat, folded norms', 'split_cat, as trained', 'clone and slice', 'slice in place (wrong)']
    assert {'matmul', 'linear', 'conv', 'ONNX Runtime', 'OpenVINO', 'yardstick: 3x3 convolution'} <= set(forms)
    for result in results:
        record = result.record
        if record.form.startswith('yardstick'):
            assert result.error is None and result.ratio is None
        elif 'wrong' in record.form:
            assert result.error > 0.05
        else:
            assert result.error < (1e-5 if record.dtype == 'float32' else 5e-2)
            assert result.ratio == results[0].record.median_ms / record.median_ms
        assert record.runs == 2 and record.batch_size == 2 and record.input_size == '32x48' and result.gflops > 0
        assert record.versions['onnxruntime'] and record.versions['openvino']
    assert ('OpenVINO', 'bfloat16') in {(r.record.form, r.record.dtype) for r in results} or not OpenVinoModel.knows(
        torch.bfloat16)


def test_gflops_are_twice_the_multiply_adds_over_the_time(results):
    first, yardstick = results[0], results[-1]
    # 2 images of 32 x 48: embedding, one block of 16 channels at 8 x 12, merging, two of 32 at 4 x 6
    block = lambda c: 9 * (c // 4)**2 + 2 * c * 2 * c  # noqa: E731
    adds = 2 * (96 * (48 * 16 + block(16)) + 24 * (64 * 32 + 2 * block(32)))
    assert first.gflops == pytest.approx(2 * adds / first.record.median_ms / 1e6)
    assert yardstick.gflops == pytest.approx(2 * 256**2 * 9 * 56**2 / yardstick.record.median_ms / 1e6)


def test_table_and_json(results, tmp_path):
    table = results_table(results)
    assert table.row_count == len(results) and '32x48 pixels' in table.caption
    write_results(results, tmp_path / 'new' / 'forms.json')
    content = json.loads((tmp_path / 'new' / 'forms.json').read_text())
    assert content[0]['record']['form'] == 'split_cat, folded norms' and content[0]['ratio'] == 1


def test_the_published_fast_form_is_wrong_and_the_corrected_one_right():
    block = FasterNetBlock(16, dict(type='BN'), dict(type='ReLU', inplace=True)).eval().requires_grad_(False)
    x = torch.randn(1, 16, 6, 6)
    expected = block(x)
    torch.testing.assert_close(CloneSlicingBlock(block)(x.clone()), expected)
    assert (InPlaceSlicingBlock(block)(x.clone()) - expected).abs().max() > 0.1


def test_whole_detectors(trained, shapes):
    cfg = load_config(str(SHAPES_CONFIG))
    model = build_model(cfg, str(trained / 'epoch_2.pth'))
    batches = load_batches(cfg, sorted(map(str, (shapes / 'val').iterdir()))[:2])
    results = measure_detector_forms(cfg, model, batches, 'shapes', '192x192', [torch.float32], False, rounds=1)
    assert [(r.record.form, r.record.memory_format) for r in results] == [
        ('eager', 'NCHW'), ('deploy', 'NHWC'), ('ONNX Runtime', 'NCHW'), ('OpenVINO', 'NHWC')]
    assert all(result.error is None for result in results) and results[0].ratio == 1


def test_random_weights_find_objects(monkeypatch):
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_1x_coco.py'))
    seen = []

    def look(cfg, model, batches, *args, alike):
        seen.extend([len(model.test_step(batches[0])[0].pred_instances), alike])

    monkeypatch.setattr('mmfasternet.benchmark.subjects.forms.measure_detector_forms', look)
    measure_forms(cfg, 'detector', size=(96, 128), device='cpu')
    assert seen[0] > 0 and seen[1]


def test_random_weights_find_the_same_objects_in_every_form(monkeypatch):
    found = {}

    def look(cases, *args):
        found.update({case.form: case.run()[0].pred_instances for case in cases})
        return []

    monkeypatch.setattr('mmfasternet.benchmark.subjects.forms._measure', look)
    measure_forms(load_config(str(SHAPES_CONFIG)), 'shapes', size=(96, 128), dtypes=[torch.float32], compile=False,
                  device='cpu')
    assert list(found) == ['eager', 'deploy', 'ONNX Runtime', 'OpenVINO']
    for objects in found.values():
        assert_same_objects(objects, found['eager'])


def test_other_backbones_are_refused():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.head.in_channels = 512
    with pytest.raises(UserError, match="ResNet: these forms are FasterNet's"):
        measure_forms(cfg, 'resnet', device='cpu')
