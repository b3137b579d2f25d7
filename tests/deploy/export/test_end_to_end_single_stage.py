import copy

import onnxruntime
import pytest
import torch
from mmcv.ops import soft_nms
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from torch import nn

from mmfasternet.deploy.export.end_to_end_single_stage import EndToEndSingleStage
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError
from tests.conftest import ROOT, SHAPES_CONFIG, assert_same_objects, build, data_options, needs_export, randomize_norms

pytestmark = needs_export
SIZES = [(64, 96), (160, 128), (96, 130)]
HEADS = {
    'of the recipe': {},
    'exponents and objectness': dict(exp_on_reg=True, with_objectness=True),
    'RTMDetHead': dict(type='RTMDetHead', exp_on_reg=None, share_conv=None, norm_cfg=dict(type='BN')),
}


@pytest.fixture(scope='module')
def cfg():
    return load_config(str(ROOT / 'configs' / 'rtmdet_fasternet_t0_300e_coco.py'), {
        'model.backbone.init_cfg': None, 'model.bbox_head.num_classes': 4})


def with_head(cfg, **changes):
    cfg = copy.deepcopy(cfg)
    head = {**cfg.model.bbox_head, **changes}
    cfg.model.bbox_head = ConfigDict({key: value for key, value in head.items() if value is not None})
    return cfg


def randomized(model):
    """A detector that finds hundreds of overlapping objects of all classes and sizes, whose scores are no ties."""
    torch.manual_seed(0)
    randomize_norms(model)
    head = model.bbox_head
    distance = 1.5 if getattr(head, 'exp_on_reg', True) else 4.  # in strides; of the first, its logarithm
    for layers, std, bias in ((head.rtm_cls, 0.1, -1.), (head.rtm_reg, 0.03, distance)):
        for layer in layers if isinstance(layers, nn.ModuleList) else [layers]:
            nn.init.normal_(layer.weight, std=std)
            nn.init.constant_(layer.bias, bias)
    return model.eval()


def noise(size):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(sum(size))) * 4 - 2


def predicted(model, images):
    """What MMDetection finds on images that are normalised and have no padding."""
    sample = DetDataSample(metainfo=dict(img_shape=tuple(images.shape[2:]), scale_factor=(1., 1.)))
    with torch.no_grad():
        return model.predict(images, [sample], rescale=False)[0].pred_instances


def assert_equal(objects, expected, tolerance=1e-5):
    boxes, scores, labels = objects
    torch.testing.assert_close(boxes, expected.bboxes, rtol=tolerance, atol=1e-3)
    torch.testing.assert_close(scores, expected.scores, rtol=tolerance, atol=1e-6)
    assert torch.equal(labels, expected.labels)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('head', list(HEADS))
def test_it_finds_what_mmdetection_finds(cfg, head, size):
    model = randomized(build(with_head(cfg, **HEADS[head]).model))
    model.bbox_head.test_cfg.max_per_img = 10000
    images = noise(size)
    expected = predicted(model, images)
    with torch.no_grad():
        assert_equal(EndToEndSingleStage(model)(images), expected)
        scores, _ = model.bbox_head(model.extract_feat(images))
    pairs = sum(len(x.flatten()) for x in scores)
    assert 50 < len(expected) < 0.9 * pairs and set(expected.labels.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize('changes', [
    {'test_cfg.nms_pre': 40}, {'test_cfg.score_thr': 0.4}, {'test_cfg.nms.iou_threshold': 0.3},
    {'test_cfg.max_per_img': 20}, {'test_cfg.min_bbox_size': 45}, {'bbox_head.bbox_coder.clip_border': False},
    {'bbox_head.anchor_generator.offset': 0.5}], ids=str)
def test_settings_are_followed(cfg, changes):
    changed = copy.deepcopy(cfg)
    changed.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    images, expected = noise((96, 128)), []
    for each in (cfg, changed):
        torch.manual_seed(0)  # the settings are all that differs
        model = randomized(build(each.model))
        expected.append(predicted(model, images))
        with torch.no_grad():
            assert_equal(EndToEndSingleStage(model)(images), expected[-1])
    first, second = expected
    assert len(second) and (len(first) != len(second) or not torch.equal(first.bboxes, second.bboxes))


def test_padding_is_that_of_the_preprocessor(cfg):
    """Boxes end at the image, not at its padding."""
    cfg = copy.deepcopy(cfg)
    cfg.model.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32, pad_value=2)
    model = randomized(build(cfg.model))
    image = torch.randint(0, 4, (3, 75, 108))
    sample = DetDataSample(metainfo=dict(img_shape=(75, 108), scale_factor=(1., 1.)))
    with torch.no_grad():
        expected = model.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances
        assert_equal(EndToEndSingleStage(model)(image[None].float()), expected)
    assert len(expected) > 100 and expected.bboxes[:, 2].max() == 108


