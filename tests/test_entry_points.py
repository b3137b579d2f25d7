"""Published weights and names, through what users call: MMDetection's and MMPretrain's own functions and tools."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import timm
import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain import ImageClassificationInferencer, get_model

from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build, environment, randomize_norms
from tests.official import official_backbone, official_classifier, official_detector

CLASSIFIER = str(ROOT / 'configs' / 'fasternet_t0_in1k.py')


def assert_same_weights(model, other):
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope='module')
def detector():
    """A detector with random weights and norms that are no identity."""
    model = build(Config.fromfile(SHAPES_CONFIG).model).eval()
    randomize_norms(model)
    return model


@pytest.fixture
def detector_file(detector, tmp_path):
    """Its weights as the authors publish theirs: by MMDetection 2.x."""
    path = tmp_path / 'mask_rcnn_fasternet.pth'
    torch.save(dict(meta=dict(CLASSES=('circle', 'square', 'triangle', 'star')),
                    state_dict=official_detector(detector)), path)
    return str(path)


@pytest.fixture(scope='module')
def timms():
    """timm's classifier, which computes what ours must."""
    model = timm.create_model('fasternet_t0', num_classes=1000).eval()
    randomize_norms(model)
    return model


@pytest.fixture(params=['official', 'timm', 'ours', 'ours, bare backbone and head'])
def classifier_file(request, timms, tmp_path):
    from mmfasternet.checkpoints import convert
    weights = timms.state_dict()
    if request.param != 'timm':
        weights = convert(weights, 'official' if request.param == 'official' else 'mmfasternet')
    if 'bare' in request.param:
        weights = {key.removeprefix('backbone.'): value for key, value in weights.items()}
    torch.save(weights, tmp_path / 'classifier.pth')
    return str(tmp_path / 'classifier.pth')


def test_init_detector(detector, detector_file):
    found = init_detector(SHAPES_CONFIG, detector_file, device='cpu')
    assert_same_weights(found, detector)
    assert found.dataset_meta['classes'] == ('circle', 'square', 'triangle', 'star')
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(found.extract_feat(x), detector.extract_feat(x), strict=True):
            assert torch.equal(a, b)


def test_det_inferencer(detector, detector_file):
    assert_same_weights(DetInferencer(str(SHAPES_CONFIG), detector_file, device='cpu').model, detector)


@pytest.mark.slow
def test_mmdetections_tool_for_tests(shapes, trained, tmp_path):
    """A checkpoint of ours and the same weights by the authors' names give the same boxes, scores and masks."""
    cfg = trained / SHAPES_CONFIG.name
    ours = torch.load(trained / 'epoch_2.pth', weights_only=False)
    model = build(Config.fromfile(cfg).model)
    model.load_state_dict(ours['state_dict'])
    # Without the training's state, whose loss curves the original MMEngine does not read with this PyTorch.
    meta = dict(dataset_meta=ours['meta']['dataset_meta'])
    for name, weights in (('ours', model.state_dict()), ('official', official_detector(model))):
        torch.save(dict(meta=meta, state_dict=weights), tmp_path / f'{name}.pth')
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py'
    results = []
    for name in ('ours', 'official'):
        done = subprocess.run(
            [sys.executable, tool, cfg, tmp_path / f'{name}.pth', '--work-dir', tmp_path / name,
             '--out', tmp_path / f'{name}.pkl', '--cfg-options', 'model.test_cfg.rcnn.score_thr=0.'],
            env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert 'do not match exactly' not in done.stdout + done.stderr
        results.append(pickle.loads((tmp_path / f'{name}.pkl').read_bytes()))
    assert len(results[0]) == 6 and any(len(each['pred_instances']['scores']) for each in results[0])
    for a, b in zip(*results, strict=True):
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(a['pred_instances'][key], b['pred_instances'][key])


def test_get_model(timms, classifier_file):
    model = get_model(CLASSIFIER, pretrained=classifier_file)
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x), timms(x), rtol=1e-4, atol=1e-4)


