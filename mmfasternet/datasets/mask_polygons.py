"""Outlines of masks as COCO polygons."""

from typing import List, Tuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

_FACTOR = 4  # masks are enlarged by it, so that the outline of a line of pixels encloses something
_TOLERANCE = 0.375  # in pixels, of the simplified outline: so far within it are the centres of the outermost pixels


def mask_to_polygons(mask: np.ndarray, corner: Tuple[int, int] = (0, 0)) -> List[List[float]]:
    """The outer outlines of a mask.

    OpenCV's outline goes through the centres of the outermost pixels, half a
    pixel inside the mask's edge. COCO polygons go around pixels, and a pixel
    is inside if its centre is. So the mask is first enlarged by 4: the outline
    is then an eighth of a pixel inside the edge, and stays between the inner
    and outer pixel centres when it is simplified.

    Args:
        mask: ``(H, W)``; nonzero pixels belong to the object.
        corner: Where the mask's upper left corner is in the image, as x and y
            in pixels. Defaults to (0, 0).

    Returns:
        A polygon ``[x, y, x, y, ...]`` in pixels for each piece. pycocotools
        turns them back into the mask, with its holes filled.
    """
    large = np.repeat(np.repeat(np.asarray(mask) != 0, _FACTOR, axis=0), _FACTOR, axis=1).astype(np.uint8)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    simple = [cv2.approxPolyDP(outline, _TOLERANCE * _FACTOR, closed=True)[:, 0] for outline in outlines]
    return [((points + 0.5) / _FACTOR + corner).ravel().tolist() for points in simple if len(points) >= 3]


def polygons_overlap(polygons: List[List[float]], mask: np.ndarray, corner: Tuple[int, int] = (0, 0)) -> float:
    """Intersection over union of a mask and polygons as pycocotools draws them.

    Args:
        polygons: As :func:`mask_to_polygons` gives them.
        mask: ``(H, W)``; nonzero pixels belong to the object.
        corner: Where the mask's upper left corner is in the image. Defaults
            to (0, 0).
    """
    if not polygons:
        return 0.0
    own = [(np.reshape(polygon, (-1, 2)) - corner).ravel().tolist() for polygon in polygons]
    drawn = coco_mask.merge(coco_mask.frPyObjects(own, *mask.shape))
    return float(coco_mask.iou([drawn], [coco_mask.encode(np.asfortranarray(mask != 0, np.uint8))], [0])[0, 0])
