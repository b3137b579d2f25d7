"""Backbones compared by what they are picked for: accuracy on the own data, at a latency."""

from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Mapping, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from mmfasternet.benchmark.backbones.backbone_report import backbone_report
from mmfasternet.benchmark.backbones.trained import Training, checkpoint_of, has_checkpoint, train_all
from mmfasternet.benchmark.complexity import build_for_counting
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.reporting.report import Report
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry, detector_of
from mmfasternet.engine.config import is_classifier, scope_of
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TrainOptions
from mmfasternet.errors import UserError

#: Validation images that latency is measured on, one a round.
_IMAGES = 20


def compare(configs: Mapping[str, Config], seeds: Sequence[int], work_dir: Union[str, Path], out: Union[str, Path],
            device: torch.device, flags: Sequence[str] = (), runs: int = 20) -> Report:
    """Train detectors alike over several seeds, measure their latency in one interleaved run, and report both.

    Trainings go seed by seed, so that all configs are there when it is
    stopped early. Latency is that of the weights of the first seed whose
    checkpoint is there, on validation images, as trained and in the inference
    form.

    Args:
        configs: Configs by their names.
        seeds: Seeds of weights and data.
        work_dir: Folder for checkpoints and logs. Trainings that were
            interrupted go on from there.
        out: Folder for records, tables and plots. What has a record is not
            trained or measured again, and needs no checkpoint any more.
        device: Where latency is measured.
        flags: Flags of ``mmfasternet train``.
        runs: Timed runs of each detector. Defaults to 20.

    Returns:
        The report, which is written into ``out`` as well.

    Raises:
        UserError: If a config is a classifier's or has no validation, or a
            training fails.
    """
    for name, cfg in configs.items():
        if is_classifier(cfg):
            raise UserError(f"'{name}' is the config of a classifier: only detectors can be compared so")
        if not cfg.get('val_cfg'):
            raise UserError(f"'{name}' has no validation: set val_cfg, val_dataloader and val_evaluator")
        if not cfg.get('test_dataloader'):
            raise UserError(f"'{name}' has no test_dataloader, by whose pipeline latency is measured")
    images = {name: validation_images(cfg, min(_IMAGES, runs)) for name, cfg in configs.items()}
    trainings = [Training(name, cfg, seed, tuple(flags)) for seed in seeds for name, cfg in configs.items()]
    trained = train_all(trainings, work_dir, out)
    entries = []
    for name, cfg in configs.items():
        folders = [each.folder(work_dir) for each in trainings if each.name == name]
        for options in (DeployOptions(), DeployOptions(True)):
            entry = detector_entry(cfg, f'{name}, {options.form}', device, DetectorInput(images=images[name]),
                                   deploy=options, build=_trained_detector(cfg, folders, device), model=name)
            # Not the checkpoint's path, by which records of another folder or machine would not count.
            entries.append(replace(entry, conditions=replace(entry.conditions, weights='trained')))
    latencies = run_suite(entries, device, runs, out=out)
    parameters = {name: sum(p.numel() for p in build_for_counting(cfg).parameters() if p.requires_grad)
                  for name, cfg in configs.items()}
    report = backbone_report(trained, latencies, parameters)
    report.write(out)
    return report


def _trained_detector(cfg: Config, folders: Sequence[Path], device: torch.device) -> Callable[[], nn.Module]:
    """What builds a detector with the weights of the first of these work folders that holds a checkpoint."""
    def build() -> nn.Module:
        folder = next((each for each in folders if has_checkpoint(each)), folders[0])
        return detector_of(cfg, checkpoint_of(folder), device)

    return build


def validation_images(cfg: Config, at_most: int) -> List[str]:
    """Files of a config's validation images, spread over them."""
    cfg = prepare(cfg, TrainOptions())  # its data set, which reads what MMDetection's does not
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'pipeline': []})
    step = max(len(dataset) // at_most, 1)
    return [dataset.get_data_info(index)['img_path'] for index in range(0, len(dataset), step)][:at_most]
