"""A batch of one image with maps of one pixel: known before the training where it can be, else named where it comes."""

import copy

import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmfasternet.engine.last_batch import check_last_batch, named_norm_errors
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.errors import UserError
from tests.conftest import build
from tests.datasets.test_classification_checks import config
from tests.datasets.test_classification_checks import root as root  # noqa: F401  (a fixture)

SMALL = dict(embed_channels=8, depths=(1, 1, 1, 1))  # strides 4 to 32


def classifier(**options):
    return build(dict(
        type='ImageClassifier', backbone=dict(
            type='mmfasternet.FasterNet', arch=SMALL, out_indices=(3, ), out_norm=False, **options),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=64)), 'mmpretrain').train()


def batch_of(*sizes, channels=3):
    return dict(inputs=[torch.zeros(channels, *size) for size in sizes])


def check(count=9, batch_size=8, batch=None, drop_last=False, **options):
    loader = DataLoader(range(count), batch_size, drop_last=drop_last)
    check_last_batch(loader, classifier(**options), batch or batch_of((32, 32), (32, 32)))


def test_it_is_known_by_the_number_of_images_and_their_size():
    with pytest.raises(UserError) as caught:
        check()
    assert all(text in str(caught.value) for text in ('9 images', 'batches of 8', '32 x 32', 'drop_last=True',
                                                       'norm_eval'))
    with pytest.raises(ValueError, match='Expected more than 1 value'):
        classifier()(torch.rand(1, 3, 32, 32))  # as PyTorch says it
    with pytest.raises(UserError, match='60 x 63'):
        check(batch=batch_of((60, 63), (60, 63)))


@pytest.mark.parametrize('options', [
    dict(count=10), dict(count=8), dict(drop_last=True), dict(norm_eval=True), dict(norm_cfg=dict(type='LN2d')),
    dict(batch=batch_of((64, 32), (64, 32))),
    dict(batch=batch_of((32, 32), (64, 64))),  # which of them the last one has is open
    dict(in_channels=1, batch=batch_of((64, 64), channels=1)),
], ids=str)
def test_what_can_be_trained_passes(options):
    check(**options)


def test_the_model_and_the_random_numbers_stay():
    model = classifier(drop_path_rate=0.5)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    loader = DataLoader(range(9), 8)
    check_last_batch(loader, model, batch_of((64, 64)))
    with pytest.raises(UserError):
        check_last_batch(loader, model, batch_of((32, 32)))
    assert model.training and torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    model(torch.rand(2, 3, 64, 64)).sum().backward()  # nothing of the trial is left in it


def test_where_it_comes_it_is_named():
    model, batch = classifier(), batch_of((32, 32))
    with pytest.raises(UserError, match=r'^iteration 7: .*a map of \[1, 64, 1, 1\], from 1 image\).*batch_size'):
        with named_norm_errors(batch, 7):
            model(torch.stack(batch['inputs']))
    with pytest.raises(ValueError, match='^another$'), named_norm_errors(batch, 7):
        raise ValueError('another')


@pytest.mark.parametrize('loop', [dict(by_epoch=True, max_epochs=1),
                                  dict(type='IterBasedTrainLoop', max_iters=9)])
def test_the_loops_say_it(root, tmp_path, loop):  # noqa: F811
    cfg = config(root, pipeline=[dict(type=name) for name in ('LoadImageFromFile', 'PackInputs')])
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=32))
    cfg.merge_from_dict(dict(
        train_dataloader=dict(batch_size=5, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=loop, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), work_dir=str(tmp_path / 'work'),
        data_preprocessor=dict(mean=[0.], std=[255.])))
    cfg.model = dict(type='ImageClassifier', backbone=dict(
        type='mmfasternet.FasterNet', arch=SMALL, out_indices=(3, ), out_norm=False),
        neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=3, in_channels=64))
    cfg.val_dataloader = None
    runner = Runner.from_cfg(prepare(cfg, TrainOptions()))  # six images: five, and one
    with pytest.raises(UserError, match='the last batch of an epoch' if 'by_epoch' in loop else '^iteration 2: '):
        runner.train()
    assert runner.iter == (0 if 'by_epoch' in loop else 1)
