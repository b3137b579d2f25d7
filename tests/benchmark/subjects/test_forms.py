import pytest
import torch

from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.subjects import forms
from mmfasternet.benchmark.subjects.detectors import DetectorInput
from mmfasternet.benchmark.subjects.forms import detector_form_entries, form_report, measure_forms
from mmfasternet.engine.config import load_config
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, assert_same_objects

CPU = torch.device('cpu')


@pytest.mark.slow
def test_forms_of_a_detector(trained, shapes, tmp_path):
    cfg = load_config(str(SHAPES_CONFIG))
    given = DetectorInput(images=sorted(map(str, (shapes / 'val').iterdir()))[:2])
    entries = detector_form_entries(cfg, 'shapes', CPU, given, str(trained / 'epoch_2.pth'), [torch.float32], False)
    records = run_suite(entries, CPU, rounds=1)
    assert [(r.conditions.form, r.conditions.memory_format) for r in records] == [
        ('eager', 'NCHW'), ('deploy', 'NHWC'), ('ONNX Runtime', 'NCHW'), ('OpenVINO', 'NHWC')]
    assert {(r.conditions.input_size, r.model, r.conditions.images) for r in records} == {
        ('160x160', 'shapes', str(shapes / 'val'))}
    report = form_report(records)
    assert all(record.difference is None and record.error is None for record in records)
    assert report.tables[0].rows[0]['ratio'] == 1 and 'difference' not in report.tables[0].columns
    assert report.tables[1].rows[3]['backbone'] > 0  # each part in each form
    assert (tmp_path / 'latency.png') in report.write(tmp_path)


@pytest.mark.slow
def test_random_weights_find_the_same_objects_in_every_form():
    cfg = load_config(str(SHAPES_CONFIG))
    entries = detector_form_entries(cfg, 'shapes', CPU, DetectorInput((96, 128)), None, [torch.float32], False)
    with torch.no_grad():
        found = {entry.conditions.form: entry.build().function()[0].pred_instances for entry in entries}
    assert list(found) == ['eager', 'deploy', 'ONNX Runtime', 'OpenVINO']
    assert len(found['eager']) > 0
    for objects in found.values():
        assert_same_objects(objects, found['eager'])


def test_compiled_forms_say_so():
    cfg = load_config(str(SHAPES_CONFIG))
    entries = detector_form_entries(cfg, 'shapes', CPU, DetectorInput((96, 128)), None, [torch.float32, torch.bfloat16])
    assert [entry.name for entry in entries if entry.conditions.compiled] == [
        'deploy, compile, float32', 'deploy, compile, bfloat16']


def test_a_checkpoint_is_read_once_for_all_forms_of_pytorch(trained, monkeypatch):
    read = []
    original = forms.detector_of
    monkeypatch.setattr(forms, 'detector_of', lambda *args: read.append(args) or original(*args))
    entries = detector_form_entries(load_config(str(SHAPES_CONFIG)), 'shapes', CPU, DetectorInput((64, 96)),
                                    str(trained / 'epoch_2.pth'), [torch.float32, torch.bfloat16], False)
    for entry in entries[:3]:
        entry.build()
    assert len(read) == 1


@pytest.mark.parametrize('config, options, part', [
    ('fasternet_t0_digits.py', dict(images='a'), '--images is for detectors'),
    (SHAPES_CONFIG.name, dict(batch_size=2), '--batch is for backbones')])
def test_options_of_the_other_kind(config, options, part):
    with pytest.raises(UserError, match=part):
        measure_forms(load_config(str(ROOT / 'configs' / config)), 'a', CPU, **options)


def test_other_backbones_are_refused():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.head.in_channels = 512
    with pytest.raises(UserError, match="ResNet: only FasterNet has these forms"):
        measure_forms(cfg, 'resnet', CPU)
