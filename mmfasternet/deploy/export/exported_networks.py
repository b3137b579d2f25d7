"""Runs exported files instead of a model's networks."""

from typing import Callable, Dict, List, Sequence, Tuple, Union

from mmdet.models.detectors import TwoStageDetector
from mmdet.models.detectors.base import BaseDetector
from torch import Tensor, nn

from mmfasternet.deploy.conversion import feed_mmcv_contiguous
from mmfasternet.deploy.dense import DenseOutputs, each_module, remove_layers, replace_dense_part
from mmfasternet.deploy.export.manifest import Part
from mmfasternet.deploy.replacing import replace_modules
from mmfasternet.deploy.roi_align import DeployedRoIExtractor

#: A file as a function of its input: its outputs, in the order of the file.
Run = Callable[[Tensor], List[Tensor]]


def roi_heads(model: nn.Module) -> Dict[str, nn.Module]:
    """The heads of a two-stage detector that work on RoIs, by the names of their parts; empty for other models."""
    named: Dict[str, nn.Module] = {}
    if isinstance(model, TwoStageDetector):
        for kind in ('bbox', 'mask'):
            heads = getattr(model.roi_head, f'{kind}_head', None)
            for index, head in enumerate(each_module(heads)):
                named[f'{kind}_head' + (f'_{index}' if isinstance(heads, nn.ModuleList) else '')] = head
    return named


def part_names(model: nn.Module) -> List[str]:
    """The parts that contain all networks of a model: for a detector, the dense part and its RoI heads."""
    return ['dense', *roi_heads(model)] if isinstance(model, BaseDetector) else ['classifier']


def replace_networks(model: nn.Module, parts: Sequence[Part], runs: Sequence[Run]) -> None:
    """Replace networks of a model with exported files, in place.

    Args:
        model: The model they were exported from, or one with the same config.
        parts: The parts in the files: ``'classifier'``, ``'backbone'`` or
            ``'dense'``, and RoI heads. Other networks are kept.
        runs: The files as functions, one per part.
    """
    heads = roi_heads(model)
    for part, run in zip(parts, runs):
        if part.name == 'dense':
            replace_dense_part(model, _dense(part, run))
        elif part.name == 'backbone':
            model.backbone = _Maps(run)
        elif part.name == 'classifier':
            model.backbone, model.neck = _Maps(run), None
            model.head.forward = _last
            remove_layers(model.head)
        else:
            head = heads[part.name]
            head.forward = _HeadRunner(run)
            remove_layers(head)
    # OpenVINO's maps are channels-last, which mmcv's own operators would misread.
    if isinstance(model, TwoStageDetector):
        replace_modules(model, DeployedRoIExtractor.of)
        for module in model.modules():
            if isinstance(module, DeployedRoIExtractor):
                module.channels_last = True  # as OpenVINO takes its inputs
    feed_mmcv_contiguous(model)


def _dense(part: Part, run: Run) -> Callable[[Tensor], DenseOutputs]:
    maps, *kinds = part.outputs

    def compute(images: Tensor) -> DenseOutputs:
        outputs = iter(run(images))
        return tuple(next(outputs) for _ in maps), tuple([next(outputs) for _ in kind] for kind in kinds)

    return compute


class _Maps(nn.Module):
    """Replaces a backbone."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        return tuple(self.run(images))


class _HeadRunner:
    """Replaces a head's ``forward``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, x: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        outputs = self.run(x)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _last(outputs: Tuple[Tensor, ...]) -> Tensor:
    return outputs[-1]
