"""FasterNet under other detectors, trained for some iterations."""

import math

import pytest
from mmengine.config import Config

from mmfasternet.engine.config import load_config
from mmfasternet.engine.train_test import train
from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.engine.hooks.test_resume import losses


@pytest.mark.slow
@pytest.mark.parametrize('name', ['faster_rcnn_fasternet_s_1x_coco', 'retinanet_fasternet_t2_1x_coco',
                                  'rtmdet-ins_fasternet_t0_300e_coco', 'rtmdet_fasternet_t0_300e_coco'])
def test_another_detector_trains(run_tool, shapes, tmp_path, name):
    """With its model, schedule, optimizer and hooks as they are, on small images."""
    cfg, data = Config.fromfile(ROOT / 'configs' / f'{name}.py'), Config.fromfile(SHAPES_CONFIG)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        cfg[key] = data[key]
    if name.startswith(('faster', 'retina', 'rtmdet_')):
        cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
        load = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'LoadAnnotations')
        load.with_mask = False  # which RTMDet's assigner would take for another kind
    heads = cfg.model.roi_head if 'roi_head' in cfg.model else cfg.model
    heads.bbox_head.num_classes = 4
    cfg.model.backbone.init_cfg = None
    cfg.experiment_name = name
    cfg.dump(tmp_path / 'config.py')
    result = run_tool('train', tmp_path / 'config.py', '--work-dir', tmp_path / 'work', '--cfg-options',
                      *data_options(shapes), 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1',
                      'train_cfg.val_interval=1', 'default_hooks.logger.interval=1')
    assert result.code == 0, result.err
    found = losses(tmp_path / 'work')
    assert list(found) == [1, 2] and all(map(math.isfinite, found.values()))
    log = '\n'.join(path.read_text() for path in (tmp_path / 'work').glob('*/*.log'))
    assert 'coco/bbox_mAP' in log or 'The testing results of the whole dataset is empty' in log


def scaled(value, names=('scale', 'img_scale', 'size', 'crop_size')):
    """A pipeline for images of 96 pixels instead of 640."""
    if isinstance(value, dict):
        return {key: tuple(x * 96 // 640 for x in item) if key in names else scaled(item)
                for key, item in value.items()}
    return [scaled(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_rtmdet_trains_by_its_own_pipelines(shapes, tmp_path):
    """Mosaics and mixtures of cached images first, then, in its last epochs, without them."""
    options = dict(option.split('=', 1) for option in data_options(shapes))
    cfg = load_config(str(ROOT / 'configs' / 'rtmdet_fasternet_t0_300e_coco.py'), work_dir=str(tmp_path))
    data = load_config(str(SHAPES_CONFIG), options)
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        pipeline = cfg[key].dataset.pipeline if 'dataset' in cfg[key] else None
        cfg[key] = data[key]
        if pipeline:
            cfg[key].dataset.pipeline = scaled(pipeline)
    hook = next(hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook')
    hook.update(switch_epoch=1, switch_pipeline=scaled(hook.switch_pipeline))
    cfg.merge_from_dict({
        'model.backbone.init_cfg': None, 'model.bbox_head.num_classes': 4, 'train_dataloader.batch_size': 4,
        'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 2, 'train_cfg.dynamic_intervals': None,
        'val_evaluator.metric': 'bbox', 'test_dataloader': None, 'test_evaluator': None, 'test_cfg': None,
        'default_hooks.logger.interval': 1})
    runner = train(cfg)
    found = losses(tmp_path)
    assert list(found) == [1, 2, 3, 4] and all(map(math.isfinite, found.values()))
    kinds = [type(step).__name__ for step in runner.train_dataloader.dataset.pipeline.transforms]
    assert 'RandomCrop' in kinds and 'CachedMosaic' not in kinds  # switched
