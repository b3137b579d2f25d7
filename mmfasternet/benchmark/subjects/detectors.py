"""End-to-end latency of detectors, from image tensor to boxes and masks, and latency of their parts."""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import MaskRCNN, TwoStageDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmfasternet.benchmark.complexity import Complexity, count_as_table_4, count_complexity
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject
from mmfasternet.benchmark.paper import TABLE_4, DetectorRow
from mmfasternet.benchmark.reporting.plots import stacked_bars
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.parts import PARTS, DetectorParts
from mmfasternet.benchmark.subjects.timm_detectors import fold_backbone
from mmfasternet.deploy.export.manifest import Manifest
from mmfasternet.engine.building import Batch, build_model, load_batches
from mmfasternet.engine.config import config_digest, image_channels_of, is_classifier, is_kind, scope_of
from mmfasternet.engine.config_steps import with_exported
from mmfasternet.engine.deploying import DeployOptions, is_export, padded_size
from mmfasternet.errors import UserError

KIND = 'detectors'
_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples modulo 1 are evenly spread


@dataclass(frozen=True)
class DetectorInput:
    """Input images for timing detectors.

    Attributes:
        size: Height and width of random images in pixels.
        images: Image files to use instead, loaded and resized by each config's
            test pipeline before timing, and used in turn.
        batch_size: Images per call.
    """
    size: Tuple[int, int] = (800, 1280)
    images: Optional[Sequence[str]] = None
    batch_size: int = 1

    @property
    def source(self) -> str:
        """The images' folder, or ``'random'``."""
        return str(Path(self.images[0]).parent) if self.images else 'random'

    def batches(self, cfg: Config) -> List[Batch]:
        """The batches, loaded by the test pipeline of a config.

        Raises:
            UserError: If there are fewer images than a batch has.
        """
        if not self.images:
            return [random_batch(self.size, self.batch_size, image_channels_of(cfg))]
        if len(self.images) < self.batch_size:
            raise UserError(f'--batch {self.batch_size} needs at least as many images, but there are only '
                            f'{len(self.images)}')
        return load_batches(cfg, self.images, self.batch_size)


def detector_entry(cfg: Config,
                   name: str,
                   device: torch.device,
                   given: DetectorInput,
                   checkpoint: Optional[str] = None,
                   deploy: Optional[DeployOptions] = None,
                   build: Optional[Callable[[], nn.Module]] = None,
                   model: Optional[str] = None) -> Entry:
    """A detector as an entry of a suite: normalisation, network and post-processing, and its parts.

    The latency of its heads depends on the number of objects found. With
    random weights a two-stage detector is made to find a hundred objects in
    any image; trained weights and real images are more realistic.

    Args:
        cfg: Config of the detector.
        name: Name of the entry.
        device: Device to run on.
        given: The input images.
        checkpoint: Its weights, or folder of an export. Defaults to None:
            random weights.
        deploy: Inference form of the model. Defaults to None: the model
            unchanged.
        build: Returns the unchanged detector, for entries that share one.
            Defaults to None: from its checkpoint, or :func:`random_detector`.
        model: Name of its config, if it differs from the entry's name.
            Defaults to None: ``name``.

    Raises:
        UserError: If the config is for a classifier, or an image or export
            can't be read; when the entry is built, if its checkpoint can't be
            used.
    """
    if is_classifier(cfg):
        raise UserError(f"'{cfg.filename}' is the config of a classifier: use mmfasternet benchmark classifier")
    options = deploy or DeployOptions()
    exported = checkpoint if is_export(checkpoint) else None
    form, memory_format = ('deploy', 'NHWC') if options.deploy else ('eager', 'NCHW')
    if exported:
        manifest = Manifest.read(exported)
        form = f'exported, {manifest.format}' + (', int8' if manifest.dtype == 'int8' else '')
        memory_format = 'NHWC' if manifest.format == 'openvino' else 'NCHW'
    batches = given.batches(cfg)
    conditions = Conditions(
        sizes_of(batches), given.batch_size, getattr(torch, options.dtype), memory_format, form,
        compiled=options.compile, graphs=options.graphs, weights=checkpoint or 'random', images=given.source)

    def subject() -> Subject:
        if exported:
            detector = build_model(with_exported(cfg, exported, options), device=device)
        else:
            detector = build() if build else detector_of(cfg, checkpoint, device)
            if options.deploy:
                fold_backbone(detector, padded_size(given.size, cfg))
            detector = options.apply(detector, cfg, None if given.images else [given.size])
        return detector_subject(detector, batches, device, options.graphs)

    return Entry(name, conditions, subject, KIND, model or name, digest_of(cfg))


