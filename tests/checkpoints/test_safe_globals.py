import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmfasternet.checkpoints import register_safe_globals


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_training_checkpoint_loads_with_weights_only(trained):
    register_safe_globals()
    content = torch.load(trained / 'epoch_2.pth', weights_only=True, map_location='cpu')
    assert set(content) >= {'state_dict', 'optimizer', 'param_schedulers', 'message_hub', 'meta'}
    losses, _ = content['message_hub']['log_scalars']['train/loss'].data
    assert len(losses) == 4


def test_a_loss_curve_survives(tmp_path):
    torch.save(HistoryBuffer([1., 3.], [1, 1]), tmp_path / 'curve.pth')
    register_safe_globals()
    curve = torch.load(tmp_path / 'curve.pth', weights_only=True)
    assert curve.mean() == 2 and curve.statistics('max') == 3


@pytest.mark.parametrize('content, named', [
    (Reduced(print, 'code ran'), 'print'),
    (Reduced(getattr, HistoryBuffer, '__init__'), '__init__'),
    (Reduced(getattr, HistoryBuffer.mean, '__globals__'), 'mean'),
])
def test_what_could_lead_to_code_stays_refused(tmp_path, content, named):
    torch.save(dict(state_dict={}, meta=content), tmp_path / 'evil.pth')
    register_safe_globals()
    with pytest.raises(Exception, match=f'(?s)Weights only load failed.*{named}'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