@pytest.fixture(scope='module')
def recipe(cfg, shapes, tmp_path_factory):
    """The recipe for the shapes at 144 pixels, padded to 160 x 192, as a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('recipe')
    cfg, data = copy.deepcopy(cfg), load_config(str(SHAPES_CONFIG), dict(
        option.split('=', 1) for option in data_options(shapes)))
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader = data.test_dataloader
    cfg.test_dataloader.dataset.pipeline = pipeline
    next(step for step in pipeline if step.type == 'Resize').scale = (144, 144)
    next(step for step in pipeline if step.type == 'Pad').size = (192, 160)
    cfg.dump(folder / 'config.py')
    model = randomized(build(cfg.model))
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'weights.pth')
    return folder / 'config.py', folder / 'weights.pth'


def run(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return [torch.from_numpy(x) for x in session.run(None, {'images': images.numpy()})]


@pytest.mark.slow
def test_the_recipe_becomes_one_file(recipe, run_tool, shapes, tmp_path):
    config, checkpoint = recipe
    result = run_tool('export', config, checkpoint, '--whole', '--images', shapes / 'val', '--out', tmp_path / 'out')
    assert result.code == 0 and 'on 2 random, 4 real inputs' in result.out, result.err
    file = tmp_path / 'out' / 'detector.onnx'
    cfg = load_config(str(config))
    model = build_model(cfg, str(checkpoint))
    for size in SIZES:
        assert_same(run(file, noise(size)), predicted(model, noise(size)))
    for batch in load_batches(cfg, sorted(map(str, (shapes / 'val').iterdir()))):
        images = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
        assert images.shape[2:] == (160, 192)
        sample = model.test_step(batch)[0]
        boxes, scores, labels = run(file, images)
        assert_same((boxes / torch.tensor(sample.scale_factor).repeat(2), scores, labels), sample.pred_instances)
    boxes, scores, labels = run(file, torch.full((1, 3, 64, 64), torch.nan))
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0, ) and labels.dtype == torch.int64


def assert_same(objects, expected):
    """Those of another runtime; near ties may come in another order."""
    boxes, scores, labels = objects
    assert len(labels) > 50
    assert_same_objects(dict(labels=labels, scores=scores, bboxes=boxes), expected, 1e-5, 1e-2)


@pytest.mark.slow
def test_a_detector_that_has_not_been_trained(cfg, tmp_path):
    """Its scores are ties but for rounding: the lists differ, and the check of the file knows why."""
    model = build(with_head(cfg, **HEADS['RTMDetHead']).model)
    model.init_weights()
    report, = export_model(model.eval(), str(tmp_path / 'out'), end_to_end=True)
    assert report.relative <= 1e-4
    images = noise((64, 96))
    torch.testing.assert_close(run(report.file, images)[1], predicted(model, images).scores, rtol=1e-4, atol=0.)


def test_rounding_may_change_the_list(cfg):
    model = build(with_head(cfg, **HEADS['RTMDetHead'], num_classes=80).model)
    model.init_weights()
    plain, images = EndToEndSingleStage(model.eval()), noise((96, 128))
    with torch.no_grad():
        boxes, scores, labels = copy.deepcopy(plain).double()(images.double())
        found = (boxes.float(), scores.float(), labels)
        assert not torch.equal(labels, plain(images)[2])
        for actual, expected in zip(found, plain.expected(found, images)):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert len(plain.expected([x[:10] for x in found], images)[0]) == len(labels)  # some are missing


@pytest.mark.parametrize('changes, text', [
    ({'test_cfg.nms.type': 'soft_nms'}, 'plain NMS'),
    pytest.param({'test_cfg.nms.type': soft_nms}, 'plain NMS', id='a function'),
    ({'test_cfg.nms.class_agnostic': True}, 'plain NMS'),
    ({'test_cfg.nms': None}, 'plain NMS'),
    ({'test_cfg.max_per_img': -1}, 'limits'),
    ({'test_cfg.nms_pre': -1}, 'limits'),
    ({'test_cfg.min_bbox_size': -1}, 'min_bbox_size'),
    ({'bbox_head.bbox_coder.use_box_type': True}, 'DistancePointBBoxCoder'),
    ({'bbox_head.loss_cls': dict(type='CrossEntropyLoss', _delete_=True)}, 'sigmoid'),
], ids=str)
def test_settings_that_it_does_not_know_are_refused(cfg, changes, text):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(ArgumentError, match=text):
        EndToEndSingleStage(build(cfg.model))


@pytest.mark.parametrize('name, text', [('rtmdet-ins_fasternet_t0_300e_coco', 'RTMDet with a RTMDetInsSepBNHead'),
                                        ('retinanet_fasternet_t2_1x_coco', 'RetinaNet with a RetinaHead')])
def test_other_detectors_are_refused(tmp_path, name, text):
    cfg = load_config(str(ROOT / 'configs' / f'{name}.py'), {'model.backbone.init_cfg': None})
    with pytest.raises(ArgumentError, match=f'must be a Faster or Mask R-CNN or an RTMDet, not a {text}'):
        export_model(build(cfg.model), str(tmp_path / 'out'), end_to_end=True)
    assert not (tmp_path / 'out').exists()
