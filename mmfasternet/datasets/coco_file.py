"""Whether an annotation file is what MMDetection reads as COCO's format."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Sequence

from mmfasternet.errors import DataError

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


def check_coco_file(ann_file: str,
                    folder: str,
                    classes: Sequence[str],
                    unlabelled: bool = False,
                    with_masks: bool = True) -> None:
    """Check the content of a COCO annotation file against its classes and image folder.

    Args:
        ann_file: The file.
        folder: Folder of its images; the first of them must be there.
        classes: Names that its categories must hold.
        unlabelled: Whether the list ``annotations`` may be absent.
            Defaults to False.
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
            if rows is None and unlabelled and isinstance(content, dict):
                continue
            fields = (*fields, 'segmentation') if with_masks else fields
        if not isinstance(rows, list) or (not rows and key != 'annotations'):
            raise DataError(f"annotation file '{ann_file}' is not in COCO's format: it has no list '{key}'. Needed are "
                            f'images, annotations and categories; see the README on data of your own')
        for index, row in enumerate(rows):
            absent = [field for field in fields if not isinstance(row, dict) or field not in row]
            if absent:
                raise DataError(f"annotation file '{ann_file}' is not in COCO's format: {key}[{index}] has no "
                                f"{', '.join(absent)}. Add it, or remove the entry")
        _check_unique(ann_file, key, 'id', rows)
    _check_unique(ann_file, 'categories', 'name', content['categories'])
    names: List[str] = [category['name'] for category in content['categories']]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(f"annotation file '{ann_file}' has no category {', '.join(map(repr, unknown[:3]))} "
                        f'({len(unknown)} of {len(classes)} classes); it has {", ".join(names[:5])}. Set '
                        f'metainfo=dict(classes=...) of the data sets to its names')
    first = Path(folder) / content['images'][0]['file_name']
    if folder and not first.is_file():
        raise DataError(f"image '{first}' that '{ann_file}' names does not exist. "
                        f'Check data_prefix.img of the data set')


def _check_unique(ann_file: str, key: str, field: str, rows: List[Dict[str, Any]]) -> None:
    value, count = Counter(row[field] for row in rows).most_common(1)[0] if rows else (None, 1)
    if count > 1:
        raise DataError(f"annotation file '{ann_file}' has {count} {key} with the {field} {value!r}. Make them differ")
