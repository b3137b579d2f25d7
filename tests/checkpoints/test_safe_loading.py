import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmfasternet.checkpoints import enforce_safe_loading


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_training_checkpoint_loads_with_weights_only(trained):
    enforce_safe_loading()
    content = torch.load(trained / 'epoch_2.pth', weights_only=True, map_location='cpu')
    assert set(content) >= {'state_dict', 'optimizer', 'param_schedulers', 'message_hub', 'meta'}
    losses, _ = content['message_hub']['log_scalars']['train/loss'].data
    assert len(losses) == 4


def test_a_loss_curve_survives(tmp_path):
    torch.save(HistoryBuffer([1., 3.], [1, 1]), tmp_path / 'curve.pth')
    enforce_safe_loading()
    curve = torch.load(tmp_path / 'curve.pth', weights_only=True)
    assert curve.mean() == 2 and curve.statistics('max') == 3


def test_numpy_1_arrays_load(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(curve=np.arange(3)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'numpy._core.multiarray', b'numpy.core.multiarray'))
    enforce_safe_loading()
    assert torch.load(path, weights_only=True)['curve'].tolist() == [0, 1, 2]


def test_unsafe_loading_is_overruled(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save(Reduced(print, 'code ran'), tmp_path / 'evil.pth')
    enforce_safe_loading()
    with pytest.raises(pickle.UnpicklingError, match='print'):
        torch.load(tmp_path / 'evil.pth', weights_only=False)


@pytest.mark.parametrize('content, named', [
    (Reduced(print, 'code ran'), 'print'),
    (Reduced(getattr, HistoryBuffer, '__init__'), '__init__'),
    (Reduced(getattr, HistoryBuffer.mean, '__globals__'), 'mean'),
])
def test_what_could_lead_to_code_stays_refused(tmp_path, content, named):
    torch.save(dict(state_dict={}, meta=content), tmp_path / 'evil.pth')
    enforce_safe_loading()
    with pytest.raises(Exception, match=f'(?s)Weights only load failed.*{named}'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
