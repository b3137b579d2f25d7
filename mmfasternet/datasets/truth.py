"""The objects that an annotation file has on an image, to be drawn next to predictions."""

import logging
import math
from collections import defaultdict
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData

from mmfasternet.datasets.annotation_ids import category_ids
from mmfasternet.datasets.coco_dataset import TolerantCOCO
from mmfasternet.datasets.coco_masks import mask_problem
from mmfasternet.datasets.coco_objects import has_mask


class Truth:
    """The objects of a COCO annotation file, image by image; without crowds, which are many objects.

    A warning counts the objects that can't be drawn.

    Args:
        content: The file, as it was read.
        classes: The names of the classes that are drawn.
        path: The file, for the warning.

    Raises:
        DataError: If a class is not in the file.
    """

    def __init__(self, content: Dict[str, Any], classes: Sequence[str], path: str) -> None:
        self._labels = {number: label for label, number in enumerate(category_ids(content, classes))}
        self._rows: Dict[Any, List[Dict[str, Any]]] = defaultdict(list)
        unusable = 0
        for row in content.get('annotations') or []:
            if not _is_usable(row):
                unusable += 1
            elif row['category_id'] in self._labels and not row.get('iscrowd'):
                self._rows[row['image_id']].append(row)
        if unusable:
            print_log(f"annotation file '{path}': {unusable} objects are not drawn: they have no image_id, category_id "
                      'or usable bbox', 'current', logging.WARNING)

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
        rows = self._rows.get(image_id, [])
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


def _is_usable(row: Any) -> bool:
    return isinstance(row, dict) and _is_box(row.get('bbox')) and all(
        isinstance(row.get(key), (int, str)) for key in ('image_id', 'category_id'))


def _is_box(value: Any) -> bool:
    return (isinstance(value, list) and len(value) == 4
            and all(type(side) in (int, float) and math.isfinite(side) for side in value) and min(value[2:]) >= 0)
