"""A whole detector by CUDA graphs: all that has a fixed size is recorded, non-maximum suppression stays between."""

import copy
import functools
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfasternet.deploy.compiling import networks
from mmfasternet.deploy.cuda_graphs import Graph, Size, replay_calls
from mmfasternet.deploy.paste import paste_masks
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.deploy.triton_kernels import TritonRoIExtractor

_EXTRACTORS = (DeployedRoIExtractor, TritonRoIExtractor)
_NO_BOX = -1.  # score of a box without an area, which no score of an RPN is


def record_detector(model: nn.Module, sizes: Sequence[Size] = ()) -> None:
    """Have a GPU replay a model's networks as CUDA graphs, in place.

    Of any model these are backbone, neck and dense head (or the head of a
    classifier), or a bare backbone. Of a two-stage detector with MMDetection's
    ``RPNHead``, ``StandardRoIHead`` and ``FCNMaskHead`` they are all but the
    two steps of non-maximum suppression and the pasting of masks: the number
    of boxes that come out of the first is filled up to its limit by boxes
    whose scores are 0. The results are the same.

    A graph is recorded at the first call for each shape of a batch.

    Args:
        model: A model in inference form, on a GPU.
        sizes: Heights and widths that images are padded to. Defaults to none.
    """
    pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
    first, *others = networks(model)
    replay_calls(first, pool, sizes)
    whole = knows_proposals(model)
    for part in others:
        if not (whole and part is model.rpn_head):
            replay_calls(part, pool)
    if whole:
        model.rpn_head.predict = GraphedProposals(model.rpn_head, pool)
        head = model.roi_head
        head.predict_bbox = GraphedBoxes(head, model.rpn_head.test_cfg.max_per_img, pool)
        if knows_masks(head):
            head.predict_mask = GraphedMasks(head, head.test_cfg.max_per_img, pool)


def remove_recordings(model: nn.Module) -> None:
    """Take back what :func:`record_detector` did, in place, but for the calls of networks."""
    for owner, name, kind in ((getattr(model, 'rpn_head', None), 'predict', GraphedProposals),
                              (getattr(model, 'roi_head', None), 'predict_bbox', GraphedBoxes),
                              (getattr(model, 'roi_head', None), 'predict_mask', GraphedMasks)):
        if owner is not None and isinstance(owner.__dict__.get(name), (kind, functools.partial)):
            del owner.__dict__[name]


def knows_proposals(model: nn.Module) -> bool:
    """Whether a detector's proposals and boxes are computed as here."""
    if not isinstance(model, TwoStageDetector) or type(getattr(model, 'rpn_head', None)) is not RPNHead:
        return False
    rpn, head = model.rpn_head, model.roi_head
    box_head = getattr(head, 'bbox_head', None)
    return (rpn.use_sigmoid_cls and _is_known(rpn.bbox_coder) and type(head) is StandardRoIHead
            and isinstance(head.bbox_roi_extractor, _EXTRACTORS)
            and type(box_head).predict_by_feat is BBoxHead.predict_by_feat
            and type(box_head)._predict_by_feat_single is BBoxHead._predict_by_feat_single
            and not box_head.custom_cls_channels and _is_known(box_head.bbox_coder) and box_head.with_reg
            and head.test_cfg.score_thr >= 0)


def knows_masks(head: nn.Module) -> bool:
    """Whether an RoI head's masks are computed as here."""
    return (head.with_mask and type(head.mask_head) is FCNMaskHead and head.test_cfg.mask_thr_binary >= 0
            and isinstance(head.mask_roi_extractor, _EXTRACTORS))


def _is_known(coder: Any) -> bool:
    return type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp and not coder.use_box_type


class _InPlaceOf:
    """Stands in the place of a method of a head; a copy of the head has its own method again."""

    method = ''

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        return functools.partial(getattr(type(self.head), self.method), copy.deepcopy(self.head, memo))


