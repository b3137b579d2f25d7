"""Reading a config and applying what the command line and the environment say."""

import logging
import os
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

import mmfasternet
from mmfasternet.errors import UserError

_IMAGE_LOADERS = ('LoadImageFromFile', 'mmcv.LoadImageFromFile', LoadImageFromFile)
_FLIP_KEYS = ('flip', 'flip_direction')
_UNSCALED = dict(enabled=False)  # of a GradScaler: no step is left out, and none waits for the GPU to see if it should
_COCO_ROOT = 'data/coco/'  # where MMDetection's configs look for COCO


def load_config(path: str,
                options: Optional[Dict[str, Any]] = None,
                work_dir: Optional[str] = None,
                launcher: str = 'none') -> Config:
    """Read a config of MMDetection or MMPretrain.

    Args:
        path: The config file.
        options: Values that replace the config's, by dotted keys, as
            ``--cfg-options`` gives them. Defaults to None.
        work_dir: Folder for logs and checkpoints. Defaults to None: the
            config's own, else ``work_dirs/`` and the config's name.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
            Defaults to ``'none'``.

    Returns:
        The config. Where the environment variable ``MMDET_DATASETS`` is set,
        it stands in the place of ``data/coco/`` everywhere.

    Raises:
        UserError: If there is no such file, or an option does not apply.
    """
    if not Path(path).is_file():
        raise UserError(f"config '{path}' does not exist. Configs are in configs/")
    cfg = Config.fromfile(path)
    _update_coco_root(cfg)
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError, AssertionError) as error:
            raise UserError(f'--cfg-options do not apply to {path}: {error}') from None
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    cfg.launcher = launcher
    return cfg


def configs_folder() -> Path:
    """The configs: beside the package where it is a checkout, within it where it was installed."""
    package = Path(mmfasternet.__file__).parent
    return next(folder for folder in (package / '.mim' / 'configs', package.parent / 'configs') if folder.is_dir())


def _update_coco_root(cfg: Config) -> None:
    root = os.environ.get('MMDET_DATASETS')
    if not root:
        return

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = replaced(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(replaced(item) for item in value)
        elif isinstance(value, str) and value.startswith(_COCO_ROOT):
            return f"{root.rstrip('/')}/{value[len(_COCO_ROOT):]}"
        return value

    replaced(cfg._cfg_dict)


def name_broken_images(cfg: Config) -> None:
    """Load the images of all pipelines by :class:`~mmfasternet.datasets.LoadImageFromFile`."""

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            if value.get('type') in _IMAGE_LOADERS:
                value['type'] = 'mmfasternet.LoadImageFromFile'
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for item in value:
                visit(item)

    for split in ('train', 'val', 'test'):
        visit(cfg.get(f'{split}_dataloader'))
    visit(cfg.get('custom_hooks'))  # some switch the pipeline


def enable_amp(cfg: Config, dtype: str) -> None:
    """Train with automatic mixed precision.

    Args:
        cfg: The config, changed in place.
        dtype: ``'float16'``, with dynamic loss scaling unless the config has
            another; or ``'bfloat16'``, which reaches as far as float32 and
            needs none.

    Raises:
        UserError: If there is no GPU; MMEngine's AMP needs one.
    """
    if not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, and PyTorch sees none here. Leave it out')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype)
    if dtype == 'bfloat16':
        cfg.optim_wrapper.loss_scale = dict(_UNSCALED)
    elif cfg.optim_wrapper.get('loss_scale', _UNSCALED) == _UNSCALED:
        cfg.optim_wrapper.loss_scale = 'dynamic'


def remove_amp_without_gpu(cfg: Config) -> None:
    """Have a config with automatic mixed precision train without it where there is no GPU, and say so."""
    if not torch.cuda.is_available() and remove_amp(cfg):
        print_log("PyTorch sees no GPU: training without the config's automatic mixed precision", 'current',
                  logging.WARNING)


def remove_amp(cfg: Config) -> bool:
    """Have a config train without automatic mixed precision; gives whether it had any."""
    if (cfg.get('optim_wrapper') or {}).get('type') != 'AmpOptimWrapper':
        return False
    cfg.optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    return True


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the actual over the config's base batch size.

    Raises:
        UserError: If the config names no base batch size.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size, and the config has none. '
                        'Add auto_scale_lr = dict(base_batch_size=...) with the batch size its rate is meant for')
    cfg.auto_scale_lr.enable = True


def set_show_dir(cfg: Config, show_dir: str) -> None:
    """Have the test loop draw its predictions into ``show_dir``.

    Raises:
        UserError: If the config has no visualization hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError('--show-dir needs default_hooks.visualization, and the config has none')
    folder = str(Path(show_dir).resolve())  # MMDetection joins a relative one to the work folder
    if hook.type.endswith('DetVisualizationHook'):
        hook.update(draw=True, test_out_dir=folder)
    else:
        hook.update(enable=True, out_dir=folder)


def enable_tta(cfg: Config) -> None:
    """Average the predictions over an image and its mirror image, unless the config says how.

    Raises:
        UserError: If a classifier's predictions are to be drawn as well.
    """
    classifies = is_classifier(cfg)
    if classifies and cfg.get('default_hooks', {}).get('visualization', {}).get('enable'):
        raise UserError('--tta and --show-dir do not go together for a classifier: MMPretrain draws single views only. '
                        'Leave one out')
    dataset = innermost_dataset(cfg)
    if 'pipeline' not in dataset:
        raise UserError(f"--tta needs a pipeline in test_dataloader.dataset, and '{dataset.get('type')}' has none")
    if 'tta_model' not in cfg:
        cfg.tta_model = ConfigDict(
            type='mmpretrain.AverageClsScoreTTA') if classifies else _instance_tta(cfg.model.get('test_cfg') or {})
    if 'tta_pipeline' not in cfg:
        *transforms, pack = dataset.pipeline
        flips = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0., 1.)]
        if not classifies:
            keys = pack.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
            pack = dict(pack, meta_keys=(*(k for k in keys if k not in _FLIP_KEYS), *_FLIP_KEYS))
        cfg.tta_pipeline = [*transforms, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def innermost_dataset(cfg: Config) -> ConfigDict:
    """The data set of the test data, without what it is wrapped in.

    Raises:
        UserError: If the config has no test data.
    """
    if not cfg.get('test_dataloader'):
        raise UserError(f"config '{cfg.filename}' has no test_dataloader, whose pipeline is needed")
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def is_classifier(cfg: Config) -> bool:
    """Whether the model is one of MMPretrain's classifiers."""
    kind = cfg.model.type
    return (kind if isinstance(kind, str) else kind.__name__).endswith('Classifier')


def _instance_tta(test_cfg: Dict[str, Any]) -> ConfigDict:
    boxes = test_cfg.get('rcnn', test_cfg)
    return ConfigDict(
        type='mmfasternet.InstanceTTAModel',
        tta_cfg=dict(
            nms=boxes.get('nms', dict(type='nms', iou_threshold=0.5)), max_per_img=boxes.get('max_per_img', 100)))
