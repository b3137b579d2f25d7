"""The configs of microscopy: one recipe and one set of heads for all backbones."""

import pytest
import torch
from mmengine.config import Config

from mmfasternet.engine.config import load_config
from tests.conftest import ROOT, build

OURS = ROOT / 'configs' / 'mask_rcnn_fasternet_t0_nuclei.py'
PATHS = sorted((ROOT / 'configs').rglob('mask_rcnn_*_nuclei.py'))
PATHS = [path for path in PATHS if path.parent.name != '_base_']


def test_which_there_are():
    names = {path.stem.removeprefix('mask_rcnn_').removesuffix('_nuclei') for path in PATHS}
    assert names == {'fasternet_t0', 'fasternet_t1', 'fasternet_s', 'resnet18', 'resnet50', 'mobilenetv2',
                     'timm-fasternet-t0'}


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_all_but_the_backbone_is_the_same(path):
    configs = [Config.fromfile(each) for each in (path, OURS)]
    for cfg in configs:
        del cfg.model['backbone'], cfg.model.neck['in_channels'], cfg._cfg_dict['custom_imports']
    assert configs[0].to_dict() == configs[1].to_dict()


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_it_trains_from_scratch(path):
    model = build(load_config(str(path)).model)
    assert not model.backbone.init_cfg or 'Pretrained' not in str(model.backbone.init_cfg)
    model.train()
    maps = model.extract_feat(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 64 >> s, 96 >> s) for s in (2, 3, 4, 5)] + [(64, 1, 2)]
    sum(m.sum() for m in maps).backward()
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(norm.training for norm in norms)
    frozen = [name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad]
    assert not frozen


def test_the_control_is_the_same_network():
    ours, timms = (build(load_config(str(path)).model) for path in (
        OURS, ROOT / 'configs' / 'comparison' / 'mask_rcnn_timm-fasternet-t0_nuclei.py'))
    shapes = [sorted(tuple(p.shape) for p in model.backbone.parameters()) for model in (ours, timms)]
    norms = [(channels, ) for channels in (40, 80, 160, 320) for _ in 'wb']  # on the outputs, of ours alone
    assert shapes[0] == sorted([*shapes[1], *norms])
