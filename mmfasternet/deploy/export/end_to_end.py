"""A two-stage detector as one function of an image, in tensor operations that ONNX supports."""

from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn
from torchvision.ops import roi_align

from mmfasternet.deploy.dense import DensePart, each_module
from mmfasternet.deploy.export.boxes import Size, clip, grouped_nms, is_plain_nms, level_rows, pad, require_all
from mmfasternet.deploy.roi_align import is_plain_extractor
from mmfasternet.errors import ArgumentError

_BOX_HEADS = (ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)


class EndToEndDetector(nn.Module):
    """A detector from a normalised image to its objects, except for pasting the masks into the image.

    It reimplements what MMDetection does between the networks: selection of
    proposals, RoIAlign on the map of a RoI's level, suppression within
    classes. Boxes are in pixels of the input image.

    Args:
        detector: A Faster or Mask R-CNN in inference form.

    Raises:
        ArgumentError: If it has parts or settings that are not supported here.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        _check(detector)
        self.dense = DensePart(detector)
        self.roi_head = detector.roi_head
        self.cfg = detector.test_cfg
        self.preprocessor = detector.data_preprocessor

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Map a normalised image ``(1, C, H, W)``, not padded, to boxes, scores, labels, and mask probabilities."""
        height, width = images.shape[2:]
        maps, (cls_scores, bbox_preds) = self.dense(pad(images, self.preprocessor))
        proposals = self._proposals(cls_scores, bbox_preds, (height, width))
        features = _pool(self.roi_head.bbox_roi_extractor, maps, proposals)
        cls_score, bbox_pred = self.roi_head.bbox_head(features)
        boxes, scores, labels = self._detections(proposals, cls_score, bbox_pred, (height, width))
        if not self.roi_head.with_mask:
            return boxes, scores, labels
        masks = self.roi_head.mask_head(_pool(self.roi_head.mask_roi_extractor, maps, boxes))
        channels = torch.zeros_like(labels) if self.roi_head.mask_head.class_agnostic else labels
        masks = masks[torch.arange(masks.shape[0]), channels]
        return boxes, scores, labels, masks.sigmoid()

    def _proposals(self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], size: Size) -> Tensor:
        head, cfg = self.dense.head, self.cfg.rpn
        anchors = head.prior_generator.grid_priors([x.shape[2:] for x in cls_scores], cls_scores[0].dtype,
                                                   cls_scores[0].device)
        columns: List[List[Tensor]] = [[], [], [], []]
        for level, (cls_score, bbox_pred, priors) in enumerate(zip(cls_scores, bbox_preds, anchors)):
            scores = level_rows(cls_score, head.cls_out_channels)
            scores = scores.sigmoid()[:, 0] if head.use_sigmoid_cls else scores.softmax(-1)[:, 0]
            scores, best = scores.topk(torch.sym_min(cfg.nms_pre, scores.shape[0]))
            chosen = (scores, level_rows(bbox_pred, 4)[best], priors[best], torch.full_like(best, level))
            for column, rows in zip(columns, chosen):
                column.append(rows)
        scores, deltas, priors, levels = map(torch.cat, columns)
        boxes = _decode(head.bbox_coder, priors, deltas, size)[:, 0]
        large = ((boxes[:, 2:] - boxes[:, :2]) > cfg.get('min_bbox_size', -1)).all(1)
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        return boxes[grouped_nms(boxes, scores, levels, cfg.nms)[:cfg.max_per_img]]

    def _detections(self, rois: Tensor, cls_score: Tensor, bbox_pred: Tensor, size: Size) -> Tuple[Tensor, ...]:
        head, cfg = self.roi_head.bbox_head, self.cfg.rcnn
        scores = cls_score.softmax(-1)[:, :head.num_classes]
        boxes = _decode(head.bbox_coder, rois, bbox_pred, size)
        index, labels = (scores > cfg.score_thr).nonzero(as_tuple=True)
        scores = scores[index, labels]
        boxes = boxes[index, torch.zeros_like(labels) if head.reg_class_agnostic else labels]
        keep = grouped_nms(boxes, scores, labels, cfg.nms)[:cfg.max_per_img]
        return boxes[keep], scores[keep], labels[keep]


def _check(detector: nn.Module) -> None:
    """Refuse a detector with parts or settings that are not supported here."""
    if not isinstance(detector, TwoStageDetector):
        raise ArgumentError(f'a detector in one file must be a Faster or Mask R-CNN or an RTMDet, not a '
                            f'{type(detector).__name__}')
    roi_head, rpn, rcnn = detector.roi_head, detector.test_cfg.rpn, detector.test_cfg.rcnn
    require_all([
        (type(detector.rpn_head) is RPNHead, 'an RPNHead'),
        (type(roi_head) is StandardRoIHead and not roi_head.with_shared_head, 'a StandardRoIHead, nothing shared'),
        (type(roi_head.bbox_head) in _BOX_HEADS and roi_head.bbox_head.with_reg
         and not roi_head.bbox_head.custom_cls_channels, 'a ConvFCBBoxHead with softmax and regression'),
        (not roi_head.with_mask or type(roi_head.mask_head) is FCNMaskHead, 'an FCNMaskHead'),
        (all(type(head.bbox_coder) is DeltaXYWHBBoxCoder for head in (detector.rpn_head, roi_head.bbox_head)),
         'DeltaXYWHBBoxCoder'),
        (all(is_plain_extractor(extractor)
             and all(layer.pool_mode == 'avg' for layer in extractor.roi_layers)
             for name in ('bbox_roi_extractor', 'mask_roi_extractor')
             for extractor in each_module(getattr(roi_head, name, None))),
         'SingleRoIExtractor and average pooling'),
        (is_plain_nms(rpn.nms) and is_plain_nms(rcnn.nms), 'plain NMS within classes'),
        (min(rpn.nms_pre, rpn.max_per_img, rcnn.max_per_img) > 0, 'limits nms_pre and max_per_img'),
    ])


def _decode(coder: nn.Module, priors: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """Decode boxes ``(n, k, 4)`` from ``k`` times four deltas for each prior, clipped to the image."""
    boxes = coder.decode(priors, deltas).unflatten(1, (-1, 4))  # clipping there fails in an export
    return clip(boxes, size) if coder.clip_border else boxes


def _pool(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Apply RoIAlign to each box on the map of its level."""
    maps = maps[:extractor.num_inputs]
    rois = F.pad(boxes, (1, 0))
    levels = extractor.map_roi_levels(rois, len(maps))
    out = boxes.new_zeros(boxes.shape[0], extractor.out_channels, *extractor.roi_layers[0].output_size)
    for level, (feature_map, layer) in enumerate(zip(maps, extractor.roi_layers)):
        chosen = (levels == level).nonzero()[:, 0]
        pooled = roi_align(feature_map, rois[chosen], layer.output_size, layer.spatial_scale, layer.sampling_ratio,
                           layer.aligned)
        out = out.index_put((chosen, ), pooled)
    return out
