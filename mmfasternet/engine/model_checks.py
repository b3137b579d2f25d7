"""Checks that a model's parts fit together: channels of images and maps, classes of labels, levels of anchors."""

import logging
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors.base import BaseDetector
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel
from torch import Tensor, nn

from mmfasternet.compat import fake_copy, swaps_channels
from mmfasternet.config_tree import walk
from mmfasternet.deploy.conversion import set_eval_mode
from mmfasternet.deploy.dense import each_module, image_channels
from mmfasternet.engine.config import is_classifier, model_of
from mmfasternet.errors import UserError

_SIDE = 256  # of the test image
_OTHER_STRIDE = 1.5  # a ratio: some configs have fractional strides, for images of their size
_COLORS = dict(color=3, grayscale=1)
_KNOWN = ('mmcv.', 'mmdet.', 'mmpretrain.', 'mmfasternet.')


def check_model(cfg: Config, model: nn.Module, splits: Sequence[str]) -> None:
    """Check that the parts of a detector or classifier fit together, on shapes alone.

    Args:
        cfg: Its config.
        model: The model, which stays as it is.
        splits: The splits in use, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If a part expects other channels than it gets, the number of maps differs from the levels of anchors,
            the preprocessor is for another number of channels, or labels are mixed for another number of classes. The
            message names both keys.
    """
    model = model.module if isinstance(model, BaseTTAModel) else model
    classifies = is_classifier(cfg)
    if not isinstance(getattr(model, 'backbone', None), nn.Module) or not (
            classifies or isinstance(model, BaseDetector)):
        return
    _check_images(cfg, model, splits)
    if classifies:
        _check_mixed_labels(cfg)
    try:
        with fake_copy(model) as copied:
            set_eval_mode(copied)
            _check_maps(copied, torch.empty(1, image_channels(model), _SIDE, _SIDE))
    except UserError:
        raise
    except Exception:  # a custom model that can't be copied, or is built differently: the run will tell
        print_log("the parts of the model were not checked in advance: it can't run on shapes alone", 'current',
                  logging.DEBUG)


