"""Checks that the types that MMEngine's runner builds after the model are registered: some would fail an hour later."""

from typing import Any, Dict, Iterator, Sequence, Tuple

from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    DefaultScope,
    Registry,
)

from mmfasternet.config_tree import walk
from mmfasternet.engine.build_errors import named_build_errors, unknown_type
from mmfasternet.engine.config import scope_of
from mmfasternet.errors import UserError

# Transforms with nested transforms, by library and name, and the key of these; None: all keys. In other transforms,
# such as Albu, a type may mean something else.
_INNER = {
    **{name: 'transforms' for name in (
        'mmcv.Compose', 'mmcv.KeyMapper', 'mmcv.RandomApply', 'mmcv.RandomChoice', 'mmcv.TestTimeAug',
        'mmcv.TransformBroadcaster', 'mmdet.ProposalBroadcaster', 'mmdet.RandomOrder', 'mmpretrain.ApplyToList',
        'mmpretrain.MultiView')},
    'mmdet.MultiBranch': None,
}

#: A part of a config: its path, its type, the registries that may know it, and the scope that it names itself.
Named = Tuple[str, Any, Sequence[Registry], Any]


def check_types(cfg: Config, splits: Sequence[str]) -> None:
    """Check the types of datasets, transforms, samplers, loops, optimizers, schedules, metrics, hooks and visualizers.

    Types of the model are checked when it is built. Pipelines that hooks switch to, which MMEngine builds late in the
    training, are built once here.

    Args:
        cfg: A prepared config.
        splits: Which are used, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If one is not registered, or such a pipeline can't be built; the message names the key.
    """
    if cfg.get('runner_type'):
        return  # it may read a config in its own way
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for where, name, registries, scope in _named_types(cfg, splits):
            if isinstance(name, str) and not any(_knows(registry, name, scope) for registry in registries):
                with registries[0].switch_scope_and_registry(scope) as registry:
                    raise UserError(unknown_type(where, name, registry))
        if 'train' in splits:
            with named_build_errors(cfg):
                for _, node in walk(cfg.get('custom_hooks')):
                    for key, pipeline in node.items():
                        if key.endswith('pipeline') and isinstance(pipeline, list):
                            Compose(pipeline)


def _knows(registry: Registry, name: str, scope: Any) -> bool:
    return _registered(registry, name, scope) is not None


def _registered(registry: Registry, name: str, scope: Any) -> Any:
    with registry.switch_scope_and_registry(scope) as found:
        try:
            return found.get(name)
        except RuntimeError:  # it looked like an import path
            return None


def _named_types(cfg: Config, splits: Sequence[str]) -> Iterator[Named]:
    for split in splits:
        yield from _typed([cfg.get(f'{split}_cfg')], [f'{split}_cfg'], LOOPS)
        yield from _of_loader(cfg.get(f'{split}_dataloader'), f'{split}_dataloader')
        yield from _of_evaluator(cfg.get(f'{split}_evaluator'), f'{split}_evaluator')
    if 'train' in splits:
        yield from _of_optimizer(cfg)
    for key, registry in (('default_hooks', HOOKS), ('custom_hooks', HOOKS), ('visualizer', VISUALIZERS),
                          ('log_processor', LOG_PROCESSORS)):
        part = cfg.get(key)
        places = list(part) if key == 'default_hooks' and isinstance(part, dict) else None
        if places is not None:
            yield from _typed([part[name] for name in places], [f'{key}.{name}' for name in places], registry)
        else:
            yield from _items(part, key, registry)
    visualizer = cfg.get('visualizer')
    if isinstance(visualizer, dict):
        yield from _items(visualizer.get('vis_backends'), 'visualizer.vis_backends', VISBACKENDS)
    for where, node in walk(cfg.get('custom_hooks'), 'custom_hooks'):
        yield from _of_pipelines(node, where)


def _typed(nodes: Sequence[Any], paths: Sequence[str], *registries: Registry) -> Iterator[Named]:
    for node, path in zip(nodes, paths):
        if isinstance(node, dict) and 'type' in node:
            yield path, node['type'], registries, node.get('_scope_')


def _items(part: Any, path: str, *registries: Registry) -> Iterator[Named]:
    """A part that is a dict or a list of dicts."""
    nodes = part if isinstance(part, (list, tuple)) else [part]
    paths = [f'{path}[{index}]' for index in range(len(nodes))] if nodes is part else [path]
    yield from _typed(nodes, paths, *registries)


def _of_loader(loader: Any, path: str) -> Iterator[Named]:
    if not isinstance(loader, dict):
        return
    for key in ('sampler', 'batch_sampler'):
        for where, node in walk(loader.get(key), f'{path}.{key}'):
            yield from _typed([node], [where], DATA_SAMPLERS)
    yield from _of_dataset(loader.get('dataset'), f'{path}.dataset')


def _of_dataset(dataset: Any, path: str) -> Iterator[Named]:
    if not isinstance(dataset, dict):
        return
    yield from _typed([dataset], [path], DATASETS)
    yield from _of_pipelines(dataset, path)
    yield from _of_dataset(dataset.get('dataset'), f'{path}.dataset')
    inner = dataset.get('datasets')
    for index, each in enumerate(inner if isinstance(inner, (list, tuple)) else []):
        yield from _of_dataset(each, f'{path}.datasets[{index}]')


def _of_pipelines(node: Dict[str, Any], path: str) -> Iterator[Named]:
    for key, pipeline in node.items():
        if str(key).endswith('pipeline') and isinstance(pipeline, (list, tuple)):
            yield from _of_transforms(pipeline, f'{path}.{key}')


def _of_transforms(part: Any, path: str, scope: Any = None) -> Iterator[Named]:
    """A transform or lists of transforms, with nested ones, which are built in the scope of the outer one."""
    if isinstance(part, (list, tuple)):
        for index, each in enumerate(part):
            yield from _of_transforms(each, f'{path}[{index}]', scope)
    elif isinstance(part, dict) and 'type' in part:
        kind, scope = part['type'], part.get('_scope_', scope)
        yield path, kind, (TRANSFORMS, ), scope
        kind = _registered(TRANSFORMS, kind, scope) if isinstance(kind, str) else kind
        name = f"{getattr(kind, '__module__', '').partition('.')[0]}.{getattr(kind, '__name__', '')}"
        for key in part if name in _INNER else ():
            if _INNER[name] in (key, None):
                yield from _of_transforms(part[key], f'{path}.{key}', scope)


def _of_evaluator(evaluator: Any, path: str) -> Iterator[Named]:
    yield from _items(evaluator, path, METRICS, EVALUATOR)
    if isinstance(evaluator, dict):
        yield from _items(evaluator.get('metrics'), f'{path}.metrics', METRICS)


def _of_optimizer(cfg: Config) -> Iterator[Named]:
    for where, node in walk(cfg.get('optim_wrapper'), 'optim_wrapper'):
        if 'optimizer' in node:
            yield from _typed([node], [where], OPTIM_WRAPPERS)
            yield from _typed([node['optimizer']], [f'{where}.optimizer'], OPTIMIZERS)
        constructor = node.get('constructor')
        if isinstance(constructor, str):
            yield f'{where}.constructor', constructor, (OPTIM_WRAPPER_CONSTRUCTORS, ), None
    schedules = cfg.get('param_scheduler')
    for key, part in schedules.items() if isinstance(schedules, dict) and 'type' not in schedules else [
            ('', schedules)]:
        yield from _items(part, f'param_scheduler.{key}' if key else 'param_scheduler', PARAM_SCHEDULERS)
