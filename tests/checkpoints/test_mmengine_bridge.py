import json
import os
import pickle
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import addict
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from mmfasternet.checkpoints import (
    load_for_mmengine,
    load_pretrained_backbone,
    mmengine_bridge,
    read_ahead,
    read_checkpoint,
    reading,
    safe_loading,
    trust_checkpoints,
)
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from tests.checkpoints.hostile import Call, hostile_file

WEIGHTS = dict(weight=torch.zeros(1))


class Thing:
    """Of a package of somebody's."""


def read_back(path, **content):
    """What is left of some content in a file, read safely."""
    torch.save(dict(content, state_dict=WEIGHTS), path)
    return read_checkpoint(str(path))


def test_a_training_checkpoint_loads(trained):
    content = read_checkpoint(str(trained / 'epoch_2.pth'))
    assert set(content) >= {'state_dict', 'optimizer', 'param_schedulers', 'message_hub', 'meta'}
    losses, _ = content['message_hub']['log_scalars']['train/loss'].data
    assert len(losses) == 4


def test_a_loss_curve_survives(tmp_path):
    curve = read_back(tmp_path / 'a.pth', curve=HistoryBuffer([1., 3.], [1, 1]))['curve']
    assert curve.mean() == 2 and curve.statistics('max') == 3 and curve.min() == 1 and curve.current() == 3


@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int16', 'int32', 'int64', 'float16', 'float32', 'float64'])
def test_numpy_arrays_and_numbers_survive(tmp_path, dtype):
    array = np.array([0, 1, 3]).astype(dtype)
    content = read_back(tmp_path / 'a.pth', array=array, number=array[1])
    np.testing.assert_array_equal(content['array'], array)
    assert content['number'] == array[1] and content['array'].dtype == array.dtype
    again = pickle.loads(pickle.dumps(content['array']))  # as a training that was resumed saves it
    assert type(again) is np.ndarray and again.dtype == array.dtype and np.array_equal(again, array)


def test_shapes_and_orders_survive(tmp_path):
    array = np.arange(24.).reshape(2, 3, 4)
    arrays = dict(c=array, f=np.asfortranarray(array), cut=array[:, 1:, ::2], empty=np.zeros((0, 3)), zero=np.array(5.),
                  big_endian=array.astype('>f4'))
    for name, found in read_back(tmp_path / 'a.pth', arrays=arrays)['arrays'].items():
        np.testing.assert_array_equal(found, arrays[name])
        assert found.shape == arrays[name].shape


def test_numpy_1_arrays_load(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(WEIGHTS, curve=np.arange(3)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'numpy._core.multiarray', b'numpy.core.multiarray'))
    assert read_checkpoint(str(path))['curve'].tolist() == [0, 1, 2]


def test_parts_of_configs_survive(tmp_path):
    config = ConfigDict(model=dict(type='MaskRCNN', depths=(1, 2)), classes=['cat'])
    found = read_back(tmp_path / 'a.pth', config=config)['config']
    assert found == config and found.model.type == 'MaskRCNN'


def test_parts_of_configs_of_mmcv_1_become_dicts(tmp_path, monkeypatch):
    """Their class, derived from addict's, is gone from mmcv 2: such files can't be unpickled any more."""
    config_dict = type('ConfigDict', (addict.Dict, ), dict(__module__='mmcv.utils.config'))
    for name in ('mmcv.utils', 'mmcv.utils.config'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules['mmcv.utils.config'].ConfigDict = config_dict
    torch.save(dict(WEIGHTS, meta=dict(config=config_dict(a=1, b=dict(c=[2])))), tmp_path / 'old.pth')
    monkeypatch.undo()
    assert read_checkpoint(str(tmp_path / 'old.pth'))['meta']['config'] == dict(a=1, b=dict(c=[2]))


SCHEDULERS = dict(
    ConstantLR=dict(), CosineAnnealingLR=dict(T_max=5), CosineRestartLR=dict(
        periods=[2, 3], restart_weights=[1, 1], eta_min=0),
    ExponentialLR=dict(gamma=.5), LinearLR=dict(), MultiStepLR=dict(milestones=[2]), OneCycleLR=dict(
        eta_max=1, total_steps=9), PolyLR=dict(), StepLR=dict(step_size=2))


@pytest.mark.parametrize('name', sorted(SCHEDULERS))
def test_states_of_schedulers_load(tmp_path, name):
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=.1)
    scheduler = PARAM_SCHEDULERS.build(dict(type=name, optimizer=optimizer, **SCHEDULERS[name]))
    state = read_back(tmp_path / 'a.pth', optimizer=optimizer.state_dict(), state=scheduler.state_dict())['state']
    scheduler.load_state_dict(state)
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize('content, named', [
    (Call(print, 'code ran'), 'print'),
    (Call(eval, '1'), 'eval'),
    (Call(getattr, HistoryBuffer, '__init__'), '__init__'),
    (Call(getattr, HistoryBuffer.mean, '__globals__'), '__globals__'),
    (Call(getattr, torch.Tensor, 'mean'), 'mean'),
    (Call(getattr, torch._utils._rebuild_tensor, '__globals__'), '__globals__'),
    (Call(np.load, 'file.npy'), 'numpy.load'),
    # What numpy would take for pointers, or for more bytes than there are.
    (Call(np.ndarray, (1, ), np.dtype('O'), b'A' * 8), r'numpy.dtype\(O'),
    (np.array([None]), r'numpy.dtype\(O'),
    (np.array(['a']), r'numpy.dtype\(U1\)'),
    (np.zeros(1, dtype=[('a', 'O')]), 'numpy.dtype'),
    (Call(np._core.multiarray.scalar, np.dtype('f8'), b'123'), 'numpy.core.multiarray.scalar'),
    (Call(np._core.multiarray._reconstruct, dict, (0, ), b'b'), 'dict'),
    (Call(torch.load, 'file.pth'), 'torch.serialization.load'),
    (Call(__import__, 'os'), '__import__'),
])
def test_what_could_lead_to_code_is_refused_by_name(tmp_path, content, named):
    with pytest.raises(CheckpointError, match=f"a.pth' asks for .*{named}"):
        read_back(tmp_path / 'a.pth', meta=content)


