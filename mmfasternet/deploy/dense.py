"""The dense part of a detector (backbone, neck and dense head) as one function of the images."""

from typing import Callable, List, Optional, Sequence, Tuple

from mmdet.models.backbones.csp_darknet import Focus
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from torch import Tensor, nn

from mmfasternet.errors import ArgumentError

#: Feature maps (none of a single-stage detector), and the head's outputs: for each kind a tensor per level.
DenseOutputs = Tuple[Tuple[Tensor, ...], Tuple[List[Tensor], ...]]


def image_channels(model: nn.Module) -> int:
    """Input channels of a backbone or of a model with a backbone: those of its first convolution."""
    layers = list(getattr(model, 'backbone', model).modules())
    channels = next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), 3)
    return channels // 4 if any(isinstance(layer, Focus) for layer in layers) else channels  # of four pixels each


class DensePart(nn.Module):
    """Backbone, neck and dense head of a detector.

    Args:
        detector: A two-stage detector with an RPN, or a single-stage one.

    Raises:
        ValueError: If it is another kind of detector.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.head = dense_head(detector)
        self.backbone = detector.backbone
        self.neck = detector.neck if detector.with_neck else nn.Identity()
        self.num_maps = 0
        if isinstance(detector, TwoStageDetector):
            extractors = [module for name in ('bbox_roi_extractor', 'mask_roi_extractor')
                          for module in each_module(getattr(detector.roi_head, name, None))]
            self.num_maps = max(extractor.num_inputs for extractor in extractors)

    def forward(self, images: Tensor) -> DenseOutputs:
        """Map normalised images ``(N, C, H, W)`` to the maps for RoIs and the head's outputs."""
        maps = tuple(self.neck(self.backbone(images)))
        kinds = self.head(maps)
        if not all(isinstance(outputs, (list, tuple)) and all(isinstance(x, Tensor) for x in outputs)
                   for outputs in kinds):
            raise ArgumentError(f'{type(self.head).__name__} gives more than one tensor for each level, which is not '
                                'supported')
        return maps[:self.num_maps], tuple(list(outputs) for outputs in kinds)


class DenseMaps(tuple):
    """Feature maps that carry the dense head's outputs."""

    head_outputs: Tuple[List[Tensor], ...] = ()


class _DenseRunner(nn.Module):
    """Replaces a detector's backbone and computes the whole dense part."""

    def __init__(self, run: Callable[[Tensor], DenseOutputs]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> DenseMaps:
        maps, head_outputs = self.run(images)
        result = DenseMaps(maps)
        result.head_outputs = head_outputs
        return result


def replace_dense_part(detector: nn.Module, run: Callable[[Tensor], DenseOutputs]) -> None:
    """Replace the computation of a detector's backbone, neck and dense head with ``run``, in place.

    The head keeps its methods, and still turns its outputs into boxes.
    """
    head = dense_head(detector)
    detector.backbone = _DenseRunner(run)
    detector.neck = None
    head.forward = _carried_outputs
    remove_layers(head)


def remove_layers(head: nn.Module) -> None:
    """Remove the layers of a head whose outputs are computed elsewhere."""
    for name, child in list(head.named_children()):
        if any(True for _ in child.parameters()):
            setattr(head, name, nn.Identity())


def dense_head(detector: nn.Module) -> nn.Module:
    """The head that works on maps, not on RoIs: the RPN of a two-stage detector, or the head of a single-stage one.

    Raises:
        ValueError: If it is another kind of detector.
    """
    head: Optional[nn.Module] = None
    if isinstance(detector, TwoStageDetector):
        head = getattr(detector, 'rpn_head', None)
    elif isinstance(detector, SingleStageDetector):
        head = getattr(detector, 'bbox_head', None)
    if not isinstance(head, BaseDenseHead):
        raise ArgumentError(f'{type(detector).__name__} has no dense part: it must be a single-stage detector, or a '
                            f'two-stage one with a region proposal network')
    return head


def _carried_outputs(maps: DenseMaps) -> Tuple[List[Tensor], ...]:
    return maps.head_outputs


def each_module(module: Optional[nn.Module]) -> Sequence[nn.Module]:
    """The modules of a list, one module, or none."""
    if module is None:
        return ()
    return tuple(module) if isinstance(module, nn.ModuleList) else (module, )
