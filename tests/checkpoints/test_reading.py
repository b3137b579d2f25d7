import json
import logging
import os
import pickle
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from mmfasternet.checkpoints import load_for_mmengine, read_checkpoint, reading, trust_checkpoints
from mmfasternet.checkpoints.contents import state_dict_of
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from tests.checkpoints.hostile import Call, hostile_file
from tests.conftest import UNREADABLE

WEIGHTS = dict(weight=torch.arange(6.).reshape(2, 3))


def assert_refused(path, *parts):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(path))
    text = str(caught.value)
    assert path.name in text and '\n' not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('where', ['alone', 'in meta', 'in a nested list', 'among the weights', 'as a key'])
def test_code_is_refused_by_name_and_not_run(tmp_path, where, legacy):
    path = hostile_file(tmp_path, where, _use_new_zipfile_serialization=not legacy)
    assert_refused(path, 'posix.system', '--trust-checkpoint')
    assert not (tmp_path / 'ran').exists()


def test_trust_lets_it_run(tmp_path):
    path = hostile_file(tmp_path, 'in meta')
    with trust_checkpoints(False):
        assert_refused(path, 'posix.system')
    assert not (tmp_path / 'ran').exists()
    with trust_checkpoints():
        assert read_checkpoint(str(path))['state_dict']['weight'].tolist() == [0]
    assert (tmp_path / 'ran').is_dir()
    assert_refused(path, 'posix.system')


def test_a_plain_pickle_that_calls_code_is_refused(tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'cos\nsystem\n(S"mkdir %s"\ntR.' % str(tmp_path / 'ran').encode())
    assert_refused(path)
    with open(path, 'rb') as file:
        pickle.load(file)  # it would have run
    assert (tmp_path / 'ran').exists()


def test_a_legacy_file_of_plain_data_loads(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(str(tmp_path / 'old.pth'))['weight'], WEIGHTS['weight'])


