"""FasterNet under other detectors, and on data of one's own: trained for some iterations."""

import json
import math
import shutil

import pytest
from mmengine.config import Config

from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.engine.test_resuming import losses
from tests.test_readme import CONFIGS, written


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


def test_the_readmes_example_of_own_data_trains(run_tool, shapes, tmp_path, monkeypatch):
    """Cats and dogs, which are circles and squares here, from the README's config to an AP."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / 'data' / 'my_data'
    (own / 'images').mkdir(parents=True)
    for split in ('train', 'val'):
        content = json.loads((shapes / 'annotations' / f'instances_{split}.json').read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        kept = {'circle': (1, 'cat'), 'square': (2, 'dog')}
        annotations = [dict(row, category_id=kept[names[row['category_id']]][0]) for row in content['annotations']
                       if names[row['category_id']] in kept]
        for image in content['images']:
            shutil.copy(shapes / split / image['file_name'], own / 'images' / f"{split}-{image['file_name']}")
            image['file_name'] = f"{split}-{image['file_name']}"
        categories = [dict(id=number, name=name) for number, name in kept.values()]
        (own / f'{split}.json').write_text(
            json.dumps(dict(images=content['images'], annotations=annotations, categories=categories)))
    result = run_tool('train', written(tmp_path, CONFIGS[0]), '--cfg-options', 'model.backbone.init_cfg=None',
                      'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0',
                      'train_dataloader.persistent_workers=False', 'train_dataloader.dataset.pipeline.2.scale=(96, 96)',
                      'val_dataloader.dataset.pipeline.1.scale=(96, 96)', 'default_hooks.logger.interval=1',
                      'visualizer.name=own')
    assert result.code == 0, result.err
    found = losses(tmp_path / 'work_dirs' / 'config')
    assert len(found) == 4 and all(map(math.isfinite, found.values()))
