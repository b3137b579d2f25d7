"""The inference forms of FasterNet and of its detectors, and the published ones, side by side."""

import copy
import functools
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmdet.models.detectors import TwoStageDetector
from mmengine.config import Config
from rich.table import Table
from torch import Tensor, nn

from mmfasternet.benchmark.complexity import count_multiply_adds
from mmfasternet.benchmark.harness.suite import Conditions, Entry, Subject, room_for_compiled
from mmfasternet.benchmark.harness.timing import LatencyRecord, make_record, measure_interleaved
from mmfasternet.benchmark.subjects.detectors import find_objects, propose_alike, random_batch, sizes_of
from mmfasternet.benchmark.subjects.published_blocks import CloneSlicingBlock, InPlaceSlicingBlock, with_blocks
from mmfasternet.compat import tree_leaves
from mmfasternet.datasets.image_files import find_images
from mmfasternet.deploy import ExportedDetector, to_deploy
from mmfasternet.deploy.deployed_block import ALGORITHMS
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.runtimes import SUFFIXES, OpenVinoModel, load_runtime
from mmfasternet.engine.building import build_model, load_batches
from mmfasternet.engine.config import is_classifier
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.device import find_device
from mmfasternet.errors import UserError
from mmfasternet.files import write_atomically
from mmfasternet.models import FasterNet

_NHWC, _NCHW = torch.channels_last, torch.contiguous_format
_CALLS_TO_RECORD = 3  # of a CUDA graph: it runs, is recorded, and is replayed


@dataclass(frozen=True)
class FormResult:
    """A form's latency, and what it is worth.

    Attributes:
        record: Its latency.
        ratio: Latency of the first form of the run over its own; None for
            what is no form of the model.
        error: Largest difference to the model as it was given, in float32,
            over the largest value of each output; None for a whole detector.
        gflops: 10^9 multiplications and additions a second, of convolutions
            and matrix products; None for a whole detector.
    """
    record: LatencyRecord
    ratio: Optional[float]
    error: Optional[float]
    gflops: Optional[float]


@dataclass(frozen=True)
class _Case:
    form: str
    run: Callable[[], Any]
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = _NCHW


def measure_forms(cfg: Config,
                  name: str,
                  checkpoint: Optional[str] = None,
                  size: Optional[Tuple[int, int]] = None,
                  images: Optional[str] = None,
                  batch_size: int = 1,
                  dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                  compile: bool = True,
                  device: Optional[str] = None,
                  rounds: Optional[int] = None) -> List[FormResult]:
    """Time the forms of a classifier's backbone, or of a whole detector; see the two functions below.

    Args:
        cfg: The config.
        name: Its name in the records.
        checkpoint: Its weights. Defaults to None: random ones, by which a
            two-stage detector finds a hundred objects, as its mask head has
            nothing to do otherwise.
        size: Height and width of a random image in pixels. Defaults to None:
            (224, 224) for a classifier, (800, 1280) for a detector.
        images: Folder whose first four images a detector gets instead.
            Defaults to None.
        batch_size: Images per call, for a backbone. Defaults to 1.
        dtypes: Types to compute in. Defaults to float32 and bfloat16.
        compile: Measure compiled forms as well. Defaults to True.
        device: Such as ``'cpu'``. Defaults to None, the first GPU if any.
        rounds: Rounds of the run. Defaults to None: 20 for a backbone, 5 for
            a detector.

    Raises:
        UserError: If the checkpoint, the device or the images can't be used,
            or the backbone is not FasterNet.
    """
    target = find_device(device)
    model = build_model(cfg, checkpoint, target)
    if is_classifier(cfg) and images:
        raise UserError('--images is for detectors: a backbone is timed on random images of --size')
    if not is_classifier(cfg) and batch_size > 1:
        raise UserError('--batch is for backbones: a detector is timed on one image at a time')
    if is_classifier(cfg):
        if not isinstance(model.backbone, FasterNet):
            raise UserError(f"the backbone of '{cfg.filename}' is {type(model.backbone).__name__}: these forms are "
                            f"FasterNet's")
        return measure_backbone_forms(model.backbone, name, size or (224, 224), batch_size, dtypes, compile,
                                      rounds or 20)
    if not checkpoint:
        find_objects(model)
    if images:
        batches = load_batches(cfg, find_images(images, 4))
    else:
        batches = [random_batch(size or (800, 1280))]
    return measure_detector_forms(cfg, model, batches, name, sizes_of(batches), dtypes, compile, rounds or 5,
                                  alike=not checkpoint)