def _check_images(cfg: Config, model: Any, splits: Sequence[str]) -> None:
    channels, preprocessor = image_channels(model), getattr(model, 'data_preprocessor', None)
    takes = f'model.backbone takes images of {channels} channel{"s" * (channels != 1)}'
    mean = getattr(preprocessor, 'mean', None)
    if isinstance(mean, Tensor) and mean.numel() not in (1, channels):
        raise UserError(f'data_preprocessor.mean has {mean.numel()} values, but {takes}: give mean and std one value, '
                        'or remove them')
    if channels != 3 and isinstance(model, BaseDetector) and preprocessor is not None and swaps_channels(preprocessor):
        raise UserError(f'data_preprocessor.bgr_to_rgb is True, but {takes}: set it to False')
    for split in splits:
        for where, node in walk(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'):
            loaded = _loaded_channels(node.get('pipeline'))
            if loaded not in (None, channels):
                names = {number: name for name, number in _COLORS.items()}
                raise UserError(f"{where}.pipeline loads images with color_type='{names[loaded]}', which gives "
                                f"{loaded} channel{'s' * (loaded != 1)}, but {takes}: set "
                                f'model.backbone.in_channels={loaded}, or '
                                f"color_type='{names.get(channels, 'unchanged')}' of LoadImageFromFile")


def _loaded_channels(pipeline: Any) -> Optional[int]:
    """Channels that a pipeline gives, if known: it loads images with mmcv, and does not convert them to grey."""
    names = [str(step.get('type')) for _, step in walk(pipeline)]
    loaders = [step for _, step in walk(pipeline) if str(step.get('type')).endswith('LoadImageFromFile')]
    if len(loaders) != 1 or any('Gray' in name or '.' in name and not name.startswith(_KNOWN) for name in names):
        return None
    return _COLORS.get(loaders[0].get('color_type', 'color'))


def _check_mixed_labels(cfg: Config) -> None:
    model = model_of(cfg)
    model = model.get('module', model)
    preprocessor, head = model.get('data_preprocessor') or {}, model.get('head') or {}
    mixes = preprocessor.get('to_onehot') or (model.get('train_cfg') or {}).get('augments')
    mixed, classes = preprocessor.get('num_classes'), head.get('num_classes')
    if mixes and isinstance(mixed, int) and isinstance(classes, int) and mixed != classes:
        raise UserError(f'data_preprocessor.num_classes is {mixed}, for mixing labels, but model.head.num_classes is '
                        f'{classes}: make them equal')


def _check_maps(model: Any, image: Tensor) -> None:
    """Follow the maps from part to part, as far as this is possible on shapes alone."""
    maps = _call(model.backbone, image)
    if not isinstance(maps, (list, tuple)) or not all(isinstance(x, Tensor) for x in maps):
        return
    source = 'model.backbone'
    if getattr(model, 'with_neck', False):
        found = _call(model.neck, maps)
        if found is None:
            _compare('model.neck', model.neck, 'in_channels', source, maps)
            return
        maps, source = found if isinstance(found, (list, tuple)) else (found, ), 'model.neck'
    if not isinstance(model, BaseDetector):
        if isinstance(getattr(model, 'head', None), nn.Module) and _call(model.head, maps) is None:
            _compare('model.head', model.head, 'in_channels', source, maps[-1:])
        return
    for name in ('rpn_head', 'bbox_head', 'mask_head'):
        head = getattr(model, name, None)
        if isinstance(head, BaseDenseHead) and hasattr(head, 'in_channels'):
            if _call(head, maps) is None:
                _compare(f'model.{name}', head, 'in_channels', source, maps[:1])
            else:
                _check_levels(f'model.{name}', head, source, maps)
    for where, head, extractor in _roi_heads(model):
        inputs = maps[:extractor.num_inputs]
        if any(x.shape[1] != extractor.out_channels for x in inputs):
            _compare(f'{where}_roi_extractor', extractor, 'out_channels', source, inputs[:1])
        rois = torch.empty(2, extractor.out_channels, *extractor.roi_layers[0].output_size)
        if _call(head, rois) is None:
            _compare(f'{where}_head', head, 'in_channels', f'{where}_roi_extractor', [rois])
            size, given = getattr(head, 'roi_feat_size', None), tuple(rois.shape[2:])
            if isinstance(size, tuple) and size != given:
                raise UserError(f'{where}_head.roi_feat_size is {size}, but {where}_roi_extractor.roi_layer gives '
                                f'{given}: make them equal')


def _call(part: Any, given: Any) -> Any:
    try:
        return part(given)
    except Exception:  # of any kind: the comparisons below tell whether the settings are at fault
        return None


def _compare(where: str, part: Any, key: str, source: str, maps: Sequence[Tensor]) -> None:
    declared: Any = getattr(part, key, None)
    given: List[int] = [x.shape[1] for x in maps]
    several = isinstance(declared, (list, tuple))
    if declared is not None and (list(declared) != given if several else len(given) == 1 and declared != given[0]):
        raise UserError(f'{where}.{key} is {list(declared) if several else declared}, and {source} gives maps of '
                        f'{given if several else given[0]} channels: make them agree')


def _check_levels(where: str, head: Any, source: str, maps: Sequence[Tensor]) -> None:
    strides: Any = getattr(getattr(head, 'prior_generator', None), 'strides', None)
    if strides is None:
        return
    if len(strides) != len(maps):
        raise UserError(f'{where} has anchors or points for {len(strides)} levels (its strides), but {source} gives '
                        f'{len(maps)} maps: make them agree')
    given = [_SIDE // x.shape[-1] for x in maps if x.shape[-1]]
    wanted = [stride[0] if isinstance(stride, (list, tuple)) else stride for stride in strides]
    if any(max(a / b, b / a) >= _OTHER_STRIDE for a, b in zip(given, wanted)):
        print_log(f'{where} has anchors or points with strides {wanted}, but the maps of {source} have strides {given}',
                  'current', logging.WARNING)


def _roi_heads(model: Any) -> Iterator[Tuple[str, Any, Any]]:
    roi_head: Any = getattr(model, 'roi_head', None)
    if roi_head is None or getattr(roi_head, 'with_shared_head', False):
        return
    for kind in ('bbox', 'mask'):
        heads = each_module(getattr(roi_head, f'{kind}_head', None))
        extractors = each_module(getattr(roi_head, f'{kind}_roi_extractor', None))
        for head, extractor in zip(heads, extractors):
            if hasattr(extractor, 'roi_layers') and hasattr(extractor, 'out_channels'):
                yield f'model.roi_head.{kind}', head, extractor
