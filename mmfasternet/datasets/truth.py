"""The objects that an annotation file has on an image, to be drawn beside predictions."""

from collections import defaultdict
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.structures import InstanceData

from mmfasternet.datasets.annotation_ids import category_ids
from mmfasternet.datasets.coco_dataset import TolerantCOCO
from mmfasternet.datasets.coco_masks import mask_problem
from mmfasternet.datasets.coco_objects import has_mask
from mmfasternet.errors import DataError


class Truth:
    """The objects of a COCO annotation file, image by image; without crowds, which are many objects.

    Args:
        content: The file, as it was read.
        classes: The names of the classes that are drawn.

    Raises:
        DataError: If an object has no box, or a class is not in the file.
    """

    def __init__(self, content: Dict[str, Any], classes: Sequence[str]) -> None:
        self._labels = {number: label for label, number in enumerate(category_ids(content, classes))}
        self._rows: Dict[Any, List[Dict[str, Any]]] = defaultdict(list)
        for index, row in enumerate(content.get('annotations') or []):
            if not isinstance(row, dict) or 'image_id' not in row or not _is_box(row.get('bbox')):
                raise DataError(f"annotations[{index}] of the annotation file has no 'image_id' or no 'bbox' of four "
                                f'numbers. Mend it, or predict without the file')
            if row.get('category_id') in self._labels and not row.get('iscrowd'):
                self._rows[row['image_id']].append(row)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def on(self, image_id: Any, size: Tuple[int, int]) -> InstanceData:
        """The objects on an image, as MMDetection draws them.

        Args:
            image_id: Its id in the file.
            size: Its height and width in pixels.

        Returns:
            ``bboxes`` ``(n, 4)`` as x0, y0, x1, y1 in pixels, ``labels``
            ``(n, )``, and ``masks`` ``(n, height, width)``, empty where an
            object has none.
        """
        rows = self._rows[image_id]
        masks = np.zeros((len(rows), *size), bool)
        index = TolerantCOCO()
        index.imgs = {image_id: dict(height=size[0], width=size[1])}
        for mask, row in zip(masks, rows):
            if has_mask(row, pairs=False) and mask_problem(row['segmentation'], size) is None:
                mask[:] = index.annToMask(row)
        corners = [(x, y, x + width, y + height) for x, y, width, height in (row['bbox'] for row in rows)]
        return InstanceData(
            bboxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self._labels[row['category_id']] for row in rows], dtype=torch.long), masks=masks)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(type(side) in (int, float) for side in value)