def measure_backbone_forms(backbone: nn.Module,
                           name: str,
                           size: Tuple[int, int] = (224, 224),
                           batch_size: int = 1,
                           dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                           compile: bool = True,
                           rounds: int = 20,
                           calls: int = 3) -> List[FormResult]:
    """Time every form of a FasterNet backbone in one interleaved run.

    The first one, which the others are compared with, is split_cat with
    folded norms in eager mode, NCHW and float32. The last ones are a yardstick
    of the processor: a 3x3 convolution of 256 to 256 channels at 56 x 56
    pixels, channels-last, by itself.

    Args:
        backbone: The backbone, on the device that is measured.
        name: Its name in the records.
        size: Height and width of the images in pixels.
            Defaults to (224, 224).
        batch_size: Images per call. Defaults to 1.
        dtypes: Types beside float32 and float32 itself.
            Defaults to float32 and bfloat16.
        compile: Measure compiled forms as well. Defaults to True.
        rounds: Rounds of the run. Defaults to 20.
        calls: Timed calls of each form in a round. Defaults to 3.
    """
    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, *size, generator=generator).to(device)
    backbone = copy.deepcopy(backbone).eval()
    # Two compiled forms a type, and past its limit Dynamo runs them as they are without a word.
    with torch.no_grad(), room_for_compiled(2 * len(dtypes)), tempfile.TemporaryDirectory() as folder:
        expected = [x.clone() for x in backbone(images)]
        cases = _backbone_cases(backbone, images, dtypes, compile, Path(folder))
        errors = [_error(case.run(), expected) for case in cases]
        work = [2 * count_multiply_adds(backbone, images)] * len(cases)
        yardsticks = [_yardstick(dtype, device) for dtype in dtypes]
        results = _measure([*cases, *yardsticks], name, device, f'{size[0]}x{size[1]}', batch_size, rounds, calls)
    work += [2 * 256 * 256 * 9 * 56 * 56] * len(yardsticks)
    return [replace(result, error=error, gflops=operations / result.record.median_ms / 1e6,
                    ratio=None if error is None else result.ratio)
            for result, error, operations in zip(results, [*errors, *[None] * len(yardsticks)], work)]


def measure_detector_forms(cfg: Config,
                           model: nn.Module,
                           batches: Sequence[Any],
                           name: str,
                           input_size: str,
                           dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                           compile: bool = True,
                           rounds: int = 5,
                           calls: int = 1,
                           alike: bool = False) -> List[FormResult]:
    """Time every form of a whole detector, from image tensor to boxes and masks, in one interleaved run.

    The first one is the detector as it is given.

    Args:
        cfg: Its config.
        model: The detector, on the device that is measured.
        batches: Batches to take in turn, the same for all forms in a round.
        name: Its name in the records.
        input_size: Sizes of the images, for the records.
        dtypes: Types to measure. Defaults to float32 and bfloat16.
        compile: Measure compiled forms as well. Defaults to True.
        rounds: Rounds of the run. Defaults to 5.
        calls: Timed calls of each form in a round. Defaults to 1.
        alike: Have all propose the boxes that random weights propose in
            :func:`~mmfasternet.benchmark.subjects.detectors.detector_entry`; the
            detector that is given does so from then on. Defaults to False.
    """
    device = next(model.parameters()).device
    with torch.no_grad(), room_for_compiled(len(dtypes) * len(batches)), tempfile.TemporaryDirectory() as folder:
        models = _detector_models(cfg, model, batches, dtypes, compile, device, Path(folder), alike)
        cases = [_Case(form, _Turns(detector, batches, calls + 1), dtype, memory_format)
                 for form, detector, dtype, memory_format in models]
        for _, detector, _, _ in models:  # compiled ones compile here, for each size
            for batch in batches:
                for _ in range(_CALLS_TO_RECORD if device.type == 'cuda' else 1):
                    detector.test_step(copy.deepcopy(batch))
        return _measure(cases, name, device, input_size, len(batches[0]['inputs']), rounds, calls)


