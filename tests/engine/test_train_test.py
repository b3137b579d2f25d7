import pytest
import torch
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.train_test import train
from mmfasternet.errors import UserError
from tests.engine.hooks.test_resume import assert_alike, losses, shapes_config


@RUNNERS.register_module()
class OwnRunner(Runner):
    pass


@pytest.mark.parametrize('kind', ['OwnRunner', OwnRunner])
def test_runners_of_others(shapes, tmp_path, kind):
    runner = train(shapes_config(shapes, tmp_path, runner_type=kind, **{'train_cfg.max_epochs': 1}))
    assert type(runner) is OwnRunner and len(losses(tmp_path)) == 4


def test_an_unknown_runner_is_named(shapes, tmp_path):
    with pytest.raises(UserError, match="runner_type 'NoRunner' is not registered"):
        train(shapes_config(shapes, tmp_path / 'work', runner_type='NoRunner'))
    assert not (tmp_path / 'work').exists()


def test_the_log_says_what_was_added_and_how_to_omit_it(shapes, tmp_path):
    train(shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'mmfasternet.omit': ['SeedHook']}))
    log = next(tmp_path.glob('*/*.log')).read_text()
    line, = [line for line in log.splitlines() if 'mmfasternet added to the config' in line]
    assert 'SeedHook' not in line and 'FiniteLossHook' in line and 'mmfasternet.omit=[StopHook]' in line


@pytest.mark.slow
def test_losses_are_bit_identical_to_those_of_mmengines_own_way(shapes, tmp_path):
    """Without our parts, a config with a seed trains as by MMEngine's ``Runner.from_cfg``.

    ``CurvesHook`` is there, and takes no random number.
    """
    parts = ['LoadImageFromFile', 'EpochBasedTrainLoop', 'SeededSampler', 'CheckpointHook', 'SeedHook', 'ResumeHook',
             'FiniteLossHook', 'NameImagesHook', 'StopHook']
    train(shapes_config(shapes, tmp_path / 'ours', **{'train_cfg.max_epochs': 1, 'mmfasternet.omit': parts}))
    Runner.from_cfg(shapes_config(shapes, tmp_path / 'theirs', **{'train_cfg.max_epochs': 1})).train()
    assert len(losses(tmp_path / 'ours')) == 4
    assert_alike(losses(tmp_path / 'ours'), losses(tmp_path / 'theirs'))


@pytest.mark.slow
def test_a_training_starts_from_a_detector_of_other_classes(shapes, trained, tmp_path):
    """Layers with another number of classes are new, everything else is the detector's, as docs/own_data.md says."""
    classes = dict(classes=('circle', 'star'))
    cfg = shapes_config(shapes, tmp_path, **{
        'train_cfg.max_epochs': 1, 'optim_wrapper.optimizer.lr': 0., 'train_dataloader.dataset.metainfo': classes,
        'model.roi_head.bbox_head.num_classes': 2, 'model.roi_head.mask_head.num_classes': 2})
    cfg.load_from = str(trained / 'epoch_2.pth')
    weights = read_checkpoint(cfg.load_from)['state_dict']
    of_classes = {f'roi_head.{name}.{part}' for part in ('weight', 'bias')
                  for name in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')}
    for name, parameter in train(cfg).model.named_parameters():
        assert (parameter.shape == weights[name].shape) is (name not in of_classes), name
        assert name in of_classes or torch.equal(parameter, weights[name]), name


def test_each_run_of_a_process_writes_its_own_curves(shapes, tmp_path):
    for name in ('first', 'second'):
        cfg = shapes_config(shapes, tmp_path / name, **{'train_cfg.max_epochs': 1, 'visualizer.name': f'of {tmp_path}'})
        train(cfg)
    assert [len(losses(tmp_path / name)) for name in ('first', 'second')] == [4, 4]
