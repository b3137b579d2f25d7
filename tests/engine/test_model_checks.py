"""Settings of a model that must agree are compared before it runs; what is refused, the model itself can't do."""

import copy
import threading
from pathlib import Path

import mmdet
import pytest
import torch

from mmfasternet.deploy.dense import image_channels
from mmfasternet.engine import model_checks
from mmfasternet.engine.building import build_unloaded
from mmfasternet.engine.config import load_config
from mmfasternet.engine.model_checks import check_model
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG

T0 = str(ROOT / 'configs' / 'fasternet_t0_in1k.py')
CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*.py'))
GREY = {'model.backbone.in_channels': 1, 'model.data_preprocessor.mean': [1.], 'model.data_preprocessor.std': [1.],
        'model.data_preprocessor.bgr_to_rgb': False,
        **{f'{split}_dataloader.dataset.pipeline.0.color_type': 'grayscale' for split in ('train', 'val')}}


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(model_checks, 'print_log', lambda text, *args: texts.append(text))
    return texts


def config(changes, path=str(SHAPES_CONFIG)):
    cfg = load_config(str(path))
    cfg.merge_from_dict(changes)
    return cfg


def check(cfg, splits=('train', 'val')):
    model = build_unloaded(cfg)
    check_model(cfg, model, splits)
    return model


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_configs_of_ours_pass(path, warnings):
    check(config({}, path))
    assert warnings == []


@pytest.mark.parametrize('name', ['yolox/yolox_tiny_8xb8-300e_coco', 'yolact/yolact_r50_1xb8-55e_coco',
                                  'ssd/ssd300_coco', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco'])
def test_mmdetections_own_pass(name, warnings):
    """Those that slice images first, name fractions of strides, or take maps in another order."""
    cfg = load_config(str(Path(mmdet.__file__).parent / '.mim/configs' / f'{name}.py'))
    model = build_unloaded(cfg)
    assert image_channels(model) == 3
    check_model(cfg, model, ('train', 'val'))
    assert warnings == []


def test_the_model_stays():
    cfg = config({})
    model = build_unloaded(cfg)
    model.neck.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, state = {name: module.training for name, module in model.named_modules()}, torch.get_rng_state()
    check_model(cfg, model, ('train', ))
    assert {name: module.training for name, module in model.named_modules()} == modes and not model.neck.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_cannot_be_copied_passes():
    cfg = config({})
    model = build_unloaded(cfg)
    model.lock = threading.Lock()
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    check_model(cfg, model, ('train', ))


@pytest.mark.parametrize('changes, line', [
    ({'neck.in_channels': [64, 128, 256, 512]},
     'model.neck.in_channels is [64, 128, 256, 512], and model.backbone gives maps of [40, 80, 160, 320]'),
    ({'backbone.out_indices': (1, 2, 3)}, 'and model.backbone gives maps of [80, 160, 320] channels'),
    ({'backbone.arch': 's'}, 'and model.backbone gives maps of [128, 256, 512, 1024] channels'),
    ({'rpn_head.in_channels': 256}, 'model.rpn_head.in_channels is 256, and model.neck gives maps of 64 channels'),
    ({'roi_head.bbox_head.in_channels': 32}, 'model.roi_head.bbox_head.in_channels is 32'),
    ({'roi_head.mask_head.in_channels': 32}, 'model.roi_head.mask_head.in_channels is 32'),
    ({'roi_head.mask_roi_extractor.out_channels': 32}, 'model.roi_head.mask_roi_extractor.out_channels is 32, and'),
    ({'roi_head.bbox_head.roi_feat_size': 14},
     'model.roi_head.bbox_head.roi_feat_size is (14, 14), but model.roi_head.bbox_roi_extractor.roi_layer gives (7'),
    ({'neck.num_outs': 6}, 'model.rpn_head has anchors or points for 5 levels (its strides), but model.neck gives 6'),
])
def test_parts_of_a_detector_that_do_not_fit(changes, line):
    cfg = config({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(UserError) as caught:
        check(cfg)
    assert line in str(caught.value) and '\n' not in str(caught.value)
    if 'levels' not in line:  # those are met in the loss
        model = build_unloaded(cfg).eval()
        with pytest.raises((RuntimeError, AssertionError)), torch.no_grad():
            maps = model.extract_feat(torch.rand(1, 3, 64, 64))
            model.rpn_head(maps)
            for kind in ('bbox', 'mask'):
                extractor = getattr(model.roi_head, f'{kind}_roi_extractor')
                rois = extractor(maps[:4], torch.tensor([[0., 0., 0., 40., 40.]]))
                getattr(model.roi_head, f'{kind}_head')(rois)


@pytest.mark.parametrize('changes, line', [
    ({'model.head.in_channels': 512}, 'model.head.in_channels is 512, and model.backbone gives maps of 320 channels'),
    ({'model.head.num_classes': 3}, 'data_preprocessor.num_classes is 1000, for mixing labels, but model'),
])
def test_parts_of_a_classifier_that_do_not_fit(changes, line):
    with pytest.raises(UserError) as caught:
        check(config(changes, T0))
    assert line in str(caught.value)
    check(config({'model.head.num_classes': 3, 'model.train_cfg': None}, T0))  # nothing is mixed


@pytest.mark.parametrize('changes, line', [
    ({'model.data_preprocessor.mean': [1.] * 3, 'model.data_preprocessor.std': [1.] * 3},
     'data_preprocessor.mean has 3 values, but model.backbone takes images of 1 channel'),
    ({'model.data_preprocessor.bgr_to_rgb': True}, 'bgr_to_rgb is True, but model.backbone takes images of 1 channel'),
    ({'val_dataloader.dataset.pipeline.0.color_type': 'color'},
     "val_dataloader.dataset.pipeline loads images with color_type='color', which gives 3 channels, but model.backbone "
     "takes images of 1 channel: set model.backbone.in_channels=3, or color_type='grayscale'"),
    ({'model.backbone.in_channels': 3}, "color_type='grayscale', which gives 1 channel"),
])
def test_images_of_other_channels(changes, line):
    check(config(GREY))
    with pytest.raises(UserError) as caught:
        check(config({**GREY, **changes}))
    assert line in str(caught.value)


def test_what_is_not_known_passes():
    place = 'train_dataloader.dataset.pipeline.0'
    own = {f'{place}.type': 'own.LoadFromStore', f'{place}.color_type': 'color'}
    check(config({**GREY, **own}))
    check(config({**GREY, 'val_dataloader.dataset.pipeline.0.color_type': 'unchanged'}))
    check(config({**GREY, 'val_dataloader.dataset.pipeline.0.color_type': 'color'}), ('train', ))


def test_anchors_of_other_strides_are_warned_of(warnings):
    check(config({'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]}))
    assert warnings == ['model.rpn_head has anchors or points with strides [8, 16, 32, 64, 128], but the maps of '
                        'model.neck have strides [4, 8, 16, 32, 64]']
