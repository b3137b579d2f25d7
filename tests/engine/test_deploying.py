from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import Resize

from mmfasternet.deploy import DeployedBlock
from mmfasternet.engine.config import load_config
from mmfasternet.engine.deploying import DeployOptions, image_sizes, padded_size
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TestOptions
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build


def options(deploy=False, dtype='float32', compile=False, cuda_graphs=False):
    return DeployOptions.of(SimpleNamespace(deploy=deploy, dtype=dtype, compile=compile, cuda_graphs=cuda_graphs))


def num_deployed(model):
    return sum(isinstance(module, DeployedBlock) for module in model.modules())


def test_dtype_and_compile_imply_deploy():
    assert not options().deploy and options(deploy=True).deploy
    assert options(dtype='bfloat16').deploy and options(compile=True).deploy and options(cuda_graphs=True).deploy
    assert [options().form, options(True).form, options(compile=True).form] == ['eager', 'deploy', 'deploy, compile']
    assert options(cuda_graphs=True).form == 'deploy, CUDA graphs'
    assert options(compile=True, cuda_graphs=True).form == 'deploy, compile, CUDA graphs'


def test_graphs_without_a_gpu_are_one_line():
    with pytest.raises(UserError, match='--cuda-graphs needs a GPU'):
        options(cuda_graphs=True).apply(FasterNet('t0'), None)


def test_only_what_is_wanted_is_applied():
    model = FasterNet('t0')
    assert options().apply(model, None) is model
    deployed = options(dtype='bfloat16').apply(model, None)
    assert num_deployed(deployed) == 13 and num_deployed(model) == 0
    assert deployed.stages[0].downsample.conv.weight.dtype == torch.bfloat16


def test_within_test_time_augmentation():
    cfg = load_config(str(SHAPES_CONFIG))
    cfg = prepare(cfg, TestOptions('weights.pth', tta=True))
    model = build(cfg.model)
    deployed = options(deploy=True).apply(model, cfg)
    assert type(deployed) is type(model) and num_deployed(deployed.module) == 13 and num_deployed(model) == 0


def test_image_sizes_come_from_the_test_pipeline():
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    assert image_sizes(cfg) == [(800, 1344), (1344, 800), (1344, 1344)]
    cfg = prepare(cfg, TestOptions('weights.pth', tta=True))
    cfg.test_dataloader.dataset.pipeline = [dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert image_sizes(cfg) == [(800, 1344), (1344, 800), (1344, 1344)]
    for kind in ('mmdet.Resize', 'mmcv.Resize', Resize):
        cfg.test_dataloader.dataset.pipeline[0].type = kind
        assert image_sizes(cfg) == [(800, 1344), (1344, 800), (1344, 1344)]
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    with pytest.raises(UserError, match='Resize'):
        image_sizes(cfg)


def test_images_are_padded_as_the_preprocessor_does():
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    assert padded_size((800, 1280), cfg) == (800, 1280) and padded_size((801, 1333), cfg) == (832, 1344)


def test_graphs_are_for_the_sizes_that_are_given(monkeypatch):
    seen = []
    monkeypatch.setattr('mmfasternet.engine.deploying.to_deploy', lambda model, **options: seen.append(options))
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    cfg = load_config(str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'))
    options(compile=True).apply(FasterNet('t0'), cfg, [(800, 1280)])
    options(compile=True).apply(FasterNet('t0'), cfg)
    options(deploy=True).apply(FasterNet('t0'), cfg, [(800, 1280)])
    options(cuda_graphs=True).apply(FasterNet('t0'), cfg, [(800, 1280)])
    test_sizes = [(800, 1344), (1344, 800), (1344, 1344)]
    assert [each['sizes'] for each in seen] == [[(800, 1280)], test_sizes, (), [(800, 1280)]]
    assert [each['graphs'] for each in seen] == [False, False, False, True]
