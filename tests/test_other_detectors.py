"""FasterNet under other detectors, trained for some iterations."""

import math

import pytest
from mmengine.config import Config

from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.engine.hooks.test_resume import losses


@pytest.mark.parametrize('name', ['faster_rcnn_fasternet_s_1x_coco', 'retinanet_fasternet_t2_1x_coco',
                                  'rtmdet-ins_fasternet_t0_300e_coco'])
def test_another_detector_trains(run_tool, shapes, tmp_path, name):
    """With its model, schedule, optimizer and hooks as they are, on small images."""
    cfg, data = Config.fromfile(ROOT / 'configs' / f'{name}.py'), Config.fromfile(SHAPES_CONFIG)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        cfg[key] = data[key]
    if name.startswith(('faster', 'retina')):
        cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
    heads = cfg.model.roi_head if 'roi_head' in cfg.model else cfg.model
    heads.bbox_head.num_classes = 4
    cfg.model.backbone.init_cfg = None
    cfg.visualizer.name = cfg.experiment_name = name
    cfg.dump(tmp_path / 'config.py')
    result = run_tool('train', tmp_path / 'config.py', '--work-dir', tmp_path / 'work', '--cfg-options',
                      *data_options(shapes), 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1',
                      'train_cfg.val_interval=1', 'default_hooks.logger.interval=1')
    assert result.code == 0, result.err
    found = losses(tmp_path / 'work')
    assert list(found) == [1, 2] and all(map(math.isfinite, found.values()))
    log = '\n'.join(path.read_text() for path in (tmp_path / 'work').glob('*/*.log'))
    assert 'coco/bbox_mAP' in log or 'The testing results of the whole dataset is empty' in log
