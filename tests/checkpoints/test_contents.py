import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmfasternet.checkpoints import (
    convert_checkpoint,
    load_for_mmengine,
    load_pretrained_backbone,
    publish_checkpoint,
    read_checkpoint,
    reading,
)
from mmfasternet.checkpoints.contents import state_dict_of
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet


def networks():
    """A classifier's backbone and its average, told apart by a bias that is 1 and 2."""
    plain, average = FasterNet('t0'), FasterNet('t0')
    nn.init.constant_(plain.norm0.bias, 1.)
    nn.init.constant_(average.norm0.bias, 2.)
    return plain, average


def mmengines():
    """As MMEngine's own hook writes it: ``state_dict`` holds the average then."""
    plain, average = networks()
    hook = EMAHook()
    hook.src_model, hook.ema_model = plain, ExponentialMovingAverage(average)
    content = dict(state_dict=plain.state_dict(), meta={})
    hook.before_save_checkpoint(None, content)
    return content


def lightnings():
    plain, average = networks()
    module = nn.Module()
    module.model, module.ema_model = plain, AveragedModel(average)
    return dict(state_dict=module.state_dict(), epoch=3)


def under(plain_name, average_name):
    plain, average = networks()
    return {plain_name: plain.state_dict(), average_name: average.state_dict(), 'epoch': 3}


def rt_detrs():
    content = under('model', 'ema')
    return dict(content, ema=dict(module=content['ema'], updates=5))


CASES = {
    'MMEngine': (mmengines, 'ema_state_dict', 2.),
    'timm': (lambda: under('state_dict', 'state_dict_ema'), 'state_dict_ema', 1.),
    'ConvNeXt': (lambda: under('model', 'model_ema'), 'model_ema', 1.),
    'RT-DETR': (rt_detrs, 'ema', 1.),
    'Lightning': (lightnings, 'ema_model', 1.),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    make, name, taken = CASES[request.param]
    torch.save(make(), tmp_path / 'two.pth')
    return str(tmp_path / 'two.pth'), name, taken




def bias(content):
    weights = state_dict_of(content, '')
    return weights[next(key for key in weights if key.endswith('norm0.bias'))].unique().tolist()


def backbone_bias(path):
    backbone = FasterNet('t0')
    load_pretrained_backbone(backbone, path)
    return backbone.norm0.bias.unique().tolist()


def test_of_two_sets_of_weights_the_log_says_which_are_taken_and_how_to_take_the_others(case, monkeypatch):
    path, name, taken = case
    reading._log_once.cache_clear()
    lines = []
    monkeypatch.setattr(reading, 'print_log', lambda message, **kwargs: lines.append(message))
    assert bias(read_checkpoint(path)) == bias(load_for_mmengine(path)) == [taken]
    assert len(lines) == 1 and f"To use the others: '{path}#{name}'" in lines[0]
    assert ('averaged' in lines[0]) == (name == 'ema_state_dict')
    assert bias(read_checkpoint(f'{path}#{name}')) == [3. - taken]
    assert len(lines) == 1


def test_a_name_behind_the_file_holds_wherever_a_checkpoint_is_named(case, tmp_path):
    path, name, taken = case
    assert bias(load_for_mmengine(f'{path}#{name}')) == backbone_bias(f'{path}#{name}') == [3. - taken]
    assert backbone_bias(path) == [taken]
    published, dropped = publish_checkpoint(f'{path}#{name}', str(tmp_path / 'published.pth'))
    convert_checkpoint(f'{path}#{name}', str(tmp_path / 'converted.pth'), 'backbone')
    assert bias(torch.load(published)) == bias(torch.load(tmp_path / 'converted.pth')) == [3. - taken]
    assert list(FasterNet('t0').state_dict()) == list(torch.load(published)['state_dict']) and dropped == []


def test_what_publishing_drops_is_said(tmp_path):
    torch.save(under('state_dict', 'state_dict_ema'), tmp_path / 'two.pth')
    path, dropped = publish_checkpoint(str(tmp_path / 'two.pth'), str(tmp_path / 'published.pth'))
    assert bias(torch.load(path)) == [1.] and dropped == ['epoch', 'state_dict_ema']


def test_an_unknown_name_lists_those_that_are_there(tmp_path):
    torch.save(mmengines(), tmp_path / 'two.pth')
    with pytest.raises(CheckpointError, match=r"two\.pth' has no weights named 'ema', only ema_state_dict, "
                       'state_dict$'):
        read_checkpoint(str(tmp_path / 'two.pth#ema'))


def test_where_nothing_says_which_weights_to_take_they_are_to_be_named(tmp_path):
    torch.save(under('net', 'net_ema'), tmp_path / 'two.pth')
    with pytest.raises(CheckpointError, match=r"several sets of weights: net, net_ema.*two\.pth#net'"):
        read_checkpoint(str(tmp_path / 'two.pth'))
    assert bias(read_checkpoint(str(tmp_path / 'two.pth#net_ema'))) == [2.]


def test_a_file_may_have_a_number_sign_in_its_name(tmp_path):
    (tmp_path / 'run#1').mkdir()
    path = tmp_path / 'run#1' / 'a#b.pth'
    torch.save(FasterNet('t0').state_dict(), path)
    assert backbone_bias(str(path)) == [0.]
    with pytest.raises(CheckpointError, match=r"run#1/gone\.pth' does not exist"):
        read_checkpoint(str(tmp_path / 'run#1' / 'gone.pth'))


@pytest.mark.parametrize('beside', [
    dict(optimizer=dict(state={0: dict(step=torch.zeros(1))}, param_groups=[])),
    dict(generator=dict(cpu=torch.zeros(3))),
    dict(loss=dict(weight=torch.zeros(1))),
], ids=['optimizer', 'random state', 'loss'])
def test_the_state_of_a_training_is_no_further_weights(tmp_path, monkeypatch, beside):
    monkeypatch.setattr(reading, 'print_log', lambda *args, **kwargs: pytest.fail(args[0]))
    torch.save(dict(state_dict=FasterNet('t0').state_dict(), **beside), tmp_path / 'a.pth')
    read_checkpoint(str(tmp_path / 'a.pth'))
