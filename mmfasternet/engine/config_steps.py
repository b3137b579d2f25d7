"""Changes to a config for options, and for machines without a GPU or with few CPUs."""

import inspect
import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from mmcv.ops import SyncBatchNorm
from mmengine.config import Config, ConfigDict
from mmengine.dist import sync_random_seed
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from torch import nn

from mmfasternet.config_tree import walk
from mmfasternet.deploy.compiling import check_compiler
from mmfasternet.engine.config import (
    class_of,
    innermost_dataset,
    is_classifier,
    is_kind,
    is_kind_of,
    scope_of,
    with_text_types,
)
from mmfasternet.engine.deploying import DeployOptions, is_export
from mmfasternet.engine.device import limit_workers
from mmfasternet.engine.resuming import find_training
from mmfasternet.engine.run_options import Options, TestOptions, TrainOptions
from mmfasternet.engine.run_settings import drop_settings_of_workers, keep_topk_that_exist
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.errors import UserError

_FLIP_KEYS = ('flip', 'flip_direction')
_UNSCALED = dict(enabled=False)  # for GradScaler: it skips no steps, so no step waits for the GPU to check
Step = Callable[[Config, Any], None]


def with_speed_ups(cfg: Config, speed_ups: SpeedUps) -> Config:
    """Return a copy of a config with the automatic mixed precision of these speed-ups, or without any.

    Raises:
        UserError: If there is no GPU, which AMP needs, or no C++ compiler,
            which compiling for a CPU needs.
    """
    cfg = with_text_types(cfg)
    _remove_amp(cfg)
    _speed_up(cfg, TrainOptions(speed_ups=speed_ups))
    return cfg


def with_exported(cfg: Config, folder: str, options: Optional[DeployOptions] = None) -> Config:
    """Return a copy of a model's config that runs exported files instead of its networks.

    Raises:
        UserError: If the options are for PyTorch.
    """
    cfg = with_text_types(cfg)
    _use_exported(cfg, TestOptions(folder, deploy=options or DeployOptions()))
    return cfg


# Steps of a training.


def _resume(cfg: Config, options: TrainOptions) -> None:
    """Set the checkpoint to resume from, and use the seed it was trained with."""
    resume = options.resume or cfg.get('resume')
    if not resume:
        return
    if not isinstance(resume, str):
        resume = cfg.get('load_from') or 'auto'
    checkpoint_hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    found = find_training(resume, cfg.work_dir, checkpoint_hook.get('out_dir'))
    cfg.resume = bool(found)
    if not found:
        return
    cfg.load_from, seed = found
    if seed is not None:
        # MMEngine restores the seed as well, but only after it has shuffled the data with another one.
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def _scale_lr(cfg: Config, options: TrainOptions) -> None:
    if not options.auto_scale_lr:
        return
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size, and the config has none. Add '
                        'auto_scale_lr = dict(base_batch_size=...) with the batch size its learning rate is meant for')
    cfg.auto_scale_lr.enable = True


def _seed(cfg: Config, options: TrainOptions) -> None:
    """Set up randomness: a single process gets its seed in the config; several processes draw one together."""
    randomness = dict(cfg.get('randomness') or {})
    if options.deterministic:
        randomness['deterministic'] = True
        if randomness.get('seed') is None:
            randomness['seed'] = 0
    if randomness.setdefault('seed', None) is None and cfg.get('launcher', 'none') == 'none':
        randomness['seed'] = sync_random_seed()
    cfg.randomness = randomness


def _speed_up(cfg: Config, options: TrainOptions) -> None:
    """Set the optimizer's automatic mixed precision."""
    dtype = options.speed_ups.amp
    if dtype:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and PyTorch sees none here. Train without it')
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype)
        if dtype == 'bfloat16':  # has float32's range, and needs no loss scaling
            cfg.optim_wrapper.loss_scale = dict(_UNSCALED)
        elif cfg.optim_wrapper.get('loss_scale', _UNSCALED) == _UNSCALED:
            cfg.optim_wrapper.loss_scale = 'dynamic'
    if options.speed_ups.compile:
        check_compiler('cuda' if torch.cuda.is_available() else 'cpu')


def _remove_amp(cfg: Config) -> bool:
    """Return whether there was any."""
    if not _has_amp(cfg):
        return False
    cfg.optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    return True


def _has_amp(cfg: Config) -> bool:
    wrapper = cfg.get('optim_wrapper') or {}
    return 'type' in wrapper and is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS, scope_of(cfg))


def _remove_amp_without_gpu(cfg: Config, options: Options) -> None:
    if not torch.cuda.is_available() and _remove_amp(cfg):
        print_log("PyTorch sees no GPU: training without the config's automatic mixed precision", 'current',
                  logging.WARNING)


