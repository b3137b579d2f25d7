"""Which objects of a COCO annotation file are used for training, and why others are not."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence, Set

from mmfasternet.datasets.coco_masks import usable_polygons

#: Reasons that the annotator gave, and which need no warning.
_MEANT = ('are crowds', "are marked 'ignore'")


@dataclass
class Objects:
    """Counts of the objects of a file's classes.

    Attributes:
        total: Their number.
        usable: How many are trained on.
        images: Ids of the images that are trained on.
        reasons: How many are not trained on, by the reason.
        places: How many are evaluated, by image and category id.
    """
    total: int = 0
    usable: int = 0
    images: Set[Any] = field(default_factory=set)
    reasons: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)

    def dropped(self, meant: bool = True) -> str:
        """The reasons with their counts; without intended ones, such as crowds, if ``meant`` is False."""
        return ', '.join(f'{count} {reason}' for reason, count in self.reasons.most_common()
                         if meant or reason not in _MEANT)


def trained_objects(content: Dict[str, Any],
                    classes: Sequence[str],
                    filter_cfg: Optional[Dict[str, Any]] = None,
                    with_masks: bool = True,
                    poly2mask: bool = True) -> Objects:
    """Sort the objects of a checked file as MMDetection's ``CocoDataset`` and ``LoadAnnotations`` do.

    Args:
        content: What the file holds.
        classes: Names of the classes.
        filter_cfg: The dataset's. Defaults to None: all images are kept.
        with_masks: Whether masks are loaded. Defaults to True.
        poly2mask: Whether polygons become bitmaps; if not, run-length
            encodings are ignored. Defaults to True.
    """
    filter_cfg = filter_cfg or {}
    categories = {category['id'] for category in content['categories'] if category['name'] in classes}
    others = {category['id'] for category in content['categories']} - categories
    rows = [row for row in content.get('annotations') or [] if row['category_id'] not in others]
    images = {image['id']: image for image in content['images']}
    objects = Objects(total=len(rows), images=set(images))
    if filter_cfg.get('filter_empty_gt', False):
        objects.images &= {row['image_id'] for row in rows if row['category_id'] in categories}
    min_size = filter_cfg.get('min_size', 0)
    if min_size:
        objects.images = {key for key in objects.images if shorter_side(images[key]) >= min_size}
    for row in rows:
        reason = _why_not(row, images.get(row['image_id']), with_masks, poly2mask)
        reason = reason if row['category_id'] in categories else 'have a category that is not listed'
        if not reason and row['image_id'] not in objects.images:
            reason = f'are on images under filter_cfg.min_size={min_size}'
        if reason:
            objects.reasons[reason] += 1
        else:
            objects.usable += 1
    return objects


def evaluated_objects(content: Dict[str, Any], classes: Sequence[str], with_masks: bool) -> Objects:
    """Sort the objects of a checked file as pycocotools does in an evaluation of boxes or, with masks, of both."""
    categories = {category['id'] for category in content['categories'] if category['name'] in classes}
    rows = [row for row in content.get('annotations') or [] if row['category_id'] in categories]
    objects = Objects(total=len(rows), images={image['id'] for image in content['images']})
    for row in rows:
        if row['image_id'] not in objects.images:
            reason = 'are on images that are not listed'
        elif row.get('iscrowd'):
            reason = 'are crowds'
        elif not 0 <= row['area'] <= 1e10:
            reason = 'have an area below 0 or over 1e10'
        elif with_masks and not has_mask(row, pairs=False):
            reason = 'have no polygon of three points'
        else:
            objects.usable += 1
            objects.places[row['image_id'], row['category_id']] += 1
            continue
        objects.reasons[reason] += 1
    return objects


def shorter_side(image: Dict[str, Any]) -> float:
    """The shorter side of an image in the file, in pixels; 0 if missing, as images without annotations may have it."""
    return min(image['width'] or 0, image['height'] or 0)


def has_mask(row: Dict[str, Any], pairs: bool = True) -> bool:
    """Whether an annotation's segmentation can enclose anything."""
    segmentation = row.get('segmentation')
    return bool(usable_polygons(segmentation, pairs) if isinstance(segmentation, list) else segmentation)


def _why_not(row: Dict[str, Any], image: Optional[Dict[str, Any]], with_masks: bool, poly2mask: bool) -> str:
    if image is None:
        return 'are on images that are not listed'
    if row.get('ignore'):
        return _MEANT[1]
    x, y, width, height = row['bbox']
    inside = [min(start + length, side) - max(start, 0)
              for start, length, side in ((x, width, image['width']), (y, height, image['height']))]
    if width < 1 or height < 1:
        return 'have boxes narrower or lower than one pixel'
    if min(inside) <= 0:
        return 'have boxes outside of their image'
    if row['area'] <= 0:
        return 'have an area of 0 or less'
    if row.get('iscrowd'):
        return _MEANT[0]
    if with_masks and not has_mask(row):
        return 'have no polygon of three points'
    if with_masks and not poly2mask and isinstance(row['segmentation'], dict):
        return 'have run-length encodings, which poly2mask=False leaves out'
    return ''