def digest_of(cfg: Config) -> str:
    """Hash of the config entries that a detector's latency depends on."""
    return config_digest(cfg, 'model', 'test_dataloader.dataset.pipeline')


def detector_subject(detector: nn.Module, batches: Sequence[Batch], device: torch.device,
                     keeps_memory: bool = False) -> Subject:
    """A detector and its parts, ready to be timed on batches in turn, one per round."""
    turns, parts = _Turns(batches), DetectorParts(detector, device)
    return Subject(lambda: detector.test_step(turns.batch()), lambda: parts(lambda: detector.test_step(turns.batch())),
                   turns.advance, keeps_memory)


def detector_of(cfg: Config, checkpoint: Optional[str], device: torch.device) -> nn.Module:
    """The detector of a checkpoint, or one with random weights."""
    return build_model(cfg, checkpoint, device) if checkpoint else random_detector(cfg, device)


def random_detector(cfg: Config, device: torch.device, alike: bool = True) -> nn.Module:
    """A detector with random weights; a two-stage one finds a hundred objects.

    Args:
        cfg: Its config.
        device: Device to put it on.
        alike: Whether its RPN proposes the same boxes as others; see
            :func:`propose_alike`. Defaults to True.
    """
    torch.manual_seed(0)
    model = build_model(cfg, None, device)
    find_objects(model)
    if alike:
        propose_alike(model)
    return model


def find_objects(model: nn.Module) -> None:
    """Make a two-stage detector with random weights find objects, in place: else its mask head has nothing to do."""
    if isinstance(model, TwoStageDetector) and hasattr(getattr(model.roi_head, 'bbox_head', None), 'fc_cls'):
        nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.2)


def propose_alike(model: nn.Module) -> None:
    """Make an RPN with random weights propose the same boxes for any network, in place.

    The time of the following heads depends on the sizes of the boxes, and
    different networks with random weights prefer different sizes. In training,
    the gradients of its losses still reach the network.
    """
    head: Any = getattr(model, 'rpn_head', None)
    if type(head) is RPNHead and head.use_sigmoid_cls:
        train_cfg: Any = getattr(model, 'train_cfg', None) if model.training else None
        proposal_cfg = (train_cfg or {}).get('rpn_proposal') or head.test_cfg
        head.register_forward_hook(_AlikeProposals(proposal_cfg.nms_pre))


class _AlikeProposals:
    """Replaces the output of an RPN with unchanged anchors, equally from all levels and spread over the image.

    Args:
        count: Maximum number of anchors per level with scores over 0.5: the
            number that the head keeps.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: Dict[Tuple[Any, ...], Tensor] = {}  # made once, outside of the timed RPN

    @torch.compiler.disable  # its cache must not be in the memory of a CUDA graph
    def __call__(self, module: nn.Module, inputs: Any,
                 outputs: Tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tuple[List[Tensor], List[Tensor]]:
        scores, deltas = outputs
        return ([self._instead(score, 'scores', self._scored) for score in scores],
                [self._instead(delta, 'deltas', torch.zeros_like) for delta in deltas])

    def _instead(self, output: Tensor, kind: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        constant = self._once(kind, output, make)
        return output - output.detach() + constant if output.requires_grad else constant

    def _once(self, kind: str, output: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        key = (kind, output.shape, output.dtype, output.device)
        if key not in self._kept:
            self._kept[key] = make(output)
        return self._kept[key]

    def _scored(self, scores: Tensor) -> Tensor:
        number = scores[0].numel()
        spread = torch.arange(number, device=scores.device, dtype=torch.float64) * _GOLDEN_RATIO % 1  # over (0, 1)
        chosen = 1 + (spread - 1) * max(number / self.count, 1)  # this many are over 0
        return (4 * chosen).clamp(min=-4).to(scores.dtype).reshape(scores[:1].shape).expand_as(scores)


def random_batch(size: Tuple[int, int], batch_size: int = 1, channels: int = 3) -> Batch:
    """A batch of random images of ``size`` (height and width in pixels), as from a detector's test pipeline."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (channels, *size), generator=generator, dtype=torch.uint8)
              for _ in range(batch_size)]
    samples = [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.))) for _ in images]
    return dict(inputs=images, data_samples=samples)


def sizes_of(batches: Sequence[Batch]) -> Tuple[Tuple[int, int], ...]:
    """The different heights and widths of the batches' images."""
    shapes = (image.shape[1:] for batch in batches for image in batch['inputs'])
    return tuple(sorted({(height, width) for height, width in shapes}))


