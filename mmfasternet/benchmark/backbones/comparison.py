"""Comparison of backbones by accuracy on your own data and by latency."""

from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Mapping, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from mmfasternet.benchmark.backbones.backbone_report import backbone_report
from mmfasternet.benchmark.backbones.trained import TRAININGS, Training, length_of, newest_checkpoint, train_all
from mmfasternet.benchmark.complexity import build_for_counting
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.reporting.report import Report
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry, detector_of
from mmfasternet.config_tree import walk
from mmfasternet.engine.config import is_classifier, is_kind_of, scope_of
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet

#: Validation images that latency is measured on, one a round.
_IMAGES = 20


def compare(configs: Mapping[str, Config], seeds: Sequence[int], work_dir: Union[str, Path], out: Union[str, Path],
            device: torch.device, flags: Sequence[str] = (), runs: int = 20) -> Report:
    """Train detectors alike with several seeds, measure their latency in one interleaved run, and report both.

    Training goes seed by seed, so that all configs have results if it is
    stopped early. Latency is measured with the weights of the first seed that
    has a checkpoint, on validation images, as trained and in the inference
    form.

    Args:
        configs: Configs by their names.
        seeds: Seeds of weights and data.
        work_dir: Folder for checkpoints and logs. Interrupted trainings are
            resumed from there.
        out: Folder for records, tables and plots. Anything with a record is
            not trained or measured again, and no longer needs its checkpoint.
        device: Device to measure latency on.
        flags: Flags of ``mmfasternet train``.
        runs: Timed runs of each detector. Defaults to 20.

    Returns:
        The report, which is also written to ``out``.

    Raises:
        UserError: If a config is for a classifier or has no validation at the
            end, or a training fails.
    """
    for name, cfg in configs.items():
        if is_classifier(cfg):
            raise UserError(f"'{name}' is the config of a classifier: only detectors can be compared")
        if not cfg.get('val_cfg'):
            raise UserError(f"'{name}' has no validation: set val_cfg, val_dataloader and val_evaluator")
        begin, length = cfg.train_cfg.get('val_begin', 1), length_of(cfg)[1]
        if begin > length:
            raise UserError(f"'{name}' would end without a validation: train_cfg.val_begin is {begin}, but the "
                            f'training ends at {length}. Lower val_begin, or train longer')
        if not cfg.get('test_dataloader'):
            raise UserError(f"'{name}' has no test_dataloader, whose pipeline is needed to measure latency")
    images = {name: validation_images(cfg, min(_IMAGES, runs)) for name, cfg in configs.items()}
    trainings = [Training(name, cfg, seed, tuple(flags)) for seed in seeds for name, cfg in configs.items()]
    trained = train_all(trainings, work_dir, out)
    entries = []
    for name, cfg in configs.items():
        own = [each for each in trainings if each.name == name]
        for options in (DeployOptions(), DeployOptions(True)):
            entry = detector_entry(cfg, f'{name}, {options.form}', device, DetectorInput(images=images[name]),
                                   deploy=options, build=_trained_detector(own, work_dir, device), model=name)
            # Not the checkpoint's path: records from another folder or machine would not count.
            entries.append(replace(entry, conditions=replace(entry.conditions, weights='trained')))
    latencies = run_suite(entries, device, runs, out=out)
    ours = [name for name, cfg in configs.items()
            if is_kind_of(cfg.model.get('backbone') or {}, FasterNet, MODELS, scope_of(cfg))]
    parameters = {name: sum(p.numel() for p in build_for_counting(cfg).parameters() if p.requires_grad)
                  for name, cfg in configs.items()}
    report = backbone_report(trained, latencies, parameters, ours)
    report.write(out)
    return report


def _trained_detector(trainings: Sequence[Training], work_dir: Union[str, Path],
                      device: torch.device) -> Callable[[], nn.Module]:
    """A function that builds a detector with the weights of its first training that has a checkpoint."""
    def build() -> nn.Module:
        found = (newest_checkpoint(each.config, each.folder(work_dir)) for each in trainings)
        checkpoint = next(filter(None, found), None)
        if not checkpoint:
            raise UserError(f"'{trainings[0].folder(work_dir).parent}' no longer holds a checkpoint: to train "
                            f'{trainings[0].name} again, remove its lines from {TRAININGS}')
        return detector_of(trainings[0].config, checkpoint, device)

    return build


def validation_images(cfg: Config, at_most: int) -> List[str]:
    """A sample of a config's validation images, spread over all of them."""
    cfg = prepare(cfg, TrainOptions())  # our dataset also reads files that MMDetection's does not
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for _, part in walk(cfg.val_dataloader.dataset):  # which may be wrapped
            if 'pipeline' in part:
                part['pipeline'] = []
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    step = max(len(dataset) // at_most, 1)
    return [dataset.get_data_info(index)['img_path'] for index in range(0, len(dataset), step)][:at_most]
