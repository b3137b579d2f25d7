"""The ids that an annotation file gives to images and categories."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Sequence

from mmfasternet.datasets.coco_file import read_coco_file
from mmfasternet.errors import DataError


def image_ids(content: Dict[str, Any], images: Sequence[str]) -> List[int]:
    """The ids of image files, in the given order.

    An image matches the entry whose ``file_name``, with its folders, is the end of the image's path; else the only
    entry with its bare file name.

    Args:
        content: Content of a COCO annotation file.
        images: Their paths.

    Raises:
        DataError: If an image is not in the file, or several entries match.
    """
    by_name: Dict[str, List[Dict[str, Any]]] = defaultdict(list)
    for entry in content['images']:
        by_name[Path(entry['file_name']).name].append(entry)
    found, absent = [], []
    for image in images:
        parts = Path(os.path.abspath(image)).parts
        named = by_name[Path(image).name]
        ends = [entry for entry in named if parts[-len(Path(entry['file_name']).parts):] == Path(
            entry['file_name']).parts]
        entries = ends or named
        if len(entries) > 1:
            known = ', '.join(f"'{entry['file_name']}' with id {entry['id']}" for entry in entries[:3])
            raise DataError(f"image '{image}' matches {len(entries)} entries in the annotation file: {known}. Predict "
                            'without the file, or keep the images in the folders that it names')
        found += [entry['id'] for entry in entries]
        absent += [Path(image).name] if not entries else []
    _refuse('image', absent)
    return found


def category_ids(content: Dict[str, Any], classes: Sequence[str]) -> List[int]:
    """The ids of classes, in the given order.

    Raises:
        DataError: If a class is not in the file, or its name occurs twice.
    """
    ids: Dict[str, List[int]] = defaultdict(list)
    for category in content['categories']:
        ids[category['name']].append(category['id'])
    _refuse('category', [name for name in classes if name not in ids])
    for name in classes:
        if len(ids[name]) > 1:
            raise DataError(f"category '{name}' is in the annotation file with the ids "
                            f"{', '.join(map(str, ids[name]))}. Give each category a unique name")
    return [ids[name][0] for name in classes]


def read_ids(path: str) -> Dict[str, Any]:
    """Read a COCO annotation file for its ids.

    Raises:
        DataError: If it can't be read, or an image or a category has no id or name.
    """
    content = read_coco_file(path)
    for key, name in (('images', 'file_name'), ('categories', 'name')):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and 'id' in entry and isinstance(entry.get(name), str) for entry in entries):
            raise DataError(f"annotation file '{path}' can't be used for its ids: its '{key}' must be a list of "
                            f"entries with 'id' and '{name}', as in COCO format")
    return content


def _refuse(kind: str, absent: Sequence[str]) -> None:
    if absent:
        raise DataError(f"the annotation file has no {kind} '{absent[0]}' ({len(absent)} in all). Predict without it, "
                        'or give the one that belongs to these images and this model')
