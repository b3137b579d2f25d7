import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmfasternet.deploy import ExportedDetector
from mmfasternet.deploy.dense import DensePart
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.runtimes import OpenVinoModel
from mmfasternet.engine.building import build_model, load_batches, real_images
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError, UserError
from tests.conftest import (
    ROOT,
    SHAPES_CONFIG,
    assert_same_objects,
    build,
    data_options,
    environment,
    needs_export,
    randomize_norms,
)

pytestmark = needs_export

FORMATS = ('onnx', 'openvino')


@pytest.fixture(autouse=True)
def detection_scope():
    """Whatever scope other tests have left behind."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(scope='module')
def cfg(shapes):
    return load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))


@pytest.fixture(scope='module')
def model(cfg, trained):
    return build_model(cfg, str(trained / 'epoch_2.pth'))


@pytest.fixture(scope='module')
def exported(cfg, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    images = real_images(cfg, model)
    assert len(images) == 4
    for file_format in FORMATS:
        reports = export_model(model, str(folder / file_format), file_format, parts=True, images=images,
                               model_cfg=cfg.model)
        assert [report.name for report in reports] == ['dense', 'bbox_head', 'mask_head']
        assert reports[0].checked == '2 random, 4 real'
        assert reports[0].bytes <= 1.05 * reports[0].weight_bytes
        assert sum(r.bytes for r in reports) <= 1.05 * sum(r.weight_bytes for r in reports)
    return folder


def predictions(model, cfg, shapes):
    images = sorted(map(str, (shapes / 'val').iterdir()))
    with torch.no_grad():
        return [model.test_step(batch)[0].pred_instances for batch in load_batches(cfg, images)]


@pytest.mark.slow
@pytest.mark.parametrize('file_format', FORMATS)
def test_it_predicts_what_the_detector_predicts(cfg, model, exported, shapes, file_format):
    deployed = ExportedDetector(cfg.model, exported / file_format)
    expected, actual = predictions(model, cfg, shapes), predictions(deployed, cfg, shapes)
    assert sum(map(len, expected)) > 20
    for one, other in zip(actual, expected):
        assert_same_objects(one, other, 1e-4, 1e-2)
    assert sum(p.numel() for p in deployed.parameters()) == 0


@pytest.mark.slow
def test_bfloat16_is_what_openvino_computes_in(cfg, model, exported, shapes):
    if not OpenVinoModel.knows(torch.bfloat16):
        pytest.skip('this processor knows no bfloat16')
    full = ExportedDetector(cfg.model, exported / 'openvino').detector.backbone.run
    half = ExportedDetector(cfg.model, exported / 'openvino', 'bfloat16').detector.backbone.run
    x = torch.randn(1, 3, 96, 96)
    (maps, _), (half_maps, _) = full(x), half(x)
    assert 1e-3 < (maps[0] - half_maps[0]).norm() / maps[0].norm() < 3e-2


@pytest.mark.slow
def test_thresholds_may_change_and_layers_may_not(cfg, exported):
    other = copy.deepcopy(cfg.model)
    other.test_cfg.rcnn.max_per_img = 1
    assert ExportedDetector(other, exported / 'onnx').detector.roi_head.test_cfg.max_per_img == 1
    other.roi_head.bbox_head.num_classes = 7
    with pytest.raises(UserError, match='another model'):
        ExportedDetector(other, exported / 'onnx')


@pytest.mark.slow
def test_it_only_predicts(cfg, exported):
    with pytest.raises(ArgumentError, match="'loss'"):
        ExportedDetector(cfg.model, exported / 'onnx')(torch.zeros(1, 3, 64, 64), mode='loss')


@pytest.mark.slow
def test_a_two_stage_detector_needs_its_heads(cfg, model, tmp_path):
    export_model(model, str(tmp_path / 'dense'), model_cfg=cfg.model)
    assert sorted(p.name for p in (tmp_path / 'dense').iterdir()) == ['dense.onnx', 'export.json']
    with pytest.raises(UserError, match='holds no bbox_head.*--parts'):
        ExportedDetector(cfg.model, tmp_path / 'dense')


@pytest.mark.slow
def test_weights_that_no_part_holds_are_missed(cfg, exported, tmp_path):
    """They would be random."""
    extended = copy.deepcopy(cfg.model)
    extended.roi_head.bbox_roi_extractor.type = 'GenericRoIExtractor'
    extended.roi_head.bbox_roi_extractor.pre_cfg = dict(
        type='ConvModule', in_channels=64, out_channels=64, kernel_size=3, padding=1)
    with pytest.raises(ArgumentError, match='weights outside of all parts.*pre_module'):
        export_model(build(extended), str(tmp_path / 'out'), parts=True)
    content = json.loads((exported / 'onnx' / 'export.json').read_text())
    shutil.copytree(exported / 'onnx', tmp_path / 'forged')
    (tmp_path / 'forged' / 'export.json').write_text(json.dumps(dict(content, model=None)))
    with pytest.raises(UserError, match='no exported part holds.*pre_module'):
        ExportedDetector(extended, tmp_path / 'forged')


@pytest.mark.slow
def test_the_runner_may_hand_over_a_preprocessor(cfg, exported):
    detector = ExportedDetector(cfg.model, exported / 'onnx', data_preprocessor=dict(type='DetDataPreprocessor'))
    assert detector.data_preprocessor is detector.detector.data_preprocessor


def test_a_folder_that_is_no_export(cfg, tmp_path):
    with pytest.raises(UserError, match='export.json'):
        ExportedDetector(cfg.model, tmp_path)


def run_both(cfg, model, shapes, folder):
    randomize_norms(model)
    for module in model.modules():
        module.training = False
    export_model(model, str(folder), parts=hasattr(model, 'roi_head'), model_cfg=cfg.model)
    expected = predictions(model, cfg, shapes)
    for one, other in zip(predictions(ExportedDetector(cfg.model, folder), cfg, shapes), expected):
        assert len(other) and len(one) == len(other)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-4)
    return json.loads((folder / 'export.json').read_text())['parts']


@pytest.mark.slow
def test_a_cascade(cfg, shapes, tmp_path):
    cfg = copy.deepcopy(cfg)
    roi_head = cfg.model.roi_head
    heads = [dict(roi_head.bbox_head, reg_class_agnostic=True) for _ in range(2)]
    cfg.model.roi_head = ConfigDict(roi_head, type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, .5],
                                    bbox_head=heads)
    cfg.model.type = 'CascadeRCNN'
    cfg.model.train_cfg.rcnn = [cfg.model.train_cfg.rcnn] * 2
    cfg.model.test_cfg.rcnn.score_thr = 0.
    parts = run_both(cfg, build(cfg.model), shapes, tmp_path / 'out')
    assert [part['name'] for part in parts] == ['dense', 'bbox_head_0', 'bbox_head_1', 'mask_head_0', 'mask_head_1']


def test_a_single_stage_detector(cfg, shapes, tmp_path):
    cfg = copy.deepcopy(cfg)
    cfg.model = ConfigDict(
        type='RetinaNet', data_preprocessor=cfg.model.data_preprocessor, backbone=cfg.model.backbone,
        neck=dict(type='FPN', in_channels=[40, 80, 160, 320], out_channels=16, num_outs=5),
        bbox_head=dict(
            type='RetinaHead', num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.],
                                  strides=[4, 8, 16, 32, 64])),
        test_cfg=dict(nms_pre=100, score_thr=0., min_bbox_size=0, nms=dict(type='nms', iou_threshold=.5),
                      max_per_img=10))
    part, = run_both(cfg, build(cfg.model), shapes, tmp_path / 'out')
    assert part['outputs'][0] == [] and len(part['outputs']) == 3  # no maps, two kinds of outputs


def test_other_detectors_are_refused(tmp_path):
    solo = build(dict(
        type='SOLO', backbone=dict(type='mmfasternet.FasterNet'),
        mask_head=dict(type='SOLOHead', num_classes=2, in_channels=32, feat_channels=32, stacked_convs=1,
                       loss_mask=dict(type='DiceLoss'), loss_cls=dict(type='FocalLoss'))))
    with pytest.raises(ArgumentError, match='SOLO'):
        export_model(solo, str(tmp_path / 'out'))


@pytest.mark.slow
def test_in_a_program_of_its_own(tmp_path):
    """Where nothing has set a default scope."""
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    export_model(build(cfg.model, 'mmpretrain'), str(tmp_path / 'out'), model_cfg=cfg.model)
    code = f"""
from mmfasternet.deploy import ExportedClassifier
from mmfasternet.engine.config import load_config
model = ExportedClassifier(load_config({cfg.filename!r}).model, {str(tmp_path / 'out')!r})
print(type(model.model).__name__)"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment(
        PYTHONPATH=str(ROOT)), cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ['ImageClassifier'], done.stderr[-2000:]


def test_a_head_with_tuples_for_each_level_is_refused():
    class Head(nn.Module):

        def forward(self, maps):
            return [(x, x) for x in maps], list(maps)

    part = DensePart.__new__(DensePart)
    nn.Module.__init__(part)
    part.backbone, part.neck, part.head, part.num_maps = nn.Identity(), lambda x: (x, x), Head(), 0
    with pytest.raises(ArgumentError, match='Head gives more than one tensor for each level'):
        part(torch.zeros(1, 3, 8, 8))
