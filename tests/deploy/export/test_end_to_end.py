import copy

import numpy as np
import onnxruntime
import pytest
import torch
from mmcv.ops import nms, soft_nms
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from mmfasternet.deploy.export.end_to_end import EndToEndDetector
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError
from tests.conftest import SHAPES_CONFIG, assert_same_objects, build, needs_export

pytestmark = needs_export


@pytest.fixture(scope='module')
def cfg():
    return load_config(str(SHAPES_CONFIG))


@pytest.fixture(scope='module')
def model(cfg, trained):
    return build_model(cfg, str(trained / 'epoch_2.pth'))


def run(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return [torch.from_numpy(x) for x in session.run(None, {'images': images.numpy()})]


@pytest.mark.slow
def test_one_file_finds_what_mmdetection_finds(cfg, model, shapes, tmp_path):
    report, = export_model(model, str(tmp_path / 'out'), end_to_end=True)
    assert report.bytes <= 1.05 * report.weight_bytes
    found = 0
    for batch in load_batches(cfg, sorted(map(str, (shapes / 'val').iterdir()))):
        images = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
        with torch.no_grad():
            sample = model.test_step(batch)[0]
        expected = sample.pred_instances
        boxes, scores, labels, masks = run(report.file, images)
        boxes = boxes / torch.tensor(sample.scale_factor).repeat(2)
        pasted = _do_paste_mask(masks[:, None], boxes, *sample.ori_shape, skip_empty=False)[0] >= 0.5
        actual = dict(labels=labels, scores=scores, bboxes=boxes, masks=pasted)
        assert_same_objects(actual, expected, 1e-4, 1e-2)
        found += len(labels)
    assert found > 20


def test_an_image_without_objects(model, tmp_path):
    model = copy.deepcopy(model)
    model.test_cfg.rcnn.score_thr = 0.9999
    report, = export_model(model, str(tmp_path / 'out'), end_to_end=True)
    boxes, scores, labels, masks = run(report.file, torch.zeros(1, 3, 64, 97))
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0, ) and masks.shape == (0, 28, 28)
    assert labels.numpy().dtype == np.int64


@pytest.mark.parametrize('options', [dict(parts=True), dict(file_format='openvino')], ids=str)
def test_what_does_not_go_with_it(model, tmp_path, options):
    with pytest.raises(ArgumentError, match='one ONNX file'):
        export_model(model, str(tmp_path / 'out'), end_to_end=True, **options)


@pytest.mark.parametrize('changes, text', [
    ({'rpn_head.bbox_coder.type': 'LegacyDeltaXYWHBBoxCoder'}, 'DeltaXYWHBBoxCoder'),
    ({'test_cfg.rcnn.nms.type': 'soft_nms'}, 'plain NMS'),
    pytest.param({'test_cfg.rpn.nms.type': soft_nms}, 'plain NMS', id='a function'),
    ({'test_cfg.rpn.nms.max_num': 10}, 'plain NMS'),
    ({'test_cfg.rcnn.max_per_img': -1}, 'limits'),
], ids=str)
def test_settings_that_it_does_not_know_are_refused(cfg, changes, text):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(ArgumentError, match=text):
        EndToEndDetector(build(cfg.model))


def test_types_may_be_functions(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg.rcnn.nms.type = nms
    EndToEndDetector(build(cfg.model))


def test_other_models_are_refused(tmp_path):
    from mmfasternet.models import FasterNet
    with pytest.raises(ArgumentError, match='FasterNet'):
        export_model(FasterNet('t0'), str(tmp_path / 'out'), end_to_end=True)
