"""Post-processing with fixed-size outputs: with Triton on a GPU, with mmcv and MMDetection elsewhere."""

from typing import Tuple

from mmcv.ops import batched_nms
from torch import Tensor

from mmfasternet import compat
from mmfasternet.deploy.gpu import triton_kernels


def suppress(boxes: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int) -> Tuple[Tensor, Tensor]:
    """Non-maximum suppression; see :func:`mmfasternet.deploy.gpu.triton_kernels.suppress`."""
    if triton_kernels.available(boxes.device):
        return triton_kernels.suppress(boxes, groups, valid, threshold, limit)
    kept, numbers = groups.new_zeros(len(boxes), limit), groups.new_zeros(len(boxes))
    for image, places in enumerate(mask.nonzero()[:, 0] for mask in valid):
        if len(places):
            order = -places.float()  # decreasing scores
            _, chosen = batched_nms(boxes[image, places], order, groups[image, places],
                                    dict(type='nms', iou_threshold=threshold))
            numbers[image] = len(chosen[:limit])
            kept[image, :len(chosen[:limit])] = places[chosen[:limit]]
    return kept, numbers


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks into an image; see :func:`mmfasternet.deploy.gpu.triton_kernels.paste_masks`."""
    if triton_kernels.available(masks.device):
        return triton_kernels.paste_masks(masks, boxes, height, width, threshold)
    if not len(masks):
        return masks.new_zeros(0, height, width, dtype=bool)
    return compat.paste_masks(masks[:, None], boxes, height, width) >= threshold
