"""COCO annotation files: reading, and checking of everything that pycocotools and MMDetection use."""

import codecs
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from mmfasternet.datasets.coco_masks import MAX_PIXELS, mask_problem
from mmfasternet.errors import DataError

Content = Dict[str, Any]
_REMEDY = 'Fix it, or remove the entry'


@dataclass(frozen=True)
class _Kind:
    """What the values of a field must be: a description and a test."""
    words: str
    holds: Callable[[Any], bool]
    optional: bool = False


def _is_number(value: Any, limit: float = MAX_PIXELS) -> bool:
    return type(value) in (int, float) and -limit <= value <= limit  # neither a bool nor NaN


def _is_id(value: Any) -> bool:
    if type(value) is float:  # as pandas writes them
        return value.is_integer() and abs(value) < 2 ** 53
    return type(value) is str or type(value) is int and abs(value) < 2 ** 63  # which numpy compares as they are


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_flag(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float) and value in (0, 1)  # to both libraries '0' is true


_ID = _Kind('an integer or a string', _is_id)
_TEXT = _Kind('a non-empty string', lambda value: isinstance(value, str) and bool(value))
_SIZE = _Kind('a number of pixels, at least 1', lambda value: _is_number(value) and value >= 1)
_ANY_SIZE = _Kind('a number of pixels', lambda value: value is None or _is_number(value))  # of images to predict on
_FLAG = _Kind('0 or 1', _is_flag, optional=True)
_FIELDS: Mapping[str, Mapping[str, _Kind]] = {
    'images': dict(id=_ID, file_name=_TEXT, height=_SIZE, width=_SIZE),
    'annotations': dict(
        id=_ID, image_id=_ID, category_id=_ID, bbox=_Kind(f'four numbers of up to {MAX_PIXELS:.0f} pixels', _is_box),
        area=_Kind('a number of pixels', lambda value: _is_number(value, MAX_PIXELS ** 2)), iscrowd=_FLAG,
        ignore=_Kind('0 or 1', lambda value: not isinstance(value, (str, list, dict)), optional=True)),
    'categories': dict(id=_ID, name=_Kind('a string', lambda value: isinstance(value, str))),
}


def read_coco_file(ann_file: str) -> Content:
    """Read an annotation file, in UTF-8 with or without a byte order mark.

    Raises:
        DataError: If it can't be read as JSON.
    """
    try:
        return json.loads(Path(ann_file).read_text(encoding='utf-8-sig'))
    except UnicodeDecodeError as error:
        problem = f'it is not UTF-8 at byte {error.start}. Save it as UTF-8'
    except RecursionError:
        problem = 'it is nested too deeply. Export it again'
    except ValueError as error:
        problem = f'{error}. It is truncated or not JSON: download or export it again'
    except OSError as error:
        problem = f'{error.strerror}. Check its path and permissions'
    raise DataError(f"annotation file '{ann_file}' can't be read as JSON: {problem}")


def check_coco_content(ann_file: str,
                       content: Any,
                       classes: Sequence[str],
                       needs_annotations: bool = True,
                       with_masks: bool = True) -> None:
    """Check the content of a COCO annotation file against its classes.

    Args:
        ann_file: Its path, for the error.
        content: What it holds.
        classes: Names that its categories must have, in the same order:
            MMDetection numbers classes in the file's order.
        needs_annotations: Whether there must be a list of ``annotations``; it
            may be empty. Defaults to True.
        with_masks: Whether each object needs a ``segmentation``.
            Defaults to True.

    Raises:
        DataError: The message names the file, the entry, what is wrong in how
            many entries, and what to do.
    """
    for key, fields in _FIELDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if key == 'annotations' and rows is None and not needs_annotations and isinstance(content, dict):
            continue
        if not isinstance(rows, list) or (not rows and key != 'annotations'):
            raise DataError(f"annotation file '{ann_file}' is not in COCO format: it has no list '{key}'. It needs "
                            'images, annotations and categories; see docs/own_data.md in the repository')
        if key == 'images' and not content.get('annotations'):
            fields = dict(fields, height=_ANY_SIZE, width=_ANY_SIZE)
        _check_rows(ann_file, key, rows, fields)
    _check_unique(ann_file, 'categories', 'name', [row for row in content['categories'] if row['name'] in classes])
    _check_classes(ann_file, [category['name'] for category in content['categories']], list(classes))
    _check_annotations(ann_file, content, with_masks)


