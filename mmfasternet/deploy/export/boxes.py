"""Box operations of all end-to-end detectors, in tensor operations that ONNX supports."""

import math
from typing import Any, Iterable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.ops import nms as mmcv_nms
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from mmfasternet.errors import ArgumentError

Size = Tuple[int, int]
#: Boxes ``(n, 4)``, scores and labels ``(n, )``.
Objects = Tuple[Tensor, Tensor, Tensor]
#: Difference of overlaps, relative one of scores, and pixels, below which rounding may decide.
NEAR = 1e-3


def require_all(rules: Iterable[Tuple[bool, str]]) -> None:
    """Refuse a detector that violates a rule, with the first one in the message.

    Args:
        rules: For each rule, whether it holds, and what the detector must
            have.

    Raises:
        ArgumentError: If a rule does not hold.
    """
    for holds, what in rules:
        if not holds:
            raise ArgumentError(f'a detector in one file must have {what}')


def is_plain_nms(cfg: Any) -> bool:
    """Whether :func:`grouped_nms` implements a config of non-maximum suppression."""
    return (bool(cfg) and cfg.get('type', 'nms') in ('nms', mmcv_nms) and 'iou_threshold' in cfg
            and set(cfg) <= {'type', 'iou_threshold'})


def pad(images: Tensor, preprocessor: nn.Module) -> Tensor:
    """Pad normalised images ``(N, C, H, W)`` on the right and below, as the detector's preprocessor does."""
    height, width = images.shape[2:]
    divisor = preprocessor.pad_size_divisor
    return F.pad(images, (0, -width % divisor, 0, -height % divisor), value=preprocessor.pad_value)


def level_rows(x: Tensor, channels: int) -> Tensor:
    """Outputs ``(1, k * channels, H, W)`` of a dense head as ``(H * W * k, channels)``, in the order of its priors."""
    return x[0].permute(1, 2, 0).reshape(-1, channels)


def clip(boxes: Tensor, size: Size) -> Tensor:
    """Clip boxes ``(..., 4)`` to an image's height and width, which may be symbolic in an export."""
    corners = boxes.unflatten(-1, (2, 2))
    return torch.stack((corners[..., 0].clamp(0, size[1]), corners[..., 1].clamp(0, size[0])), dim=-1).flatten(-2)


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any) -> Tensor:
    """Indices of the kept boxes, best first; boxes of different groups are shifted apart."""
    side = F.pad(boxes.flatten(), (0, 1)).max() + 1
    return nms(boxes + (groups * side)[:, None], scores, cfg.iou_threshold)


def counterparts(found: Sequence[Tensor], candidates: Objects, due: Tensor, cfg: Any) -> Optional[Objects]:
    """The candidates that match the objects found by another runtime, in the objects' order.

    Rounding decides the order of two candidates with nearly equal scores, and
    whether a candidate near a threshold is kept; a hardly trained detector has
    many of both. So the objects are checked against the rule of suppression,
    not against another list: within a class no two overlap by more than the
    threshold, and each candidate better than the last object is among them or
    overlaps a better one.

    Args:
        found: Objects that should be the result of suppression of the
            candidates.
        candidates: Candidates before suppression, including those that
            rounding may add.
        due: Mask ``(n, )`` of candidates that exist regardless of rounding.
        cfg: Config with ``nms.iou_threshold`` and ``max_per_img``.

    Returns:
        The nearest candidate to each object; None if the objects are not a
        valid result of suppression.
    """
    if not len(found[0]) or not len(candidates[0]) or len(found[0]) > cfg.max_per_img:
        return None
    near, threshold = NEAR * candidates[1].max(), cfg.nms.iou_threshold
    if len(found[0]) == cfg.max_per_img:
        reached = candidates[1] > found[1].min() - near
        candidates, due = (candidates[0][reached], candidates[1][reached], candidates[2][reached]), due[reached]
        if not reached.any():  # the scores are NaN, or too large
            return None
    boxes, scores, labels = candidates
    index = torch.tensor([_nearest(each, candidates) for each in zip(*found)])
    kept = (boxes[index], scores[index], labels[index])
    overlaps = box_iou(boxes, kept[0]) * (labels[:, None] == kept[2])
    explained = ~due | ((overlaps > threshold - NEAR) & (kept[1] > scores[:, None] - near)).any(1)
    if len(kept[1]) == cfg.max_per_img:
        explained |= scores < kept[1].min() + near
    apart = (overlaps[index].fill_diagonal_(0)[due[index]] < threshold + NEAR).all()
    return kept if apart and explained.all() else None


def _nearest(found: Sequence[Tensor], candidates: Objects) -> int:
    """Index of the candidate whose box, score and label are nearest to those of an object."""
    boxes, scores, labels = candidates
    distances = (boxes - found[0]).abs().amax(1) / boxes.abs().max() + (scores - found[1]).abs() / scores.max()
    return int(distances.masked_fill(labels != found[2], math.inf).argmin())
