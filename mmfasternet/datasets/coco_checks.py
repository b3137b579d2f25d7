"""Checks that the COCO files of a config can be used for training and evaluation, and match each other."""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Set, Tuple

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log

from mmfasternet.config_tree import walk
from mmfasternet.datasets.coco_dataset import CocoDataset
from mmfasternet.datasets.coco_file import (
    Content,
    check_coco_content,
    has_byte_order_mark,
    only_tolerantly_readable,
    read_coco_file,
)
from mmfasternet.datasets.coco_max_dets import COCO_MAX_DETS
from mmfasternet.datasets.coco_metric import CocoMetric
from mmfasternet.datasets.coco_objects import Objects, evaluated_objects, shorter_side, trained_objects
from mmfasternet.datasets.image_files import missing_images, needs_files
from mmfasternet.errors import DataError

_Images = Dict[Any, str]  # file names by id


def is_coco_dataset(kind: Any) -> bool:
    """Whether a class reads COCO format: LVIS and panoptic datasets have their own readers."""
    return isinstance(kind, type) and issubclass(kind, MMDetCocoDataset) and all(
        getattr(kind, name) is getattr(MMDetCocoDataset, name) for name in ('load_data_list', 'parse_data_info'))


def is_coco_metric(kind: Any) -> bool:
    """Whether a class evaluates with a file in COCO format: MMDetection's or ours, or a subclass of them."""
    return isinstance(kind, type) and issubclass(kind, MMDetCocoMetric) and next(
        base for base in kind.__mro__ if '__init__' in vars(base)) in (MMDetCocoMetric, CocoMetric)


@dataclass(frozen=True)
class Checked:
    """A checked dataset: its file, the images that it loads, and how many objects it trains on.

    ``is_cut`` tells whether it loads only some images, by ``indices``.
    """
    ann_file: str
    images: _Images
    usable: int
    is_cut: bool


