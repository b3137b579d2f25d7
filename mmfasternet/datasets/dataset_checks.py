"""Checks that the data of a config can be read and has the model's classes."""

import inspect
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.registry import DATASETS, EVALUATOR, METRICS, Registry

from mmfasternet.config_tree import walk
from mmfasternet.datasets.classification_checks import ClassificationChecks, is_folder_tree, names_of
from mmfasternet.datasets.coco_checks import Checked, CocoChecks, is_coco_dataset, is_coco_metric
from mmfasternet.errors import DataError

_COCO_TREE = 'COCO holds annotations/instances_{train,val}2017.json, train2017/*.jpg and val2017/*.jpg'
_IMAGENET_TREE = 'ImageNet holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, with 1000 folders such as n01440764'
_REMEDIES = {
    'data/coco': f'{_COCO_TREE}: put it into data/coco/, set MMDET_DATASETS to its folder',
    'data/shapes': 'Make it with mmfasternet make-shapes data/shapes',
    'data/nuclei': 'Make it from the 2018 Data Science Bowl with mmfasternet make-nuclei stage1_train data/nuclei',
}
_HEADS = ('bbox_head', 'mask_head')  # and the head of a classifier


class DatasetChecks:
    """Checks the data of a config, each file once; use it within the config's scope.

    Args:
        model: The model's config.
        reads_files: Whether this process reads annotation files: they are
            large, so one of several processes is enough.
    """

    def __init__(self, model: Dict[str, Any], reads_files: bool = True) -> None:
        self.model = model
        self.reads_files = reads_files
        self._coco = CocoChecks()
        self._classification = ClassificationChecks(model, reads_files)

    def check(self, loader: Any, evaluators: Any, split: str) -> None:
        """Check a split's datasets and its evaluators' annotation files.

        Args:
            loader: Config of its data loader, or None.
            evaluators: Config of its evaluator, a list of configs, or None.
            split: Its name: ``'train'``, ``'val'`` or ``'test'``.

        Raises:
            DataError: If a file or folder is missing, an annotation file is
                not in COCO format, or its classes do not match the config's or
                the model's.
        """
        coco: List[Tuple[Optional[Checked], Tuple[str, ...]]] = []
        datasets = list(_datasets(loader))
        for dataset in datasets:
            ann_file, folder = _check_paths(dataset, split)
            classes = dataset_classes(dataset) or self._classification.check(
                dataset, _class_of(dataset), ann_file, folder, split, _tree(dataset))
            if classes and 'language_model' not in self.model:  # its classes are texts
                _check_num_classes(self.model, classes, split)
            kind = _class_of(dataset)
            checked = None
            if ann_file and is_coco_dataset(kind) and self.reads_files:
                checked = self._coco.check_dataset(kind, dataset, ann_file, folder, classes, split, len(datasets) == 1)
            coco.append((checked, classes))
        if split == 'train' and coco and not any(checked is None or checked.usable for checked, _ in coco):
            raise DataError(f'none of the {len(coco)} train datasets has an object of its classes that can be trained '
                            'on. Fix their annotations')
        metrics = list(_evaluators(evaluators, f'{split}_evaluator'))
        for index, (key, evaluator) in enumerate(metrics):
            if not evaluator.get('ann_file') or evaluator.get('backend_args'):
                continue
            _check_exists(evaluator['ann_file'], split, 'annotation file', f'{key}.ann_file=FILE')
            kind = _class_of(evaluator, METRICS)
            # MMDetection's evaluator of several datasets has a metric for each.
            mine = coco[index:index + 1] if _is_for_each(evaluators) and len(metrics) == len(coco) else coco
            if mine and is_coco_metric(kind) and '://' not in evaluator['ann_file'] and all(each for each, _ in mine):
                self._coco.check_evaluator(kind, evaluator, [each for each, _ in mine if each], mine[0][1], split,
                                           key, _limits(self.model))


def _limits(model: Dict[str, Any]) -> Dict[str, int]:
    """Maximum number of detections per image, by the config's key; empty if the config does not set it."""
    cfg, where = model.get('module', model).get('test_cfg') or {}, 'model.test_cfg'  # in one for test-time augmentation
    if 'rcnn' in cfg:
        cfg, where = cfg['rcnn'], f'{where}.rcnn'
    limit = cfg.get('max_per_img') if isinstance(cfg, dict) else None  # some cascades have a list
    return {f'{where}.max_per_img': limit} if isinstance(limit, int) and limit > 0 else {}


