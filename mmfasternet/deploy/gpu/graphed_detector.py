"""An end-to-end detector in CUDA graphs, from normalisation to the masks in their boxes."""

import copy
import functools
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmcv.ops import nms as mmcv_nms
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.utils.misc import samplelist_boxtype2tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfasternet.compat import box_forward, finds_boxes_like, mask_forward, normalizes, swaps_channels
from mmfasternet.deploy.compiling import networks
from mmfasternet.deploy.gpu.cuda_graphs import (
    Graph,
    GraphPool,
    Size,
    remove_replay,
    replay_calls,
    size_that_holds,
)
from mmfasternet.deploy.gpu.fixed_size import paste_masks, suppress
from mmfasternet.deploy.gpu.triton_kernels import TritonRoIExtractor
from mmfasternet.deploy.roi_align import DeployedRoIExtractor

#: Boxes of all classes that enter the last suppression, the likeliest first.
CANDIDATES = 4096
_MOST_OF_A_LEVEL = 10_000  # boxes per level that enter the first suppression, which computes the overlaps of all pairs
_LARGEST_SHIFT = 4.135166556742356  # log(1000 / 16), of a side: MMDetection's default


def record_detector(model: nn.Module, sizes: Sequence[Size] = ()) -> None:
    """Make a GPU replay a model as CUDA graphs, in place.

    The graphs of any model contain backbone, neck and dense head (or the head
    of a classifier), or a bare backbone; for a detector, normalisation as
    well. A two-stage detector with MMDetection's ``RPNHead``,
    ``StandardRoIHead``, plain ``nms`` and, if it has masks, ``FCNMaskHead`` is
    replayed end-to-end: the CPU waits once, for the number of objects. The
    lists of boxes are padded to their limits with invalid boxes. The results
    are the same.

    A graph is recorded on the first call for each shape of a batch. From then
    on the model must not be moved, its weights must not be replaced, and a
    two-stage detector only predicts (``test_step``, or mode ``'predict'``).

    Args:
        model: A model in inference form, on a GPU.
        sizes: Heights and widths that images are padded to. Defaults to none.
    """
    parts = networks(model)
    remove_recordings(model)
    pool = GraphPool()
    end_to_end = is_known(model)
    for part in parts:
        if not (end_to_end and part is model.rpn_head):
            replay_calls(part, pool, sizes if part is parts[0] else ())
    if is_known_preprocessor(getattr(model, 'data_preprocessor', None)):
        model.data_preprocessor.forward = GraphedPreprocessor(model.data_preprocessor, pool, sizes)
    if end_to_end:
        head = model.roi_head
        model.rpn_head.predict = GraphedProposals(model.rpn_head, pool)
        head.predict_bbox = boxes = GraphedBoxes(head, model.rpn_head.test_cfg.max_per_img, pool)
        if head.with_mask:
            head.predict_mask = GraphedMasks(head, boxes, pool)


def remove_recordings(model: nn.Module) -> None:
    """Undo :func:`record_detector`, in place."""
    for module in model.modules():
        remove_replay(module)
        for name, value in list(module.__dict__.items()):
            if isinstance(value, (_InPlaceOf, _Original)):
                del module.__dict__[name]


