"""The only place for private names of other libraries, which any release may change.

Each was checked in PyTorch 2.6 and 2.11, MMEngine 0.10.7 and 0.10.12, MMDetection 3.3.0 and 3.5.1.
``tests/test_compat.py`` uses each of them: if an upgrade of a library breaks one, it fails and shows which. A private
name is used only if no public one does the same.
"""

import copy
import logging
import sys
import traceback
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map_only as tree_map_only

if TYPE_CHECKING:  # a backbone does not need them
    from mmengine.registry import Registry
    from mmengine.runner import BaseLoop, Runner

#: Private methods of other libraries that classes of ours override, with their parameters behind ``self``.
OVERRIDDEN: Mapping[str, Tuple[str, ...]] = {
    'mmengine.hooks.CheckpointHook._save_checkpoint_with_step': ('runner', 'step', 'meta'),
    'mmengine.hooks.CheckpointHook._save_best_checkpoint': ('runner', 'metrics'),
    'mmengine.infer.BaseInferencer._init_collate': ('cfg', ),
    'mmengine.infer.BaseInferencer._load_weights_to_model': ('model', 'checkpoint', 'cfg'),
    'mmdet.apis.DetInferencer._load_weights_to_model': ('model', 'checkpoint', 'cfg'),
    'mmdet.visualization.DetLocalVisualizer._draw_instances': ('image', 'instances', 'classes', 'palette'),
}

# PyTorch

#: What the batch norms of one, two and three dimensions and of several processes have in common.
BatchNorm = nn.modules.batchnorm._BatchNorm

#: ``relu(bias + a @ b)`` of matrices, by one kernel of cuBLAS.
addmm_relu: Callable[[Tensor, Tensor, Tensor], Tensor] = torch._addmm_activation

#: Copies tensors into others, of both a list; on a GPU by few kernels.
foreach_copy: Callable[[List[Tensor], List[Tensor]], None] = torch._foreach_copy_

#: What the keys of a compiled model's weights begin with.
COMPILED_PREFIX = '_orig_mod.'


def forward_hooks(module: nn.Module) -> List[Callable]:
    """The hooks of a module's ``forward``: PyTorch returns a handle on registration, but has no public list."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def remove_forward_hooks(module: nn.Module, kind: type) -> None:
    """Remove the hooks of a class; a copied module has copies of its hooks, for which there are no handles."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, kind)]:
            del hooks[key]


def compiled_call(module: nn.Module) -> Optional[Callable]:
    """The replacement of a module's call by ``module.compile()`` or :func:`set_compiled_call`."""
    return module._compiled_call_impl


def set_compiled_call(module: nn.Module, call: Optional[Callable]) -> None:
    """Replace a module's call, including hooks; copies of the module are not affected.

    ``None`` removes the replacement: PyTorch can't undo ``module.compile()``.
    """
    module._compiled_call_impl = call


def plain_call(module: nn.Module) -> Callable:
    """A module's own call, including hooks, without any replacement."""
    return partial(type(module)._call_impl, module)


def fake_tensors() -> ContextManager[Any]:
    """Within it, only types and shapes are computed; meta tensors would need a model on the meta device."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def fake_copy(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of a module to run on shapes: within it, only types and shapes are computed.

    State of a forward pass, such as a cached grid, stays in the copy.
    PyTorch's own log of a failed pass is suppressed.
    """
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
    mode, logger = FakeTensorMode(allow_non_fake_inputs=True), logging.getLogger('torch._subclasses.fake_tensor')
    disabled, logger.disabled = logger.disabled, True
    try:
        with FakeCopyMode(mode):
            copied = copy.deepcopy(module)
        with mode, torch.no_grad():
            yield copied
    finally:
        logger.disabled = disabled


def recompilations(limit: int) -> ContextManager[Any]:
    """Within it, Dynamo compiles a function up to ``limit`` times before it falls back to eager mode."""
    import torch._dynamo as dynamo
    name = 'recompile_limit' if hasattr(dynamo.config, 'recompile_limit') else 'cache_size_limit'  # PyTorch 2.6
    return dynamo.config.patch({name: limit})


def exit_codes(context: Any) -> List[Optional[int]]:
    """Exit codes of the processes of an elastic agent's ``SubprocessContext``; None for running ones."""
    return [handler.proc.returncode for handler in context.subprocess_handlers.values()]


# MMEngine


