"""A single-stage detector as one function of an image, in tensor operations that ONNX supports."""

from typing import Any, List, Sequence

import torch
from mmdet.models.dense_heads import RTMDetHead, RTMDetSepBNHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from torch import Tensor, nn

from mmfasternet.deploy.dense import DensePart
from mmfasternet.deploy.export.boxes import (
    NEAR,
    Objects,
    clip,
    counterparts,
    grouped_nms,
    is_plain_nms,
    level_rows,
    pad,
    require_all,
)
from mmfasternet.errors import ArgumentError


class EndToEndSingleStage(nn.Module):
    """A detector without RoIs from a normalised image to its boxes.

    It reimplements what MMDetection does after the head's layers
    (``BaseDenseHead.predict_by_feat``): scores of all pairs of a prior and a
    class, the best of each level, boxes from distances to a point, suppression
    within classes. Boxes are in pixels of the input image.

    Args:
        detector: An RTMDet in inference form.

    Raises:
        ArgumentError: If it has a head or settings that are not supported
            here.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        _check(detector)
        self.dense = DensePart(detector)
        self.cfg = self.dense.head.test_cfg
        self.preprocessor = detector.data_preprocessor

    def forward(self, images: Tensor) -> Objects:
        """Map a normalised image ``(1, C, H, W)``, not padded, to boxes ``(n, 4)``, scores and labels ``(n, )``.

        The best come first. Heights and widths that the detector's neck does
        not support, such as those that are not multiples of 32, fail here,
        too.
        """
        boxes, scores, labels = self._candidates(images)
        keep = grouped_nms(boxes, scores, labels, self.cfg.nms)[:self.cfg.max_per_img]
        return boxes[keep], scores[keep], labels[keep]

    def expected(self, found: Sequence[Tensor], images: Tensor) -> Objects:
        """What another runtime should have found in an image, given the objects that it found.

        The objects found here are expected, but where only rounding decides,
        others are accepted: see
        :func:`~mmfasternet.deploy.export.boxes.counterparts`.
        """
        candidates = self._candidates(images, NEAR)
        due = self._passes(candidates[0], candidates[1], -NEAR)
        return counterparts(found, candidates, due, self.cfg) or self(images)

    def _candidates(self, images: Tensor, slack: float = 0.) -> Objects:
        """All objects that pass the thresholds, up to the limit of each level."""
        head, cfg = self.dense.head, self.cfg
        _, (cls_scores, bbox_preds) = self.dense(pad(images, self.preprocessor))
        points = head.prior_generator.grid_priors([x.shape[2:] for x in cls_scores], cls_scores[0].dtype,
                                                  cls_scores[0].device)
        columns: List[List[Tensor]] = [[], [], []]
        for cls_score, bbox_pred, priors in zip(cls_scores, bbox_preds, points):
            scores = level_rows(cls_score, head.cls_out_channels).sigmoid().flatten()
            # The best before the threshold are also the best after it, and their number is fixed in an export.
            scores, best = scores.topk(torch.sym_min(cfg.nms_pre, scores.shape[0]))
            index = best // head.cls_out_channels
            boxes = head.bbox_coder.decode(priors[index], level_rows(bbox_pred, 4)[index])
            for column, values in zip(columns, (boxes, scores, best % head.cls_out_channels)):
                column.append(values)
        boxes, scores, labels = map(torch.cat, columns)
        if head.bbox_coder.clip_border:
            boxes = clip(boxes, images.shape[2:])
        chosen = self._passes(boxes, scores, slack).nonzero()[:, 0]
        return boxes[chosen], scores[chosen], labels[chosen]

    def _passes(self, boxes: Tensor, scores: Tensor, slack: float) -> Tensor:
        """Which boxes are large enough and over the threshold."""
        large = (boxes[:, 2:] - boxes[:, :2] > self.cfg.min_bbox_size - slack).all(1)
        return large & (scores > self.cfg.get('score_thr', 0) * (1 - slack))


def _check(detector: nn.Module) -> None:
    """Refuse a detector with a head or settings that are not supported here."""
    head: Any = getattr(detector, 'bbox_head', None)
    if not isinstance(detector, SingleStageDetector) or type(head) not in (RTMDetHead, RTMDetSepBNHead):
        raise ArgumentError(f'a detector in one file must be a Faster or Mask R-CNN or an RTMDet, not a '
                            f'{type(detector).__name__} with a {type(head).__name__}')
    cfg, priors = head.test_cfg, head.prior_generator
    require_all([
        (head.use_sigmoid_cls and not getattr(head.loss_cls, 'custom_cls_channels', False), 'sigmoid scores'),
        (type(head.bbox_coder) is DistancePointBBoxCoder and not head.bbox_coder.use_box_type,
         'DistancePointBBoxCoder, without box types'),
        (type(priors) is MlvlPointGenerator, 'MlvlPointGenerator'),
        (is_plain_nms(cfg.get('nms')), 'plain NMS within classes'),
        (min(cfg.get('nms_pre', -1), cfg.get('max_per_img', -1)) > 0, 'limits nms_pre and max_per_img'),
        # Without it a box may have negative sides, which NMS in ONNX flips.
        (cfg.get('min_bbox_size', -1) >= 0, 'a min_bbox_size of 0 or more'),
    ])
