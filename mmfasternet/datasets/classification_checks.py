"""Checks that the images and labels of a classifier's data exist and match its head."""

import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence, Set, Tuple

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file
from mmengine.logging import print_log

from mmfasternet.datasets.image_files import missing_images, needs_files
from mmfasternet.errors import DataError

_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')  # MMPretrain's
_SHOWN = 3


class ClassificationChecks:
    """Checks the MMPretrain datasets of a config, one after another.

    Args:
        model: The model's config; labels are compared with its head's ``num_classes``.
        reads_files: Whether this process reads annotation files and lists folders.
    """

    def __init__(self, model: Dict[str, Any], reads_files: bool = True) -> None:
        head = model.get('module', model).get('head')
        count = head.get('num_classes') if isinstance(head, dict) else None
        self.num_classes = count if isinstance(count, int) else None
        self.reads_files = reads_files
        self._folders: Optional[Tuple[str, Tuple[str, ...]]] = None  # of classes, the first ones seen

    def check(self, dataset: Dict[str, Any], kind: Any, ann_file: str, folder: str, split: str,
              tree: str = '') -> Tuple[str, ...]:
        """Check a dataset.

        Args:
            dataset: Its config.
            kind: Its class.
            ann_file: Path of its annotation file; empty if it has none, or it is not on a local disk.
            folder: Its image folder; empty if it is not on a local disk.
            split: Such as ``'train'``.
            tree: A sentence on its expected folders, for the error. Defaults to ``''``.

        Returns:
            Its classes, to be compared with the head's; empty if only labels tell them, or it is not an MMPretrain
            dataset.

        Raises:
            DataError: If folders of classes or images are missing, there are no images, a line or entry can't be read,
                a label is out of range, or splits have folders of different classes.
        """
        if not _is_mmpretrains(kind):
            return ()
        named = names_of(dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes') or ())
        usual: Tuple[str, ...] = getattr(kind, 'METAINFO', {}).get('classes') or ()
        if not is_folder_tree(kind):
            if ann_file.endswith('.json') and self.reads_files and self.num_classes and _reads_openmmlabs_format(kind):
                return self._check_json(ann_file, folder if needs_files(dataset) else None, named or usual)
            return (named or usual) if self.num_classes else ()
        if not dataset.get('with_label', True) or not folder:
            return named
        ann_file = ann_file or _listed_by_split(dataset, kind)
        extensions: Any = dataset.get('extensions') or getattr(kind, 'IMG_EXTENSIONS', _EXTENSIONS)
        if not ann_file:
            return self._check_folders(folder, named, usual, tuple(extensions), split, tree)
        if self.reads_files:
            self._check_list(ann_file, folder if needs_files(dataset) else None, named, split)
            if usual and not named and self.num_classes not in (None, len(usual)):
                _warn(f"the {split} data uses the class names of {kind.__name__}, {', '.join(usual[:_SHOWN])}, ...: "
                      f'set {split}_dataloader.dataset.metainfo.classes to your class names')
        return named

    def _check_folders(self, folder: str, named: Tuple[str, ...], usual: Tuple[str, ...], extensions: Tuple[str, ...],
                       split: str, tree: str) -> Tuple[str, ...]:
        found = tuple(sorted(path.name for path in Path(folder).iterdir() if path.is_dir()))
        classes = named or usual or found
        option = f'{split}_dataloader.dataset.metainfo.classes'
        if not found or len(found) != len(classes):
            raise DataError(f"image folder '{folder}' holds {len(found)} class folders, but {len(classes) or 'some'} "
                            f"are expected. {tree + '. ' if tree else ''}Put the images of each class into their own "
                            f'folder, and name the classes with {option}')
        if named != found and sorted(named) == list(found):
            raise DataError(f"{option} is {', '.join(named)}, but the labels of image folder '{folder}' are in "
                            f"alphabetical order: {', '.join(found)}. Name the classes in this order")
        self._compare_folders(folder, found)
        if self.reads_files:
            empty = [name for name in found if not _holds_images(Path(folder) / name, extensions)]
            if len(empty) == len(found):
                raise DataError(f"image folder '{folder}' holds no image in its {len(found)} class folders. File names "
                                f"of images end with {', '.join(sorted(extensions))}")
            if empty:
                _warn(f"image folder '{folder}' holds no image of {len(empty)} of its {len(found)} classes: "
                      f'{_some(empty)}')
        return classes

    def _compare_folders(self, folder: str, found: Tuple[str, ...]) -> None:
        """Labels are the indices of a split's own folders: a missing folder shifts those after it."""
        other, expected = self._folders = self._folders or (folder, found)
        lacking = [name for name in expected if name not in found]
        beyond = [name for name in found if name not in expected]
        if lacking or beyond:
            what = [f"lacks {_some(lacking)}"] * bool(lacking) + [f"has {_some(beyond)} in addition"] * bool(beyond)
            raise DataError(f"image folders '{other}' and '{folder}' hold different class folders, whose order gives "
                            f"the labels: the second {' and '.join(what)}. Give both the same folders, empty ones for "
                            'classes without images')

    def _check_list(self, ann_file: str, folder: Optional[str], named: Tuple[str, ...], split: str) -> None:
        """Check a file of lines ``PATH LABEL``."""
        text = _read(ann_file)
        lines = text.split('\n')
        if lines[-1] == '':
            lines.pop()
        if not lines:
            raise DataError(f"annotation file '{ann_file}' is empty: each line must hold an image and its label")
        labels, paths = set(), []
        for number, line in enumerate(lines, 1):
            path, _, label = line.strip().rpartition(' ')
            where = f"annotation file '{ann_file}', line {number}"
            try:
                value = int(label)
            except ValueError:
                path = ''
            if not path:
                raise DataError(f"{where} is '{line[:80]}', but must be a path and a number separated by a space, such "
                                "as 'ant/1.jpg 0'")
            self._check_label(value, f'the label in {where}', named)
            labels.add(value)
            paths.append(path)
        _check_images(paths, folder, ann_file)
        self._warn_of_few(labels, ann_file, split)

    def _check_json(self, ann_file: str, folder: Optional[str], named: Tuple[str, ...]) -> Tuple[str, ...]:
        """Check a file in OpenMMLab's format, ``metainfo`` and ``data_list``."""
        try:
            content = json.loads(_read(ann_file))
        except ValueError as error:
            raise DataError(f"annotation file '{ann_file}' is not valid JSON ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get('metainfo'), dict) or not isinstance(
                content.get('data_list'), list) or not content['data_list']:
            raise DataError(f"annotation file '{ann_file}' must be a dict with metainfo, a dict, and data_list, a list "
                            f'of dicts with img_path and gt_label')
        named = named or _classes_in(content['metainfo'])
        paths = []
        for index, entry in enumerate(content['data_list']):
            where = f"annotation file '{ann_file}', data_list[{index}]"
            if not isinstance(entry, dict) or not isinstance(entry.get('img_path'), str):
                raise DataError(f'{where} has no img_path, which must be a string')
            paths.append(entry['img_path'])
            labels = entry.get('gt_label')
            for label in labels if isinstance(labels, list) else [labels]:
                if not isinstance(label, int) or isinstance(label, bool):
                    raise DataError(f"{where}.gt_label is {labels!r}, but must be a number or a list of numbers")
                self._check_label(label, f'{where}.gt_label', named)
        _check_images(paths, folder, ann_file)
        return named

    def _check_label(self, label: int, where: str, named: Sequence[str]) -> None:
        limits = [(len(named), f'there are {len(named)} classes')] * bool(named)
        if self.num_classes is not None:
            limits.append((self.num_classes, f'model.head.num_classes is {self.num_classes}'))
        for limit, why in limits:
            if not 0 <= label < limit:
                raise DataError(f'{where} is {label}, but {why}: labels are 0 to {limit - 1}')

    def _warn_of_few(self, labels: Set[int], ann_file: str, split: str) -> None:
        if split == 'train' and self.num_classes and len(labels) < self.num_classes:
            _warn(f"annotation file '{ann_file}' has images of {len(labels)} classes, but model.head.num_classes is "
                  f'{self.num_classes}')


def names_of(classes: Any) -> Tuple[str, ...]:
    """Names of classes as a config has them, in a list or in a file with a name on each line.

    Raises:
        DataError: If they are a string that is not the path of a file.
    """
    if isinstance(classes, str):
        if not Path(classes).is_file():
            raise DataError(f"metainfo.classes is the string '{classes}': it must be a tuple of names, such as "
                            f"('{classes}', ) with its comma, or a file with a name on each line")
        classes = list_from_file(classes)
    return tuple(classes)


def is_folder_tree(kind: Any) -> bool:
    """Whether a class is an MMPretrain dataset with a folder of images for each class, or with a list of images."""
    return any(base.__name__ == 'CustomDataset' for base in getattr(kind, '__mro__', ()))


def _is_mmpretrains(kind: Any) -> bool:
    return any(base.__name__ == 'BaseDataset' and base.__module__.startswith('mmpretrain.')
               for base in getattr(kind, '__mro__', ()))


def _reads_openmmlabs_format(kind: Any) -> bool:
    return all(getattr(kind, name) is getattr(BaseDataset, name) for name in ('load_data_list', 'parse_data_info'))


def _listed_by_split(dataset: Dict[str, Any], kind: Any) -> str:
    """The list of images that ImageNet datasets use if it exists."""
    path = Path(dataset.get('data_root') or '') / 'meta' / f"{dataset.get('split')}.txt"
    return str(path) if dataset.get('split') and path.is_file() else ''


def _read(ann_file: str) -> str:
    try:
        text = Path(ann_file).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"annotation file '{ann_file}' can't be read: {error}") from None
    if text.startswith('\ufeff'):
        raise DataError(f"annotation file '{ann_file}' begins with a byte order mark, which MMPretrain reads as text. "
                        'Save it as UTF-8 without one')
    return text


def _classes_in(metainfo: Dict[str, Any]) -> Tuple[str, ...]:
    if isinstance(metainfo.get('classes'), list):
        return tuple(metainfo['classes'])
    categories = metainfo.get('categories')
    return tuple(str(entry.get('category_name')) for entry in categories if isinstance(entry, dict)) if isinstance(
        categories, list) else ()


def _check_images(paths: Iterable[str], folder: Optional[str], ann_file: str) -> None:
    missing = [] if folder is None else missing_images(folder, paths)
    if folder is not None and missing:
        raise DataError(f"annotation file '{ann_file}' names {len(missing)} images that do not exist, such as "
                        f"'{os.path.join(folder, missing[0])}'. Put them there, or set data_prefix to the folder that "
                        'the paths are relative to')


def _holds_images(folder: Path, extensions: Tuple[str, ...]) -> bool:
    return any(name.lower().endswith(extensions) for _, _, names in os.walk(folder, followlinks=True) for name in names)


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (f', ... ({len(names)})' if len(names) > _SHOWN else '')


def _warn(text: str) -> None:
    print_log(text, 'current', logging.WARNING)
