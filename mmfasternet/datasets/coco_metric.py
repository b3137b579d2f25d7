"""MMDetection's COCO metric, for files as they are."""

import os.path as osp
import tempfile
from typing import Any, Dict, List, Optional, Sequence

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.fileio import get_local_path

from mmfasternet.datasets.coco_dataset import TolerantCOCO
from mmfasternet.datasets.coco_masks import usable_polygons
from mmfasternet.datasets.coco_objects import has_mask
from mmfasternet.errors import DataError
from mmfasternet.registry import METRICS


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """MMDetection's ``CocoMetric``, which evaluates what ``CocoDataset`` trains on.

    Its numbers are pycocotools', but for what that reads otherwise than
    training does, or not at all:

    - Annotations without ``iscrowd``, with ids that are texts or 0, and a
      byte order mark: see
      :class:`~mmfasternet.datasets.coco_dataset.TolerantCOCO`.
    - Polygons with less than three points or an odd number of coordinates are
      left out; where masks are evaluated, an object that has no others is
      ignored, as MMDetection ignores it in training.
    - Masks are drawn at the size of the image itself, where the file has
      another: pycocotools takes all masks of two sizes for different.

    Args:
        See :class:`mmdet.evaluation.CocoMetric`.

    Raises:
        DataError: If the file can't be read, or a run-length encoding is not
            of its image's size.
    """

    def __init__(self, ann_file: Optional[str] = None, sort_categories: bool = False, **kwargs: Any) -> None:
        super().__init__(sort_categories=sort_categories, **kwargs)
        self._ann_file = ann_file
        if ann_file is None:
            return
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            self._coco_api = self._read(path)
        if sort_categories:
            self._coco_api.dataset['categories'].sort(key=lambda category: category['id'])
            self._coco_api.createIndex()

    def _read(self, path: str) -> TolerantCOCO:
        coco = TolerantCOCO(path)
        if 'segm' in self.metrics:
            for row in coco.dataset.get('annotations') or []:
                _mend_mask(row)
        return coco

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        """Compute the metrics; see MMDetection's."""
        images = [image for image, _ in results]
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                self._coco_api = self._read(self.gt_to_coco_json(images, osp.join(folder, 'truth')))
        if 'segm' in self.metrics:
            self._take_sizes(images)
        return super().compute_metrics(results)

    def _take_sizes(self, images: Sequence[Dict[str, Any]]) -> None:
        for image in images:
            listed, size = self._coco_api.imgs.get(image['img_id']), [image['height'], image['width']]
            if listed is None or [listed['height'], listed['width']] == size:
                continue
            for row in self._coco_api.imgToAnns[image['img_id']]:
                if isinstance(row['segmentation'], dict) and row['segmentation']['size'] != size:
                    raise DataError(f"image '{listed['file_name']}' has height and width {size}, and the run-length "
                                    f"encoding of one of its objects in '{self._ann_file}' is of size "
                                    f"{row['segmentation']['size']}. Encode it again")
            listed['height'], listed['width'] = size


def _mend_mask(row: Dict[str, Any]) -> None:
    segmentation = row.get('segmentation')
    if has_mask(row):
        if isinstance(segmentation, list):
            row['segmentation'] = usable_polygons(segmentation)
        return
    x, y, width, height = row['bbox']
    row['iscrowd'], row['segmentation'] = 1, [[x, y, x + width, y, x + width, y + height, x, y + height]]
