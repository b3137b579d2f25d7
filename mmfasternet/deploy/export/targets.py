"""The parts of a model to export, each to one file."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmfasternet.compat import tree_leaves
from mmfasternet.deploy.dense import DensePart, each_module, image_channels
from mmfasternet.deploy.export.end_to_end import EndToEndDetector
from mmfasternet.deploy.export.end_to_end_single_stage import EndToEndSingleStage
from mmfasternet.errors import ArgumentError


class Target(NamedTuple):
    """A module to export, and the description of its file."""
    name: str
    module: nn.Module
    input_name: str
    axes: Dict[int, str]
    shapes: Sequence[Tuple[int, ...]]  # of random inputs; the first is traced


def targets_of(model: nn.Module, parts: bool, end_to_end: bool) -> List[Target]:
    """The parts of a model to export."""
    channels = image_channels(model)
    if end_to_end:
        single = isinstance(model, SingleStageDetector)
        detector = EndToEndSingleStage(model) if single else EndToEndDetector(model)
        sizes = [(160, 192), (96, 128 if single else 130)]  # necks of single-stage detectors need even map sizes
        return [Target('detector', detector, 'images', {2: 'height', 3: 'width'},
                       [(1, channels, *size) for size in sizes])]
    heads = _roi_heads(model) if parts else []
    if isinstance(model, BaseDetector):
        name, module = 'dense', DensePart(model)
    elif isinstance(model, BaseModel):
        name, module = 'classifier', model
    else:
        name, module = 'backbone', model
    shapes = [(2, channels, 128, 192), (1, channels, 160, 96)]
    targets = [Target(name, module, 'images', {0: 'batch', 2: 'height', 3: 'width'}, shapes), *heads]
    if parts:
        held = {id(p) for target in targets for p in target.module.parameters()}
        lacking = next((name for name, p in model.named_parameters() if id(p) not in held), None)
        if lacking:
            raise ArgumentError(f'--parts does not work for this {type(model).__name__}, which has weights outside of '
                                f'all parts ({lacking}). Export without it')
    return targets


def _roi_heads(model: nn.Module) -> List[Target]:
    roi_head: Any = getattr(model, 'roi_head', None)
    # Subclasses call their heads differently.
    if type(roi_head) not in (StandardRoIHead, CascadeRoIHead) or roi_head.with_shared_head:
        kind = type(model if roi_head is None else roi_head).__name__
        raise ArgumentError(f'--parts is for detectors with a StandardRoIHead or CascadeRoIHead, but this is a {kind}. '
                            'Export without it')
    targets = []
    for kind in ('bbox', 'mask'):
        heads = getattr(roi_head, f'{kind}_head', None)
        extractors = each_module(getattr(roi_head, f'{kind}_roi_extractor', None))
        for index, (head, extractor) in enumerate(zip(each_module(heads), extractors)):
            size = (extractor.out_channels, *extractor.roi_layers[0].output_size)
            name = f'{kind}_head' + (f'_{index}' if isinstance(heads, nn.ModuleList) else '')
            targets.append(Target(name, head, 'roi_features', {0: 'rois'}, [(3, *size), (7, *size)]))
    return targets


def output_names(target: Target) -> List[List[str]]:
    """Names of the outputs in groups, as in :class:`Part`."""
    outputs = target.module(torch.zeros(target.shapes[0]))
    if isinstance(target.module, DensePart):
        maps, kinds = outputs
        return [[f'map_{i}' for i in range(len(maps))],
                *([f'head_{kind}_{level}' for level in range(len(tensors))] for kind, tensors in enumerate(kinds))]
    known = dict(classifier=['logits'], detector=['boxes', 'scores', 'labels', 'masks'],
                 bbox_head=['cls_score', 'bbox_pred'], mask_head=['mask_preds'])
    count = len(tree_leaves(outputs))
    names = known.get(target.name.rstrip('_0123456789'), [f'map_{i}' for i in range(count)])
    return [[name] for name in names[:count]]


class Flat(nn.Module):
    """Flattens a module's outputs to a tuple of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        return tuple(tree_leaves(self.module(x)))
