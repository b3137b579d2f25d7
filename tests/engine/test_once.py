"""A run builds its model once, and reads its checkpoint once."""

import pytest
from mmdet.models import MaskRCNN
from mmpretrain.models import ImageClassifier

from mmfasternet.checkpoints import reading
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.engine.inference import predict
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from mmfasternet.engine.train_test import test as run_test
from mmfasternet.engine.train_test import train
from tests.conftest import SHAPES_CONFIG, data_options
from tests.engine.hooks.test_resume import shapes_config


@pytest.fixture
def counts(monkeypatch):
    """How many models were built and files read."""
    found = dict(built=0, read=0)

    def counting(owner, name, key):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            found[key] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    counting(MaskRCNN, '__init__', 'built')
    counting(ImageClassifier, '__init__', 'built')
    counting(reading, '_read_file', 'read')
    return found


@pytest.mark.slow
def test_training(shapes, tmp_path, counts):
    train(shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1}))
    assert counts == dict(built=1, read=0)


@pytest.mark.slow
def test_training_from_pretrained_weights(shapes, trained, tmp_path, counts):
    cfg = shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1})
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(trained / 'epoch_2.pth'))
    train(cfg)
    assert counts == dict(built=1, read=1)


@pytest.mark.slow
@pytest.mark.parametrize('resume', [True, False])
def test_training_from_a_checkpoint(shapes, trained, tmp_path, counts, resume):
    cfg = shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 3, 'train_dataloader.batch_size': 4})
    cfg.load_from = str(trained / 'epoch_2.pth')
    train(cfg, TrainOptions(resume=cfg.load_from if resume else None))
    assert counts == dict(built=1, read=1)


def test_testing(shapes, trained, tmp_path, counts):
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)), str(tmp_path))
    run_test(cfg, TestOptions(str(trained / 'epoch_2.pth')))
    assert counts == dict(built=1, read=1)


def test_prediction(shapes, trained, tmp_path, counts):
    image = str(next((shapes / 'val').iterdir()))
    predict(load_config(str(SHAPES_CONFIG)), str(trained / 'epoch_2.pth'), [image], str(tmp_path), 'cpu')
    assert counts == dict(built=1, read=1)


def test_what_benchmarks_and_exports_build(trained, counts):
    build_model(load_config(str(SHAPES_CONFIG)), str(trained / 'epoch_2.pth'))
    assert counts == dict(built=1, read=1)