class GraphedProposals(_InPlaceOf):
    """Stands in the place of an RPN's ``predict``.

    Boxes without an area, which MMDetection drops, come last and keep the
    score -1.
    """

    method = 'predict'

    def __init__(self, head: RPNHead, pool: Any) -> None:
        super().__init__(head)
        self.networks = Graph(self._candidates, pool)
        self._anchors: Dict[Any, List[Tensor]] = {}

    def __call__(self, x: Sequence[Tensor], batch_data_samples: Sequence[Any],
                 rescale: bool = False) -> List[InstanceData]:
        """Proposals of each image, in its own pixels."""
        bounds = bounds_of([sample.metainfo for sample in batch_data_samples], x[0].device)
        boxes, scores, levels = self.networks(bounds, kept=(tuple(x), ))
        return [self._select(*each, levels) for each in zip(boxes, scores)]

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> InstanceData:
        cfg = self.head.test_cfg
        chosen, keep = batched_nms(boxes, scores, levels, cfg.nms)
        keep, chosen = keep[:cfg.max_per_img], chosen[:cfg.max_per_img]
        return InstanceData(bboxes=boxes[keep], scores=chosen[:, 4], labels=torch.zeros_like(keep))

    def _candidates(self, bounds: Tensor, maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor, Tensor]:
        """The likeliest boxes of all levels: ``(N, K, 4)``, their scores ``(N, K)`` and levels ``(K, )``."""
        cfg, found = self.head.test_cfg, []
        for level, (scores, deltas, anchors) in enumerate(zip(*self.head(maps), self._anchors_for(maps))):
            scores = scores.permute(0, 2, 3, 1).flatten(1)
            deltas = deltas.permute(0, 2, 3, 1).reshape(len(deltas), -1, 4)
            anchors = anchors.expand(len(deltas), -1, -1)
            if 0 < cfg.get('nms_pre', -1) < scores.shape[1]:
                scores, index = scores.topk(cfg.nms_pre)
                index = index[:, :, None].expand(-1, -1, 4)
                deltas, anchors = deltas.gather(1, index), anchors.gather(1, index)
            found.append((anchors, deltas, scores, torch.full_like(scores[0], level, dtype=torch.long)))
        anchors, deltas, scores = (torch.cat(kind, dim=1) for kind in list(zip(*found))[:3])
        boxes = decode(self.head.bbox_coder, anchors, deltas, bounds[:, None])
        sides = boxes[..., 2:] - boxes[..., :2]
        smallest = cfg.get('min_bbox_size', -1)
        scores = scores.sigmoid()
        if smallest >= 0:
            scores = scores.masked_fill((sides <= smallest).any(2), _NO_BOX)
        return boxes, scores, torch.cat([each[3] for each in found])

    def _anchors_for(self, maps: Sequence[Tensor]) -> List[Tensor]:
        """Anchors of each level; kept, since making them waits for the GPU."""
        sizes = tuple(tuple(x.shape[2:]) for x in maps)
        if sizes not in self._anchors:
            self._anchors[sizes] = self.head.prior_generator.grid_priors(
                sizes, dtype=torch.float32, device=maps[0].device)
        return self._anchors[sizes]


