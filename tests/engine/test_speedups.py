import copy
from types import SimpleNamespace

import pytest
import torch

from mmfasternet.benchmark.subjects.training_steps import random_training_batch
from mmfasternet.engine.config import load_config
from mmfasternet.engine.speedups import SpeedUps, native_amp_types
from mmfasternet.errors import ArgumentError
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


@pytest.mark.parametrize('form', ['plain', 'float16', 'bfloat16', 'channels-last', 'channels-last+compile',
                                  'float16+channels-last', 'bfloat16+channels-last+compile'])
def test_forms_have_names(form):
    assert SpeedUps.parse(form).form == form


def test_options_of_the_command_line():
    args = SimpleNamespace(amp=None, channels_last=False, compile=True)  # which implies the other
    assert SpeedUps.of(args) == SpeedUps(channels_last=True, compile=True)


@pytest.mark.parametrize('form', ['fast', 'amp+', 'plain+amp', '', 'float16+bfloat16', 'amp+amp', 'auto'])
def test_unknown_forms(form):
    with pytest.raises(ArgumentError, match='float16 or bfloat16, channels-last and compile'):
        SpeedUps.parse(form)


@pytest.mark.parametrize('native, dtype', [(True, 'bfloat16'), (False, 'float16')])
def test_the_type_is_the_one_that_the_gpu_computes_in(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: native or including_emulation)
    assert SpeedUps.parse('amp+channels-last').form == f'{dtype}+channels-last'
    assert SpeedUps(amp='auto') == SpeedUps(amp=dtype)
    assert native_amp_types()[-1] == dtype


def test_other_types_are_refused():
    with pytest.raises(ArgumentError, match="float16 or bfloat16, got 'float8'"):
        SpeedUps(amp='float8')


@pytest.mark.parametrize('form', ['channels-last', pytest.param('channels-last+compile', marks=pytest.mark.slow)])
def test_losses_and_gradients_stay_what_they_are(model, form):
    plain, faster = copy.deepcopy(model), copy.deepcopy(model)
    SpeedUps.parse(form).apply_to_model(faster)
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
