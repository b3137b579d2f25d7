import argparse
import hashlib
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mmfasternet.checkpoints import convert_checkpoint, publish_checkpoint, read_checkpoint, trust_checkpoints
from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.models import FasterNet
from tests.official import official_classifier


def same(weights, others):
    return list(weights) == list(others) and all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.fixture
def official(tmp_path):
    weights = official_classifier(FasterNet('t0', out_norm=False), num_classes=10)
    torch.save(dict(model=weights), tmp_path / 'official.pth')
    return weights


def test_from_file_to_file_and_back(tmp_path, official):
    kind, new_kind = convert_checkpoint(str(tmp_path / 'official.pth'), str(tmp_path / 'ours.pth'))
    assert (kind.layout, kind.model, kind.num_classes) == ('official', 'classifier', 10)
    assert (new_kind.layout, new_kind.model, new_kind.num_classes) == ('mmfasternet', 'classifier', 10)
    assert set(torch.load(tmp_path / 'ours.pth')) == {'state_dict', 'meta'}
    convert_checkpoint(str(tmp_path / 'ours.pth'), str(tmp_path / 'timm.safetensors'), 'timm')
    model = timm.create_model('fasternet_t0', num_classes=10)
    model.load_state_dict(load_file(tmp_path / 'timm.safetensors'), strict=True)
    convert_checkpoint(str(tmp_path / 'timm.safetensors'), str(tmp_path / 'again.pth'), 'official')
    found = torch.load(tmp_path / 'again.pth')
    assert set(found) == set(official) and all(torch.equal(found[key], official[key]) for key in official)
    _, new_kind = convert_checkpoint(str(tmp_path / 'timm.safetensors'), str(tmp_path / 'bare.pth'), 'backbone')
    assert new_kind.model == 'backbone'
    FasterNet('t0', out_norm=False).load_state_dict(torch.load(tmp_path / 'bare.pth'), strict=True)


def test_class_names_survive(tmp_path, trained):
    source = str(trained / 'epoch_2.pth')
    names = read_checkpoint(source)['meta']['dataset_meta']['classes']
    for step, to in (('2x.pth', 'official'), ('3x.pth', 'mmfasternet'), ('3x.safetensors', 'mmfasternet')):
        convert_checkpoint(source, str(tmp_path / step), to)
        source = str(tmp_path / step)
    assert torch.load(tmp_path / '2x.pth')['meta']['CLASSES'] == names
    assert 'optimizer' not in torch.load(tmp_path / '2x.pth')
    assert read_checkpoint(str(tmp_path / '3x.safetensors'))['meta']['dataset_meta']['classes'] == names
    assert same(read_checkpoint(str(tmp_path / '3x.safetensors'))['state_dict'],
                dict(sorted(read_checkpoint(str(trained / 'epoch_2.pth'))['state_dict'].items())))


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, official, monkeypatch):
    source = str(tmp_path / 'official.pth')
    before = (tmp_path / 'official.pth').read_bytes()
    with pytest.raises(UserError, match=r'official\.pth. already exists'):
        convert_checkpoint(source, source)
    assert (tmp_path / 'official.pth').read_bytes() == before
    with pytest.raises(CheckpointError, match=r'cut\.pth. lacks head\.bias'):
        official.pop('head.bias')
        torch.save(official, tmp_path / 'cut.pth')
        convert_checkpoint(str(tmp_path / 'cut.pth'), str(tmp_path / 'out' / 'ours.pth'))
    assert not (tmp_path / 'out').exists()
    with pytest.raises(UserError, match=r"official\.pth/ours\.pth' can't be written"):
        convert_checkpoint(source, f'{source}/ours.pth')

    def full(content, file):
        file.write(b'half')
        raise RuntimeError('PytorchStreamWriter failed writing file: file write failed')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match=r"ours\.pth' can't be written: PytorchStreamWriter failed"):
        convert_checkpoint(source, str(tmp_path / 'out' / 'ours.pth'))
    assert not list((tmp_path / 'out').iterdir())


