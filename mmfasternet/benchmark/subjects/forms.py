"""Comparison of the inference forms of FasterNet and its detectors, including the published forms."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Union

import torch
from mmdet.models.detectors import TwoStageDetector
from mmengine.config import Config
from mmengine.registry import MODELS

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject, run_suite
from mmfasternet.benchmark.reporting.plots import stacked_bars
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.detectors import (
    DetectorInput,
    detector_entry,
    detector_of,
    detector_subject,
    digest_of,
    parts_table,
    propose_alike,
    random_detector,
    sizes_of,
)
from mmfasternet.benchmark.subjects.exported_forms import Exports, exported_forms, float_types, run_type
from mmfasternet.benchmark.subjects.partial_conv import FORMS, Backbone, backbone_form_entries
from mmfasternet.datasets.image_files import find_images
from mmfasternet.deploy import ExportedDetector
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import class_of, config_digest, is_classifier, model_of, scope_of
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet


def measure_forms(cfg: Config,
                  name: str,
                  device: torch.device,
                  checkpoint: Optional[str] = None,
                  size: Optional[Sequence[int]] = None,
                  images: Optional[str] = None,
                  batch_size: int = 1,
                  dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                  compile: bool = True,
                  rounds: Optional[int] = None,
                  out: Optional[Union[str, Path]] = None) -> List[LatencyRecord]:
    """Time the forms of a classifier's backbone, or of a detector from image tensor to boxes and masks.

    Args:
        cfg: The config.
        name: Its name in the records.
        device: Device to run on.
        checkpoint: Its weights. Defaults to None: random weights, with which a
            two-stage detector finds a hundred objects, because its mask head
            would have nothing to do otherwise.
        size: Height and width of a random image in pixels. Defaults to None:
            (224, 224) for a classifier, (800, 1280) for a detector.
        images: Folder whose first four images a detector is timed on instead.
            Defaults to None.
        batch_size: Images per call, for a backbone. Defaults to 1.
        dtypes: Types to compute in; int8 is only for exported files. Defaults
            to float32 and bfloat16.
        compile: Measure compiled forms as well. Defaults to True.
        rounds: Rounds of the run. Defaults to None: 20 of three calls for a
            backbone, 5 of one for a detector.
        out: Folder for the records. Defaults to None, no file.

    Raises:
        UserError: If the checkpoint or the images can't be used, the backbone
            is not FasterNet, or as in :func:`run_suite`.
    """
    if is_classifier(cfg):
        if images:
            raise UserError('--images is for detectors: a backbone is timed on random images of --size')
        entries = backbone_form_entries(_backbone(cfg, name, device, checkpoint, size or (224, 224), batch_size),
                                        dtypes, compile)
        digest = config_digest(cfg, 'model.backbone')
        entries = [replace(entry, digest=digest) for entry in entries]
        return run_suite(entries, device, rounds or 20, 3, out)
    if batch_size > 1:
        raise UserError('--batch is for backbones: a detector is timed on one image at a time')
    height, width = size or (800, 1280)
    given = DetectorInput((height, width), find_images(images, 4) if images else None)
    return run_suite(detector_form_entries(cfg, name, device, given, checkpoint, dtypes, compile), device, rounds or 5,
                     out=out)


def _backbone(cfg: Config, name: str, device: torch.device, checkpoint: Optional[str], size: Sequence[int],
              batch_size: int) -> Backbone:
    kind = class_of(cfg.model.backbone, MODELS, scope_of(cfg))
    if not (isinstance(kind, type) and issubclass(kind, FasterNet)):
        raise UserError(f"the backbone of '{cfg.filename}' is {cfg.model.backbone.type}: only FasterNet has these "
                        'forms')
    height, width = size
    build = functools.cache(lambda: build_model(cfg, checkpoint, device).backbone)
    return Backbone(name, build, device, (height, width), batch_size, FORMS, checkpoint or 'random')


def detector_form_entries(cfg: Config,
                          name: str,
                          device: torch.device,
                          given: DetectorInput,
                          checkpoint: Optional[str] = None,
                          dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                          compile: bool = True) -> List[Entry]:
    """All forms of a detector as entries of a suite; the first one is the unchanged model.

    Args:
        cfg: Its config.
        name: Its name.
        device: Device to run on.
        given: The images.
        checkpoint: Its weights. Defaults to None: random weights, which
            propose the same boxes in all forms.
        dtypes: Types to compute in; int8 is only for exported files. Defaults
            to float32 and bfloat16.
        compile: Whether to include compiled forms. Defaults to True.
    """
    build = functools.cache(lambda: detector_of(cfg, checkpoint, device))
    names = [str(dtype).removeprefix('torch.') for dtype in float_types(dtypes)]
    options = [DeployOptions(), *(DeployOptions(True, dtype) for dtype in names),
               *(DeployOptions(True, dtype, compile=True) for dtype in names if compile)]
    entries = [detector_entry(cfg, f'{each.form}, {each.dtype}', device, given, checkpoint, each, build, name)
               for each in options]
    if device.type == 'cpu':
        # The RPN's replaced proposals are not part of a file.
        plain = build if checkpoint else functools.cache(lambda: random_detector(cfg, device, alike=False))
        exports = functools.cache(lambda: Exports(
            plain(), given.batches(cfg), isinstance(plain(), TwoStageDetector), cfg.model))
        entries += [_exported_entry(cfg, name, given, checkpoint, exports, *each) for each in exported_forms(dtypes)]
    return [replace(entry, kind=FORMS) for entry in entries]


def _exported_entry(cfg: Config, name: str, given: DetectorInput, checkpoint: Optional[str],
                    exports: Callable[[], Exports], file_format: str, runtime: str, dtype: torch.dtype, layout: str
                    ) -> Entry:
    device, batches = torch.device('cpu'), given.batches(cfg)
    conditions = Conditions(sizes_of(batches), given.batch_size, dtype, layout, runtime,
                            weights=checkpoint or 'random', images=given.source)

    def subject() -> Subject:
        folder = exports().folder(file_format, dtype)
        detector = ExportedDetector(model_of(cfg), folder, str(run_type(dtype)).removeprefix('torch.'))
        if not checkpoint:
            propose_alike(detector.detector)
        return detector_subject(detector, batches, device)

    return Entry(f'{runtime}, {conditions.dtype_name}', conditions, subject, model=name, digest=digest_of(cfg))


def form_report(records: Sequence[LatencyRecord]) -> Report:
    """Table and plot of the forms of a model, from their records.

    Args:
        records: Records of :func:`measure_forms`, or of the algorithms of one
            model; the others are compared with the first one.
    """
    first = records[0]
    rows = [{'form': record.conditions.full_form if record.model == first.model else record.model,
             'dtype': record.conditions.dtype_name, 'layout': record.conditions.memory_format,
             'ms': record.median_ms, 'p10': record.p10_ms, 'p90': record.p90_ms,
             'ratio': first.median_ms / record.median_ms if record.model == first.model else None,
             'memory (MB)': record.memory_mb, 'GFLOP/s': record.gflops, 'difference': record.difference}
            for record in records]
    columns = {'form': '', 'dtype': '', 'layout': '', 'ms': '.2f', 'p10': '.2f', 'p90': '.2f', 'ratio': '.2f',
               'memory (MB)': '.0f', 'GFLOP/s': '.0f', 'difference': '.1e'}
    shown = {heading: spec for heading, spec in columns.items() if any(row[heading] is not None for row in rows)}
    notes = [f'{first.model}, {first.conditions.describe(form=False)}',
             f'{runs_of(records).capitalize()}; ratio: speed over that of the first form.']
    if 'GFLOP/s' in shown:
        notes.append('GFLOP/s: 10^9 multiplications and additions per second, of convolutions and matrix products.')
    if 'difference' in shown:
        notes.append('Difference: the largest difference from the original model in float32, relative to the largest '
                     'value of each output.')
    tables = [Table('Forms', shown, rows)]
    if any(record.parts_ms for record in records):
        tables.append(parts_table(records))
    bars = {record.name: record.part_medians_ms or {'call': record.median_ms} for record in records if not record.error}
    return Report(f'Forms of {first.model}', tables, [*notes, *failures(records)],
                  {'Latency': stacked_bars(bars, 'ms', f'Forms of {notes[0]}')})