def failed_builds(error: BaseException) -> List[Tuple[Any, 'Registry']]:
    """The configs that were being built when an error was raised, outermost first, each with its registry.

    The last one may be anything, as in ``model.neck='FPN'``.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(frame.f_locals['cfg'], frame.f_locals['registry']) for frame in frames
            if frame.f_code.co_name == 'build_from_cfg' and {'cfg', 'registry'} <= set(frame.f_locals)
            and frame.f_globals.get('__name__') == 'mmengine.registry.build_functions']


def registered_names(registry: 'Registry') -> List[str]:
    """All type names that a config in a registry's scope may use; those of other scopes with their scope."""
    root, names = registry._get_root_registry(), set()
    for scope, each in {root.scope: root, **root.children}.items():
        prefix = '' if each in (registry, root) else f'{scope}.'
        names |= {prefix + name for name in (*each.module_dict, *getattr(each, 'modules', ()))}
    return sorted(names)


def built_loops(runner: 'Runner') -> List['BaseLoop']:
    """The training, validation and test loops that are already built; the runner's own properties would build them."""
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    return [loop for loop in loops if loop is not None and not isinstance(loop, dict)]


def built_train_loop(runner: 'Runner') -> Optional['BaseLoop']:
    """The training loop, if it is already built."""
    return None if isinstance(runner._train_loop, dict) else runner._train_loop


def set_progress(loop: 'BaseLoop', epoch: Optional[int] = None, iteration: Optional[int] = None) -> None:
    """Set the finished epochs and iterations of a training loop, its read-only ``epoch`` and ``iter``."""
    if epoch is not None:
        loop._epoch = epoch
    if iteration is not None:
        loop._iter = iteration


def update_val_interval(loop: 'BaseLoop') -> None:
    """Set a training loop's ``val_interval`` for its epoch or iteration, according to its milestones."""
    loop._decide_current_val_interval()


def accumulation(optim_wrapper: Any) -> int:
    """Number of batches over which an optimizer accumulates gradients; 1 for a dict of several optimizers."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def count_batch(optim_wrapper: Any) -> None:
    """Count a batch without a backward pass for gradient accumulation."""
    optim_wrapper._inner_count += 1


def checkpoint_schemes() -> Dict[str, Callable]:
    """The loaders of checkpoints by path prefix, as set by ``CheckpointLoader.register_scheme``."""
    from mmengine.runner import CheckpointLoader
    return dict(CheckpointLoader._schemes)


def mmcls_backbone(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """The backbone's weights in a classifier of ``mmcls://``, as MMEngine returns them."""
    from mmengine.runner.checkpoint import _process_mmcls_checkpoint
    return _process_mmcls_checkpoint(checkpoint)


def mmengine_home() -> str:
    """The folder of MMEngine's own files, such as checkpoints named in its lists of models."""
    from mmengine.runner.checkpoint import _get_mmengine_home
    return _get_mmengine_home()


def one_cycle_methods() -> Dict[str, Callable]:
    """The methods that checkpoints of trainings with ``OneCycleLR`` refer to."""
    from mmengine.optim import OneCycleParamScheduler
    return {name: getattr(OneCycleParamScheduler, name) for name in ('_annealing_cos', '_annealing_linear')}


def list_models_also(package: str, models: Callable[[], Iterator[Dict[str, Any]]]) -> None:
    """Permanently add models that inferencers find by name among those of a package: MMEngine only reads its files.

    Args:
        package: Such as ``'mmdet'``.
        models: Returns their entries, in the format of a metafile, with
            absolute paths of configs.
    """
    from mmengine.infer.infer import BaseInferencer
    listed = BaseInferencer._get_models_from_metafile

    def listed_with_more(dir: str) -> Iterator[Dict[str, Any]]:
        yield from listed(dir)
        # If it can't be imported, inferencers of other packages still work; importing fails only for its own folder.
        if package in sys.modules and dir == BaseInferencer._get_repo_or_mim_dir(package):
            yield from models()

    BaseInferencer._get_models_from_metafile = staticmethod(listed_with_more)


def forget_visualizer(visualizer: Any) -> None:
    """Make MMEngine build the next visualizer of this class and name anew, instead of giving this one."""
    from mmengine.visualization import Visualizer
    for kind in (type(visualizer), Visualizer):  # each has its instances, and the base class those of all
        if kind._instance_dict.get(visualizer.instance_name) is visualizer:
            del kind._instance_dict[visualizer.instance_name]