class GraphedBoxes(_InPlaceOf):
    """Stands in the place of an RoI head's ``predict_bbox``; takes what :class:`GraphedProposals` gives."""

    method = 'predict_bbox'

    def __init__(self, head: StandardRoIHead, limit: int, pool: Any) -> None:
        super().__init__(head)
        self.limit = limit
        self.networks = Graph(self._classified, pool)

    def __call__(self, x: Sequence[Tensor], batch_img_metas: Sequence[Dict[str, Any]],
                 rpn_results_list: Sequence[InstanceData], rcnn_test_cfg: Any,
                 rescale: bool = False) -> List[InstanceData]:
        """Objects of each image, in pixels of the input, or with ``rescale`` of the image as it was."""
        bounds = bounds_of(batch_img_metas, x[0].device)
        rois = filled_rois([each.bboxes for each in rpn_results_list], self.limit)
        valid = torch.cat([_filled(each.scores >= 0, self.limit) for each in rpn_results_list])
        boxes, scores = self.networks(rois, valid, bounds, kept=(tuple(x), ))
        return [self.select(*each, meta, rcnn_test_cfg, rescale)
                for *each, meta in zip(boxes, scores, batch_img_metas)]

    def select(self, boxes: Tensor, scores: Tensor, meta: Dict[str, Any], cfg: Any, rescale: bool) -> InstanceData:
        """Objects of an image after non-maximum suppression, by MMDetection."""
        if rescale:
            boxes = boxes / _scale(meta, boxes.device).repeat(boxes.shape[1] // 4)
        chosen, labels = multiclass_nms(boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        return InstanceData(bboxes=chosen[:, :4], scores=chosen[:, 4], labels=labels)

    def _classified(self, rois: Tensor, valid: Tensor, bounds: Tensor,
                    maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Boxes ``(N, limit, 4 C)``, or ``(N, limit, 4)`` for all classes, and scores ``(N, limit, C + 1)``."""
        found = self.head._bbox_forward(maps, rois)
        scores = found['cls_score'].softmax(1) * valid[:, None]
        deltas = found['bbox_pred'].unflatten(1, (-1, 4))
        bounds = bounds.repeat_interleave(self.limit, dim=0)[:, None]
        boxes = decode(self.head.bbox_head.bbox_coder, rois[:, None, 1:], deltas, bounds)
        return (boxes.flatten(1).unflatten(0, (-1, self.limit)), scores.unflatten(0, (-1, self.limit)))


class GraphedMasks(_InPlaceOf):
    """Stands in the place of an RoI head's ``predict_mask``."""

    method = 'predict_mask'

    def __init__(self, head: StandardRoIHead, limit: int, pool: Any) -> None:
        super().__init__(head)
        self.limit = limit
        self.networks = Graph(self._probabilities, pool)

    def __call__(self, x: Sequence[Tensor], batch_img_metas: Sequence[Dict[str, Any]],
                 results_list: List[InstanceData], rescale: bool = False) -> List[InstanceData]:
        """The objects with their masks; their boxes in pixels of the image as it was with ``rescale``."""
        rois = filled_rois([each.bboxes for each in results_list], self.limit)
        labels = torch.cat([_filled(each.labels, self.limit) for each in results_list])
        probabilities = self.networks(rois, labels, kept=(tuple(x), ))
        for each, meta, own in zip(results_list, batch_img_metas, probabilities.split(self.limit)):
            self.paste(each, own, meta, rescale)
        return results_list

    def paste(self, results: InstanceData, probabilities: Tensor, meta: Dict[str, Any], rescale: bool) -> None:
        """Add an image's masks to its objects."""
        height, width = meta['ori_shape'][:2]
        if rescale:
            results.bboxes = results.bboxes / _scale(meta, results.bboxes.device)
        else:
            height, width = (round(side * scale) for side, scale in zip((height, width), meta['scale_factor'][1::-1]))
        results.masks = paste_masks(probabilities[:len(results.bboxes)], results.bboxes, height, width,
                                    self.head.test_cfg.mask_thr_binary)

    def _probabilities(self, rois: Tensor, labels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        masks = self.head._mask_forward(maps, rois)['mask_preds'].sigmoid()
        if masks.shape[1] == 1:  # one for all classes
            return masks[:, 0]
        return masks.gather(1, labels[:, None, None, None].expand(-1, -1, *masks.shape[2:]))[:, 0]


def decode(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, bounds: Tensor) -> Tensor:
    """MMDetection's ``DeltaXYWHBBoxCoder.decode`` without copies from the CPU.

    Args:
        coder: The coder.
        boxes: ``(..., 4)``: x1, y1, x2, y2.
        deltas: ``(..., 4)``: shifts of the centre over the sides, logarithms
            of the ratios of the sides.
        bounds: ``(..., 4)``: the largest of each coordinate.
    """
    mean, std = coder.means, coder.stds
    limit = 4.135166556742356  # log(1000 / 16), MMDetection's default
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    sides = boxes[..., 2:] - boxes[..., :2]
    dx, dy, dw, dh = (deltas[..., i] * std[i] + mean[i] if (mean[i], std[i]) != (0., 1.) else deltas[..., i]
                      for i in range(4))
    centre = centre + sides * torch.stack((dx, dy), dim=-1)
    half = sides * torch.stack((dw, dh), dim=-1).clamp(-limit, limit).exp() * 0.5
    decoded = torch.cat((centre - half, centre + half), dim=-1)
    return torch.minimum(decoded.clamp(min=0), bounds) if coder.clip_border else decoded


def filled_rois(boxes: Sequence[Tensor], limit: int) -> Tensor:
    """Boxes of each image ``(R, 4)`` as RoIs ``(N * limit, 5)``, filled up with zeros."""
    rois = boxes[0].new_zeros(len(boxes), limit, 5)
    for index, each in enumerate(boxes):
        rois[index, :len(each), 1:] = each
        if index:
            rois[index, :, 0] = index
    return rois.flatten(0, 1)


def _filled(values: Tensor, limit: int) -> Tensor:
    filled = values.new_zeros(limit)
    filled[:len(values)] = values
    return filled


def bounds_of(metas: Sequence[Dict[str, Any]], device: torch.device) -> Tensor:
    """The largest coordinates in each image, ``(N, 4)``."""
    return _constant(tuple((float(w), float(h)) * 2 for h, w in (meta['img_shape'][:2] for meta in metas)), device)


def _scale(meta: Dict[str, Any], device: torch.device) -> Tensor:
    return _constant(tuple(map(float, meta['scale_factor'])) * 2, device)


@functools.lru_cache(maxsize=1024)
def _constant(values: Any, device: torch.device) -> Tensor:
    """A tensor on the device; kept, since its copy waits for the GPU."""
    return torch.tensor(values, device=device)