def test_formats_that_cannot_be_read_safely_are_named(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / 'script.pth')
    assert_refused(tmp_path / 'script.pth', "PyTorch's TorchScript format", '--trust-checkpoint')
    for name in ('storages', 'tensors', 'pickle'):
        (tmp_path / name).write_bytes(pickle.dumps(0, protocol=2))
    with tarfile.open(tmp_path / 'oldest.pth', 'w', format=tarfile.PAX_FORMAT) as tar:
        for name in ('storages', 'tensors', 'pickle'):
            tar.add(tmp_path / name, name)
    assert_refused(tmp_path / 'oldest.pth', "PyTorch's legacy .tar format", '--trust-checkpoint')


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('share', [0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_broken(tmp_path, share, legacy):
    path = tmp_path / 'cut.pth'
    torch.save(FasterNet('t0').state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    assert_refused(path)


@pytest.mark.parametrize('content', [b'', b'\x00' * 100, b'PK\x03\x04 cut', b'weights', b'\x80\x02}q\x00.',
                                     b'epoch 1 loss 0.5\n' * 50])
def test_other_content_is_refused_without_advice_to_trust_it(tmp_path, content):
    (tmp_path / 'odd.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.pth' is (broken|not a PyTorch checkpoint)") as caught:
        read_checkpoint(str(tmp_path / 'odd.pth'))
    assert '--trust-checkpoint' not in str(caught.value)


@pytest.mark.parametrize('content', [Call(torch.Size, 1, 2, 3), Call(bytearray, 1, 2, 3, 4), Call(OrderedDict, 5)],
                         ids=['size', 'bytes', 'dict'])
def test_arguments_that_make_no_sense_are_one_line(tmp_path, content):
    torch.save(dict(WEIGHTS, odd=content), tmp_path / 'odd.pth')
    assert_refused(tmp_path / 'odd.pth', 'is broken')


@pytest.mark.parametrize('device', [pytest.param('cuda', marks=pytest.mark.skipif(
    torch.cuda.is_available(), reason='needs a machine without a GPU')), 'gpu'])
def test_a_device_that_is_not_there_is_not_the_files_fault(tmp_path, device):
    torch.save(dict(a=torch.zeros(2)), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r"a\.pth' can't be loaded here: ") as caught:
        read_checkpoint(str(tmp_path / 'a.pth'), device)
    assert 'Remove' not in str(caught.value)


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   torch.OutOfMemoryError('CUDA out of memory')])
def test_a_lack_of_memory_is_not_the_files_fault(tmp_path, monkeypatch, error):
    torch.save(dict(a=torch.zeros(2)), tmp_path / 'a.pth')
    monkeypatch.setattr(torch, 'load', Mock(side_effect=error))
    with pytest.raises(CheckpointError, match=r"a\.pth' can't be loaded here: .*memory$") as caught:
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert 'Remove' not in str(caught.value)


def test_a_name_that_is_too_long_is_one_line():
    with pytest.raises(CheckpointError, match="a.pth' can't be read: File name too long"):
        read_checkpoint('a' * 300 + '.pth')


def test_small_files_do_not_fill_the_memory(tmp_path):
    torch.save(dict(a=torch.zeros(10**6)), tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, zipfile.ZipFile(
            tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(CheckpointError, match=r"bomb\.pth' unpacks to 4 MB, over 100 times its size"):
        read_checkpoint(str(tmp_path / 'bomb.pth'))
    torch.save(dict(a=torch.ones(1).expand(10**6, 10**7)), tmp_path / 'expanded.pth')
    assert read_checkpoint(str(tmp_path / 'expanded.pth'))['a'].shape == (10**6, 10**7)  # 40 TB


def test_weights_of_any_kind_are_looked_at(tmp_path):
    weights = dict(a=torch.zeros(2, 2).to_sparse(), b=torch.zeros(2, dtype=torch.float8_e4m3fn), e=3,
                   c=torch.zeros(2).half(), d=torch.ones(2, dtype=torch.int8))
    torch.save(weights, tmp_path / 'odd.pth')
    assert set(read_checkpoint(str(tmp_path / 'odd.pth'))) == set(weights)


def test_another_pickle_protocol_is_named_with_what_it_asks_for(tmp_path):
    path = hostile_file(tmp_path, 'in meta', pickle_protocol=4)
    assert_refused(path, 'another protocol', 'asks for posix.system', '--trust-checkpoint')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content, what', [
    (b'\n<!DOCTYPE html><html><body>Not found</body></html>', 'a web page'),
    (b'<html><head>', 'a web page'),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00', 'a pointer of Git LFS'),
])
def test_what_a_failed_download_leaves_is_named(tmp_path, content, what):
    for name in ('page.pth', 'page.safetensors'):
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, what, 'Remove it and download it again')


def test_what_is_no_checkpoint_is_named(tmp_path):
    assert_refused(tmp_path / 'nowhere.pth', 'does not exist', 'work_dirs')
    torch.save([1, 2], tmp_path / 'list.pth')
    assert_refused(tmp_path / 'list.pth', 'holds a list')
    assert_refused(tmp_path, 'is a folder')


@pytest.mark.skipif(not os.path.exists(UNREADABLE), reason='Linux has a file whose first bytes nobody can read')
def test_what_the_system_says_is_not_taken_for_a_broken_file():
    with pytest.raises(CheckpointError, match=f"^checkpoint '{UNREADABLE}' can't be read: Input/output error$"):
        read_checkpoint(UNREADABLE)


def test_trusted_files_of_absent_packages_are_one_line(tmp_path, monkeypatch):
    absent = types.ModuleType('absent')

    class Thing:
        pass

    Thing.__module__, Thing.__qualname__ = 'absent', 'Thing'
    absent.Thing = Thing
    monkeypatch.setitem(sys.modules, 'absent', absent)
    torch.save(dict(WEIGHTS, thing=Thing()), tmp_path / 'odd.pth')
    monkeypatch.delitem(sys.modules, 'absent')
    assert_refused(tmp_path / 'odd.pth', 'absent.Thing')
    with trust_checkpoints():
        assert_refused(tmp_path / 'odd.pth', "No module named 'absent'")


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_spoilt_weights_are_warned_of_by_name(tmp_path, monkeypatch, value):
    said = []
    monkeypatch.setattr(reading, 'print_log', lambda text, logger, level: said.append((text, level)))
    weights = FasterNet('t0').state_dict()
    weights['stages.1.blocks.0.conv1.weight'][3, 5] = value
    torch.save(dict(state_dict=weights), tmp_path / 'spoilt.pth')
    for _ in range(2):  # a run reads it several times
        read_checkpoint(str(tmp_path / 'spoilt.pth'))
    (text, level), = said
    assert level == logging.WARNING and 'spoilt.pth' in text and 'NaN' in text
    assert text.count('stages.') == 1 and 'stages.1.blocks.0.conv1.weight' in text


def test_safetensors(tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file(WEIGHTS, path)
    content = read_checkpoint(str(path))
    assert content['meta'] == {} and torch.equal(content['state_dict']['weight'], WEIGHTS['weight'])
    assert torch.equal(read_checkpoint(str(path), None)['state_dict']['weight'], WEIGHTS['weight'])  # as MMEngine may
    path.rename(tmp_path / 'weights.pth')
    assert torch.equal(read_checkpoint(str(tmp_path / 'weights.pth'))['state_dict']['weight'], WEIGHTS['weight'])
    save_file(WEIGHTS, path, dict(classes='cat,dog'))  # somebody's
    assert read_checkpoint(str(path))['meta'] == {}
    save_file(WEIGHTS, path, {reading.CLASSES_ENTRY: json.dumps(['cat', 'dog'])})
    assert read_checkpoint(str(path))['meta']['dataset_meta']['classes'] == ('cat', 'dog')
    path.write_bytes(path.read_bytes()[:-5])
    assert_refused(path, 'broken')
    path.write_bytes(b'')
    assert_refused(path, 'broken')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_device_is_the_callers(tmp_path, suffix):
    path = tmp_path / f'weights{suffix}'
    save_file(WEIGHTS, path) if suffix == '.safetensors' else torch.save(WEIGHTS, path)
    device = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    assert state_dict_of(read_checkpoint(str(path), device), str(path))['weight'].device == torch.device(device)


@pytest.mark.parametrize('wrap', [
    lambda weights: weights,
    lambda weights: dict(state_dict=weights, epoch=3),
    lambda weights: dict(model=weights, optimizer={}),
    lambda weights: {f'module.{key}': value for key, value in weights.items()},
    lambda weights: dict(state_dict={f'model.{key}': value for key, value in weights.items()}),
    lambda weights: dict(state_dict={f'module.model.{key}': value for key, value in weights.items()}),
    lambda weights: {f'_orig_mod.module.{key}': value for key, value in weights.items()},
    lambda weights: dict(epoch=3, net=weights),
    lambda weights: dict(n_averaged=torch.ones(1), **{f'module.{key}': value for key, value in weights.items()}),
    lambda weights: dict(state_dict={'criterion.teacher_model.fc.weight': torch.ones(1),
                                     **{f'model.{key}': value for key, value in weights.items()}}),
], ids=['bare', 'state_dict', 'model', 'DDP', 'Lightning', 'both', 'compiled', 'other name', 'averaged', 'distilled'])
def test_weights_are_found_wherever_trainers_put_them(tmp_path, wrap):
    weights = FasterNet('t0').state_dict()
    torch.save(wrap(weights), tmp_path / 'weights.pth')
    found = load_for_mmengine(str(tmp_path / 'weights.pth'))['state_dict']
    assert list(found) == [f'backbone.{key}' for key in weights]


def test_duplicate_keys_are_listed(tmp_path):
    weights = {f'module.{key}': value for key, value in FasterNet('t0').state_dict().items()}
    torch.save({'norm0.weight': torch.ones(40), **weights}, tmp_path / 'twice.pth')
    assert_refused(tmp_path / 'twice.pth', 'several keys for the same weights: norm0.weight')
