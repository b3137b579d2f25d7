import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel

from mmfasternet.benchmark.training import random_training_batch
from mmfasternet.engine.config import load_config
from mmfasternet.engine.training import TrainingHook, TrainingOptions
from mmfasternet.errors import ArgumentError, UserError
from tests.conftest import SHAPES_CONFIG, build


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build(load_config(str(SHAPES_CONFIG)).model).train()


def losses_and_gradients(model):
    """Those of a step on four images, whose batch norms then have enough to go by."""
    torch.manual_seed(0)  # of the samplers
    batch = random_training_batch((96, 128), 4)
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    losses.backward()
    return losses.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('form', ['plain', 'amp', 'channels-last', 'channels-last+compile', 'amp+channels-last'])
def test_forms_have_names(form):
    assert TrainingOptions.parse(form).form == form


def test_options_of_the_command_line():
    args = SimpleNamespace(amp=False, channels_last=False, compile=True)  # which implies the other
    assert TrainingOptions.of(args) == TrainingOptions(channels_last=True, compile=True)


@pytest.mark.parametrize('form', ['fast', 'amp+', 'plain+amp', ''])
def test_unknown_forms(form):
    with pytest.raises(ArgumentError, match='amp, channels-last, compile'):
        TrainingOptions.parse(form)


@pytest.mark.parametrize('form', ['channels-last', pytest.param('channels-last+compile', marks=pytest.mark.slow)])
def test_losses_and_gradients_stay_what_they_are(model, form):
    plain, faster = copy.deepcopy(model), copy.deepcopy(model)
    TrainingOptions.parse(form).apply_to_model(faster)
    assert list(faster.state_dict()) == list(plain.state_dict())
    weight = faster.neck.fpn_convs[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert (faster.backbone._compiled_call_impl is not None) == ('compile' in form)
    expected, gradients = losses_and_gradients(plain)
    actual, faster_gradients = losses_and_gradients(faster)
    assert actual == pytest.approx(expected, rel=1e-4)
    assert faster_gradients.keys() == gradients.keys() and len(gradients) > 100
    for name in ('backbone.stages.0.downsample.conv.weight', 'neck.fpn_convs.0.conv.weight',
                 'roi_head.mask_head.convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.weight'):
        difference = (faster_gradients[name] - gradients[name]).norm() / gradients[name].norm()
        assert difference < 1e-2, name


def test_the_hook_reaches_into_wrapped_models(model, monkeypatch):
    inner = copy.deepcopy(model)
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = inner
    TrainingHook(TrainingOptions(channels_last=True)).before_train(SimpleNamespace(model=wrapped))
    assert inner.neck.fpn_convs[0].conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: None)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(UserError, match=r'install g\+\+, or leave out --compile'):
        TrainingOptions(compile=True).apply_to_config(load_config(str(SHAPES_CONFIG)))