def _check_rows(ann_file: str, key: str, rows: List[Any], fields: Mapping[str, _Kind]) -> None:
    for field, kind in fields.items():
        lacking = [index for index, row in enumerate(rows)
                   if not isinstance(row, dict) or not kind.optional and field not in row]
        if lacking:
            raise _error(ann_file, key, lacking, len(rows), f' has no {field}', 'Add it, or remove the entry')
        bad = [index for index, row in enumerate(rows) if field in row and not kind.holds(row[field])]
        if bad:
            value = rows[bad[0]][field]
            raise _error(ann_file, key, bad, len(rows), f'.{field} is {repr(value)[:40]}, not {kind.words}', _REMEDY)
    texts = [index for index, row in enumerate(rows) if isinstance(row['id'], str)]
    if 0 < len(texts) < len(rows):
        problem = f'.id is the string {rows[texts[0]]["id"]!r}, but others are numbers'
        raise _error(ann_file, key, texts, len(rows), problem, 'Use one type for all')
    _check_unique(ann_file, key, 'id', rows)


def _error(ann_file: str, key: str, indices: List[int], count: int, problem: str, remedy: str) -> DataError:
    more = f' (so are {len(indices)} of {count})' if len(indices) > 1 else ''
    return DataError(f"annotation file '{ann_file}' is not in COCO format: {key}[{indices[0]}]{problem}{more}. "
                     f'{remedy}')


def _check_annotations(ann_file: str, content: Content, with_masks: bool) -> None:
    if not with_masks:
        return
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    rows = content.get('annotations') or []
    problems: Dict[int, str] = {}
    for index, row in enumerate(rows):
        problem = mask_problem(row['segmentation'], sizes.get(row['image_id'])) if 'segmentation' in row else ''
        if problem is not None:
            problems[index] = problem
    if problems:
        first = next(iter(problems))
        problem = f'.segmentation {problems[first]}' if problems[first] else ' has no segmentation'
        alike = [index for index, each in problems.items() if bool(each) == bool(problems[first])]
        raise _error(ann_file, 'annotations', alike, len(rows), problem,
                     'Fix it, remove the entry, or train without masks')


def _check_classes(ann_file: str, names: List[str], classes: List[str]) -> None:
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(f"annotation file '{ann_file}' has no category {', '.join(map(repr, unknown[:3]))} "
                        f'({len(unknown)} of {len(classes)} classes); it has {", ".join(names[:5])}. Set '
                        'metainfo=dict(classes=...) of the datasets to these names')
    in_file = [name for name in names if name in classes]
    if in_file != classes:
        raise DataError(f"annotation file '{ann_file}' has the categories in another order ({', '.join(in_file[:5])}) "
                        f"than metainfo.classes ({', '.join(classes[:5])}), but MMDetection numbers them in the order "
                        'of the file. Put classes into that order')


def _check_unique(ann_file: str, key: str, field: str, rows: List[Dict[str, Any]]) -> None:
    value, count = Counter(row[field] for row in rows).most_common(1)[0] if rows else (None, 1)
    if count > 1:
        raise DataError(f"annotation file '{ann_file}' has {count} {key} with the {field} {value!r}. Make them unique")


def has_byte_order_mark(path: str) -> bool:
    """Whether a file begins with a UTF-8 byte order mark, as some Windows programs write."""
    with open(path, 'rb') as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def only_tolerantly_readable(ann_file: str, content: Content) -> Optional[str]:
    """The first thing in a checked file that pycocotools can't evaluate; None if there is none."""
    if has_byte_order_mark(ann_file):
        return 'begins with a byte order mark'
    for index, row in enumerate(content.get('annotations') or []):
        if row.get('iscrowd') is None:
            return f'has no iscrowd in annotations[{index}]'
        if isinstance(row['id'], str):
            return f'has the id {row["id"]!r} in annotations[{index}], where integers are needed'
    return None