class CocoChecks:
    """Checks the COCO files of a config's splits; the last file read stays in memory for its next use."""

    def __init__(self) -> None:
        self._path = ''
        self._content: Content = {}
        self._seen: Set[Tuple[Any, ...]] = set()

    def check_dataset(self, kind: Any, dataset: Dict[str, Any], ann_file: str, folder: str, classes: Sequence[str],
                      split: str, alone: bool = True) -> 'Checked':
        """Check a dataset's file and its images.

        Args:
            kind: Its class.
            dataset: Its config.
            ann_file: Path of its annotation file.
            folder: Folder of its images.
            classes: Its classes' names.
            split: ``'train'``, ``'val'`` or ``'test'``.
            alone: Whether it is the only dataset of its split; of several
                training datasets, some may have no objects. Defaults to True.

        Raises:
            DataError: If it can't be used, or all of its objects or images
                would be dropped.
        """
        loading = _annotation_loading(dataset)
        with_masks, poly2mask = bool(loading.get('with_mask')), loading.get('poly2mask', True)
        content = self._checked(ann_file, classes, split != 'test' and alone, with_masks)
        if not issubclass(kind, CocoDataset) and has_byte_order_mark(ann_file):
            raise DataError(f"annotation file '{ann_file}' begins with a byte order mark, which {kind.__name__} does "
                            f'not read. Save it as UTF-8 without')
        filters = not dataset.get('test_mode', False) and kind.filter_data is MMDetCocoDataset.filter_data
        filter_cfg = dataset.get('filter_cfg') if filters else None
        objects = trained_objects(content, classes, filter_cfg, with_masks, poly2mask)
        if split == 'train':
            _check_training(ann_file, objects, content['images'], (filter_cfg or {}).get('min_size', 0), alone)
        names = {image['id']: image['file_name'] for image in content['images'] if image['id'] in objects.images}
        names = _at(names, dataset.get('indices'))
        if needs_files(dataset):
            _check_files(ann_file, folder, names.values())
        return Checked(ann_file, names, objects.usable, dataset.get('indices') is not None)

    def check_evaluator(self, kind: type, evaluator: Dict[str, Any], datasets: Sequence['Checked'],
                        classes: Sequence[str], split: str, key: str, limits: Mapping[str, int] = {}) -> None:
        """Check an evaluator's file, and that it describes the evaluated images.

        Args:
            kind: Its class.
            evaluator: Its config.
            datasets: The datasets of the split that it evaluates.
            classes: Their classes' names.
            split: ``'val'`` or ``'test'``.
            key: The evaluator's key in the config.
            limits: Maximum number of detections per image, by the config's
                key. Defaults to none.

        Raises:
            DataError: If the file can't be used, or the images differ.
        """
        ann_file, format_only = evaluator['ann_file'], evaluator.get('format_only', False)
        metrics = evaluator.get('metric', 'bbox')
        with_masks = 'segm' in ([metrics] if isinstance(metrics, str) else metrics) and not format_only
        content = self._checked(ann_file, classes, False, with_masks)
        if not issubclass(kind, CocoMetric):
            self._check_strictly(kind, ann_file, content)
        _check_same_images(ann_file, content, datasets, split)
        if format_only:
            return
        objects = evaluated_objects(content, classes, with_masks)
        if not objects.usable:
            print_log(f"annotation file '{ann_file}' of the {split} evaluator has no object of these classes to "
                      f"evaluate ({objects.dropped() or 'there are none'}): AP can't be computed, and will be -1",
                      'current', logging.WARNING)
            return
        if not {'bbox', 'segm'}.isdisjoint([metrics] if isinstance(metrics, str) else metrics):
            _check_limits(kind, evaluator, content, objects.places, key, limits)

    @staticmethod
    def _check_strictly(kind: type, ann_file: str, content: Content) -> None:
        problem = only_tolerantly_readable(ann_file, content)
        if problem:
            raise DataError(f"annotation file '{ann_file}' {problem}, which {kind.__name__} does not evaluate. Use "
                            'mmfasternet.CocoMetric, or fix the file')
        if any(row['id'] == 0 for row in content.get('annotations') or []):
            print_log(f"annotation file '{ann_file}' has an annotation with id 0, which {kind.__name__} treats as no "
                      'match: AP is a little lower. Number annotations from 1, or use mmfasternet.CocoMetric',
                      'current', logging.WARNING)

    def _checked(self, ann_file: str, classes: Sequence[str], needs_annotations: bool, with_masks: bool) -> Content:
        path = os.path.realpath(ann_file)
        if path != self._path:
            self._content = {}  # so that no two are in memory
            self._path, self._content = path, read_coco_file(ann_file)
        checked = (path, *classes, needs_annotations, with_masks)
        if checked not in self._seen:
            check_coco_content(ann_file, self._content, classes, needs_annotations, with_masks)
            self._seen.add(checked)
        return self._content


def _annotation_loading(dataset: Dict[str, Any]) -> Dict[str, Any]:
    """The transform that loads masks; an empty dict if there is none."""
    return next((node for _, node in walk(dataset.get('pipeline') or []) if node.get('with_mask')), {})


def _check_training(ann_file: str, objects: Objects, images: List[Dict[str, Any]], min_size: float,
                    alone: bool) -> None:
    small = sum(shorter_side(image) < min_size for image in images)
    if small == len(images):
        raise DataError(f"annotation file '{ann_file}' leaves no image to train on: {small} of {small} are under "
                        f'filter_cfg.min_size={min_size}. Lower it (--cfg-options '
                        f'train_dataloader.dataset.filter_cfg.min_size=0)')
    if not objects.usable and (alone or not objects.images):
        reason = (f'none of its {objects.total} objects of the classes can be used: {objects.dropped()}'
                  if objects.total else 'no object of the classes')
        raise DataError(f"annotation file '{ann_file}' has nothing to train on: {reason}. Fix its annotations")
    dropped = objects.dropped(meant=False)
    if dropped:
        print_log(f"annotation file '{ann_file}': of {objects.total} objects, {objects.usable} are trained on; "
                  f'{dropped}', 'current', logging.WARNING)


def _check_files(ann_file: str, folder: str, names: Iterable[str]) -> None:
    if not folder:
        return
    missing = missing_images(folder, names)
    if missing:
        more = f' ({len(missing)} do not)' if len(missing) > 1 else ''
        raise DataError(f"image '{Path(folder) / missing[0]}' that '{ann_file}' names does not exist{more}. Check "
                        'data_prefix.img of the dataset')