def backbone_form_entries(arch: str, device: torch.device, size: Tuple[int, int], batch_size: int,
                          dtypes: Sequence[torch.dtype]) -> List[Entry]:
    """The forms of FasterNet's block in a backbone with random weights, as lines of a suite.

    Args:
        arch: The size of FasterNet, such as ``'s'``.
        device: Where it runs.
        size: Height and width of the images in pixels.
        batch_size: Images per call.
        dtypes: Types to compute in.
    """

    def subject(form: str, dtype: torch.dtype, memory_format: torch.memory_format) -> Subject:
        torch.manual_seed(0)
        model = to_deploy(FasterNet(arch).to(device), True, form, dtype, memory_format)
        images = torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(0))
        images = images.to(device, dtype, memory_format=memory_format)
        return Subject(lambda: model(images))

    layouts = {'NCHW': _NCHW, 'NHWC': _NHWC}
    chosen = [('conv', 'NCHW'), *((form, 'NHWC') for form in ALGORITHMS)]
    return [Entry(f"{form}, {layout}, {str(dtype).removeprefix('torch.')}",
                  Conditions(f'{size[0]}x{size[1]}', batch_size, dtype, layout, form),
                  functools.partial(subject, form, dtype, layouts[layout]))
            for dtype in dtypes for form, layout in chosen]


def results_table(results: Sequence[FormResult]) -> Table:
    """The results for a terminal, with their conditions as its caption."""
    first = results[0].record
    conditions = (f'batch {first.batch_size}, {first.input_size} pixels, median of {first.runs} calls, {first.device}, '
                  f'{first.threads} threads, ' + ', '.join(f'{k} {v}' for k, v in results[-1].record.versions.items()))
    table = Table('form', 'dtype', 'layout', title=first.name, caption=conditions, title_justify='left')
    for heading in ('ms', 'p10', 'p90', 'ratio', 'GFLOP/s', 'difference'):
        table.add_column(heading, justify='right')
    for result in results:
        record = result.record
        table.add_row(
            record.form, record.dtype, record.memory_format, f'{record.median_ms:.2f}', f'{record.p10_ms:.2f}',
            f'{record.p90_ms:.2f}', *('-' if value is None else f'{value:{spec}}' for value, spec in (
                (result.ratio, '.2f'), (result.gflops, '.0f'), (result.error, '.1e'))))
    return table


