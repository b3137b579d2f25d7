"""Parameters and multiply-adds of classifiers and detectors, part by part."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmfasternet.compat import BatchNorm, fake_tensors
from mmfasternet.deploy.conversion import set_eval_mode
from mmfasternet.deploy.dense import image_channels
from mmfasternet.engine.building import build_unloaded
from mmfasternet.engine.config import is_classifier
from mmfasternet.engine.deploying import padded_size
from mmfasternet.errors import UserError, kind_and_reason

#: RoIs in the box and in the mask head of a two-stage detector (FasterNet, Table 4).
NUM_ROIS = dict(bbox=1000, mask=100)
_ALL = ('conv', 'linear', 'addmm', 'matmul', 'mm', 'bmm', 'einsum')  # as in MMEngine's counter
COUNTED_WITH_NORMS = (*_ALL, 'layer_norm', 'group_norm')
_LAYER_OPERATORS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)  # in PyTorch's counter
_ACTIVATIONS = (nn.ReLU, nn.GELU)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_NORMS = (BatchNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Complexity:
    """Parameters of a model's part, and its multiply-adds for one image."""
    part: str
    parameters: int
    multiply_adds: int


def count_complexity(cfg: Config, size: Optional[Tuple[int, int]] = None) -> List[Complexity]:
    """Count parameters and multiply-adds with MMEngine's counter.

    Multiply-adds are those of convolutions, linear layers and matrix products;
    norms are folded into them, and the rest is below the printed digits of
    Tables 3 and 8 of the paper. In a two-stage detector the heads get
    :data:`NUM_ROIS` RoIs.

    Args:
        cfg: Config of a classifier or a detector.
        size: Height and width of the image in pixels; a detector pads it, as
            its data preprocessor says. Defaults to None: (224, 224) for a
            classifier, (800, 1280) for a detector.

    Returns:
        The parts in the order of the computation, and ``'total'``.

    Raises:
        UserError: If the model can't compute an image of this size.
    """
    classifies = is_classifier(cfg)
    model = build_for_counting(cfg)
    size = size or ((224, 224) if classifies else (800, 1280))
    try:
        image = _image(model, size, cfg)
        with torch.no_grad():
            parts = _classifier_parts(model, image) if classifies else _detector_parts(model, image)
    except RuntimeError as error:  # such as a map that is smaller than a kernel
        raise UserError(f"the model of '{cfg.filename}' can't compute an image of {size[0]} x {size[1]} pixels: "
                        f'{kind_and_reason(error)}') from error
    parts.append(Complexity('total', sum(p.numel() for p in model.parameters()), sum(p.multiply_adds for p in parts)))
    return parts


def count_as_table_4(cfg: Config, size: Tuple[int, int] = (800, 1280)) -> Complexity:
    """Count a Mask R-CNN's parameters and FLOPs as Table 4 of the paper does.

    Parameters are the trainable ones. FLOPs, in a convention found by matching
    all rows of the table, are the multiply-adds of convolutions and linear
    layers plus one for each bias, two for each element of a batch or group
    norm, and one for each element of an activation or pooling; the products of
    attention, layer norms and the mask head's last two layers are not counted.

    Args:
        cfg: Config of a Mask R-CNN with one head for boxes and one for masks.
        size: Height and width of the image in pixels, which is padded as for
            :func:`count_complexity`. Defaults to (800, 1280).
    """
    model = build_for_counting(cfg)
    elements = 0

    def visit(module: nn.Module, inputs: Tuple[Any, ...], output: Any) -> None:
        nonlocal elements
        if isinstance(module, _NORMS):
            elements += 2 * output.numel()
        elif isinstance(module, _ACTIVATIONS):
            elements += output.numel()
        elif isinstance(module, _POOLS):
            elements += inputs[0].numel()
        elif type(module) in (nn.Conv2d, nn.Linear) and module.bias is not None:
            elements += output.numel()

    for module in model.modules():
        module.register_forward_hook(visit)
    head = model.roi_head
    rois = {kind: (NUM_ROIS[kind], getattr(head, f'{kind}_roi_extractor').out_channels,
                   *getattr(head, f'{kind}_roi_extractor').roi_layers[0].output_size) for kind in NUM_ROIS}
    with torch.no_grad(), fake_tensors(), FlopCounterMode(display=False) as counter:
        # Only shapes are computed.
        model.rpn_head(model.extract_feat(_image(model, size, cfg)))
        head.bbox_head(torch.empty(rois['bbox']))
        nn.Sequential(*head.mask_head.convs)(torch.empty(rois['mask']))
    counted = counter.get_flop_counts()['Global']
    layers = sum(counted.get(operator, 0) for operator in _LAYER_OPERATORS) // 2
    return Complexity('total', sum(p.numel() for p in model.parameters() if p.requires_grad), layers + elements)


def build_for_counting(cfg: Config) -> nn.Module:
    """A config's model in eval mode, with random weights."""
    model = build_unloaded(cfg)
    set_eval_mode(model)
    return model


def _image(model: nn.Module, size: Tuple[int, int], cfg: Config) -> Tensor:
    """A random image, padded to the size that the model computes on."""
    return torch.rand(1, image_channels(model), *padded_size(size, cfg))


def count_multiply_adds(module: nn.Module, *inputs: Any, kinds: Sequence[str] = _ALL) -> int:
    """Multiply-adds of a module's convolutions, linear layers and matrix products, from MMEngine's counter."""
    counter = FlopAnalyzer(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted: Dict[str, int] = counter.by_operator()
    return sum(int(value) for name, value in counted.items() if name in kinds)


def _count(part: str, module: nn.Module, *inputs: Any) -> Complexity:
    return Complexity(part, sum(p.numel() for p in module.parameters()), count_multiply_adds(module, *inputs))


def _classifier_parts(model: nn.Module, image: Tensor) -> List[Complexity]:
    parts, feats = [_count('backbone', model.backbone, image)], model.backbone(image)
    if model.with_neck:
        parts.append(_count('neck', model.neck, feats))
        feats = model.neck(feats)
    return [*parts, _count('head', model.head, feats)]


def _detector_parts(model: nn.Module, image: Tensor) -> List[Complexity]:
    parts, feats = [_count('backbone', model.backbone, image)], model.backbone(image)
    if model.with_neck:
        parts.append(_count('neck', model.neck, feats))
        feats = model.neck(feats)
    for name in ('rpn_head', 'bbox_head', 'mask_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            parts.append(_count(name, head, feats))
    for kind, num_rois in NUM_ROIS.items():
        heads = getattr(getattr(model, 'roi_head', None), f'{kind}_head', None)
        if heads is None:
            continue
        extractors = getattr(model.roi_head, f'{kind}_roi_extractor')
        several = isinstance(heads, nn.ModuleList)  # a cascade
        for index, head in enumerate(heads if several else [heads]):
            extractor = extractors[index] if isinstance(extractors, nn.ModuleList) else extractors
            rois = torch.rand(num_rois, extractor.out_channels, *extractor.roi_layers[0].output_size)
            parts.append(_count(f'{kind} head{f" {index + 1}" if several else ""}', head, rois))
    return parts
