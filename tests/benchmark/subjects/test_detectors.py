import functools
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.config import Config
from torch import nn

from mmfasternet.benchmark.complexity import Complexity
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.subjects.detectors import (
    DetectorInput,
    detector_entry,
    detector_report,
    find_objects,
    random_batch,
)
from mmfasternet.benchmark.subjects.parts import DetectorParts
from mmfasternet.deploy import to_deploy
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, sleep_ms

CPU = torch.device('cpu')
MILLISECONDS = {'preprocess': 100, 'backbone': 250, 'neck': 150, 'RPN': 200, 'RoI box': 125, 'RoI mask': 175,
                'post-process': 100}  # three times
SLEPT = Counter()


class Sleeping(nn.Module):
    """Stands for a part of a detector: its methods sleep, then call what they were given."""

    def __init__(self, **methods):
        super().__init__()
        for name, (part, then) in methods.items():
            self.__dict__[name] = functools.partial(self._work, part, then)

    @staticmethod
    def _work(part, then, *args):
        SLEPT[part] += sleep_ms(MILLISECONDS[part])
        return [function() for function in then]


class SleepingDetector(TwoStageDetector):
    """A two-stage detector whose parts take a known time."""

    def __init__(self):
        nn.Module.__init__(self)
        self.data_preprocessor = Sleeping(forward=('preprocess', ()))
        self.backbone, self.neck = Sleeping(forward=('backbone', ())), Sleeping(forward=('neck', ()))
        self.rpn_head = Sleeping(predict=('RPN', ()))
        self.roi_head = Sleeping(
            predict_bbox=('RoI box', [lambda: self.roi_head.bbox_head.predict_by_feat()]),
            predict_mask=('RoI mask', [lambda: self.roi_head.mask_head.predict_by_feat()]))
        self.roi_head.with_bbox = self.roi_head.with_mask = True
        self.roi_head.bbox_head = Sleeping(predict_by_feat=('post-process', ()))
        self.roi_head.mask_head = Sleeping(predict_by_feat=('post-process', ()))

    def test_step(self, data):
        self.data_preprocessor(data)
        self.neck(self.backbone(data))
        self.rpn_head.predict()
        self.roi_head.predict_bbox()
        self.roi_head.predict_mask()
        SLEPT['post-process'] += sleep_ms(MILLISECONDS['post-process'])


def test_each_part_gets_its_own_time_and_all_add_up():
    model = SleepingDetector()
    parts = DetectorParts(model, CPU)
    for _ in range(5):  # what a busy machine does between the sleeps differs from call to call
        SLEPT.clear()
        start = time.perf_counter()
        times = parts(lambda: model.test_step(0))
        whole = (time.perf_counter() - start) * 1e3
        assert list(times) == list(MILLISECONDS)
        wrong = {part: (times[part], slept) for part, slept in SLEPT.items() if times[part] > 1.05 * slept + 20}
        assert all(times[part] >= slept for part, slept in SLEPT.items())
        if not wrong and sum(times.values()) == pytest.approx(whole, rel=0.05):
            return
    pytest.fail(f'parts and what they slept: {wrong}')


@pytest.mark.parametrize('deploy', [False, True])
def test_parts_of_a_real_detector_leave_it_as_it_was(deploy):
    model = build_model(load_config(str(SHAPES_CONFIG)))
    find_objects(model)
    model = to_deploy(model) if deploy else model
    batch, attributes = random_batch((64, 96)), {name: set(module.__dict__) for name, module in model.named_modules()}
    children = dict(model.named_modules())
    with torch.no_grad():
        expected = model.test_step(batch)[0].pred_instances
        actual = []
        times = DetectorParts(model, CPU)(lambda: actual.extend(model.test_step(batch)))
    assert list(times) == list(MILLISECONDS) and all(time > 0 for time in times.values())
    assert len(actual[0].pred_instances) == len(expected) > 0
    assert torch.equal(actual[0].pred_instances.bboxes, expected.bboxes)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert all(module is children[name] for name, module in model.named_modules())