def write_results(results: Sequence[FormResult], path: Path) -> None:
    """Write results, with all their conditions, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [{**vars(result), 'record': result.record.to_dict()} for result in results]
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())


class _Turns:
    """Runs a detector on batches in turn, on each for all calls of a round."""

    def __init__(self, detector: nn.Module, batches: Sequence[Any], calls: int) -> None:
        self.detector = detector
        self.batches = batches
        self.calls = calls
        self.count = 0

    def __call__(self) -> Any:
        batch = self.batches[self.count // self.calls % len(self.batches)]
        self.count += 1
        return self.detector.test_step(copy.deepcopy(batch))  # it writes into its samples


def _backbone_cases(backbone: nn.Module, images: Tensor, dtypes: Sequence[torch.dtype], compile: bool,
                    folder: Path) -> List[_Case]:
    def case(form: str, dtype: torch.dtype, memory_format: torch.memory_format, **options: Any) -> _Case:
        label = options.pop('label', form)
        model = to_deploy(backbone, algorithm=form, dtype=dtype, memory_format=memory_format, **options)
        x = images.to(dtype=dtype, memory_format=memory_format)
        return _Case(label, lambda: model(x), dtype, memory_format)

    def published(block_class: type, label: str) -> _Case:
        model = to_deploy(with_blocks(backbone, block_class), inplace=True, algorithm='conv', memory_format=_NCHW)
        return _Case(label, lambda: model(images))

    cases = [
        case('conv', torch.float32, _NCHW, label='split_cat, folded norms'),
        _Case('split_cat, as trained', lambda: backbone(images)),
        published(CloneSlicingBlock, 'clone and slice'),
        published(InPlaceSlicingBlock, 'slice in place (wrong)'),
    ]
    for dtype in dtypes:
        for memory_format in (_NCHW, _NHWC):
            if dtype != torch.float32 or memory_format != _NCHW:
                cases.append(case('conv', dtype, memory_format))
            cases.append(case('matmul', dtype, memory_format))
        cases.append(case('linear', dtype, _NHWC))
    for dtype in dtypes if compile else ():
        for form in ('conv', 'linear'):
            cases.append(case(form, dtype, _NHWC, label=f'{form}, torch.compile', compile=True,
                              sizes=[tuple(images.shape[2:])]))
    if images.device.type == 'cpu':
        for file_format, label in (('onnx', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
            export_model(backbone, str(folder / file_format), file_format)
            for dtype in _runtime_dtypes(file_format, dtypes):
                run = load_runtime(folder / file_format / f'backbone{SUFFIXES[file_format]}', dtype)
                x = images.contiguous(memory_format=_NHWC if file_format == 'openvino' else _NCHW)
                cases.append(_Case(label, functools.partial(run, x), dtype,
                                   _NHWC if file_format == 'openvino' else _NCHW))
    return cases


def _detector_models(cfg: Config, model: nn.Module, batches: Sequence[Any], dtypes: Sequence[torch.dtype],
                     compile: bool, device: torch.device, folder: Path,
                     alike: bool) -> List[Tuple[str, nn.Module, torch.dtype, Any]]:
    exported = _exported_models(cfg, model, dtypes, folder) if device.type == 'cpu' else []
    if alike:  # not before: what an RPN proposes is no part of a file
        for _, detector, _, _ in exported:
            propose_alike(detector.detector)
        propose_alike(model)
    models = [('eager', model, torch.float32, _NCHW)]
    for dtype in dtypes:
        models.append(('deploy', to_deploy(model, dtype=dtype), dtype, _NHWC))
    sizes = sorted({tuple(image.shape[1:]) for batch in batches for image in batch['inputs']})
    for dtype in dtypes if compile else ():
        options = DeployOptions(True, str(dtype).removeprefix('torch.'), compile=True)
        models.append(('deploy, torch.compile', options.apply(model, cfg, sizes), dtype, _NHWC))
    return [*models, *exported]


def _exported_models(cfg: Config, model: nn.Module, dtypes: Sequence[torch.dtype],
                     folder: Path) -> List[Tuple[str, Any, torch.dtype, Any]]:
    models = []
    for file_format, label in (('onnx', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
        exported = str(folder / file_format)
        export_model(model, exported, file_format, parts=isinstance(model, TwoStageDetector), model_cfg=cfg.model)
        for dtype in _runtime_dtypes(file_format, dtypes):
            detector = ExportedDetector(cfg.model, exported, str(dtype).removeprefix('torch.'))
            models.append((label, detector, dtype, _NHWC if file_format == 'openvino' else _NCHW))
    return models


def _runtime_dtypes(file_format: str, dtypes: Sequence[torch.dtype]) -> List[torch.dtype]:
    """Those of the types that a runtime computes in on this processor."""
    if file_format == 'onnx':
        return [dtype for dtype in dtypes if dtype == torch.float32]
    return [dtype for dtype in dtypes if OpenVinoModel.knows(dtype)]


def _error(actual: Any, expected: Sequence[Tensor]) -> float:
    pairs = zip(tree_leaves(actual), expected)
    return max(((x.float() - y).abs().max() / y.abs().max()).item() for x, y in pairs)


def _yardstick(dtype: torch.dtype, device: torch.device) -> _Case:
    weight = torch.rand(256, 256, 3, 3, device=device, dtype=dtype).contiguous(memory_format=_NHWC)
    x = torch.rand(1, 256, 56, 56, device=device, dtype=dtype).contiguous(memory_format=_NHWC)
    return _Case('yardstick: 3x3 convolution', lambda: F.conv2d(x, weight, padding=1), dtype, _NHWC)


def _measure(cases: Sequence[_Case], name: str, device: torch.device, input_size: str, batch_size: int, rounds: int,
             calls: int) -> List[FormResult]:
    times = measure_interleaved([case.run for case in cases], device, rounds, calls)
    records = [
        make_record(seconds, name, device, input_size, rounds + 1, batch_size, case.dtype,
                    'NHWC' if case.memory_format == _NHWC else 'NCHW', case.form)
        for case, seconds in zip(cases, times)
    ]
    return [FormResult(record, records[0].median_ms / record.median_ms, None, None) for record in records]
