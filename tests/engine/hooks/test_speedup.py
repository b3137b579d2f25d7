import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmengine.model import MMDistributedDataParallel

from mmfasternet.engine.config import load_config
from mmfasternet.engine.hooks import SpeedUpHook
from tests.conftest import SHAPES_CONFIG, build


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build(load_config(str(SHAPES_CONFIG)).model).train()


def extractor_hooks(model):
    return [hook for module in model.modules() if isinstance(module, BaseRoIExtractor)
            for hook in module._forward_pre_hooks.values()]


@pytest.mark.parametrize('of_config, kept', [(None, False), (torch.float16, False), (torch.bfloat16, True)])
def test_rois_stay_in_float32_in_bfloat16(model, of_config, kept):
    own = copy.deepcopy(model)
    runner = SimpleNamespace(model=own, optim_wrapper=SimpleNamespace(cast_dtype=of_config))
    hook = SpeedUpHook()
    hook.before_train(runner)
    assert len(extractor_hooks(own)) == (2 if kept else 0)  # of boxes and of masks
    hook.after_loop(runner)
    assert extractor_hooks(own) == []


def test_a_training_without_a_loss_scale_can_go_on_with_one():
    hook, without, scale = SpeedUpHook(), dict(state={}, loss_scaler={}), dict(scale=512.)
    hook.after_load_checkpoint(None, dict(optimizer=without))
    assert without == dict(state={})
    kept = dict(optimizer=dict(loss_scaler=scale))
    hook.after_load_checkpoint(None, kept)
    assert kept['optimizer']['loss_scaler'] == scale
    hook.after_load_checkpoint(None, dict(state_dict={}))


def test_the_hook_reaches_into_wrapped_models(model):
    inner = copy.deepcopy(model)
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = inner
    SpeedUpHook(channels_last=True).before_train(SimpleNamespace(model=wrapped, optim_wrapper=None))
    assert inner.neck.fpn_convs[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