def is_known(model: nn.Module) -> bool:
    """Whether a detector can be replayed end-to-end."""
    rpn: Any = getattr(model, 'rpn_head', None)
    head: Any = getattr(model, 'roi_head', None)
    if not isinstance(model, TwoStageDetector) or type(rpn) is not RPNHead or type(head) is not StandardRoIHead:
        return False
    boxes, on_cpu = head.bbox_head, next(model.parameters()).device.type == 'cpu'
    extractor = DeployedRoIExtractor if on_cpu else TritonRoIExtractor
    return (rpn.use_sigmoid_cls and _is_known_coder(rpn.bbox_coder) and _is_plain(rpn.test_cfg.nms)
            and 0 < rpn.test_cfg.get('nms_pre', -1) <= _MOST_OF_A_LEVEL and rpn.test_cfg.max_per_img > 0
            and isinstance(head.bbox_roi_extractor, extractor)
            and finds_boxes_like(type(boxes), BBoxHead)
            and boxes.with_reg and not boxes.custom_cls_channels and _is_known_coder(boxes.bbox_coder)
            and _is_plain(head.test_cfg.nms) and head.test_cfg.score_thr >= 0 and head.test_cfg.max_per_img > 0
            and (not head.with_mask or (type(head.mask_head) is FCNMaskHead and head.test_cfg.mask_thr_binary >= 0
                                        and isinstance(head.mask_roi_extractor, extractor))))


def is_known_preprocessor(module: Any) -> bool:
    """Whether a preprocessor's normalisation is the one implemented here."""
    return type(module) is DetDataPreprocessor and normalizes(module) and module.pad_value == 0


def _is_known_coder(coder: Any) -> bool:
    return type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp and not coder.use_box_type


def _is_plain(nms: Dict[str, Any]) -> bool:
    return nms.get('type', 'nms') in ('nms', mmcv_nms) and set(nms) <= {'type', 'iou_threshold', 'class_agnostic'}


class _Original(functools.partial):
    """A method of a module's class, which a copy of the module gets instead of a graph."""


class _InPlaceOf:
    """Replaces a method of a module; copies of the module get the original method."""

    method = ''

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module

    @property
    def original(self) -> Any:
        """The original method."""
        return functools.partial(getattr(type(self.module), self.method), self.module)

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        return _Original(getattr(type(self.module), self.method), copy.deepcopy(self.module, memo))


