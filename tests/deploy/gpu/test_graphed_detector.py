import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmengine.structures import InstanceData

from mmfasternet.benchmark.subjects.detectors import find_objects, random_batch
from mmfasternet.compat import compiled_call, swaps_channels
from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.gpu import cuda_graphs
from mmfasternet.deploy.gpu.graphed_detector import (
    GraphedBoxes,
    GraphedProposals,
    decode,
    is_known,
    record_detector,
    remove_recordings,
)
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from tests.conftest import ROOT, SHAPES_CONFIG, assert_same_objects, build
from tests.deploy.gpu.test_cuda_graphs import GPU, recorded  # noqa: F401, a fixture

ALL = {'model.test_cfg.rcnn.score_thr': 0.}


def predict(model, batch):
    with torch.no_grad():
        return [each.pred_instances.cpu() for each in model.test_step(copy.deepcopy(batch))]


def batches_of(cfg, shapes, batch_size):
    return load_batches(cfg, sorted(map(str, (shapes / 'val').iterdir()))[:4], batch_size)


def zero_padded(model, batch, size):
    """The batch as floats that the preprocessor's normalisation turns into zeros outside of the image."""
    pre, image = model.data_preprocessor, batch['inputs'][0]
    whole = pre.mean.flip(0).expand(3, *size).clone() if swaps_channels(pre) else pre.mean.expand(3, *size).clone()
    whole[:, :image.shape[1], :image.shape[2]] = image
    return {**batch, 'inputs': [whole]}


@pytest.mark.parametrize('batch_size', [1, 2])
def test_it_finds_what_the_detector_finds(trained, shapes, recorded, batch_size):  # noqa: F811
    cfg = load_config(str(SHAPES_CONFIG), ALL)
    deployed = to_deploy(build_model(cfg, str(trained / 'epoch_2.pth')))
    graphed = copy.deepcopy(deployed)
    record_detector(graphed)
    assert is_known(graphed) and isinstance(graphed.roi_head.predict_bbox, GraphedBoxes)
    for batch in batches_of(cfg, shapes, batch_size):
        for actual, expected in zip(predict(graphed, batch), predict(deployed, batch)):
            assert_same_objects(actual, expected)
    assert len(recorded) == 6  # normalisation, backbone, neck, proposals, boxes, masks: all images have one size
    again = copy.deepcopy(graphed)
    assert_same_objects(predict(again, batch)[0], predict(deployed, batch)[0])
    assert len(recorded) == 6 and 'predict_bbox' not in to_deploy(graphed).roi_head.__dict__


def test_recording_twice_is_recording_once_and_is_taken_back(recorded):  # noqa: F811
    model = to_deploy(build(load_config(str(SHAPES_CONFIG)).model))
    plain = [(set(module.__dict__), compiled_call(module)) for module in model.modules()]
    batch = random_batch((96, 128))
    for number in (6, 12):
        record_detector(model)
        predict(model, batch)
        assert len(recorded) == number
    remove_recordings(model)
    assert [(set(module.__dict__), compiled_call(module)) for module in model.modules()] == plain
    predict(model, batch)
    assert len(recorded) == 12


def test_other_sizes_scales_and_few_boxes(trained, recorded):  # noqa: F811
    """Fewer proposals and objects than the limits, boxes without an area, images that are padded and resized."""
    cfg = load_config(str(SHAPES_CONFIG), {**ALL, 'model.test_cfg.rpn.nms.iou_threshold': 0.1,
                                           'model.test_cfg.rcnn.nms.iou_threshold': 0.1})
    deployed = to_deploy(build_model(cfg, str(trained / 'epoch_2.pth')))
    graphed = copy.deepcopy(deployed)
    record_detector(graphed, [(96, 128), (128, 96)])
    for height, width in ((96, 128), (90, 121), (128, 96)):
        batch = random_batch((height, width))
        padding = (96, 128) if height <= 96 else (128, 96)
        batch['data_samples'][0].set_metainfo(dict(img_shape=(height, width), ori_shape=(2 * height, 3 * width),
                                                   scale_factor=(1 / 3, 1 / 2)))
        actual = predict(graphed, batch)[0]
        assert actual.masks.shape[1:] == (2 * height, 3 * width)
        expected = predict(deployed, batch if (height, width) == padding else zero_padded(deployed, batch, padding))[0]
        assert_same_objects(actual, expected, pixels=3.)
    assert len(recorded) == 12


def test_an_rpn_that_proposes_nothing(trained, recorded):  # noqa: F811
    cfg = load_config(str(SHAPES_CONFIG), {**ALL, 'model.test_cfg.rpn.min_bbox_size': 1000})
    graphed = to_deploy(build_model(cfg, str(trained / 'epoch_2.pth')))
    record_detector(graphed)
    found = predict(graphed, random_batch((96, 128)))[0]
    assert len(found.labels) == 0 and found.masks.shape == (0, 96, 128)


def test_many_candidates_and_few_objects_are_looked_at_by_mmdetection(trained, recorded, monkeypatch):  # noqa: F811
    monkeypatch.setattr('mmfasternet.deploy.gpu.graphed_detector.CANDIDATES', 20)
    cfg = load_config(str(SHAPES_CONFIG), {**ALL, 'model.test_cfg.rcnn.nms.iou_threshold': 0.3})
    deployed = to_deploy(build_model(cfg, str(trained / 'epoch_2.pth')))
    graphed = copy.deepcopy(deployed)
    record_detector(graphed)
    batch = random_batch((96, 128))
    actual, expected = predict(graphed, batch)[0], predict(deployed, batch)[0]
    assert len(actual.labels) > 20 or len(expected.labels) < 20
    assert_same_objects(actual, expected)


