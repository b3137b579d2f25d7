"""What is looked at before a run starts, so that it does not fail an hour later or with a page of traceback."""

import copy
import inspect
import os
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, Optional, Sequence, Tuple

from mmdet.datasets import BaseDetDataset, CocoDataset, CocoPanopticDataset
from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.model import BaseTTAModel
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from mmfasternet.checkpoints import check_fits, check_start, load_for_mmengine, read_checkpoint
from mmfasternet.cli.options import is_first_process
from mmfasternet.datasets.coco_file import check_coco_file
from mmfasternet.errors import DataError, UserError
from mmfasternet.models import FasterNet

_COCO_TREE = 'COCO holds annotations/instances_{train,val}2017.json, train2017/*.jpg and val2017/*.jpg'
_IMAGENET_TREE = 'ImageNet holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, with 1000 folders such as n01440764'
_REMEDIES = {
    'data/coco': f'{_COCO_TREE}: put it into data/coco/, set MMDET_DATASETS to its folder',
    'data/shapes': 'Make it with python tools/make_shapes_coco.py data/shapes',
}
_HEADS = ('bbox_head', 'mask_head')  # and the head of a classifier


def check_run(cfg: Config, splits: Sequence[str]) -> None:
    """Check the data, the model and the checkpoints that a config names, before anything is written.

    Args:
        cfg: The config.
        splits: Which data are used, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        DataError: If a file or folder of a data set is missing, an annotation
            file is not COCO's format, or its classes do not match the
            config's or the model's.
        CheckpointError: If a checkpoint is missing or broken, or does not
            hold the model that is to be tested or resumed.
        UserError: If the model can't be built.
    """
    if 'model' not in cfg:
        raise UserError(f"config '{cfg.filename}' has no model: it is a part of others, such as those in configs/")
    with _scope(cfg):
        seen = set()
        for split in splits:
            for dataset in _datasets(cfg.get(f'{split}_dataloader') or {}):
                ann_file, folder = _check_paths(dataset, split)
                classes = dataset_classes(dataset) or _check_class_folders(dataset, folder)
                if classes and 'language_model' not in cfg.model:  # its classes are texts
                    _check_num_classes(cfg.model, classes, split)
                wants = (ann_file, classes, split, _with_masks(dataset))
                # One process of many reads the file: COCO's is large.
                if ann_file and _is_coco(dataset) and is_first_process() and wants not in seen:
                    check_coco_file(ann_file, folder, *wants[1:])
                seen.add(wants)
            evaluators = cfg.get(f'{split}_evaluator') or []
            for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
                if evaluator.get('ann_file') and not evaluator.get('backend_args'):
                    _check_exists(evaluator['ann_file'], split, 'annotation file', f'{split}_evaluator.ann_file=FILE')
        trains = 'train' in splits
        check_model(cfg, cfg.get('load_from'), pretrained=trains, starts=trains and not cfg.get('resume'))


def _scope(cfg: Config) -> ContextManager:
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet'))


def check_model(cfg: Config,
                checkpoint: Optional[str] = None,
                pretrained: bool = False,
                starts: bool = False) -> nn.Module:
    """Check that a config's model can be built and gets its weights.

    Args:
        cfg: The config.
        checkpoint: A checkpoint that must hold all of the model.
            Defaults to None.
        pretrained: Whether the weights that ``init_cfg`` names are checked.
            Defaults to False.
        starts: Whether a training starts from the checkpoint: then only the
            backbone has to fit. Defaults to False.

    Returns:
        The model, without the checkpoint's weights.

    Raises:
        UserError: If not.
    """
    with _scope(cfg):
        model = MODELS.build(copy.deepcopy(cfg.model))  # some detectors write into their config
    if checkpoint:
        check = check_start if starts else check_fits
        check(model.module if isinstance(model, BaseTTAModel) else model, load_for_mmengine(checkpoint), checkpoint)
    if pretrained:
        for path in _pretrained(cfg.model):
            if '://' not in path:
                read_checkpoint(path)
        for module in model.modules():
            if isinstance(module, FasterNet) and any(_pretrained(module.init_cfg)):
                module.init_weights()
    return model


def _pretrained(model: Any) -> Iterator[str]:
    """Paths and URLs of all pre-trained weights in a model's config."""
    if isinstance(model, dict):
        if model.get('type') == 'Pretrained' and model.get('checkpoint'):
            yield model['checkpoint']
        model = list(model.values())
    if isinstance(model, (list, tuple)):
        for item in model:
            yield from _pretrained(item)