def _check_same_images(ann_file: str, content: Content, datasets: Sequence[Checked], split: str) -> None:
    where = f"{split}_evaluator.ann_file '{ann_file}'"
    evaluated = {image['id']: image['file_name'] for image in content['images']}
    loaded: _Images = {}
    for dataset in datasets:
        twice = next((key for key in dataset.images if key in loaded), None)
        if twice is not None:
            raise DataError(f"image id {twice!r} is in '{dataset.ann_file}' and in another of the {split} datasets: "
                            'their predictions would be mixed up. Make the ids unique')
        loaded.update(dataset.images)
    left_out = [key for key in evaluated if key not in loaded]
    if left_out and len(datasets) == 1 and os.path.realpath(ann_file) == os.path.realpath(datasets[0].ann_file):
        line = (f'of the {len(evaluated)} images in {where}, {split}_dataloader.dataset leaves out {len(left_out)}, by '
                'its ')
        if not datasets[0].is_cut:
            raise DataError(f'{line}filter_cfg: all their objects would count as missed. Set its test_mode=True')
        print_log(f'{line}indices: all their objects count as missed, which lowers AP', 'current', logging.WARNING)
        return
    of = f'the {split} data ({", ".join(repr(each.ann_file) for each in datasets)})'
    for these, those, what in ((loaded, evaluated, f'only in {of}'),
                               (evaluated, loaded, f'not in {of}: all their objects would count as missed')):
        only = [key for key in these if key not in those]
        if only:
            raise DataError(f'{where} does not match the evaluated images: {len(only)} of {len(these)} are {what}, '
                            f"such as id {only[0]!r} ('{these[only[0]]}'). Give the annotation file of this data")
    other = [key for key in loaded if os.path.basename(loaded[key]) != os.path.basename(evaluated[key])]
    if other:
        raise DataError(f"{where} does not match the evaluated images: id {other[0]!r} is '{evaluated[other[0]]}' in "
                        f"it, and '{loaded[other[0]]}' in {of}; {len(other)} of {len(loaded)} differ. Give the "
                        'annotation file of this data')


def _check_limits(kind: type, evaluator: Dict[str, Any], content: Content, places: Counter, key: str,
                  limits: Mapping[str, int]) -> None:
    """Warn of an image with more objects than detections are kept or counted: its AP can't reach 1."""
    max_dets = evaluator.get('max_dets') or COCO_MAX_DETS
    (image, category), count = places.most_common(1)[0]
    if count > max_dets:
        of = next(row['name'] for row in content['categories'] if row['id'] == category)
        remedy = f'--cfg-options {key}.max_dets={_round_up(count)} counts more'
        if not issubclass(kind, CocoMetric):
            remedy = f'{kind.__name__} has no option for more; mmfasternet.CocoMetric has max_dets'
        print_log(f"{_image_of(content, image)} in '{evaluator['ann_file']}' has {count} objects of the class '{of}', "
                  f"but {key} counts {max_dets} detections of a class per image: AP can't reach 1. "
                  f'{remedy}', 'current', logging.WARNING)
    totals: Counter = Counter()
    for (each, _), number in places.items():
        totals[each] += number
    image, count = totals.most_common(1)[0]
    for limiting, limit in limits.items():
        if limit < count:
            print_log(f"{_image_of(content, image)} in '{evaluator['ann_file']}' has {count} objects, but {limiting} "
                      f"keeps {limit} detections per image: AP can't reach 1. --cfg-options "
                      f'{limiting}={_round_up(count)} keeps more', 'current', logging.WARNING)


def _image_of(content: Content, key: Any) -> str:
    return next(f"image '{image['file_name']}'" for image in content['images'] if image['id'] == key)


def _round_up(count: int) -> int:
    """Round up to hundreds."""
    return -(-count // 100) * 100


def _at(images: _Images, indices: Any) -> _Images:
    """The images that a dataset keeps by ``indices``, as MMEngine's ``BaseDataset`` reads them."""
    keys = list(images)
    if isinstance(indices, int):
        keys = keys[:indices] if indices >= 0 else keys[indices:]
    elif indices is not None:
        keys = [keys[index] for index in indices if -len(keys) <= index < len(keys)]
    return {key: images[key] for key in keys}
