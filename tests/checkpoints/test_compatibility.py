import pytest
import torch
from mmengine.config import Config

from mmfasternet.checkpoints import (
    check_fits,
    check_pretrained,
    check_start,
    convert,
    load_for_mmengine,
    load_pretrained_backbone,
    read_checkpoint,
)
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from tests.checkpoints.test_initializer import assert_same_features, saved
from tests.conftest import ROOT, SHAPES_CONFIG, build, randomize_norms
from tests.official import official_classifier, official_detector


@pytest.fixture(scope='module')
def source():
    return FasterNet('t0', out_norm=False)


@pytest.fixture(scope='module')
def detector():
    model = build(Config.fromfile(SHAPES_CONFIG).model)
    randomize_norms(model)
    return model


def assert_fits(model, path):
    check_fits(model, load_for_mmengine(path), path)


def assert_starts(model, path):
    check_start(model, load_for_mmengine(path), path)


def test_official_detectors_fit(tmp_path, detector):
    """As MMDetection 2.x writes them, with a training's state and class names in capitals."""
    path = saved(dict(state_dict=official_detector(detector), optimizer=dict(state={}),
                      meta=dict(CLASSES=('a', 'b'), PALETTE=[(1, 2, 3)] * 2, epoch=12, mmdet_version='2.25.0')),
                 tmp_path / 'detector.pth')
    content = load_for_mmengine(path)
    assert set(content) == {'state_dict', 'meta'}
    assert content['meta']['dataset_meta'] == dict(classes=('a', 'b'), palette=[(1, 2, 3)] * 2)
    assert_fits(detector, path)
    target = build(Config.fromfile(SHAPES_CONFIG).model)
    target.load_state_dict(content['state_dict'], strict=True)
    load_pretrained_backbone(target.backbone, path)
    assert_same_features(target.backbone, detector.backbone)


def test_a_checkpoint_to_test_must_hold_all_of_the_model_and_no_other(tmp_path, detector, source):
    weights = detector.state_dict()
    assert_fits(detector, saved(dict(state_dict=weights), tmp_path / 'a.pth'))
    assert_fits(detector, saved({f'module.{key}': value for key, value in weights.items()}, tmp_path / 'a.pth'))
    assert_fits(detector, saved({**weights, 'teacher.weight': torch.zeros(1)}, tmp_path / 'a.pth'))
    deeper = {**weights, 'backbone.stages.2.blocks.8.conv1.weight': torch.zeros(1)}
    with pytest.raises(CheckpointError, match='holds FasterNet of 40 channels and 1-2-9-2 blocks'):
        assert_fits(detector, saved(deeper, tmp_path / 'a.pth'))
    config = Config.fromfile(SHAPES_CONFIG).model
    config.backbone.out_norm = False
    with pytest.raises(CheckpointError, match=r'unknown backbone\.norm0\.weight'):
        assert_fits(build(config), saved(weights, tmp_path / 'a.pth'))
    odd = {**weights, 'backbone.stages.2.blocks.7.attention.weight': torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r'unknown backbone\.stages\.2\.blocks\.7\.attention\.weight'):
        assert_fits(detector, saved(odd, tmp_path / 'a.pth'))
    with pytest.raises(CheckpointError, match=r'lacks backbone\.norm0\.weight.*keys\)'):
        assert_fits(detector, saved(official_classifier(source), tmp_path / 'a.pth'))


def test_weights_where_mmengine_does_not_look_for_them_are_refused(tmp_path):
    """It would load none of them, and say so in the log only."""
    model = torch.nn.Linear(2, 3)
    assert_fits(model, saved(dict(state_dict=model.state_dict()), tmp_path / 'a.pth'))
    with pytest.raises(CheckpointError, match='lacks weight, bias'):
        assert_fits(model, saved(dict(model=model.state_dict()), tmp_path / 'a.pth'))


def test_keys_that_are_no_names_are_no_weights(detector):
    content = dict(state_dict={1: torch.zeros(1), **detector.state_dict()})
    check_fits(detector, content, 'a.pth')
    with pytest.raises(CheckpointError, match="'a.pth' does not fit this model"):
        check_fits(detector, {1: torch.zeros(1)}, 'a.pth')


def test_a_training_starts_from_any_checkpoint_with_its_backbone(tmp_path, detector, source):
    for weights in (official_classifier(source), source.state_dict(), convert(official_classifier(source), 'timm'),
                    official_detector(detector)):
        assert_starts(detector, saved(weights, tmp_path / 'a.pth'))
    heads = {key: value for key, value in detector.state_dict().items() if not key.startswith('backbone')}
    for weights, problem in ((FasterNet('t1').state_dict(), 'holds FasterNet-T1'), (heads, 'lacks stages')):
        with pytest.raises(CheckpointError, match=problem):
            assert_starts(detector, saved(weights, tmp_path / 'a.pth'))


def test_what_a_detector_does_not_use_may_be_there(tmp_path, detector):
    retinanet = build(Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_shapes.py').model.backbone.copy()
                      | dict(out_indices=(1, 2)))
    model = torch.nn.ModuleDict(dict(backbone=retinanet))
    model.backbone = retinanet
    assert_fits(model, saved(detector.state_dict(), tmp_path / 'a.pth'))


def test_a_training_of_another_network_starts_from_what_it_shares(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    assert_starts(model, saved({'0.weight': torch.zeros(3, 2)}, tmp_path / 'a.pth'))
    for weights in ({'weight': torch.zeros(3, 2)}, {'0.weight': torch.zeros(3, 3)}):
        with pytest.raises(CheckpointError, match='no weights in common'):
            assert_starts(model, saved(weights, tmp_path / 'a.pth'))


def test_pretrained_weights_are_the_same_from_the_file_and_from_what_mmengine_loads(tmp_path, source):
    backbone = FasterNet('t0')
    for weights in (official_classifier(source), convert(official_classifier(source), 'timm'), source.state_dict()):
        path = saved(weights, tmp_path / 'a.pth')
        for content in (read_checkpoint(path), load_for_mmengine(path)):
            found = check_pretrained(backbone, content, path)
            assert set(found) == set(source.state_dict())
            assert all(torch.equal(value, source.state_dict()[key]) for key, value in found.items())
    with pytest.raises(CheckpointError, match="'a.pth' does not fit.*holds FasterNet-T0, the model FasterNet-S"):
        check_pretrained(FasterNet('s'), read_checkpoint(path), 'a.pth')


def test_a_backbone_does_not_ask_for_a_classifiers_head(tmp_path, source):
    """timm's with num_classes=0 have half of one, which has no place in our classifier."""
    weights = convert(official_classifier(source), 'timm')
    weights = {key: value for key, value in weights.items() if not key.startswith('classifier.')}
    path = saved(weights, tmp_path / 'a.pth')
    assert check_pretrained(FasterNet('t0'), read_checkpoint(path), path)
    with pytest.raises(CheckpointError, match='lacks classifier'):
        load_for_mmengine(path)
