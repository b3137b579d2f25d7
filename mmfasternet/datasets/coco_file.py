"""Whether an annotation file is what MMDetection reads as COCO's format."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from mmfasternet.errors import DataError


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_size(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_segmentation(value: Any) -> bool:
    """Polygons or a run-length encoding."""
    return bool(value) and (isinstance(value, dict) or isinstance(value, list) and isinstance(value[0], list))


_FIELDS: Dict[str, Dict[str, Callable[[Any], bool]]] = {
    'images': dict(id=_is_id, file_name=_is_text, height=_is_size, width=_is_size),
    'annotations': dict(id=_is_id, image_id=_is_id, category_id=_is_id, bbox=_is_box, area=_is_number),
    'categories': dict(id=_is_id, name=_is_text),
}


def check_coco_file(ann_file: str,
                    folder: str,
                    classes: Sequence[str],
                    split: str = 'train',
                    with_masks: bool = True) -> None:
    """Check the content of a COCO annotation file against its classes and image folder.

    Args:
        ann_file: The file.
        folder: Folder of its images; the first of them must be there.
        classes: Names that its categories must hold, in the same order:
            MMDetection numbers classes by the file.
        split: ``'train'`` needs at least one object, ``'test'`` no list of
            ``annotations`` at all. Defaults to ``'train'``.
        with_masks: Whether each object needs a ``segmentation``.
            Defaults to True.

    Raises:
        DataError: Names the file, what is wrong in it and what to do.
    """
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise DataError(f"annotation file '{ann_file}' can't be read as json: {error}. Fetch or export it again") \
            from None
    for key, fields in _FIELDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if key == 'annotations':
            if rows is None and split == 'test' and isinstance(content, dict):
                continue
            fields = dict(fields, segmentation=_is_segmentation) if with_masks else fields
        if not isinstance(rows, list) or (not rows and key != 'annotations'):
            raise DataError(f"annotation file '{ann_file}' is not in COCO's format: it has no list '{key}'. Needed are "
                            f'images, annotations and categories; see the README on data of your own')
        _check_rows(ann_file, key, rows, fields)
    _check_unique(ann_file, 'categories', 'name', content['categories'])
    _check_classes(ann_file, [category['name'] for category in content['categories']], list(classes))
    _check_annotations(ann_file, content, with_masks)
    if split == 'train':
        images = {image['id'] for image in content['images']}
        categories = {category['id'] for category in content['categories'] if category['name'] in classes}
        if not any(row['image_id'] in images and row['category_id'] in categories for row in content['annotations']):
            raise DataError(f"annotation file '{ann_file}' has no object of the classes on any of its images: there is "
                            f'nothing to train on. Check image_id and category_id of its annotations')
    first = Path(folder) / content['images'][0]['file_name']
    if folder and not first.is_file():
        raise DataError(f"image '{first}' that '{ann_file}' names does not exist. "
                        f'Check data_prefix.img of the data set')


def _check_rows(ann_file: str, key: str, rows: List[Any], fields: Dict[str, Callable[[Any], bool]]) -> None:
    for index, row in enumerate(rows):
        for field, is_good in fields.items():
            if not isinstance(row, dict) or field not in row:
                raise DataError(f"annotation file '{ann_file}' is not in COCO's format: {key}[{index}] has no {field}. "
                                f'Add it, or remove the entry')
            if not is_good(row[field]):
                raise DataError(f"annotation file '{ann_file}' is not in COCO's format: {key}[{index}].{field} is "
                                f'{str(row[field])[:40]!r}. Mend it, or remove the entry')
    _check_unique(ann_file, key, 'id', rows)


def _check_annotations(ann_file: str, content: Dict[str, Any], with_masks: bool) -> None:
    categories = {category['id'] for category in content['categories']}
    sizes = {image['id']: [image['height'], image['width']] for image in content['images']}
    for index, row in enumerate(content.get('annotations') or []):
        if row['category_id'] not in categories:
            raise DataError(f"annotation file '{ann_file}': annotations[{index}].category_id is "
                            f"{row['category_id']!r}, and no category has that id. Mend it, or add the category")
        segmentation, size = row.get('segmentation'), sizes.get(row['image_id'])
        if with_masks and size and isinstance(segmentation, dict) and segmentation.get('size') != size:
            raise DataError(f"annotation file '{ann_file}': the run-length encoding of annotations[{index}] is of size "
                            f"{segmentation.get('size')}, and its image has height and width {size}. Encode it again")


def _check_classes(ann_file: str, names: List[str], classes: List[str]) -> None:
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(f"annotation file '{ann_file}' has no category {', '.join(map(repr, unknown[:3]))} "
                        f'({len(unknown)} of {len(classes)} classes); it has {", ".join(names[:5])}. Set '
                        f'metainfo=dict(classes=...) of the data sets to its names')
    in_file = [name for name in names if name in classes]
    if in_file != classes:
        raise DataError(f"annotation file '{ann_file}' has the categories in another order ({', '.join(in_file[:5])}) "
                        f"than metainfo.classes ({', '.join(classes[:5])}), and MMDetection numbers them by the file. "
                        f'Put classes into the order of the file')


def _check_unique(ann_file: str, key: str, field: str, rows: List[Dict[str, Any]]) -> None:
    value, count = Counter(row[field] for row in rows).most_common(1)[0] if rows else (None, 1)
    if count > 1:
        raise DataError(f"annotation file '{ann_file}' has {count} {key} with the {field} {value!r}. Make them differ")
