"""The best checkpoint, where the metric that says so is not there."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmfasternet.engine.hooks import CheckpointHook
from mmfasternet.errors import UserError


class _Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.weight.sum()) if mode == 'loss' else [self.weight]


class _Metric(BaseMetric):

    def __init__(self, found):
        super().__init__()
        self.found = found

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(self.found)


def train(tmp_path, kind, save_best, metrics):
    loader = dict(dataset=[torch.zeros(1)], sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1,
                  num_workers=0, collate_fn=lambda batch: dict(inputs=batch))
    runner = Runner(
        _Model(), str(tmp_path), train_dataloader=loader, val_dataloader=loader, val_evaluator=[_Metric(metrics)],
        train_cfg=dict(by_epoch=True, max_epochs=1), val_cfg=dict(), optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1)), experiment_name=str(tmp_path), default_scope='mmengine',
        default_hooks=dict(checkpoint=kind(save_best=save_best, rule=None if save_best == 'auto' else 'greater')))
    runner.train()


def test_a_metric_of_another_name_is_one_line(tmp_path):
    with pytest.raises(KeyError):
        train(tmp_path / 'a', MMEngineCheckpointHook, 'accuracy/top5', {'accuracy/top1': 1.})
    with pytest.raises(UserError, match="save_best is 'accuracy/top5'.*'auto' or one of accuracy/top1$"):
        train(tmp_path / 'b', CheckpointHook, 'accuracy/top5', {'accuracy/top1': 1.})
    assert (tmp_path / 'b' / 'epoch_1.pth').exists()


@pytest.mark.parametrize('save_best', ['auto', 'coco/bbox_mAP'])
def test_a_metric_that_is_there(tmp_path, save_best):
    train(tmp_path / 'a', CheckpointHook, save_best, {'coco/bbox_mAP': 0.5})
    assert (tmp_path / 'a' / 'best_coco_bbox_mAP_epoch_1.pth').exists()
    train(tmp_path / 'b', CheckpointHook, save_best, {})  # of a detector that finds nothing yet: MMEngine warns
    assert not list((tmp_path / 'b').glob('best*'))


def test_a_detector_that_finds_nothing_yet_trains_on(tmp_path):
    """MMDetection's metric gives nothing then, and others do."""
    train(tmp_path, CheckpointHook, 'coco/bbox_mAP', {'speed/ms': 1.})
    assert (tmp_path / 'epoch_1.pth').exists() and not list(tmp_path.glob('best*'))
    assert 'gives no coco/bbox_mAP, only speed/ms' in next(tmp_path.glob('*/*.log')).read_text()
