"""What is done to a config before it runs: the one place where a config is changed.

The config that comes out is the run: whatever reads it, MMDetection's own ``tools/train.py`` too, gives the same.
"""

import inspect
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from mmcv.ops import SyncBatchNorm
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.samplers import TrackImgSampler
from mmdet.evaluation import CocoMetric
from mmengine.config import Config, ConfigDict
from mmengine.dist import sync_random_seed
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPERS, TRANSFORMS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop
from torch import nn

from mmfasternet.config_tree import walk
from mmfasternet.datasets.seeding import SeededSampler
from mmfasternet.deploy.compiling import check_compiler
from mmfasternet.engine import hooks, loops
from mmfasternet.engine.config import (
    add_imports,
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
from mmfasternet.engine.run_settings import drop_settings_of_workers, keep_topk_that_exist
from mmfasternet.engine.saved_trainings import ATOMIC
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.errors import UserError

#: The config's entry for what is here: ``omit``, parts that are not to be added, and ``added``, those that were.
ENTRY = 'mmfasternet'
_FLIP_KEYS = ('flip', 'flip_direction')
_UNSCALED = dict(enabled=False)  # of a GradScaler: it skips no step, and no step waits for the GPU to see if it should


@dataclass(frozen=True)
class TrainOptions:
    """How a config is trained.

    Attributes:
        resume: Path or URL of a checkpoint to go on from, or ``'auto'``, the
            work folder's newest complete one. None leaves it to the config.
        auto_scale_lr: Scale the learning rate by the actual over the config's
            base batch size.
        deterministic: Deterministic operators, and the seed 0 unless the
            config has another.
        skip_nan: Skip batches whose loss is NaN or infinite, instead of
            stopping there.
        speed_ups: What makes it faster.
    """
    resume: Optional[str] = None
    auto_scale_lr: bool = False
    deterministic: bool = False
    skip_nan: bool = False
    speed_ups: SpeedUps = field(default_factory=SpeedUps)


@dataclass(frozen=True)
class TestOptions:
    """How a config is tested.

    Attributes:
        checkpoint: Path or URL of the weights, or folder of an export.
        out: Pickle file for the raw predictions.
        show_dir: Folder for pictures of the predictions beside the truth.
        tta: Average over an image and its mirror image, unless the config
            says how.
        deploy: Inference form of the model.
    """
    checkpoint: str
    out: Optional[str] = None
    show_dir: Optional[str] = None
    tta: bool = False
    deploy: DeployOptions = field(default_factory=DeployOptions)


Options = Union[TrainOptions, TestOptions]


def prepare(cfg: Config, options: Options) -> Config:
    """Give a copy of a config that names all that runs.

    First it does what the options say, step by step in the order of
    :data:`TRAIN_STEPS` or :data:`TEST_STEPS`, then it adds the parts of
    :data:`TRAIN_PARTS` or :data:`TEST_PARTS`: each a registered hook, loop,
    sampler or transform, which the config then names. A part that is there
    already stays as it is, so that a prepared config can be prepared again.

    Args:
        cfg: The config, which stays as it is. Its ``mmfasternet.omit`` lists
            parts that are not to be added. Its ``resume`` may also be a
            checkpoint to go on from, or ``'auto'``.
        options: Those of a training or of a test.

    Returns:
        The prepared config. Its ``mmfasternet.added`` lists the parts that
        were added.

    Raises:
        UserError: If an option does not go with the config or this machine, a
            part to omit is unknown, or there is no model.
        CheckpointError: If a checkpoint to go on from can't be used.
    """
    if 'model' not in cfg:
        raise UserError(f"config '{cfg.filename}' has no model: it is a part of other configs")
    cfg = with_text_types(cfg)
    trains = isinstance(options, TrainOptions)
    steps, parts = (TRAIN_STEPS, TRAIN_PARTS) if trains else (TEST_STEPS, TEST_PARTS)
    for step in steps:
        step(cfg, options)
    entry = dict(cfg.get(ENTRY) or {})
    omitted = entry.get('omit') or []
    omitted = [omitted] if isinstance(omitted, str) else list(omitted)
    unknown = sorted(set(omitted) - {*TRAIN_PARTS, *TEST_PARTS})
    if unknown:
        raise UserError(f"{ENTRY}.omit names '{unknown[0]}': it must be of {', '.join({**TRAIN_PARTS, **TEST_PARTS})}")
    removed = _remove(cfg, omitted)
    before = [name for name in entry.get('added') or [] if name not in removed]
    for name in set(omitted) & set(before):
        raise UserError(f"{ENTRY}.omit names '{name}', which was added when this config was prepared: omit it from the "
                        f'config that was there before')
    added = [*before, *(name for name, add in parts.items() if name not in omitted and add(cfg, options))]
    if added != (entry.get('added') or []):
        cfg[ENTRY] = dict(entry, added=added)
    if not any(module.partition('.')[0] == 'mmfasternet' for module in _imports(cfg)):
        add_imports(cfg, ['mmfasternet'])
    return cfg


def _remove(cfg: Config, names: List[str]) -> List[str]:
    """Remove hooks of ours from a config's own; gives the names of those that were there."""
    own = cfg.get('custom_hooks') or []
    types = {f'mmfasternet.{name}': name for name in names}
    found = [types[hook['type']] for hook in own if isinstance(hook, dict) and hook.get('type') in types]
    if found:
        cfg.custom_hooks = [hook for hook in own if not (isinstance(hook, dict) and hook.get('type') in types)]
    return found


def what_was_added(cfg: Config) -> str:
    """A line for the log of a prepared config: what was added, and how to omit it."""
    added = (cfg.get(ENTRY) or {}).get('added') or []
    if not added:
        return 'mmfasternet added nothing to the config'
    return (f"mmfasternet added to the config: {', '.join(added)}. To omit some: --cfg-options "
            f"{ENTRY}.omit=[{added[-1]}]")


def with_speed_ups(cfg: Config, speed_ups: SpeedUps) -> Config:
    """Give a copy of a config whose optimizer has these speed-ups' automatic mixed precision, or none.

    Raises:
        UserError: If there is no GPU, which AMP needs, or no C++ compiler,
            which compiling for a CPU needs.
    """
    cfg = with_text_types(cfg)
    _remove_amp(cfg)
    _speed_up(cfg, TrainOptions(speed_ups=speed_ups))
    return cfg


def with_exported(cfg: Config, folder: str, options: Optional[DeployOptions] = None) -> Config:
    """Give a copy of a detector's config that runs exported files in the place of its networks.

    Raises:
        UserError: If the model is a classifier, or the options are for PyTorch.
    """
    cfg = with_text_types(cfg)
    _use_exported(cfg, TestOptions(folder, deploy=options or DeployOptions()))
    return cfg


def _imports(cfg: Config) -> List[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    return [imports] if isinstance(imports, str) else list(imports)


# Steps of a training.


def _resume(cfg: Config, options: TrainOptions) -> None:
    """Name the checkpoint to go on from, and take the seed it was trained with."""
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
        # MMEngine takes it over as well, but only after it has shuffled the data by another.
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def _scale_lr(cfg: Config, options: TrainOptions) -> None:
    if not options.auto_scale_lr:
        return
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size, and the config has none. '
                        'Add auto_scale_lr = dict(base_batch_size=...) with the batch size its rate is meant for')
    cfg.auto_scale_lr.enable = True


def _seed(cfg: Config, options: TrainOptions) -> None:
    """Decide what is random: a run of one process has its seed in the config; several draw one together."""
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
        if dtype == 'bfloat16':  # reaches as far as float32, and needs no scaling of the loss
            cfg.optim_wrapper.loss_scale = dict(_UNSCALED)
        elif cfg.optim_wrapper.get('loss_scale', _UNSCALED) == _UNSCALED:
            cfg.optim_wrapper.loss_scale = 'dynamic'
    if options.speed_ups.compile and not torch.cuda.is_available():
        check_compiler()


def _remove_amp(cfg: Config) -> bool:
    """Give whether there was any."""
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
    """Several processes without a GPU: MMEngine would name a CUDA device."""
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
        return
    kinds = (nn.SyncBatchNorm, SyncBatchNorm)
    places = [f'{path}.type=BN' for path, node in walk(cfg.model, 'model')
              if is_kind_of(node, kinds, MODELS, scope_of(cfg))] + ['sync_bn=None'] * bool(cfg.get('sync_bn'))
    if places:
        raise UserError(f"SyncBN of several processes needs GPUs, and PyTorch sees none here. Take BN (--cfg-options "
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
    if is_classifier(cfg):
        raise UserError(f"'{folder}' is a folder: a classifier needs a checkpoint file. Only detectors run exported "
                        f'files here')
    if deploy.compile or deploy.graphs or (deploy.deploy and deploy.dtype == 'float32'):
        raise UserError(f"--deploy, --compile and --cuda-graphs are for checkpoints: '{folder}' holds files in "
                        f'inference form')
    if cfg.get('launcher', 'none') != 'none':
        raise UserError('exported files are run by one process: test without --launcher')
    exported = ConfigDict(type='mmfasternet.ExportedDetector', exported=folder, dtype=deploy.dtype)
    if 'module' in cfg.model:  # within test-time augmentation
        cfg.model.module = ConfigDict(exported, detector=cfg.model.module)
    else:
        cfg.model = ConfigDict(exported, detector=cfg.model)


def _show(cfg: Config, options: TestOptions) -> None:
    """Have the test loop draw its predictions."""
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
    """Average the predictions over an image and its mirror image, unless the config says how."""
    if not options.tta:
        return
    classifies = is_classifier(cfg)
    if classifies and _visualization(cfg).get('enable'):
        raise UserError('--tta and --show-dir do not go together for a classifier: MMPretrain draws single views only. '
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
    """Have an evaluator write the raw predictions."""
    if not options.out:
        return
    dump, evaluator = dict(type='mmdet.DumpDetResults', out_file_path=options.out), cfg.test_evaluator
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator['metrics'] = [*_listed(evaluator['metrics']), dump]
    else:
        cfg.test_evaluator = [*_listed(evaluator), dump]


def _listed(value: Any) -> List[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# Parts: each gives whether it was added.


def _load_images(cfg: Config, options: Options) -> bool:
    """Load images by the transform that names and refuses broken ones, in all pipelines."""
    # Some hooks switch the pipeline.
    places = [*(cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')), cfg.get('custom_hooks')]
    return _replace(cfg, places, LoadImageFromFile, TRANSFORMS)


def _read_coco(cfg: Config, options: Options) -> bool:
    """Read COCO's format as people have it, in all data sets."""
    return _replace(cfg, [cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')], CocoDataset, DATASETS)


def _evaluate_coco(cfg: Config, options: Options) -> bool:
    """Evaluate COCO's format as people have it."""
    return _replace(cfg, [cfg.get(f'{split}_evaluator') for split in ('val', 'test')], CocoMetric, METRICS)


def _replace(cfg: Config, places: Any, kind: type, registry: Any) -> bool:
    """Have a config name our class in the place of another library's of the same name."""
    found = [node for _, node in walk(places) if _names(node, kind, registry, cfg)]
    for node in found:
        node['type'] = f'mmfasternet.{kind.__name__}'
    return bool(found)


def _names(node: Dict[str, Any], kind: type, registry: Any, cfg: Config) -> bool:
    """Whether a dict names a class; cheap for those that name another by its own name."""
    name = node.get('type')
    return isinstance(name, str) and name.rpartition('.')[2] == kind.__name__ and is_kind(
        node, kind, registry, scope_of(cfg))


def _draw_apart(cfg: Config, options: TestOptions) -> bool:
    """Draw by the hook of ours that keeps images of one name apart, where pictures are written."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not isinstance(hook, dict) or not (hook.get('test_out_dir') or hook.get('out_dir')):
        return False
    kind = class_of(hook, HOOKS, scope_of(cfg))
    if getattr(kind, '__name__', '') not in ('DetVisualizationHook', 'VisualizationHook'):
        return False
    cfg.default_hooks.visualization = ConfigDict(type='mmfasternet.PicturesHook', hook=hook)
    return True


def _loop_by_epochs(cfg: Config, options: TrainOptions) -> bool:
    return _use_loop(cfg, 'train_cfg', EpochBasedTrainLoop, loops.EpochBasedTrainLoop, True)


def _loop_by_iterations(cfg: Config, options: TrainOptions) -> bool:
    return _use_loop(cfg, 'train_cfg', IterBasedTrainLoop, loops.IterBasedTrainLoop, False)


def _loop_over_tests(cfg: Config, options: TestOptions) -> bool:
    return _deploy_arguments(cfg, options) is not None and _use_loop(cfg, 'test_cfg', TestLoop, loops.TestLoop)


def _use_loop(cfg: Config, key: str, theirs: type, ours: type, by_epoch: Optional[bool] = None) -> bool:
    """Have a config loop by ours in the place of MMEngine's own."""
    loop = cfg.get(key)
    if loop is None:
        return False
    if 'type' in loop:
        if not is_kind(loop, theirs, LOOPS, scope_of(cfg)):
            return False
    elif by_epoch is not None and loop.get('by_epoch', True) != by_epoch:
        return False
    loop.pop('by_epoch', None)
    loop.type = f'mmfasternet.{ours.__name__}'
    return True


def _seed_samples(cfg: Config, options: TrainOptions) -> bool:
    """Seed the augmentations of a config that trains by epochs sample by sample."""
    loader: Any = cfg.get('train_dataloader') or {}
    loop = cfg.get('train_cfg') or {}
    by_epoch = is_kind_of(loop, EpochBasedTrainLoop, LOOPS, scope_of(cfg)) if 'type' in loop else loop.get(
        'by_epoch', True)
    if not by_epoch or not isinstance(loader.get('sampler'), dict) or 'dataset' not in loader:
        return False
    if is_kind_of(loader.sampler, (SeededSampler, TrackImgSampler), DATA_SAMPLERS, scope_of(cfg)):
        return False  # batch samplers of tracks ask for the class, and they draw pairs
    loader.sampler = ConfigDict(type='mmfasternet.SeededSampler', sampler=loader.sampler)
    for _, node in walk([loader.dataset, cfg.get('custom_hooks')]):  # some hooks switch the pipeline
        for key, pipeline in list(node.items()):
            # The pipeline of a data set of data sets comes after those of the inner ones.
            if key.endswith('pipeline') and isinstance(pipeline, list) and not {'dataset', 'datasets'} & set(node):
                pipeline.insert(0, ConfigDict(type='mmfasternet.SeedAugmentations'))
    return True


def _save_atomically(cfg: Config, options: TrainOptions) -> bool:
    default_hooks = dict(cfg.get('default_hooks') or {})
    hook = default_hooks.get('checkpoint', dict(interval=1))
    if not isinstance(hook, dict):
        return False
    kind = class_of(hook, HOOKS, scope_of(cfg)) if 'type' in hook else CheckpointHook
    if kind is CheckpointHook:
        changed = dict(hook, type='mmfasternet.CheckpointHook')
    elif isinstance(kind, type) and issubclass(kind, CheckpointHook) and kind is not hooks.CheckpointHook and hook.get(
            'backend_args') is None and '://' not in str(hook.get('out_dir')):
        changed = dict(hook, backend_args=dict(ATOMIC))  # one of somebody else's
    else:
        return False
    cfg.default_hooks = dict(default_hooks, checkpoint=changed)
    return True


def _add_hook(kind: type, arguments: Callable[[Config, Any], Optional[Dict[str, Any]]] = lambda cfg, options: {}
              ) -> Callable[[Config, Any], bool]:
    """A part that is a hook; ``arguments`` gives None where it is not needed."""

    def add(cfg: Config, options: Any) -> bool:
        given = arguments(cfg, options)
        own = list(cfg.get('custom_hooks') or [])
        if given is None or any(isinstance(hook, kind) for hook in own):
            return False
        there = next((hook for hook in own if isinstance(hook, dict)
                      and class_of(hook, HOOKS, scope_of(cfg)) is kind), None)
        if there is not None:  # what an option asks for holds for it, too
            there.update({key: value for key, value in given.items() if value})
            return False
        cfg.custom_hooks = [*own, dict(type=f'mmfasternet.{kind.__name__}', **given)]
        return True

    return add


def _guard_losses(cfg: Config, options: TrainOptions) -> bool:
    """Our hook replaces MMDetection's, which looks for the loss of each batch, also of one that was skipped."""
    own = [hook for hook in cfg.get('custom_hooks') or [] if not _is_mmdets_check(hook, cfg)]
    cfg.custom_hooks = own
    return _add_hook(hooks.FiniteLossHook, lambda cfg, options: dict(skip=options.skip_nan))(cfg, options)


def _is_mmdets_check(hook: Any, cfg: Config) -> bool:
    kind = class_of(hook, HOOKS, scope_of(cfg)) if isinstance(hook, dict) else type(hook)
    return getattr(kind, '__name__', '') == 'CheckInvalidLossHook' and kind.__module__.startswith('mmdet.')


def _speed_up_arguments(cfg: Config, options: TrainOptions) -> Optional[Dict[str, Any]]:
    speed_ups = options.speed_ups
    given = dict(channels_last=speed_ups.channels_last, compile=speed_ups.compile)
    has_amp = is_kind_of(cfg.get('optim_wrapper') or {}, AmpOptimWrapper, OPTIM_WRAPPERS, scope_of(cfg))
    return given if any(given.values()) or has_amp else None


def _deploy_arguments(cfg: Config, options: TestOptions) -> Optional[Dict[str, Any]]:
    deploy = options.deploy
    if not deploy.deploy or is_export(options.checkpoint):
        return None
    return dict(dtype=deploy.dtype, compile=deploy.compile, graphs=deploy.graphs)


Step = Callable[[Config, Any], None]
Part = Callable[[Config, Any], bool]
_COMMON_STEPS: Tuple[Step, ...] = (
    _remove_amp_without_gpu, _wrap_for_cpu_processes, limit_workers, drop_settings_of_workers, keep_topk_that_exist)
TRAIN_STEPS: Tuple[Step, ...] = (_speed_up, _resume, _scale_lr, _seed, *_COMMON_STEPS)
TEST_STEPS: Tuple[Step, ...] = (_show, _augment, _load, _dump, *_COMMON_STEPS)
TRAIN_PARTS: Dict[str, Part] = {
    'LoadImageFromFile': _load_images,
    'CocoDataset': _read_coco,
    'CocoMetric': _evaluate_coco,
    'EpochBasedTrainLoop': _loop_by_epochs,
    'IterBasedTrainLoop': _loop_by_iterations,
    'SeededSampler': _seed_samples,
    'CheckpointHook': _save_atomically,
    'SeedHook': _add_hook(hooks.SeedHook),
    'ResumeHook': _add_hook(hooks.ResumeHook),
    'SpeedUpHook': _add_hook(hooks.SpeedUpHook, _speed_up_arguments),
    'FiniteLossHook': _guard_losses,
    'NameImagesHook': _add_hook(hooks.NameImagesHook),
    'StopHook': _add_hook(hooks.StopHook),
}
TEST_PARTS: Dict[str, Part] = {
    'LoadImageFromFile': _load_images,
    'CocoDataset': _read_coco,
    'CocoMetric': _evaluate_coco,
    'TestLoop': _loop_over_tests,
    'NameImagesHook': _add_hook(hooks.NameImagesHook),
    'PicturesHook': _draw_apart,
    'DeployHook': _add_hook(hooks.DeployHook, _deploy_arguments),
}