def _evaluators(config: Any, key: str) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """The metrics in an evaluator's config, each with its key as ``--cfg-options`` has it."""
    return ((re.sub(r'\[(\d+)\]', r'.\1', path), node) for path, node in walk(config, key)
            if 'type' in node and 'metrics' not in node)


def _is_for_each(config: Any) -> bool:
    kind = _class_of(config, EVALUATOR) if isinstance(config, dict) else None
    return getattr(kind, '__name__', '') == 'MultiDatasetsEvaluator'


def _datasets(loader: Any) -> Iterator[Dict[str, Any]]:
    """The datasets in a data loader's config, unwrapped."""
    return (node for _, node in walk(loader) if 'data_root' in node or 'ann_file' in node)


def _class_of(config: Dict[str, Any], registry: Registry = DATASETS) -> Any:
    kind = config.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as current:
        return current.get(kind)


def dataset_classes(dataset: Dict[str, Any]) -> Tuple[str, ...]:
    """Class names of a detection dataset in its config; empty if only its files tell.

    Raises:
        DataError: If they are a string.
    """
    from mmdet.datasets import BaseDetDataset, CocoPanopticDataset
    kind = _class_of(dataset)
    if not (isinstance(kind, type) and issubclass(kind, BaseDetDataset)) or issubclass(kind, CocoPanopticDataset):
        return ()
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes') or ()
    return names_of(classes)


def _check_num_classes(model: Dict[str, Any], classes: Tuple[str, ...], split: str) -> None:
    for where, node in walk(model, 'model'):
        count = node.get('num_classes', len(classes))
        is_head = where == 'model.head' or where.split('.')[-1].split('[')[0] in _HEADS
        if is_head and isinstance(count, int) and count != len(classes):
            raise DataError(f'{where}.num_classes is {count}, but the {split} data has {len(classes)} classes '
                            f"({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}). num_classes of all "
                            'heads and metainfo.classes of the datasets must agree')


def _check_paths(dataset: Dict[str, Any], split: str) -> Tuple[str, str]:
    """Check that the local files of a dataset exist; gives its annotation file and image folder."""
    for key in ('data_root', 'ann_file'):
        if not isinstance(dataset.get(key) or '', str):
            raise DataError(f'{key} of the {split} data is {dataset[key]!r}, and must be a string. On the command '
                            f'line, quote it: --cfg-options \'{split}_dataloader.dataset.{key}="{dataset[key]}"\'')
    root, ann_file = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    if dataset.get('backend_args') or '://' in root or '://' in ann_file or _downloads(dataset):
        return '', ''
    prefix = dataset.get('data_prefix') or ''
    prefix = (prefix.get('img', prefix.get('img_path')) or '') if isinstance(prefix, dict) else prefix
    if not prefix and is_folder_tree(_class_of(dataset)):
        prefix = dataset.get('split') or ''
    option = f'{split}_dataloader.dataset.data_root=DIR'
    if root and not (Path(ann_file).is_absolute() and Path(prefix).is_absolute()):
        _check_exists(root, split, 'data folder', option, _tree(dataset))
    ann_file, folder = (str(Path(root) / part) if part else '' for part in (ann_file, prefix))
    for path, what in ((ann_file, 'annotation file'), (folder, 'image folder')):
        if path:
            _check_exists(path, split, what, option, _tree(dataset))
    return ann_file, folder or root


def _downloads(dataset: Dict[str, Any]) -> bool:
    kind = _class_of(dataset)
    return callable(kind) and 'download' in inspect.signature(kind).parameters


def _tree(dataset: Dict[str, Any]) -> str:
    return _IMAGENET_TREE if getattr(_class_of(dataset), '__name__', '') == 'ImageNet' else ''


def _check_exists(path: str, split: str, what: str, option: str, tree: str = '') -> None:
    if '://' in path or (Path(path).is_dir() if what.endswith('folder') else Path(path).is_file()):
        return
    remedy = f'{tree}: put it there' if tree else 'Put it there'
    for root, how in _REMEDIES.items():
        if path.startswith(root):
            remedy = how
    coco = os.environ.get('MMDET_DATASETS')
    if coco and path.startswith(coco):
        remedy = f'MMDET_DATASETS is {coco}. {_COCO_TREE}'
    problem = f'is not a {what.split()[-1]}' if Path(path).exists() else 'does not exist'
    raise DataError(f"{what} '{path}' of the {split} data {problem}. {remedy}, or set another path with --cfg-options "
                    f'{option}')