def _datasets(config: Any) -> Iterator[Dict[str, Any]]:
    """The data sets in a data loader's config, unwrapped."""
    if not isinstance(config, dict):
        return
    if 'data_root' in config or 'ann_file' in config:
        yield config
    children = config.get('datasets', [])
    for child in [config.get('dataset'), *(children if isinstance(children, (list, tuple)) else [])]:
        yield from _datasets(child)


def _class_of(dataset: Dict[str, Any]) -> Any:
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _is_coco(dataset: Dict[str, Any]) -> bool:
    """Whether the file is read as COCO's: LVIS and the panoptic sets do it in ways of their own."""
    kind = _class_of(dataset)
    return isinstance(kind, type) and issubclass(kind, CocoDataset) and all(
        getattr(kind, name) is getattr(CocoDataset, name) for name in ('load_data_list', 'parse_data_info'))


def dataset_classes(dataset: Dict[str, Any]) -> Tuple[str, ...]:
    """Class names of a detection data set by its config; empty where only its files tell.

    Raises:
        DataError: If they are a text.
    """
    kind = _class_of(dataset)
    if not (isinstance(kind, type) and issubclass(kind, BaseDetDataset)) or issubclass(kind, CocoPanopticDataset):
        return ()
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes', ())
    if isinstance(classes, str):
        if not Path(classes).is_file():
            raise DataError(f"metainfo.classes is the text '{classes}': it must be a tuple of names, such as "
                            f"('{classes}', ) with its comma, or a file with a name on each line")
        classes = list_from_file(classes)
    return tuple(classes)


def _is_folder_tree(dataset: Dict[str, Any]) -> bool:
    """Whether it is MMPretrain's data set of a folder of images for each class."""
    kind = _class_of(dataset)
    return any(base.__name__ == 'CustomDataset' for base in getattr(kind, '__mro__', ()))


def _check_class_folders(dataset: Dict[str, Any], folder: str) -> Tuple[str, ...]:
    """The classes of such a tree, if it has no list of files; their number must be the one that is configured."""
    if not (folder and _is_folder_tree(dataset)) or dataset.get('ann_file') or not dataset.get('with_label', True):
        return ()
    split = dataset.get('split')
    if split and (Path(dataset.get('data_root') or '') / 'meta' / f'{split}.txt').is_file():
        return ()
    found = tuple(sorted(path.name for path in Path(folder).iterdir() if path.is_dir()))
    kind = _class_of(dataset)
    classes = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes') or (
        getattr(kind, 'METAINFO', None) or {}).get('classes') or found
    if isinstance(classes, str):
        classes = tuple(list_from_file(classes))
    if not found or len(found) != len(classes):
        raise DataError(f"image folder '{folder}' holds {len(found)} folders of classes, and {len(classes) or 'some'} "
                        f'are expected. {_tree(dataset)}'.rstrip())
    return tuple(classes)


def _with_masks(dataset: Dict[str, Any]) -> bool:
    return any(transform.get('with_mask') for transform in dataset.get('pipeline') or [])


def _check_num_classes(model: Any, classes: Tuple[str, ...], split: str, where: str = 'model') -> None:
    if isinstance(model, (list, tuple)):
        for index, item in enumerate(model):
            _check_num_classes(item, classes, split, f'{where}[{index}]')
    if not isinstance(model, dict):
        return
    count = model.get('num_classes', len(classes))
    is_head = where == 'model.head' or where.split('.')[-1].split('[')[0] in _HEADS
    if is_head and isinstance(count, int) and count != len(classes):
        raise DataError(f'{where}.num_classes is {count}, but the {split} data has {len(classes)} classes '
                        f"({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}). Make num_classes of "
                        f'all heads and metainfo.classes of the data sets agree')
    for key, value in model.items():
        _check_num_classes(value, classes, split, f'{where}.{key}')


def _check_paths(dataset: Dict[str, Any], split: str) -> Tuple[str, str]:
    """Check that the local files of a data set exist; gives its annotation file and image folder."""
    root, ann_file = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    if dataset.get('backend_args') or '://' in root or '://' in ann_file or _downloads(dataset):
        return '', ''
    prefix = dataset.get('data_prefix') or ''
    prefix = (prefix.get('img', prefix.get('img_path')) or '') if isinstance(prefix, dict) else prefix
    if not prefix and _is_folder_tree(dataset):
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
    if '://' in path or Path(path).exists():
        return
    remedy = f'{tree}: put it there' if tree else 'Put it there'
    for root, how in _REMEDIES.items():
        if path.startswith(root):
            remedy = how
    coco = os.environ.get('MMDET_DATASETS')
    if coco and path.startswith(coco):
        remedy = f'MMDET_DATASETS is {coco}. {_COCO_TREE}'
    raise DataError(f"{what} '{path}' of the {split} data does not exist. {remedy}, or name another with "
                    f'--cfg-options {option}')
