"""Speed, memory and loss curve of training, with and without speed-ups."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject
from mmfasternet.benchmark.reporting.plots import curves
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.detectors import propose_alike, random_batch
from mmfasternet.deploy.dense import image_channels
from mmfasternet.engine.building import Batch, build_unloaded
from mmfasternet.engine.config import config_digest, is_classifier, scope_of
from mmfasternet.engine.config_steps import with_speed_ups
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.engine.train_test import train
from mmfasternet.errors import UserError
from mmfasternet.files import write_atomically

KIND = 'training'
#: Objects in a random image: as many as in an image of COCO's training set on average, rounded.
NUM_OBJECTS = 7
#: Loss curves in the folder of a suite.
LOSSES = 'losses.json'
#: The share of a curve, at its end, whose mean is compared.
LAST_SHARE = 0.2
_POSITIVE_IOU = 0.1


def training_entry(cfg: Config,
                   name: str,
                   device: torch.device,
                   options: SpeedUps,
                   size: Tuple[int, int] = (800, 1333),
                   batch_size: int = 2) -> Entry:
    """A detector's training step as an entry of a suite: preprocessing, forward, backward, and the optimizer's step.

    Weights are random, and the learning rate is 0, so that each step does the
    same work. A two-stage detector's RPN proposes the same boxes for any
    backbone. Few of them overlap an object enough, and the mask head would
    have little to do: here, proposals with an IoU of 0.1 count as positive,
    which fills the positive share of the samples.

    Args:
        cfg: Config of a detector; its batch size is ignored.
        name: Its name; ``options`` are appended.
        device: Device to train on.
        options: Speed-ups.
        size: Height and width of the images in pixels.
            Defaults to (800, 1333).
        batch_size: Batch size. Defaults to 2.

    Raises:
        UserError: If the config is for a classifier, or the options don't work
            on the device; when the entry is built, if its model can't be
            built.
    """
    if is_classifier(cfg):
        raise UserError(f"'{cfg.filename}' is the config of a classifier: this benchmark is for detectors")
    conditions = Conditions((size, ), batch_size, getattr(torch, options.amp or 'float32'),
                            'NHWC' if options.channels_last else 'NCHW', replace(options, compile=False).form,
                            compiled=options.compile)
    if options.amp and device.type == 'cpu':
        raise UserError(f'automatic mixed precision in {options.amp} needs a GPU: choose --forms without it')
    own = with_speed_ups(cfg, options)
    _find_positives(own.model)

    def build() -> Subject:
        torch.manual_seed(0)
        model = build_unloaded(own).to(device).train()
        propose_alike(model)
        options.apply_to_model(model)
        with DefaultScope.overwrite_default_scope(scope_of(own)):
            optimizer = build_optim_wrapper(model, own.optim_wrapper)
        for group in optimizer.param_groups:
            group['lr'] = 0.
        batch = random_training_batch(size, batch_size, image_channels(model))
        return Subject(lambda: _step(model, batch, optimizer))

    return Entry(f'{name}, {options.form}', conditions, build, KIND, name,
                 config_digest(cfg, 'model', 'optim_wrapper'))


def random_training_batch(size: Tuple[int, int], batch_size: int = 2, channels: int = 3) -> Batch:
    """A batch as from a detector's training pipeline: random images with boxes and masks of ellipses.

    Args:
        size: Height and width in pixels.
        batch_size: Images.
        channels: Channels of an image. Defaults to 3.
    """
    batch = random_batch(size, batch_size, channels)
    rng = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    for sample in batch['data_samples']:
        masks, boxes = [], []
        for _ in range(NUM_OBJECTS):
            h, w = rng.uniform(0.1, 0.6, 2) * size
            y, x = rng.uniform(0, 1, 2) * (height - h, width - w)
            masks.append(((rows - y) / h - 0.5)**2 + ((columns - x) / w - 0.5)**2 <= 0.25)
            boxes.append((x, y, x + w, y + h))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.zeros(NUM_OBJECTS, dtype=torch.long),
            masks=BitmapMasks(np.stack(masks).astype(np.uint8), height, width))
    return batch


def loss_curve(cfg: Config, options: SpeedUps, steps: int, seed: int = 0) -> List[float]:
    """The losses of the first steps of a training, as by ``mmfasternet train``, on the config's own data.

    Args:
        cfg: The config.
        options: Speed-ups.
        steps: Their number.
        seed: Seed of weights and data. Defaults to 0.

    Raises:
        UserError: If the config can't be trained, or has fewer steps.
    """
    own = with_speed_ups(cfg, SpeedUps())
    own.merge_from_dict(dict(val_cfg=None, val_dataloader=None, val_evaluator=None, log_level='ERROR',
                             randomness=dict(seed=seed), default_hooks=dict(checkpoint=None)))
    own.custom_hooks = [*(own.get('custom_hooks') or []), dict(type='mmfasternet.StopAfterHook', iterations=steps)]
    if options.compile:
        torch.compiler.reset()  # earlier compilations count against Dynamo's limit
    with tempfile.TemporaryDirectory() as folder:
        # MMEngine keeps loggers and visualizers, with their folders, by name for the lifetime of the process.
        own.merge_from_dict({'work_dir': folder, 'experiment_name': Path(folder).name,
                             'visualizer.name': Path(folder).name})
        runner = train(own, TrainOptions(speed_ups=options))
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    if len(losses) < steps:
        raise UserError(f"'{cfg.filename}' trains for {len(losses)} steps, fewer than the {steps} of --curve")
    return [float(loss) for loss in losses]


def write_losses(losses: Mapping[str, Mapping[str, Sequence[float]]], folder: Union[str, Path]) -> None:
    """Store curves next to the records, for later reports; no file if there are none."""
    if losses:
        write_atomically(Path(folder) / LOSSES, (json.dumps(losses) + '\n').encode())


def read_losses(folder: Union[str, Path]) -> Dict[str, Dict[str, List[float]]]:
    """The curves next to the records; empty if there are none."""
    path = Path(folder) / LOSSES
    return json.loads(path.read_text()) if path.exists() else {}


def training_report(records: Sequence[LatencyRecord],
                    losses: Mapping[str, Mapping[str, Sequence[float]]]) -> Report:
    """Tables and plots of training.

    Args:
        records: Records of :func:`training_entry`.
        losses: Curves of :func:`loss_curve`, by form, by the name of the
            model; the others are compared with the first one.
    """
    rows = [{'training': record.name, 'images/s': record.images_per_second, 'ms per step': record.median_ms,
             'p10': record.p10_ms, 'p90': record.p90_ms, 'speed-up': records[0].median_ms / record.median_ms,
             'memory (MB)': record.memory_mb} for record in records]
    columns = {'training': '', 'images/s': '.2f', 'ms per step': '.1f', 'p10': '.1f', 'p90': '.1f',
               'speed-up': '.2f', 'memory (MB)': '.0f'}
    first, where = records[0], records[0].conditions
    notes = [f'Batch {where.batch_size}, random images of {where.input_size} pixels with {NUM_OBJECTS} objects, random '
             f'weights, {where.machine}',
             f'{runs_of(records).capitalize()}; speed-up: over {first.name}. A step is preprocessing, forward, '
             "backward and the step of the optimizer; memory is in addition to the weights and the optimizer's "
             'state.', *failures(records)]
    tables, plots = [Table('Training', columns, rows)], {}
    for name, by_form in losses.items():
        tables.append(Table(f'Loss of {name}', {'training': '', 'steps': 'd', 'loss at the end': '.4f',
                                                'difference (%)': '+.2f'}, _loss_rows(by_form)))
        plots[f'Loss of {name}'] = curves(by_form, 'step', 'loss', f'Loss of {name}')
    if losses:
        notes.append(f'Losses: mean of the last {LAST_SHARE:.0%} of the steps, with the same seed; the row with '
                     'another seed shows how large a random difference is.')
    return Report('Training', tables, notes, plots)


def _loss_rows(by_form: Mapping[str, Sequence[float]]) -> List[Dict[str, Any]]:
    ends = {form: float(np.mean(losses[-max(round(len(losses) * LAST_SHARE), 1):]))
            for form, losses in by_form.items()}
    first = next(iter(ends.values()))
    return [{'training': form, 'steps': len(by_form[form]), 'loss at the end': end,
             'difference (%)': (end / first - 1) * 100} for form, end in ends.items()]


def _find_positives(model: Dict[str, Any]) -> None:
    rcnn = (model.get('train_cfg') or {}).get('rcnn')
    for stage in rcnn if isinstance(rcnn, (list, tuple)) else [rcnn]:  # a cascade has several
        if stage and 'pos_iou_thr' in (stage.get('assigner') or {}):
            stage['assigner'].update(pos_iou_thr=_POSITIVE_IOU, neg_iou_thr=_POSITIVE_IOU, min_pos_iou=_POSITIVE_IOU)


def _step(model: nn.Module, batch: Batch, optimizer: Any) -> None:
    with torch.enable_grad():
        model.train_step(batch, optimizer)  # the preprocessor copies the samples