class GraphedPreprocessor(_InPlaceOf):
    """Replaces a preprocessor's ``forward``: bytes go to the GPU, which normalises and pads them."""

    method = 'forward'

    def __init__(self, module: DetDataPreprocessor, pool: GraphPool, sizes: Sequence[Size]) -> None:
        super().__init__(module)
        self.sizes = sizes
        self.normalise = Graph(self._normalised, pool)

    def __call__(self, data: Dict[str, Any], training: bool = False) -> Dict[str, Any]:
        """Images ``(N, 3, H, W)`` and their samples, as MMDetection returns them."""
        images, samples = data['inputs'], data.get('data_samples')
        if training or not isinstance(images, (list, tuple)) or not samples or any(
                x.dtype != torch.uint8 or len(x) != 3 for x in images):
            return self.original(data, training)
        samples = self.module.cast_data(samples)
        divisor = self.module.pad_size_divisor
        shapes = [tuple(-(-side // divisor) * divisor for side in x.shape[1:]) for x in images]
        batch = tuple(map(max, zip(*shapes)))
        for sample, shape in zip(samples, shapes):
            sample.set_metainfo(dict(batch_input_shape=batch, pad_shape=shape))
        if self.module.boxtype2tensor:
            samplelist_boxtype2tensor(samples)
        # The area outside of an image is set in the graph.
        shape = (len(images), 3, *size_that_holds(batch, self.sizes))
        place = torch.empty(shape, dtype=torch.uint8, device=self.module.device)
        for own, x in zip(place, images):
            own[:, :x.shape[1], :x.shape[2]].copy_(x, non_blocking=True)
        limits = _constant(tuple(tuple(x.shape[1:]) for x in images), place.device)
        return dict(inputs=self.normalise(place, limits), data_samples=samples)

    def _normalised(self, images: Tensor, limits: Tensor) -> Tensor:
        if swaps_channels(self.module):
            images = images.flip(1)
        images = (images.float() - self.module.mean) / self.module.std
        rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
        inside = (rows < limits[:, :1])[:, :, None] & (columns < limits[:, 1:])[:, None]
        return torch.where(inside[:, None], images, 0.)


class GraphedProposals(_InPlaceOf):
    """Replaces an RPN's ``predict``; returns as many boxes as its limit, and the number of valid ones."""

    method = 'predict'

    def __init__(self, module: RPNHead, pool: GraphPool) -> None:
        super().__init__(module)
        self.propose = Graph(self._proposals, pool)
        self._sizes: Any = None
        self._anchors: List[Tensor] = []

    def __call__(self, x: Sequence[Tensor], batch_data_samples: Sequence[Any],
                 rescale: bool = False) -> Tuple[Tensor, Tensor, Tensor]:
        """Proposals ``(N, limit, 4)`` in pixels of their images, scores ``(N, limit)``, and numbers ``(N, )``."""
        return self.propose(tuple(x), bounds_of([sample.metainfo for sample in batch_data_samples], x[0].device))[:3]

    def _proposals(self, maps: Sequence[Tensor], bounds: Tensor) -> Tuple[Tensor, Tensor, Tensor, List[Tensor]]:
        cfg = self.module.test_cfg
        boxes, scores, levels = self._candidates(maps, bounds)
        sides = boxes[..., 2:] - boxes[..., :2]
        smallest = cfg.get('min_bbox_size', -1)
        valid = (sides > smallest).all(2) if smallest >= 0 else torch.ones_like(levels, dtype=torch.bool)
        groups = torch.zeros_like(levels) if cfg.nms.get('class_agnostic') else levels
        kept, numbers = suppress(boxes, groups, valid, cfg.nms.iou_threshold, cfg.max_per_img)
        # The graph reads the anchors, which are not in its memory: as an output, they live as long as its recording.
        return _taken(boxes, kept), scores.gather(1, kept), numbers, self._anchors_for(maps)

    def _candidates(self, maps: Sequence[Tensor], bounds: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """The best boxes of all levels: ``(N, K, 4)``, their scores and levels ``(N, K)``, best first."""
        limit, found = self.module.test_cfg.get('nms_pre', -1), []
        for level, (scores, deltas, anchors) in enumerate(zip(*self.module(maps), self._anchors_for(maps))):
            scores = scores.permute(0, 2, 3, 1).flatten(1)
            deltas = deltas.permute(0, 2, 3, 1).reshape(len(deltas), -1, 4)
            anchors = anchors.expand(len(deltas), -1, -1)
            if 0 < limit < scores.shape[1]:
                scores, places = scores.topk(limit)
                deltas, anchors = _taken(deltas, places), _taken(anchors, places)
            found.append((scores, torch.full_like(scores, level, dtype=torch.long), deltas, anchors))
        scores, levels, deltas, anchors = (torch.cat(kind, dim=1) for kind in zip(*found))
        boxes = decode(self.module.bbox_coder, anchors, deltas, bounds[:, None])
        scores, places = scores.sigmoid().sort(1, descending=True)
        return _taken(boxes, places), scores, levels.gather(1, places)

    def _anchors_for(self, maps: Sequence[Tensor]) -> List[Tensor]:
        """Anchors of each level; made before the recording of a size, because making them waits for the GPU."""
        sizes = [tuple(x.shape[2:]) for x in maps]
        if sizes != self._sizes:
            self._anchors = self.module.prior_generator.grid_priors(sizes, dtype=torch.float32, device=maps[0].device)
            self._sizes = sizes
        return self._anchors


class GraphedBoxes(_InPlaceOf):
    """Replaces a RoI head's ``predict_bbox``; takes the output of :class:`GraphedProposals`.

    For a detector with masks it returns as many objects as its limit, for
    :class:`GraphedMasks`.
    """

    method = 'predict_bbox'

    def __init__(self, module: StandardRoIHead, limit: int, pool: GraphPool) -> None:
        super().__init__(module)
        self.limit = limit
        self.find = Graph(self._objects, pool)

    def __call__(self, x: Sequence[Tensor], batch_img_metas: Sequence[Dict[str, Any]], rpn_results_list: Any,
                 rcnn_test_cfg: Any, rescale: bool = False) -> Any:
        """Objects of each image, in pixels of the input, or with ``rescale`` of the original image."""
        if isinstance(rpn_results_list, list):  # proposals that came with the data
            return self.original(x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale)
        boxes, _, numbers = rpn_results_list
        found = (*self.find(tuple(x), boxes, numbers, bounds_of(batch_img_metas, x[0].device)), rpn_results_list)
        if self.module.with_mask:
            return found
        scales = [_scale(meta, boxes.device) if rescale else None for meta in batch_img_metas]
        return self.select(found, scales) or self.again(x, batch_img_metas, found, rescale)

    def select(self, found: Tuple[Any, ...], scales: Sequence[Optional[Tensor]]) -> List[InstanceData]:
        """The valid objects, after the CPU has waited for their numbers; empty if further candidates may be valid."""
        boxes, scores, labels, numbers, complete, _ = found
        counts, all_there = torch.stack((numbers, complete.long())).tolist()
        return [InstanceData(bboxes=own[:n].clone() if scale is None else own[:n] / scale, scores=score[:n].clone(),
                             labels=label[:n].clone())
                for own, score, label, n, scale in zip(boxes, scores, labels, counts, scales)] if all(all_there) else []

    def again(self, x: Sequence[Tensor], metas: Sequence[Dict[str, Any]], found: Tuple[Any, ...],
              rescale: bool) -> List[InstanceData]:
        """The objects from MMDetection, which considers all candidates."""
        boxes, scores, numbers = found[-1]
        proposals = [InstanceData(bboxes=own[:n], scores=score[:n])
                     for own, score, n in zip(boxes, scores, numbers.tolist())]
        return self.original(x, metas, proposals, self.module.test_cfg, rescale=rescale)

    def _objects(self, maps: Sequence[Tensor], proposals: Tensor, proposed: Tensor,
                 bounds: Tensor) -> Tuple[Tensor, ...]:
        """Boxes ``(N, limit, 4)``, scores, labels, their number, and whether no further candidate can be valid."""
        cfg, head = self.module.test_cfg, self.module.bbox_head
        found = box_forward(self.module, maps, rois_of(proposals))
        counts = torch.arange(self.limit, device=proposed.device) < proposed[:, None]
        scores = found['cls_score'].softmax(1)[:, :-1].unflatten(0, (-1, self.limit)) * counts[:, :, None]
        classes = scores.shape[2]
        scores, places = scores.flatten(1).topk(min(CANDIDATES, self.limit * classes))
        labels = places % classes
        deltas = found['bbox_pred'].unflatten(0, (-1, self.limit)).reshape(len(scores), -1, 4)
        deltas = _taken(deltas, places // classes if head.reg_class_agnostic else places)
        boxes = decode(head.bbox_coder, _taken(proposals, places // classes), deltas, bounds[:, None])
        valid = scores > cfg.score_thr
        groups = torch.zeros_like(labels) if cfg.nms.get('class_agnostic') else labels
        kept, numbers = suppress(boxes, groups, valid, cfg.nms.iou_threshold, cfg.max_per_img)
        complete = ~valid[:, -1] | (numbers == cfg.max_per_img)
        if scores.shape[1] == self.limit * classes:
            complete = torch.ones_like(complete)
        return _taken(boxes, kept), scores.gather(1, kept), labels.gather(1, kept), numbers, complete


class GraphedMasks(_InPlaceOf):
    """Replaces a RoI head's ``predict_mask``; takes the output of :class:`GraphedBoxes`."""

    method = 'predict_mask'

    def __init__(self, module: StandardRoIHead, boxes: GraphedBoxes, pool: GraphPool) -> None:
        super().__init__(module)
        self.boxes = boxes
        self.predict = Graph(self._probabilities, pool)

    def __call__(self, x: Sequence[Tensor], batch_img_metas: Sequence[Dict[str, Any]], results_list: Any,
                 rescale: bool = False) -> List[InstanceData]:
        """The objects with their masks; with ``rescale``, boxes are in pixels of the original image."""
        if isinstance(results_list, list):
            return self.original(x, batch_img_metas, results_list, rescale)
        probabilities = self.predict(tuple(x), results_list[0], results_list[2])
        results = self.boxes.select(results_list, [None] * len(batch_img_metas))
        if not results:
            results = self.boxes.again(x, batch_img_metas, results_list, False)
            return self.original(x, batch_img_metas, results, rescale)
        for each, own, meta in zip(results, probabilities, batch_img_metas):
            self.paste(each, own, meta, rescale)
        return results

    def paste(self, results: InstanceData, probabilities: Tensor, meta: Dict[str, Any], rescale: bool) -> None:
        """Add an image's masks to its objects."""
        height, width = meta['ori_shape'][:2]
        if rescale:
            results.bboxes = results.bboxes / _scale(meta, results.bboxes.device)
        else:
            height, width = (round(side * scale) for side, scale in zip((height, width), meta['scale_factor'][1::-1]))
        results.masks = paste_masks(probabilities[:len(results.bboxes)], results.bboxes, height, width,
                                    self.module.test_cfg.mask_thr_binary)

    def _probabilities(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Masks in the boxes, ``(N, limit, h, w)``."""
        masks = mask_forward(self.module, maps, rois_of(boxes))['mask_preds']
        if masks.shape[1] > 1:
            masks = masks.gather(1, labels.flatten()[:, None, None, None].expand(-1, -1, *masks.shape[2:]))
        return masks[:, 0].sigmoid().unflatten(0, boxes.shape[:2])


def decode(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, bounds: Tensor) -> Tensor:
    """MMDetection's ``DeltaXYWHBBoxCoder.decode`` without copies from the CPU.

    Args:
        coder: The coder.
        boxes: ``(..., 4)``: x1, y1, x2, y2.
        deltas: ``(..., 4)``: shifts of the centre over the sides, logarithms
            of the ratios of the sides.
        bounds: ``(..., 4)``: the maximum of each coordinate.
    """
    mean, std = coder.means, coder.stds
    dx, dy, dw, dh = (deltas[..., i] * std[i] + mean[i] if (mean[i], std[i]) != (0., 1.) else deltas[..., i]
                      for i in range(4))
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5 + sides * torch.stack((dx, dy), dim=-1)
    half = sides * torch.stack((dw, dh), dim=-1).clamp(-_LARGEST_SHIFT, _LARGEST_SHIFT).exp() * 0.5
    decoded = torch.cat((centre - half, centre + half), dim=-1)
    return torch.minimum(decoded.clamp(min=0), bounds) if coder.clip_border else decoded


def rois_of(boxes: Tensor) -> Tensor:
    """Boxes ``(N, R, 4)`` as RoIs ``(N * R, 5)``, each with the index of its image."""
    images = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    return torch.cat((images[:, None, None].expand(-1, boxes.shape[1], 1), boxes), dim=2).flatten(0, 1)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """The values ``(N, K, 4)`` at positions ``(N, R)``."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))


def bounds_of(metas: Sequence[Dict[str, Any]], device: torch.device) -> Tensor:
    """The largest coordinates in each image, ``(N, 4)``."""
    return _constant(tuple((float(w), float(h)) * 2 for h, w in (meta['img_shape'][:2] for meta in metas)), device)


def _scale(meta: Dict[str, Any], device: torch.device) -> Tensor:
    return _constant(tuple(map(float, meta['scale_factor'])) * 2, device)


@functools.lru_cache(maxsize=1024)
def _constant(values: Any, device: torch.device) -> Tensor:
    """A tensor on the device; cached, because its copy waits for the GPU."""
    return torch.tensor(values, device=device)
