"""Test-time augmentation of instance segmentation."""

from typing import List

import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from mmfasternet.registry import MODELS

_FLIP_DIMS = {'horizontal': (-1, ), 'vertical': (-2, ), 'diagonal': (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """MMDetection's :class:`~mmdet.models.DetTTAModel`, extended to masks.

    Boxes are merged by non-maximum suppression over all views. The mask of a
    kept box is a score-weighted vote of the masks of all boxes of its class
    that overlap it by at least the threshold of the suppression.

    Args:
        tta_cfg: ``nms`` (config of the suppression) and ``max_per_img``.
        module: The detector, or its config.
    """

    def merge_preds(self, data_samples_list: List[List[DetDataSample]]) -> List[DetDataSample]:
        """Merge the predictions on the views of each image into one."""
        return [self._merged(views) if 'masks' in views[0].pred_instances else DetTTAModel.merge_preds(self, [views])[0]
                for views in data_samples_list]

    def _merged(self, data_samples: List[DetDataSample]) -> DetDataSample:
        views = [sample.pred_instances for sample in data_samples]
        metas = [sample.metainfo for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes([v.bboxes for v in views], [v.scores for v in views], metas)
        labels = torch.cat([v.labels for v in views])
        masks = torch.cat([_unflip(v.masks, meta) for v, meta in zip(views, metas)])

        merged = InstanceData(bboxes=boxes, scores=scores, labels=labels, masks=masks)
        if len(merged):
            kept_boxes, kept = batched_nms(boxes, scores, labels, self.tta_cfg['nms'])
            kept = kept[:self.tta_cfg['max_per_img']]
            merged = merged[kept]
            merged.scores = kept_boxes[:len(kept), -1]
            agree = bbox_overlaps(boxes[kept], boxes) >= self.tta_cfg['nms'].get('iou_threshold', 0.5)
            votes = (agree & (labels[kept, None] == labels)) * scores
            for index, weights in enumerate(votes):
                voters = weights.nonzero().flatten()
                share = torch.einsum('n,nhw->hw', weights[voters], masks[voters].to(weights)) / weights.sum()
                merged.masks[index] = share >= 0.5
        result = data_samples[0]
        result.pred_instances = merged
        return result


def _unflip(masks: Tensor, meta: dict) -> Tensor:
    """Flip masks ``(n, H, W)`` back to the original image."""
    return masks.flip(_FLIP_DIMS[meta['flip_direction']]) if meta['flip'] else masks
