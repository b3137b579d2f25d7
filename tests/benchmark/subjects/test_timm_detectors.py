import pytest
import timm
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.complexity import build_for_counting, count_as_table_4
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry, detector_report
from mmfasternet.benchmark.subjects.timm_detectors import TimmFeatures, fold_backbone, mask_rcnn_config, named_config
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, randomize_norms

CPU = torch.device('cpu')
TABLE_4 = ROOT / 'configs' / 'comparison' / 'mask_rcnn_resnet50_1x_coco.py'


def test_only_the_backbone_differs_from_table_4():
    ours, theirs = mask_rcnn_config('resnet18', (64, 96)).to_dict(), load_config(str(TABLE_4)).to_dict()
    assert ours['model'].pop('backbone') == dict(type='mmfasternet.TimmFeatures', name='resnet18',
                                                 out_indices=[1, 2, 3, 4])
    del theirs['model']['backbone']
    assert ours['model']['neck'].pop('in_channels') == [64, 128, 256, 512]
    assert theirs['model']['neck'].pop('in_channels') == [256, 512, 1024, 2048]
    assert ours == theirs


@pytest.mark.slow
def test_timms_resnet50_is_that_of_table_4():
    """The same network of two libraries; MMDetection's has a frozen stage, which does not count as trained."""
    ours, theirs = mask_rcnn_config('resnet50'), load_config(str(TABLE_4))
    assert count_as_table_4(ours).multiply_adds == pytest.approx(count_as_table_4(theirs).multiply_adds, rel=1e-3)
    first, second = (sum(p.numel() for p in build_for_counting(cfg).parameters()) for cfg in (ours, theirs))
    assert first == second == count_as_table_4(ours).parameters


def test_maps_are_timms_with_branches_merged():
    torch.manual_seed(0)
    merged = TimmFeatures('repvit_m0_9', (0, 1, 2, 3)).eval()
    torch.manual_seed(0)
    reference = timm.create_model('repvit_m0_9', features_only=True).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for actual, expected in zip(merged(images), reference(images), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, _BatchNorm) for module in merged.modules())
    assert any(isinstance(module, _BatchNorm) for module in reference.modules())


def test_the_last_map_of_each_stride_is_taken():
    cfg = mask_rcnn_config('vgg11', (64, 96))  # maps of strides 1, 2, 4, 8, 16, 32
    assert cfg.model.backbone.out_indices == [2, 3, 4, 5] and cfg.model.neck.in_channels == [256, 512, 512, 512]


def test_folding_a_backbone_is_exact():
    torch.manual_seed(0)
    model = build_model(mask_rcnn_config('test_resnet', (64, 96)))
    randomize_norms(model)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.backbone(images)
        fold_backbone(model, (64, 96))
        for actual, maps in zip(model.backbone(images), expected, strict=True):
            torch.testing.assert_close(actual, maps, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, _BatchNorm) for module in model.backbone.modules())


@pytest.mark.slow
@pytest.mark.parametrize('options, left', [(DeployOptions(), True), (DeployOptions(deploy=True), False),
                                           (DeployOptions(deploy=True, dtype='bfloat16'), False)])
def test_forms_of_a_detector(monkeypatch, options, left):
    built = []
    monkeypatch.setattr('mmfasternet.benchmark.subjects.detectors.DetectorParts',
                        lambda model, device: built.append(model))
    name, cfg = named_config('timm:test_resnet', (64, 96))
    subject = detector_entry(cfg, name, CPU, DetectorInput((64, 96)), deploy=options).build()
    with torch.no_grad():
        assert len(subject.function()[0].pred_instances) > 0
    assert any(isinstance(module, _BatchNorm) for module in built[0].backbone.modules()) == left


@pytest.mark.slow
def test_report_of_a_network_of_timm():
    configs = dict(named_config(argument, (64, 96)) for argument in (str(SHAPES_CONFIG), 'timm:test_resnet'))
    given = DetectorInput((64, 96))
    records = run_suite([detector_entry(cfg, name, CPU, given) for name, cfg in configs.items()], CPU, rounds=1)
    report = detector_report(records, list(configs.values()), given.size)
    row = report.tables[0].rows[1]
    assert row['detector'] == 'timm:test_resnet' and 'paper: ms' not in report.tables[0].columns
    counted = count_as_table_4(configs['timm:test_resnet'], given.size)
    assert row['parameters (M)'] == counted.parameters / 1e6 and row['FLOPs (G)'] == counted.multiply_adds / 1e9
    assert records[1].conditions.weights == 'random' and records[1].parts_ms['backbone']


@pytest.mark.parametrize('name, part', [
    ('test_vit', 'gives maps with strides 16, 16, 16: an FPN needs 4, 8, 16 and 32'),
    ('swin_tiny_patch4_window7_224', 'does not support images of 800 x 1280 pixels, as a detector needs: Input height '
                                     "(800) doesn't match model (224)"),
    ('mambaout_femto', 'gives a map of shape (1, 200, 320, 48) at stride 4: an FPN needs (1, 48, 200, 320)'),
    ('resnett18', 'Similar names: resnet18'),
])
def test_networks_that_do_not_fit_are_one_line(name, part, capfd):
    with pytest.raises(UserError) as error:
        mask_rcnn_config(name)
    assert part in str(error.value) and '\n' not in str(error.value) and 'Traceback' not in capfd.readouterr().err