class _Turns:
    """Batches in turn, one for all calls of a round."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = itertools.cycle(batches)
        self.advance()

    def advance(self) -> None:
        self._batch = next(self._batches)

    def batch(self) -> Batch:
        """The batch of this round, with copied samples: detectors modify them."""
        return {**self._batch, 'data_samples': copy.deepcopy(self._batch['data_samples'])}


def detector_report(records: Sequence[LatencyRecord], configs: Sequence[Config], size: Tuple[int, int]) -> Report:
    """Tables and plots of measured detectors, with the paper's values for those in Table 4.

    Args:
        records: Their records.
        configs: Their configs.
        size: Height and width of the image that parameters and FLOPs are
            counted for; for a Mask R-CNN in the convention of Table 4.
    """
    # Several records may share a config; models that can't be measured may not be buildable.
    counted = {id(cfg): _count(cfg, size) for record, cfg in zip(records, configs) if not record.error}
    rows = [_row(record, counted.get(id(cfg)), records) for record, cfg in zip(records, configs)]
    columns = {'detector': '', 'parameters (M)': '.1f', 'FLOPs (G)': '.0f', 'median (ms)': '.1f', 'p10': '.1f',
               'p90': '.1f', 'ratio': '.2f', 'images/s': '.2f', 'memory (MB)': '.0f'}
    if any('speed-up' in row for row in rows):
        columns['speed-up'] = '.2f'
    if any('paper: ms' in row for row in rows):
        columns.update({'paper: parameters': '.1f', 'paper: FLOPs': '.0f', 'paper: ms': '.1f', 'paper: ratio': '.2f'})
    medians = {record.name: record.part_medians_ms for record in records if not record.error}
    notes = [records[0].conditions.describe(),
             f'{runs_of(records).capitalize()}; ratio: latency over that of the first detector in the same form and '
             f'type, such as {records[0].name}; speed-up: over the first form of the same detector. Parameters are the '
             f'trainable ones; FLOPs are for {size[0]} x {size[1]} pixels, for a Mask R-CNN counted as in Table 4 of '
             'the paper.',
             'Parts are timed in separate calls; sum / total compares them with the preceding call (median of all '
             'rounds).', *failures(records)]
    if 'paper: ms' in columns:
        notes.append('Paper: Table 4, latency on a 2080 Ti.')
    tables = [Table('Detectors', columns, rows), parts_table(records)]
    return Report('Latency of detectors', tables, notes,
                  {'Latency': stacked_bars(medians, 'ms, by the parts', f'From image to objects: {notes[0]}')})


def parts_table(records: Sequence[LatencyRecord]) -> Table:
    """The parts of measured detectors, and their sums."""
    parts = [part for part in PARTS if any(part in record.parts_ms for record in records if not record.error)]
    rows = [{'detector': record.name, **record.part_medians_ms, 'sum': sum(record.part_medians_ms.values()),
             'sum / total': record.parts_over_total} for record in records if not record.error]
    return Table('Parts, ms', {'detector': '', **{part: '.1f' for part in parts}, 'sum': '.1f', 'sum / total': '.3f'},
                 rows)


def _count(cfg: Config, size: Tuple[int, int]) -> Complexity:
    if is_kind(cfg.model, MaskRCNN, MODELS, scope_of(cfg)):
        return count_as_table_4(cfg, size)
    return count_complexity(cfg, size)[-1]


def _row(record: LatencyRecord, total: Optional[Complexity], records: Sequence[LatencyRecord]) -> Dict[str, Any]:
    like = [other for other in records if other.conditions.same_form(record.conditions)]
    forms = [other for other in records if other.model == record.model]
    row = {'detector': record.name, 'median (ms)': record.median_ms, 'p10': record.p10_ms, 'p90': record.p90_ms,
           'ratio': record.median_ms / like[0].median_ms, 'images/s': record.images_per_second,
           'memory (MB)': record.memory_mb}
    if total:
        row.update({'parameters (M)': total.parameters / 1e6, 'FLOPs (G)': total.multiply_adds / 1e9})
    if len(forms) > 1:
        row['speed-up'] = forms[0].median_ms / record.median_ms
    paper: Callable[[str], Optional[DetectorRow]] = TABLE_4.get
    published, reference = paper(record.model), paper(like[0].model)
    if published:
        row.update({'paper: parameters': published.parameters, 'paper: FLOPs': published.flops,
                    'paper: ms': published.latency})
        if reference:
            row['paper: ratio'] = published.latency / reference.latency
    return row