@pytest.mark.parametrize('arguments', [((3, ), np.dtype('f8')), ((1, ), np.dtype('f8'), b'A' * 8)])
def test_arrays_are_not_constructed_over_given_bytes(tmp_path, arguments):
    with pytest.raises(CheckpointError, match='is broken'):
        read_back(tmp_path / 'a.pth', meta=Call(np.ndarray, *arguments))


@pytest.mark.parametrize('state', [
    (1, (100, ), np.dtype('f8'), False, b'A' * 8), (1, (1, ), np.dtype('f8'), False, [0]),
    (1, (-1, ), np.dtype('f8'), False, b''), (1, )])
def test_states_of_arrays_that_do_not_add_up_are_refused(tmp_path, state):

    class Spoilt(Call):

        def __reduce__(self):
            return (*self.call, state)

    with pytest.raises(CheckpointError, match='is broken|asks for numpy.ndarray.__setstate__'):
        read_back(tmp_path / 'a.pth', meta=Spoilt(np._core.multiarray._reconstruct, np.ndarray, (0, ), b'b'))


@pytest.mark.parametrize('state', [
    (3, '|', None, None, None, 200, 1, 0), (3, '|', ('a', ), None, None, -1, -1, 0), (3, )])
def test_states_of_types_that_are_more_than_a_number_are_refused(tmp_path, state):

    class Spoilt(Call):

        def __reduce__(self):
            return (*self.call, state)

    with pytest.raises(CheckpointError, match='is broken|asks for numpy.dtype.__setstate__'):
        read_back(tmp_path / 'a.pth', meta=Spoilt(np.dtype, 'f8', False, True))


def test_names_that_mmengine_knows_are_read_as_safely(tmp_path, monkeypatch):
    """Its maintained release allows getattr in these, by which a file can reach any function."""
    path = hostile_file(tmp_path, 'in meta')
    torch.save(dict(WEIGHTS, meta=Call(getattr, torch._utils._rebuild_tensor, '__globals__')), tmp_path / 'evil.pth')
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text(json.dumps(dict(hostile=path.name, evil='evil.pth')))
    for name, asked in (('hostile', 'posix.system'), ('evil', '__globals__')):
        for read in (read_checkpoint, lambda path: load_checkpoint(nn.Linear(1, 1), path)):
            with safe_loading(), pytest.raises(CheckpointError, match=asked):
                read(f'open-mmlab://{name}')
    assert not (tmp_path / 'ran').exists()