def test_proposals_may_come_with_the_data(trained, recorded):  # noqa: F811
    cfg = load_config(str(SHAPES_CONFIG), ALL)
    deployed = to_deploy(build_model(cfg, str(trained / 'epoch_2.pth')))
    graphed = copy.deepcopy(deployed)
    record_detector(graphed)
    batch = random_batch((96, 128))
    batch['data_samples'][0].proposals = InstanceData(bboxes=torch.tensor([[5., 5., 60., 70.], [20., 30., 90., 90.]]))
    assert_same_objects(predict(graphed, batch)[0], predict(deployed, batch)[0])


def test_anchors_live_as_long_as_the_recording_that_reads_them(monkeypatch):
    # A replay does not call the function again: what it reads outside of the graph's memory must be kept.
    monkeypatch.setattr(cuda_graphs, 'record', lambda function, pool=None: (function(), lambda: None))
    head = build(load_config(str(SHAPES_CONFIG)).model).rpn_head
    make, made = head.prior_generator.grid_priors, {}

    def grid_priors(sizes, **options):
        anchors = make(sizes, **options)
        made[sizes[0]] = [weakref.ref(each) for each in anchors]
        return anchors

    monkeypatch.setattr(head.prior_generator, 'grid_priors', grid_priors)
    graphed = GraphedProposals(head, cuda_graphs.GraphPool())

    def propose(height):
        maps = [torch.rand(1, head.in_channels, -(-height // 2**level), 8) for level in range(5)]
        boxes, scores, numbers = graphed(maps, [SimpleNamespace(metainfo=dict(img_shape=(height, 8)))])
        assert boxes.shape[:2] == scores.shape and numbers.shape == (1, )

    with torch.no_grad():
        for height in range(8, 9 + cuda_graphs.MAX_RECORDINGS):
            propose(height)
            propose(8)  # the first size is in constant use
    assert len(graphed.propose._recordings) == cuda_graphs.MAX_RECORDINGS
    evicted = {(9, 8)}
    assert {size for size, anchors in made.items() if not all(ref() is not None for ref in anchors)} == evicted


@pytest.mark.parametrize('name', ['faster_rcnn_fasternet_s_1x_coco', 'retinanet_fasternet_t2_1x_coco'])
def test_other_detectors(name, recorded):  # noqa: F811
    cfg = load_config(str(ROOT / 'configs' / f'{name}.py'))
    cfg.model.backbone.update(arch=dict(embed_channels=16, depths=(1, 1, 1, 1)), init_cfg=None)
    cfg.model.neck.in_channels = [16, 32, 64, 128][-len(cfg.model.neck.in_channels):]
    model = build(cfg.model)
    find_objects(model)
    deployed = to_deploy(model)
    graphed = copy.deepcopy(deployed)
    record_detector(graphed)
    for seed in range(2):
        batch = random_batch((96, 128))
        batch['inputs'][0] = batch['inputs'][0].roll(seed * 31, 2)
        actual, expected = predict(graphed, batch)[0], predict(deployed, batch)[0]
        assert len(actual.labels) == len(expected.labels)
        torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-3, atol=1e-4)
    assert len(recorded) == (5 if name.startswith('faster_rcnn') else 4)


@pytest.mark.parametrize('means, stds', [((0., 0., 0., 0.), (1., 1., 1., 1.)), ((0., .1, 0., -.1), (.1, .1, .2, .2))])
def test_decoding_is_mmdetections(means, stds):
    coder = DeltaXYWHBBoxCoder(means, stds)
    corners = torch.rand(50, 4) * 100
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)
    deltas = torch.randn(50, 4) * 4
    bounds = torch.tensor([90., 80., 90., 80.])
    torch.testing.assert_close(decode(coder, boxes, deltas, bounds), coder.decode(boxes, deltas, max_shape=(80, 90)))


@GPU
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_a_detector_on_a_gpu(trained, shapes, dtype):
    cfg = load_config(str(SHAPES_CONFIG), ALL)
    model = build_model(cfg, str(trained / 'epoch_2.pth'), 'cuda')
    deployed, graphed = to_deploy(model, dtype=dtype), to_deploy(model, dtype=dtype, graphs=True)
    for batch_size in (1, 2, 1):
        for batch in batches_of(cfg, shapes, batch_size):
            for actual, expected in zip(predict(graphed, batch), predict(deployed, batch)):
                assert_same_objects(actual, expected, 1e-2 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.slow
@GPU
def test_a_compiled_detector_by_graphs(trained):
    cfg = load_config(str(SHAPES_CONFIG), ALL)
    model = build_model(cfg, str(trained / 'epoch_2.pth'), 'cuda')
    compiled = to_deploy(model, compile=True, graphs=True, sizes=[(96, 128), (128, 96)])
    for _ in range(3):
        for size in ((96, 128), (128, 96)):
            assert_same_objects(predict(compiled, random_batch(size))[0], predict(model, random_batch(size))[0])