def test_a_single_stage_detector():
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_shapes.py')
    cfg = Config(dict(
        default_scope='mmdet', custom_imports=cfg.custom_imports, test_pipeline=[], model=dict(
            type='RetinaNet', data_preprocessor=cfg.model.data_preprocessor,
            backbone=dict(type='mmfasternet.FasterNet', arch='t0'),
            neck=dict(type='FPN', in_channels=[40, 80, 160, 320], out_channels=32, num_outs=5),
            bbox_head=dict(
                type='RetinaHead', num_classes=4, in_channels=32, feat_channels=32, stacked_convs=1,
                anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[1.],
                                      strides=[4, 8, 16, 32, 64]),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
            test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
                          max_per_img=10))))
    record, = run_suite([detector_entry(cfg, 'retina', CPU, DetectorInput((64, 96)))], CPU, rounds=2)
    assert list(record.parts_ms) == ['preprocess', 'backbone', 'neck', 'dense head', 'post-process']
    report = detector_report([record], [cfg], (64, 96))
    assert report.tables[0].rows[0]['FLOPs (G)'] > 0 and 'paper: ms' not in report.tables[0].columns


def test_the_paper_stands_beside():
    cfg = load_config(str(SHAPES_CONFIG))
    record, = run_suite([detector_entry(cfg, 'a', CPU, DetectorInput((64, 96)))], CPU, rounds=1)
    records = [replace(record, name=name, model=name, times_ms=times)
               for name, times in (('mask_rcnn_resnet50_1x_coco', (100.,)), ('mask_rcnn_fasternet_s_1x_coco', (50.,)))]
    row = detector_report(records, [cfg, cfg], (64, 96)).tables[0].rows[1]
    assert row['ratio'] == 0.5 and row['paper: ms'] == 35.1 and row['paper: ratio'] == pytest.approx(0.64, abs=0.001)


def test_random_weights_find_objects():
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_1x_coco.py'))
    subject = detector_entry(cfg, 'detector', CPU, DetectorInput((96, 128))).build()
    with torch.no_grad():
        assert len(subject.function()[0].pred_instances) > 0


@pytest.mark.slow
@pytest.mark.parametrize('form', [DeployOptions(), DeployOptions(deploy=True, dtype='bfloat16')])
def test_random_weights_of_all_networks_propose_the_same_boxes(monkeypatch, form):
    found = []
    original = StandardRoIHead.predict
    monkeypatch.setattr(StandardRoIHead, 'predict', lambda self, x, proposals, *args, **kwargs: (
        found.append(proposals[0].bboxes), original(self, x, proposals, *args, **kwargs))[1])
    for arch in ('t0', 't1'):
        cfg = load_config(str(ROOT / 'configs' / f'mask_rcnn_fasternet_{arch}_1x_coco.py'))
        subject = detector_entry(cfg, arch, CPU, DetectorInput((256, 320)), deploy=form).build()
        with torch.no_grad():
            subject.function()
    first, second = found
    assert len(first) == 1000 and torch.equal(first, second)
    sides = ((first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])).sqrt()
    counts = torch.histc(sides.log2(), 5, 4.5, 9.5)  # about 32, 64, ... 512 pixels, less what the image cuts off
    assert (counts[:3] > 100).all() and counts[3] > 0 and (counts < 600).all()


def test_a_classifier_is_refused():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    with pytest.raises(UserError, match='mmfasternet benchmark classifier'):
        detector_entry(cfg, 'digits', CPU, DetectorInput())


def test_forms_are_compared_with_their_like(monkeypatch):
    monkeypatch.setattr('mmfasternet.benchmark.subjects.detectors._count', lambda cfg, size: Complexity('total', 1, 1))
    names = ['mask_rcnn_resnet50_1x_coco', 'mask_rcnn_fasternet_s_1x_coco']
    eager = Conditions(((800, 1280), )).on(CPU)
    graphs = replace(eager, form='deploy', graphs=True)
    times = [(eager, names[0], 10.), (eager, names[1], 9.), (graphs, names[0], 5.), (graphs, names[1], 3.)]
    records = [LatencyRecord(f'line {index}', conditions, model=name, times_ms=(ms, ))
               for index, (conditions, name, ms) in enumerate(times)]
    rows = detector_report(records, [Config()] * 4, (800, 1280)).tables[0].rows
    assert [row['ratio'] for row in rows] == pytest.approx([1, 0.9, 1, 0.6])
    assert [row['speed-up'] for row in rows] == pytest.approx([1, 1, 2, 3])
    assert rows[3]['paper: ratio'] == pytest.approx(35.1 / 54.9)  # Table 4
