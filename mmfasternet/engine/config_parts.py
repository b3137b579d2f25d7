"""Registered parts that are added to a config: loops, a sampler, hooks, transforms, datasets, metrics.

Each function returns whether it added its part.
"""

from typing import Any, Callable, Dict, List, Optional

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.samplers import TrackImgSampler
from mmdet.evaluation import CocoMetric
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, OPTIM_WRAPPERS, TRANSFORMS, VISUALIZERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop

from mmfasternet.config_tree import walk
from mmfasternet.datasets.seeding import SeededSampler
from mmfasternet.engine import hooks, loops
from mmfasternet.engine.config import class_of, is_kind, is_kind_of, scope_of
from mmfasternet.engine.deploying import is_export
from mmfasternet.engine.run_options import Options, TestOptions, TrainOptions
from mmfasternet.engine.saved_trainings import ATOMIC

Part = Callable[[Config, Any], bool]
#: A config's entry on what is here: ``omit``, parts that are not to be added, and ``added``, those that were.
ENTRY = 'mmfasternet'
#: Arguments of MMDetection's visualizer that ours has no use for.
_STYLE = {'bbox_color', 'text_color', 'mask_color', 'line_width', 'alpha'}


def _load_images(cfg: Config, options: Options) -> bool:
    """Load images with the transform that refuses broken ones with an error that names them, in all pipelines."""
    # Some hooks switch the pipeline.
    places = [*(cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')), cfg.get('custom_hooks')]
    return _replace(cfg, places, LoadImageFromFile, TRANSFORMS)


def _read_coco(cfg: Config, options: Options) -> bool:
    """Read imperfect COCO files, in all datasets."""
    return _replace(cfg, [cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')], CocoDataset, DATASETS)


def _evaluate_coco(cfg: Config, options: Options) -> bool:
    """Evaluate imperfect COCO files."""
    return _replace(cfg, [cfg.get(f'{split}_evaluator') for split in ('val', 'test')], CocoMetric, METRICS)


def _replace(cfg: Config, places: Any, kind: type, registry: Any, ours: Optional[str] = None) -> bool:
    """Make a config use our class instead of another library's class, of the same name unless it is given."""
    found = [node for _, node in walk(places) if _names(node, kind, registry, cfg)]
    for node in found:
        node['type'] = f'mmfasternet.{ours or kind.__name__}'
    return bool(found)


def _names(node: Dict[str, Any], kind: type, registry: Any, cfg: Config) -> bool:
    """Whether a dict names a class; a cheap check for dicts that name another class."""
    name = node.get('type')
    return isinstance(name, str) and name.rpartition('.')[2] == kind.__name__ and is_kind(
        node, kind, registry, scope_of(cfg))


def omitted(cfg: Config) -> List[str]:
    """Names of the parts that a config does not want."""
    names = (cfg.get(ENTRY) or {}).get('omit') or []
    return [names] if isinstance(names, str) else list(names)


def draw_readably(cfg: Config) -> bool:
    """Make a config draw with our visualizer instead of MMDetection's, unless it sets colours or lines of its own."""
    visualizer = cfg.get('visualizer') or {}
    if _STYLE & visualizer.keys():
        return False
    return _replace(cfg, [visualizer], DetLocalVisualizer, VISUALIZERS, 'PictureVisualizer')


def _draw_readably(cfg: Config, options: TestOptions) -> bool:
    return _writes_pictures(cfg) and draw_readably(cfg)


def _writes_pictures(cfg: Config) -> bool:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    hook = hook.get('hook', hook) if isinstance(hook, dict) else {}  # within ours
    return isinstance(hook, dict) and bool(hook.get('test_out_dir') or hook.get('out_dir'))


def _draw_apart(cfg: Config, options: TestOptions) -> bool:
    """If pictures are written, draw them with our hook, which keeps images with the same name apart."""
    if not _writes_pictures(cfg):
        return False
    hook = cfg.default_hooks.visualization
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
    """Make a config use our loops instead of MMEngine's."""
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
    """Seed the augmentations of each sample, for a config that trains by epochs."""
    loader: Any = cfg.get('train_dataloader') or {}
    loop = cfg.get('train_cfg') or {}
    by_epoch = is_kind_of(loop, EpochBasedTrainLoop, LOOPS, scope_of(cfg)) if 'type' in loop else loop.get(
        'by_epoch', True)
    if not by_epoch or not isinstance(loader.get('sampler'), dict) or 'dataset' not in loader:
        return False
    if is_kind_of(loader.sampler, (SeededSampler, TrackImgSampler), DATA_SAMPLERS, scope_of(cfg)):
        return False  # batch samplers of tracks require the class, and draw pairs
    loader.sampler = ConfigDict(type='mmfasternet.SeededSampler', sampler=loader.sampler)
    for _, node in walk([loader.dataset, cfg.get('custom_hooks')]):  # some hooks switch the pipeline
        for key, pipeline in list(node.items()):
            # The pipeline of a wrapper of datasets runs after those of the inner ones.
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
        changed = dict(hook, backend_args=dict(ATOMIC))  # another project's
    else:
        return False
    cfg.default_hooks = dict(default_hooks, checkpoint=changed)
    return True


def _add_hook(kind: type, arguments: Callable[[Config, Any], Optional[Dict[str, Any]]] = lambda cfg, options: {}
              ) -> Callable[[Config, Any], bool]:
    """A part that is a hook; ``arguments`` returns None if it is not needed."""

    def add(cfg: Config, options: Any) -> bool:
        given = arguments(cfg, options)
        own = list(cfg.get('custom_hooks') or [])
        if given is None or any(isinstance(hook, kind) for hook in own):
            return False
        there = next((hook for hook in own if isinstance(hook, dict)
                      and class_of(hook, HOOKS, scope_of(cfg)) is kind), None)
        if there is not None:  # options apply to an existing hook, too
            there.update({key: value for key, value in given.items() if value})
            return False
        cfg.custom_hooks = [*own, dict(type=f'mmfasternet.{kind.__name__}', **given)]
        return True

    return add


def _guard_losses(cfg: Config, options: TrainOptions) -> bool:
    """Our hook replaces MMDetection's, which expects a loss for each batch, even for skipped ones."""
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
    'CurvesHook': _add_hook(hooks.CurvesHook),
    'StopHook': _add_hook(hooks.StopHook),
}
TEST_PARTS: Dict[str, Part] = {
    'LoadImageFromFile': _load_images,
    'CocoDataset': _read_coco,
    'CocoMetric': _evaluate_coco,
    'TestLoop': _loop_over_tests,
    'NameImagesHook': _add_hook(hooks.NameImagesHook),
    'PicturesHook': _draw_apart,
    'PictureVisualizer': _draw_readably,
    'DeployHook': _add_hook(hooks.DeployHook, _deploy_arguments),
}