def test_shared_tensors_are_written_to_safetensors(tmp_path):
    weights = FasterNet('t0').state_dict()
    weights['norm0.bias'] = weights['norm0.weight']
    torch.save(weights, tmp_path / 'shared.pth')
    convert_checkpoint(str(tmp_path / 'shared.pth'), str(tmp_path / 'a.safetensors'), 'backbone')
    assert load_file(tmp_path / 'a.safetensors')['norm0.bias'].eq(1).all()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publishing_leaves_the_training_out_and_names_the_content(tmp_path, trained, suffix):
    source = trained / 'epoch_2.pth'
    path, dropped = publish_checkpoint(str(source), str(tmp_path / f'name{suffix}'))
    assert re.fullmatch(rf'name-[0-9a-f]{{8}}\{suffix}', path.name) and [*tmp_path.iterdir()] == [path]
    assert path.stem[-8:] == hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    content, before = read_checkpoint(str(path)), read_checkpoint(str(source))
    assert 'optimizer' in dropped
    assert set(dropped) == set(torch.load(source, weights_only=False)) - {'state_dict', 'meta'}
    assert set(content) == {'state_dict', 'meta'} and path.stat().st_size < 0.6 * source.stat().st_size
    assert set(content['state_dict']) == set(before['state_dict'])
    assert all(torch.equal(value, before['state_dict'][key]) for key, value in content['state_dict'].items())
    assert content['meta']['dataset_meta']['classes'] == before['meta']['dataset_meta']['classes']
    with pytest.raises(UserError, match=f'{path.name}. already exists'):  # the same content has the same name
        publish_checkpoint(str(source), str(tmp_path / f'name{suffix}'))
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_without_weights_is_not_published(tmp_path):
    torch.save(dict(epoch=1), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'a\.pth. has no weights in it, only epoch'):
        publish_checkpoint(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))


def test_weights_under_model_keep_their_meta(tmp_path):
    weights = FasterNet('t0').state_dict()
    torch.save(dict(model=weights, optimizer={}, meta=dict(CLASSES=('a', ))), tmp_path / 'a.pth')
    content = read_checkpoint(str(publish_checkpoint(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))[0]))
    assert content['meta'] == dict(CLASSES=('a', )) and set(content['state_dict']) == set(weights)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    meta = dict(args=argparse.Namespace(lr=1))
    torch.save(dict(state_dict=FasterNet('t0').state_dict(), meta=meta), tmp_path / 'a.pth')
    with trust_checkpoints():
        for write in (publish_checkpoint, convert_checkpoint):
            with pytest.raises(CheckpointError, match=r"b\.pth' was not written.*argparse\.Namespace"):
                write(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_others_may_read_what_is_written(tmp_path, official, suffix):
    convert_checkpoint(str(tmp_path / 'official.pth'), str(tmp_path / f'ours{suffix}'))
    (tmp_path / 'plain').touch()
    assert (tmp_path / f'ours{suffix}').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_safetensors_hold_tensors_only(tmp_path):
    torch.save(dict(weight=torch.zeros(1), extra=3), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'extra is a int, but \.safetensors holds tensors only'):
        publish_checkpoint(str(tmp_path / 'a.pth'), str(tmp_path / 'b.safetensors'))
    with pytest.raises(UserError, match="can't be written"):
        publish_checkpoint(str(tmp_path / 'a.pth'), '/')


def test_bare_weights_are_published_bare(tmp_path):
    weights = FasterNet('t0').state_dict()
    save_file(weights, tmp_path / 'a.safetensors')
    torch.save(weights, tmp_path / 'a.pth')
    assert set(torch.load(publish_checkpoint(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))[0])) == set(weights)
    published, _ = publish_checkpoint(str(tmp_path / 'a.safetensors'), str(tmp_path / 'b.safetensors'))
    assert set(load_file(published)) == set(weights)