@contextmanager
def instances_restored() -> Iterator[None]:
    """Restore MMEngine's current loggers, visualizers and scopes at the end, and close the logs of runs within."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer
    kinds = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [dict(kind._instance_dict) for kind in kinds]
    try:
        yield
    finally:
        for name, logger in MMLogger._instance_dict.items():
            if name not in before[0]:
                for handler in logger.handlers:
                    handler.close()
        for kind, instances in zip(kinds, before):
            kind._instance_dict.clear()
            kind._instance_dict.update(instances)


# MMDetection


def coco_api(metric: Any) -> Any:
    """The index of the annotation file that a ``CocoMetric`` evaluates with; None before it is made from the data."""
    return metric._coco_api


def set_coco_api(metric: Any, index: Any) -> None:
    """Make a ``CocoMetric`` evaluate with another index of its annotation file."""
    metric._coco_api = index


def coco_metrics_by(metric: Any, results: List[Any], **evaluators: Callable) -> Dict[str, float]:
    """Run ``CocoMetric.compute_metrics`` with other evaluators than its module's ``COCOeval`` and ``COCOevalMP``.

    It looks these names up in its module, and has no argument for them.
    """
    from mmdet.evaluation import CocoMetric
    compute = CocoMetric.compute_metrics
    return FunctionType(compute.__code__, {**compute.__globals__, **evaluators})(metric, results)


def normalizes(preprocessor: Any) -> bool:
    """Whether a data preprocessor subtracts a mean and divides by a standard deviation."""
    return preprocessor._enable_normalize


def swaps_channels(preprocessor: Any) -> bool:
    """Whether a data preprocessor converts BGR to RGB, or RGB to BGR."""
    return preprocessor._channel_conversion


def box_forward(roi_head: Any, maps: Any, rois: Tensor) -> Dict[str, Tensor]:
    """``cls_score`` and ``bbox_pred`` of a ``StandardRoIHead`` for RoIs ``(R, 5)``."""
    return roi_head._bbox_forward(maps, rois)


def mask_forward(roi_head: Any, maps: Any, rois: Tensor) -> Dict[str, Tensor]:
    """``mask_preds`` of a ``StandardRoIHead`` for RoIs ``(R, 5)``."""
    return roi_head._mask_forward(maps, rois)


def finds_boxes_like(head: type, other: type) -> bool:
    """Whether two classes of box heads use the same methods to turn their outputs into boxes."""
    return (head.predict_by_feat is other.predict_by_feat  # type: ignore[attr-defined]
            and head._predict_by_feat_single is other._predict_by_feat_single)  # type: ignore[attr-defined]


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks ``(n, 1, h, w)`` resampled to their boxes ``(n, 4)`` in an image: ``(n, height, width)``."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    return _do_paste_mask(masks, boxes, height, width, skip_empty=False)[0]


def det_inferencer(cfg: Any, checkpoint: str, device: str, check: Callable[[nn.Module, Dict[str, Any]], None]) -> Any:
    """MMDetection's inferencer, which calls ``check`` on the content of its checkpoint before loading it."""
    from mmdet.apis import DetInferencer
    from mmengine.registry import FUNCTIONS

    class CheckedInferencer(DetInferencer):

        def _load_weights_to_model(self, model: nn.Module, checkpoint: Dict[str, Any], cfg: Any) -> None:
            check(model, checkpoint)
            super()._load_weights_to_model(model, checkpoint, cfg)

        def _init_collate(self, cfg: Any) -> Any:
            # MMEngine's looks for a registry of functions in MMDetection, which has none, and warns of it.
            collate_fn = cfg.test_dataloader.get('collate_fn', 'pseudo_collate')
            options = dict(type=collate_fn) if isinstance(collate_fn, str) else dict(collate_fn)
            return partial(FUNCTIONS.get(options.pop('type')), **options)

    return CheckedInferencer(cfg, checkpoint, device=device)


# MMPretrain


def image_classification_inferencer(cfg: Any, model: nn.Module, dataset_meta: Dict[str, Any]) -> Any:
    """MMPretrain's inferencer for a classifier that is built and loaded; it reads these attributes of the model."""
    from mmengine.registry import DefaultScope
    from mmpretrain.apis import ImageClassificationInferencer
    model._config, model._dataset_meta, model._metainfo = cfg, dataset_meta, None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ImageClassificationInferencer(model)
