import pytest

from mmfasternet.engine.config import load_config
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
