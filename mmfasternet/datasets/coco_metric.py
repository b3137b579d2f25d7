"""MMDetection's COCO metric, for imperfect annotation files."""

import os.path as osp
import tempfile
from functools import partial
from typing import Any, Dict, List, Optional, Sequence

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.fileio import get_local_path

from mmfasternet.compat import coco_api, coco_metrics_by, set_coco_api
from mmfasternet.datasets.coco_dataset import TolerantCOCO
from mmfasternet.datasets.coco_max_dets import EvaluatorAtMaxDets, ParallelEvaluatorAtMaxDets
from mmfasternet.errors import ArgumentError, DataError
from mmfasternet.registry import METRICS


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """MMDetection's ``CocoMetric``, made to evaluate whatever ``CocoDataset`` trains on.

    Its numbers are those of pycocotools, except where pycocotools reads the
    file differently from training, or can't read it:

    - Annotations without ``iscrowd``, ids that are strings or 0, and a byte
      order mark: see :class:`~mmfasternet.datasets.coco_dataset.TolerantCOCO`.
    - Polygons with less than three points are left out. An object without
      valid polygons is ignored in the evaluation of masks, as in MMDetection's
      training; its box is evaluated.
    - Masks are drawn at the actual size of the image if the file states
      another one: for pycocotools, masks of different sizes never overlap.

    Args:
        max_dets: Maximum number of detections of a class per image (the most
            confident ones) for AP at all thresholds and sizes. Defaults to
            None: AP at 100, as COCO defines it, and AP50, AP75 and AP by size
            at the largest of ``proposal_nums``, as in MMDetection.
        others: See :class:`mmdet.evaluation.CocoMetric`. AR, if requested by
            ``metric_items``, is always at ``proposal_nums``.

    Raises:
        ArgumentError: If ``max_dets`` is not an integer of at least 1.
        DataError: If the file can't be read, or a run-length encoding does not
            have its image's size.
    """

    def __init__(self, ann_file: Optional[str] = None, sort_categories: bool = False, max_dets: Optional[int] = None,
                 **kwargs: Any) -> None:
        if max_dets is not None and (isinstance(max_dets, bool) or not isinstance(max_dets, int) or max_dets < 1):
            raise ArgumentError(f'max_dets of CocoMetric is {max_dets!r}: it must be an integer of at least 1, or None '
                                "for COCO's 100")
        super().__init__(sort_categories=sort_categories, **kwargs)
        self.max_dets = max_dets
        self._file = ann_file
        if ann_file is None:
            return
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            coco = TolerantCOCO(path)
        if sort_categories:
            coco.dataset['categories'].sort(key=lambda category: category['id'])
            coco.index(coco.dataset)
        set_coco_api(self, coco)

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        """Compute the metrics; see MMDetection's."""
        images = [image for image, _ in results]
        if coco_api(self) is None:
            with tempfile.TemporaryDirectory() as folder:
                set_coco_api(self, TolerantCOCO(self.gt_to_coco_json(images, osp.join(folder, 'truth'))))
        if 'segm' in self.metrics and not self.format_only:
            self._draw_at_sizes_of(images)
        if self.max_dets is None:
            return super().compute_metrics(results)
        return coco_metrics_by(self, results, COCOeval=partial(EvaluatorAtMaxDets, self.max_dets),
                               COCOevalMP=partial(ParallelEvaluatorAtMaxDets, self.max_dets))

    def _draw_at_sizes_of(self, images: Sequence[Dict[str, Any]]) -> None:
        coco = coco_api(self)
        for image in images:
            listed, size = coco.imgs.get(image['img_id'], {}), [image['height'], image['width']]
            for row in coco.imgToAnns.get(image['img_id'], []):
                encoding = row.get('segmentation')
                if isinstance(encoding, dict) and encoding['size'] != size:
                    raise DataError(f"image '{listed.get('file_name')}' has height and width {size}, but the "
                                    f"run-length encoding of one of its objects in '{self._file}' is of size "
                                    f"{encoding['size']}. Encode it again")
            listed['height'], listed['width'] = size