def test_threads_do_not_unlock_each_other(tmp_path):
    """One leaves while the other is still within it."""
    path, second_is_in, first_is_out = str(hostile_file(tmp_path, 'in meta')), threading.Event(), threading.Event()
    before = torch.serialization.get_safe_globals()

    def second():
        with safe_loading():
            second_is_in.set()
            first_is_out.wait()
            with pytest.raises(CheckpointError):
                load_checkpoint(nn.Linear(1, 1), path)
            with pytest.raises(pickle.UnpicklingError):
                torch.load(path, weights_only=False)

    with ThreadPoolExecutor() as pool:
        with safe_loading():
            waiting = pool.submit(second)
            second_is_in.wait()
        first_is_out.set()
        waiting.result()
    assert not (tmp_path / 'ran').exists() and 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    assert CheckpointLoader._get_checkpoint_loader('a.pth').__name__ == 'load_from_local'
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_variables_do_not_unlock_it(tmp_path, monkeypatch):
    path = hostile_file(tmp_path, 'in meta')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(CheckpointError, match='posix.system'):
        read_checkpoint(str(path))
    with safe_loading(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
    assert not (tmp_path / 'ran').exists()


def test_mmengine_loads_safely_within_it_and_as_before_behind_it(tmp_path):
    path, model, schemes = str(hostile_file(tmp_path, 'in meta')), nn.Linear(1, 1), dict(CheckpointLoader._schemes)
    with safe_loading():
        with pytest.raises(CheckpointError, match='posix.system'):
            load_checkpoint(model, path)
    assert not (tmp_path / 'ran').exists()
    with trust_checkpoints(), safe_loading():
        load_checkpoint(model, path)
    assert (tmp_path / 'ran').exists()
    assert dict(CheckpointLoader._schemes) == schemes
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    assert HistoryBuffer not in torch.serialization.get_safe_globals()


def test_others_safe_globals_are_kept(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([HistoryBuffer, Call])
    try:
        with safe_loading():
            read_back(tmp_path / 'a.pth', curve=HistoryBuffer())
        assert set(torch.serialization.get_safe_globals()) == {HistoryBuffer, Call, *before}
        # They do not count in the files that are read here.
        torch.save(dict(WEIGHTS, meta=Thing()), tmp_path / 'b.pth')
        torch.serialization.add_safe_globals([Thing])
        assert isinstance(torch.load(tmp_path / 'b.pth')['meta'], Thing)
        with pytest.raises(CheckpointError, match='asks for .*Thing'):
            read_checkpoint(str(tmp_path / 'b.pth'))
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_what_others_register_meanwhile_is_kept():
    before = torch.serialization.get_safe_globals()
    try:
        with safe_loading():
            torch.serialization.add_safe_globals([Thing])
        assert set(torch.serialization.get_safe_globals()) == {Thing, *before}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_a_file_does_not_change_the_methods_of_other_buffers(tmp_path):
    buffer = HistoryBuffer([1., 2., 6.], [1, 1, 1])
    buffer._statistics_methods = dict(buffer._statistics_methods, mean=HistoryBuffer.max)
    found = read_back(tmp_path / 'a.pth', curve=buffer)
    assert type(found['curve']) is HistoryBuffer and found['curve'].data[0].tolist() == [1, 2, 6]
    assert HistoryBuffer([1., 2., 6.], [1, 1, 1]).statistics('mean') == 3


def test_trust_holds_within_safe_loading(tmp_path):
    path = str(hostile_file(tmp_path, 'in meta'))
    with safe_loading():
        with trust_checkpoints():
            read_checkpoint(path)
        assert (tmp_path / 'ran').exists() and os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
        with pytest.raises(CheckpointError, match='posix.system'):
            read_checkpoint(path)


@pytest.fixture
def reads(monkeypatch):
    """Paths of the files that are read."""
    paths, read_file = [], reading._read_file
    monkeypatch.setattr(reading, '_read_file', lambda path, where: paths.append(path) or read_file(path, where))
    return paths


def test_what_was_read_ahead_is_read_once(tmp_path, reads):
    source, target, path = nn.Linear(2, 2), nn.Linear(2, 2), str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    with safe_loading():
        content = read_ahead(path)
        assert torch.equal(content['state_dict']['weight'], source.weight)
        loaded = load_checkpoint(target, path, map_location='cpu')
        assert len(reads) == 1 and loaded['state_dict']['weight'] is content['state_dict']['weight']
        assert torch.equal(target.weight, source.weight)
        # It was handed over: optimizers may go on with its tensors.
        again = load_checkpoint(target, path)
        assert len(reads) == 2 and again['state_dict']['weight'] is not content['state_dict']['weight']


@pytest.mark.parametrize('converted', [True, False])
def test_a_backbones_weights_are_read_once(tmp_path, reads, converted):
    source, target, path = FasterNet('t0'), FasterNet('t0'), str(tmp_path / 'a.pth')
    torch.save(source.state_dict(), path)
    target.init_cfg = dict(type='Pretrained', checkpoint=path)
    with safe_loading():
        content = read_ahead(path, converted)
        assert ('state_dict' in content) == converted
        target.init_weights()
        assert len(reads) == 1
        target.init_weights()
        assert len(reads) == 2
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    load_pretrained_backbone(target, path)
    assert len(reads) == 3


def test_nothing_is_kept_behind_the_outermost_safe_loading(tmp_path, reads):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=WEIGHTS), path)
    read_ahead(path)
    assert not mmengine_bridge._SafeLoading.kept
    with safe_loading():
        with safe_loading():
            read_ahead(path)
        assert set(mmengine_bridge._SafeLoading.kept) == {path}
    assert not mmengine_bridge._SafeLoading.kept
    load_for_mmengine(path)
    assert len(reads) == 3


def test_an_address_is_read_once(tmp_path, reads, monkeypatch):
    torch.save(dict(state_dict=WEIGHTS), tmp_path / 'a.pth')
    monkeypatch.setattr(reading, 'local_path', lambda path: tmp_path / path.rpartition('/')[2])
    with safe_loading():
        content = read_ahead('https://example.org/a.pth')
        assert CheckpointLoader.load_checkpoint('https://example.org/a.pth') is content
    assert len(reads) == 1
