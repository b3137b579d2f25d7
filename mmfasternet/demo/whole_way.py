"""From handwritten digits to a detector of shapes in a few minutes on a CPU: trained, evaluated, drawn and timed."""

import copy
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console

from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry
from mmfasternet.datasets.image_files import find_images
from mmfasternet.datasets.shapes import make_shapes_coco
from mmfasternet.engine.config import innermost_dataset
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.hooks.curves import CURVES
from mmfasternet.engine.inference import predict
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.engine.train_test import test, train
from mmfasternet.errors import UserError
from mmfasternet.files import write_atomically

_FORMS = {'as trained': DeployOptions(), 'inference form': DeployOptions(deploy=True)}
_SCORE = 0.5  # of what is drawn


@dataclass
class Outcome:
    """What was reached, and where it is; places are relative to ``folder``.

    Attributes:
        folder: The folder of it all.
        seed: Of both trainings.
        top1: Digits that were held out and are right, in percent.
        ap: Box and mask AP of held-out shapes, by the detector's form.
        latency: Of the detector on the CPU in milliseconds an image, by its form.
        pictures: Held-out images, the truth beside what was found.
        curves: Plots of both trainings.
        weights: Of the detector.
        seconds: What each step took.
    """
    folder: str
    seed: int
    top1: float = 0.
    ap: Dict[str, Dict[str, float]] = field(default_factory=dict)
    latency: Dict[str, float] = field(default_factory=dict)
    pictures: List[str] = field(default_factory=list)
    curves: List[str] = field(default_factory=list)
    weights: str = ''
    seconds: Dict[str, float] = field(default_factory=dict)


def go_the_whole_way(digits: Config, shapes: Config, pictures: int = 12, rounds: int = 20) -> Outcome:
    """Pre-train on digits, train a detector of shapes from that, evaluate it, draw what it finds, and time it.

    Args:
        digits: Config of the classifier; its work folder is one in that of
            ``shapes``.
        shapes: Config of the detector, whose data are generated where they
            are not there. The outcome is in its work folder.
        pictures: How many images are drawn. Defaults to 12.
        rounds: How often each form of the detector is timed. Defaults to 20.

    Raises:
        UserError: If a training was stopped, or see :func:`train`.
    """
    shapes = copy.deepcopy(shapes)
    out = Path(shapes.work_dir)
    outcome = Outcome(str(out), shapes.randomness.seed)
    dataset = innermost_dataset(shapes)
    root = Path(dataset.data_root)
    with _step(outcome, 'pre-train on digits'):
        runner = _train(digits)
        outcome.top1 = _reached(runner, 'accuracy/top1')
    with _step(outcome, 'generate shapes'):
        if root.exists():
            print(f"'{root}' exists and is used; remove it to generate it again")
        else:
            make_shapes_coco(root)
    with _step(outcome, 'train the detector'):
        shapes.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=_last_checkpoint(Path(digits.work_dir)))
        runner = _train(shapes)
        outcome.ap['as trained'] = dict(box=_reached(runner, 'coco/bbox_mAP'), mask=_reached(runner, 'coco/segm_mAP'))
    checkpoint = _last_checkpoint(out)
    with _step(outcome, 'evaluate its inference form'):
        cfg = Config(dict(shapes.to_dict(), work_dir=str(out / 'test')), filename=shapes.filename)
        metrics = test(cfg, TestOptions(checkpoint, deploy=_FORMS['inference form']))
        outcome.ap['inference form'] = dict(box=metrics['coco/bbox_mAP'], mask=metrics['coco/segm_mAP'])
    images = find_images(str(root / dataset.data_prefix.img))
    with _step(outcome, 'draw'):
        predict(shapes, checkpoint, images[:pictures], str(out / 'pictures'), 'cpu', _SCORE,
                str(root / dataset.ann_file))
    with _step(outcome, 'measure latency'):
        device, given = torch.device('cpu'), DetectorInput(images=images[:rounds])
        records = run_suite([detector_entry(shapes, form, device, given, checkpoint, options)
                             for form, options in _FORMS.items()], device, rounds)
        outcome.latency = {record.name: record.median_ms for record in records}
    outcome.weights = os.path.relpath(checkpoint, out)
    outcome.pictures = [f'pictures/vis/{Path(image).name}' for image in images[:pictures]]
    outcome.curves = [f'{Path(digits.work_dir).name}/{CURVES}', CURVES]
    write_atomically(out / 'outcome.json', json.dumps(asdict(outcome), indent=1).encode())
    return outcome


def _train(cfg: Config) -> Runner:
    runner = train(cfg, TrainOptions(speed_ups=SpeedUps(channels_last=True)))
    if runner.epoch < runner.max_epochs:
        raise UserError('the demo was stopped in a training: run it again, it starts from the beginning')
    return runner


def _reached(runner: Runner, metric: str) -> float:
    """The last value of a validation's metric."""
    return float(runner.message_hub.get_scalar(f'val/{metric}').current())


def _last_checkpoint(work_dir: Path) -> str:
    return str(Path((work_dir / 'last_checkpoint').read_text().strip()).absolute())


@contextmanager
def _step(outcome: Outcome, name: str) -> Iterator[None]:
    """Say that a step begins, and note what it took."""
    Console().rule(f'{len(outcome.seconds) + 1}/6 {name}', style='bold')
    begin = time.perf_counter()
    yield
    outcome.seconds[name] = time.perf_counter() - begin