def _wrap_for_cpu_processes(cfg: Config, options: Options) -> None:
    """Adapt to several processes without a GPU: MMEngine would use a CUDA device."""
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
        return
    kinds = (nn.SyncBatchNorm, SyncBatchNorm)
    places = [f'{path}.type=BN' for path, node in walk(cfg.model, 'model')
              if is_kind_of(node, kinds, MODELS, scope_of(cfg))] + ['sync_bn=None'] * bool(cfg.get('sync_bn'))
    if places:
        raise UserError('SyncBN of several processes needs GPUs, and PyTorch sees none here. Use BN (--cfg-options '
                        f"{' '.join(places).replace('[', '.').replace(']', '')})")
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}


# Steps of a test.


def _load(cfg: Config, options: TestOptions) -> None:
    if options.out and not options.out.endswith(('.pkl', '.pickle')):
        raise UserError(f"--out '{options.out}' must end with .pkl or .pickle")
    cfg.resume, cfg.load_from = False, options.checkpoint
    if is_export(options.checkpoint):
        cfg.load_from = None
        _use_exported(cfg, options)


def _use_exported(cfg: Config, options: TestOptions) -> None:
    folder, deploy = options.checkpoint, options.deploy
    if deploy.compile or deploy.graphs or (deploy.deploy and deploy.dtype == 'float32'):
        raise UserError(f"--deploy, --compile and --cuda-graphs are for checkpoints: '{folder}' already holds files in "
                        'inference form')
    if cfg.get('launcher', 'none') != 'none':
        raise UserError('exported files run in one process: test without --launcher')
    kind, key = ('Classifier', 'classifier') if is_classifier(cfg) else ('Detector', 'detector')
    exported = ConfigDict(type=f'mmfasternet.Exported{kind}', exported=folder, dtype=deploy.dtype)
    if 'module' in cfg.model:  # within test-time augmentation
        cfg.model.module = ConfigDict(exported, **{key: cfg.model.module})
    else:
        cfg.model = ConfigDict(exported, **{key: cfg.model})


def _show(cfg: Config, options: TestOptions) -> None:
    """Make the test loop draw its predictions."""
    if not options.show_dir:
        return
    hook = _visualization(cfg)
    if not hook:
        raise UserError('--show-dir needs default_hooks.visualization, and the config has none')
    folder = str(Path(options.show_dir).resolve())  # MMDetection joins a relative one to the work folder
    kind = class_of(hook, HOOKS, scope_of(cfg))
    if kind and 'test_out_dir' in inspect.signature(kind).parameters:  # MMDetection's
        hook.update(draw=True, test_out_dir=folder)
    else:
        hook.update(enable=True, out_dir=folder, interval=1)  # as MMPretrain's own tool has it


def _visualization(cfg: Config) -> Dict[str, Any]:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    hook = hook.get('hook', hook) if isinstance(hook, dict) else {}  # within ours
    return hook if isinstance(hook, dict) else {}


def _augment(cfg: Config, options: TestOptions) -> None:
    """Average the predictions over an image and its mirror image, unless the config sets other views."""
    if not options.tta:
        return
    classifies = is_classifier(cfg)
    if classifies and _visualization(cfg).get('enable'):
        raise UserError("--tta and --show-dir can't be combined for a classifier: MMPretrain only draws single views. "
                        'Give one of them')
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


def _instance_tta(test_cfg: Dict[str, Any]) -> ConfigDict:
    boxes = test_cfg.get('rcnn', test_cfg)
    return ConfigDict(
        type='mmfasternet.InstanceTTAModel',
        tta_cfg=dict(
            nms=boxes.get('nms', dict(type='nms', iou_threshold=0.5)), max_per_img=boxes.get('max_per_img', 100)))


def _dump(cfg: Config, options: TestOptions) -> None:
    """Make an evaluator write the raw predictions."""
    if not options.out:
        return
    dump, evaluator = dict(type='mmdet.DumpDetResults', out_file_path=options.out), cfg.test_evaluator
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator['metrics'] = [*_listed(evaluator['metrics']), dump]
    else:
        cfg.test_evaluator = [*_listed(evaluator), dump]


def _listed(value: Any) -> List[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


_COMMON_STEPS: Tuple[Step, ...] = (
    _remove_amp_without_gpu, _wrap_for_cpu_processes, limit_workers, drop_settings_of_workers, keep_topk_that_exist)
TRAIN_STEPS: Tuple[Step, ...] = (_speed_up, _resume, _scale_lr, _seed, *_COMMON_STEPS)
TEST_STEPS: Tuple[Step, ...] = (_show, _augment, _load, _dump, *_COMMON_STEPS)
