from types import SimpleNamespace

import pytest

from mmfasternet.engine.config import load_config
from mmfasternet.engine.loops import VALIDATED, EpochBasedTrainLoop
from mmfasternet.engine.train_test import train
from mmfasternet.errors import DataError
from tests.conftest import SHAPES_CONFIG, data_options


@pytest.mark.parametrize('loop', [dict(by_epoch=True, max_epochs=1), dict(by_epoch=False, max_iters=1)])
def test_a_batch_that_is_never_full(shapes, tmp_path, loop):
    """By epochs it would train on nothing and succeed, but for schedules by epochs, which fail."""
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)), str(tmp_path))
    cfg.train_dataloader.update(batch_size=9, drop_last=True)
    cfg.train_cfg, cfg.param_scheduler = loop, []
    with pytest.raises(DataError, match='the dataset has 8 images, fewer than a batch of 9, and drop_last=True'):
        train(cfg)


@pytest.mark.parametrize('epoch, iteration, length, done, expected, validated', [
    (1, 4, 4, 0, (0, 4), True),  # the end of an epoch
    (1, 6, 4, 2, (2, 6), False),  # in the middle of one
    (1, 2, 2, 0, (0, 4), True),  # epochs had fewer batches: counted as if they had had as many
    (1, 8, 8, 0, (0, 4), False),
    (1, 4, 2, 2, (4, 8), False),  # after the last iteration of one
    (1, 3, 2, 1, (0, 4), False),  # in the middle of one that is restarted
    (1, 4, None, 0, (0, 4), True),  # MMDetection's own checkpoints
    (1, 8, None, 4, (0, 4), False),
])
def test_the_position_in_an_epoch_of_four_batches(epoch, iteration, length, done, expected, validated):
    info, counted = {VALIDATED: iteration} if validated else {}, []
    runner = SimpleNamespace(
        model=None, message_hub=SimpleNamespace(runtime_info=info, update_info=info.__setitem__),
        optim_wrapper=SimpleNamespace(initialize_count_status=lambda model, done, total: counted.append((done, total))))
    loop = object.__new__(EpochBasedTrainLoop)
    loop._runner, loop.dataloader, loop.resumed_length = runner, range(4), length
    loop._epoch, loop._iter, loop._max_iters = epoch, iteration, 12
    assert (loop._batches_done(done), loop.iter) == expected
    assert info.get(VALIDATED) == (expected[1] if validated else None)
    assert counted == ([] if expected[1] == iteration else [(expected[1], 12)])
