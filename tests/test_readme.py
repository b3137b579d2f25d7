"""The README's examples do what it says."""

import re

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmfasternet.models import FasterNet
from tests.conftest import ROOT

README = (ROOT / 'README.md').read_text()
CONFIGS = [block for block in re.findall(r'```python\n(.*?)```', README, re.S) if '_base_' in block]


def written(folder, text):
    path = folder / 'config.py'
    path.write_text(text.replace("'./mask", f"'{ROOT}/configs/mask"))
    return path


@pytest.mark.parametrize('text', CONFIGS)
def test_example_configs_build(tmp_path, text):
    cfg = Config.fromfile(written(tmp_path, text))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
        assert isinstance(model.backbone, FasterNet)
        with torch.no_grad():
            assert len(model.extract_feat(torch.rand(1, 3, 64, 64))) == 5


def test_own_data_example_reaches_every_place(tmp_path):
    cfg = Config.fromfile(written(tmp_path, CONFIGS[0]))
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == ('cat', 'dog') and dataset.data_root == 'data/my_data/'
        assert dataset.data_prefix.img == 'images/'
    assert cfg.test_evaluator.ann_file == 'data/my_data/val.json'
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 2


def test_tables_agree_with_the_code():
    for arch, settings in FasterNet.arch_settings.items():
        model = FasterNet(arch)
        channels = ', '.join(map(str, model.stage_channels))
        blocks = ', '.join(map(str, settings['depths']))
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        row = f"| `{arch}` | {channels} | {blocks} | {settings['act_cfg']['type']} | {millions:.1f} M |"
        assert row in README
        assert row.split('|')[2].strip() in FasterNet.__doc__


@pytest.mark.parametrize('arch', list(FasterNet.arch_settings))
def test_the_table_of_the_imagenet_recipe_agrees_with_the_configs(arch):
    cfg = Config.fromfile(ROOT / 'configs' / f'fasternet_{arch}_in1k.py')
    row = next(line for line in README.splitlines() if line.startswith(f'| `fasternet_{arch}_in1k.py`'))
    batch_size, lr, weight_decay, drop_path, magnitude, mixup, clipping = [
        None if cell.strip() == '-' else float(cell) for cell in row.split('|')[2:9]]
    assert batch_size == cfg.auto_scale_lr.base_batch_size and lr == cfg.optim_wrapper.optimizer.lr
    assert weight_decay == cfg.optim_wrapper.optimizer.weight_decay
    assert drop_path == cfg.model.backbone.get('drop_path_rate', 0)
    augment = [t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandAugment']
    assert magnitude == (augment[0].magnitude_level if augment else None)
    assert mixup == cfg.model.train_cfg.augments[0].alpha
    assert clipping == (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm')


@pytest.mark.parametrize('path',
                         re.findall(r'(?:configs|tools|requirements|mmfasternet)/[\w/]+\.(?:py|sh|txt)', README))
def test_named_files_exist(path):
    assert (ROOT / path).is_file() or path == 'configs/my_data.py'