def test_image_classification_inferencer(timms, classifier_file):
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # MMDetection's functions set theirs for good
        inferencer = ImageClassificationInferencer(CLASSIFIER, pretrained=classifier_file, device='cpu')
        scores = inferencer(image)[0]['pred_scores']
        batch = inferencer.model.data_preprocessor(next(inferencer.preprocess([image])))
    with torch.no_grad():
        expected = timms(batch['inputs']).softmax(1)[0].numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('kind', ['official', 'timm'])
def test_a_backbone_takes_a_classifiers_weights_but_for_its_head(timms, kind):
    from mmfasternet.checkpoints import convert
    weights = timms.state_dict() if kind == 'timm' else convert(timms.state_dict(), 'official')
    backbone = FasterNet('t0', out_norm=False).eval()
    with pytest.raises(RuntimeError, match='Unexpected key'):
        backbone.load_state_dict(weights)  # the head's
    head = {key for key in weights if not key.startswith(('patch_embed.', 'stages.'))}
    found = backbone.load_state_dict(weights, strict=False)
    assert found.missing_keys == [] and set(found.unexpected_keys) == head and len(head) == 3
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(backbone(x), timms.forward_intermediates(x, intermediates_only=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_at_any_prefix_and_in_any_model():
    class Other(torch.nn.Module):

        def __init__(self):
            super().__init__()
            self.image = torch.nn.ModuleDict(dict(encoder=FasterNet('t0', out_indices=(1, 3))))
            self.patch_embed = torch.nn.Linear(2, 2)  # a name that the authors' backbone has, too

    source, target = Other(), Other()
    weights = {f'image.encoder.{key}': value for key, value in official_backbone(source.image['encoder']).items()}
    weights.update({f'patch_embed.{key}': value for key, value in source.patch_embed.state_dict().items()})
    assert {'image.encoder.norm2.weight', 'image.encoder.norm6.weight'} <= weights.keys()
    assert not any(target.load_state_dict(weights))
    assert_same_weights(target, source)


def test_weights_of_another_size_are_an_error(capsys, tmp_path):
    weights = official_classifier(FasterNet('t1', out_norm=False))
    model = get_model(CLASSIFIER)
    with pytest.raises(RuntimeError, match=r'size mismatch for backbone\.stages\.0\.downsample\.conv\.weight'):
        model.load_state_dict(weights)
    torch.save(weights, tmp_path / 't1.pth')
    load_checkpoint(model, str(tmp_path / 't1.pth'))  # MMEngine lists them
    printed = ''.join(capsys.readouterr())
    assert 'size mismatch for backbone.stages.0.downsample.conv.weight' in printed


def test_what_fits_nowhere_is_listed_by_the_loader():
    weights = official_classifier(FasterNet('t0', out_norm=False))
    weights['stages.0.blocks.0.mlp.0.bias'] = torch.zeros(80)
    moved = weights.pop('patch_embed.norm.weight')
    weights['stages.0.downsample.norm.weight'] = moved  # ours among theirs
    weights['stages.1.norm.bias'], weights['stages.1.downsample.norm.bias'] = torch.ones(80), torch.zeros(80)
    found = get_model(CLASSIFIER).load_state_dict(weights, strict=False)
    assert set(found.unexpected_keys) == {
        'backbone.stages.0.blocks.0.conv1.bias', 'stages.0.downsample.norm.weight', 'stages.1.downsample.norm.bias'}
    assert found.missing_keys == ['backbone.stages.0.downsample.norm.weight']


NAMES = """
import json, sys, warnings
warnings.simplefilter('ignore')
for name in sys.argv[1].split():
    __import__(name)
import mmfasternet, mmpretrain
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain import ImageClassificationInferencer
import torch
assert 'site-packages' in mmfasternet.__file__, mmfasternet.__file__
found = dict(
    classifiers=mmpretrain.list_models('*fasternet*'),
    detectors=DetInferencer.list_models('mmdet', '.*fasternet.*'),
    loaded=[], types=[])
for build in (mmpretrain.get_model, ImageClassificationInferencer):
    model = build('fasternet_t0_in1k', pretrained='classifier.pth')
    model = getattr(model, 'model', model)
    found['loaded'].append(model(torch.ones(1, 3, 64, 64)).tolist())
inferencer = DetInferencer('mask_rcnn_fasternet_t0_1x_coco', 'detector.pth', device='cpu')
found['bias'] = inferencer.model.state_dict()['backbone.norm1.bias'].tolist()
found['types'].append(type(inferencer.model).__name__ + type(inferencer.model.backbone).__name__)
init_default_scope('mmdet')
for path in ('text.py', 'pure.py'):
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    found['types'].append(f'{type(model).__name__}{cfg.train_dataloader.batch_size}{model.backbone.frozen_stages}')
print(json.dumps(found))
"""
TEXT = """
_base_ = __import__('mmfasternet').config_path('mask_rcnn_fasternet_s_1x_coco')

model = dict(backbone=dict(init_cfg=None, frozen_stages=2))
train_dataloader = dict(batch_size=1)
"""
PURE = """
from mmengine.config import read_base

with read_base():
    from mmfasternet.configs.mask_rcnn_fasternet_s_1x_coco import *

model.merge(dict(backbone=dict(init_cfg=None, frozen_stages=2)))
train_dataloader.merge(dict(batch_size=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize('first', ['mmfasternet', 'mmpretrain mmdet.apis mmfasternet'])
def test_names_resolve_from_a_wheel_and_another_folder(wheel_python, tmp_path, timms, first):
    (tmp_path / 'text.py').write_text(TEXT)
    (tmp_path / 'pure.py').write_text(PURE)
    torch.save(timms.state_dict(), tmp_path / 'classifier.pth')
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_t0_1x_coco.py')
    detector = build(cfg.model)
    randomize_norms(detector)
    torch.save(dict(state_dict=official_detector(detector)), tmp_path / 'detector.pth')
    done = subprocess.run([wheel_python, '-c', NAMES, first], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    sizes = ('t0', 't1', 't2', 's', 'm', 'l')
    assert found['classifiers'] == sorted(f'fasternet_{size}_in1k' for size in sizes)
    assert {f'mask_rcnn_fasternet_{size}_1x_coco' for size in sizes} <= set(found['detectors'])
    assert found['types'] == ['MaskRCNNFasterNet', 'MaskRCNN12', 'MaskRCNN12']
    assert torch.equal(torch.tensor(found['bias']), detector.backbone.norm1.bias)
    with torch.no_grad():
        expected = timms(torch.ones(1, 3, 64, 64))
    for scores in found['loaded']:
        torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_names_are_added_once_however_often_the_package_is_loaded():
    code = """
import importlib, mmfasternet, mmpretrain
from mmengine.infer import BaseInferencer
importlib.reload(mmfasternet)
print(len(mmpretrain.list_models('fasternet')), len(BaseInferencer.list_models('mmdet', '.*fasternet.*')))
"""
    done = subprocess.run([sys.executable, '-c', code], env=environment(PYTHONPATH=str(ROOT)), capture_output=True,
                          text=True, timeout=300)
    assert done.stdout.splitlines()[-1:] == ['6 10'], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('first', ['mmengine.runner', 'mmfasternet'])
def test_mmengines_loader_knows_names_on_the_hub(first):
    """Without a network or a cache, it is our line that ends the reading."""
    code = f"""
import {first}, mmfasternet
from mmengine.runner import CheckpointLoader
for name in ('hf-hub:org/repo', 'hf://org/repo/a.pth'):
    try:
        CheckpointLoader.load_checkpoint(name)
    except Exception as error:
        print(type(error).__name__, 'HF_HUB_OFFLINE' in str(error))
"""
    done = subprocess.run([sys.executable, '-c', code], env=environment(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1'),
                          capture_output=True, text=True, timeout=300)
    assert done.stdout.count('CheckpointError True') == 2, done.stderr
