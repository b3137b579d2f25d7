"""What is looked at before a run starts, so that it does not fail an hour later or with a page of traceback."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dist import get_dist_info

from mmfasternet.errors import CheckpointError, DataError

_COCO_TREE = ('COCO belongs in data/coco/ as annotations/instances_{train,val}2017.json, train2017/*.jpg and '
              'val2017/*.jpg; set MMDET_DATASETS to the folder if it lies elsewhere, or '
              '--cfg-options {split}_dataloader.dataset.data_root=DIR for data of your own')
_COCO_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}


def check_run(cfg: Config, splits: Sequence[str]) -> None:
    """Check the data and checkpoints that a config names.

    Args:
        cfg: The config.
        splits: Which data are used, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        DataError: If a file or folder of a COCO data set is missing, an
            annotation file is not COCO's format, or its classes do not match
            the config's or the model's.
        CheckpointError: If a checkpoint file does not exist.
    """
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
    for path in _pretrained(cfg.model):
        check_checkpoint(path)
    seen = set()
    for split in splits:
        for dataset in _coco_datasets(cfg.get(f'{split}_dataloader') or {}):
            classes = _classes(dataset)
            _check_num_classes(cfg.model, classes, split)
            ann_file, image_folder = _check_paths(dataset, split)
            # One process of many reads the file: COCO's is large.
            if get_dist_info()[0] == 0 and (ann_file, classes) not in seen:
                _check_coco(ann_file, image_folder, classes)
            seen.add((ann_file, classes))
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            if evaluator.get('ann_file'):
                _check_exists(evaluator.ann_file, split, 'annotation file')


def check_checkpoint(path: str) -> None:
    """Raise :class:`CheckpointError` if ``path`` is local and not a file."""
    if '://' not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist. Check the path; training writes its "
                              f'checkpoints to the work folder, work_dirs/CONFIG by default')


def _pretrained(model: Any) -> Iterator[str]:
    """Paths and URLs of all pre-trained weights in a model's config."""
    if isinstance(model, dict):
        if model.get('type') == 'Pretrained' and model.get('checkpoint'):
            yield model['checkpoint']
        model = list(model.values())
    if isinstance(model, (list, tuple)):
        for item in model:
            yield from _pretrained(item)


def _coco_datasets(config: Any) -> Iterator[Dict[str, Any]]:
    """The data sets of COCO's format in a data loader's config, unwrapped."""
    if not isinstance(config, dict):
        return
    name = config.get('type')
    kind = DATASETS.get(name) if isinstance(name, str) and 'ann_file' in config else name
    if isinstance(kind, type) and issubclass(kind, CocoDataset):
        yield config
    children = config.get('datasets', [])
    for child in [config.get('dataset'), *(children if isinstance(children, (list, tuple)) else [])]:
        yield from _coco_datasets(child)


def _classes(dataset: Dict[str, Any]) -> Tuple[str, ...]:
    metainfo = dataset.get('metainfo') or {}
    classes = metainfo.get('classes') or DATASETS.get(dataset['type']).METAINFO.get('classes', ())
    if isinstance(classes, str):
        raise DataError(f"metainfo.classes is the text '{classes}': it must be a tuple of names, such as "
                        f"('{classes}', ) with its comma")
    return tuple(classes)


def _check_num_classes(model: Any, classes: Tuple[str, ...], split: str, where: str = 'model') -> None:
    if isinstance(model, (list, tuple)):
        for index, item in enumerate(model):
            _check_num_classes(item, classes, split, f'{where}[{index}]')
    if not isinstance(model, dict):
        return
    for key, value in model.items():
        if key == 'num_classes' and not where.endswith('rpn_head') and value != len(classes):
            raise DataError(f'{where}.num_classes is {value}, but the {split} data has {len(classes)} classes '
                            f"({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}). Make num_classes of "
                            f'all heads and metainfo.classes of the data sets agree')
        _check_num_classes(value, classes, split, f'{where}.{key}')


def _join(root: Optional[str], path: str) -> str:
    return path if not root or '://' in path or Path(path).is_absolute() else str(Path(root) / path)


def _check_paths(dataset: Dict[str, Any], split: str) -> Tuple[str, str]:
    root = dataset.get('data_root') or ''
    if '://' in root:
        return '', ''
    ann_file = _join(root, dataset['ann_file'])
    folder = _join(root, (dataset.get('data_prefix') or {}).get('img', ''))
    if root:
        _check_exists(root, split, 'data folder')
    _check_exists(ann_file, split, 'annotation file')
    if folder:
        _check_exists(folder, split, 'image folder')
    return ann_file, folder


def _check_exists(path: str, split: str, what: str) -> None:
    if '://' not in path and not Path(path).exists():
        raise DataError(f"{what} '{path}' of the {split} data does not exist. {_COCO_TREE.replace('{split}', split)}")


def _check_coco(ann_file: str, folder: str, classes: Tuple[str, ...]) -> None:
    """Check the content of a COCO annotation file against its classes and image folder."""
    if not ann_file or '://' in ann_file:
        return
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise DataError(f"annotation file '{ann_file}' can't be read as json: {error}. Fetch or export it again") \
            from None
    for key, fields in _COCO_KEYS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or (not rows and key != 'annotations'):
            raise DataError(f"annotation file '{ann_file}' is not in COCO's format: it has no list '{key}'. Needed are "
                            f'images, annotations and categories; see the README on data of your own')
        for index, row in enumerate(rows):
            absent = [field for field in fields if not isinstance(row, dict) or field not in row]
            if absent:
                raise DataError(f"annotation file '{ann_file}' is not in COCO's format: {key}[{index}] has no "
                                f"{', '.join(absent)}. Add it, or remove the entry")
    names: List[str] = [category['name'] for category in content['categories']]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(f"annotation file '{ann_file}' has no category {', '.join(map(repr, unknown[:3]))} "
                        f'({len(unknown)} of {len(classes)} classes); it has {", ".join(names[:5])}. Set '
                        f'metainfo=dict(classes=...) of the data sets to its names')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"annotation file '{ann_file}' has the category {twice[0]!r} more than once. Merge them")
    first = Path(folder) / content['images'][0]['file_name']
    if folder and not first.is_file():
        raise DataError(f"image '{first}' that '{ann_file}' names does not exist. "
                        f'Check data_prefix.img of the data set')
