"""Masks of boxes pasted into images."""

from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from torch import Tensor

from mmfasternet.deploy import triton_kernels


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks as MMDetection does on a GPU, there by one kernel.

    Args:
        masks: Probabilities in the boxes, ``(R, h, w)``.
        boxes: ``(R, 4)``: x1, y1, x2, y2 in pixels of the image.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        threshold: The least probability of an object's pixel.

    Returns:
        ``(R, height, width)``, bool.
    """
    if triton_kernels.available(masks.device):
        return triton_kernels.paste_masks(masks, boxes, height, width, threshold)
    if not len(masks):
        return masks.new_zeros(0, height, width, dtype=bool)
    pasted, _ = _do_paste_mask(masks[:, None], boxes, height, width, skip_empty=False)
    return pasted >= threshold
