"""The names of FasterNet's weights: in the authors' files, in timm's and in ours.

A *layout* is one set of names. Functions take and return state dicts; tensors
are neither copied nor changed.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from torch import Tensor

from mmfasternet.errors import ArgumentError, CheckpointError
from mmfasternet.models.weights.fitting import listed, misfit

StateDict = Dict[str, Tensor]
Names = Mapping[Optional[str], Optional[str]]

#: ``'official'`` is the authors' repository, with MMDetection 2.x for its detectors.
LAYOUTS = ('mmfasternet', 'official', 'timm')
#: What :func:`convert` converts to.
TARGETS = (*LAYOUTS, 'backbone')
#: Stands before the backbone's keys in a classifier or detector of ours.
PREFIX = 'backbone.'

# Names of modules, in the order of LAYOUTS. The official ``stages`` hold the four stages at even indices, and the
# merging layers before them at odd ones.
_EMBEDDING = (
    ('stages.0.downsample.conv', 'patch_embed.proj', 'patch_embed.proj'),
    ('stages.0.downsample.norm', 'patch_embed.norm', 'patch_embed.norm'),
)
_MERGING = (
    ('stages.{stage}.downsample.conv', 'stages.{odd}.reduction', 'stages.{stage}.downsample.reduction'),
    ('stages.{stage}.downsample.norm', 'stages.{odd}.norm', 'stages.{stage}.downsample.norm'),
)
_BLOCK = tuple(
    (f'stages.{{stage}}.blocks.{{block}}.{ours}', f'stages.{{even}}.blocks.{{block}}.{theirs}',
     f'stages.{{stage}}.blocks.{{block}}.{theirs}') for ours, theirs in (
         ('pconv.conv', 'spatial_mixing.partial_conv3'),
         ('conv1', 'mlp.0'),
         ('norm', 'mlp.1'),
         ('conv2', 'mlp.3'),
         ('layer_scale.weight', 'layer_scale'),  # a bare parameter in theirs
     ))
_OUTPUT_NORM = (('norm{stage}', 'norm{even}', None), )
_HEAD = (
    ('head.conv', 'avgpool_pre_head.1', 'conv_head'),
    ('head.fc', 'head', 'classifier'),
)
_BOX_CLASSIFIER = re.compile(r'(roi_head\.)?bbox_head\.(\d+\.)?fc_cls\.weight$')


@dataclass(frozen=True)
class WeightsKind:
    """Description of a state dict.

    Attributes:
        layout: One of :data:`LAYOUTS`.
        model: ``'classifier'``, ``'detector'`` or ``'backbone'``.
        embed_channels: Channels of the first stage.
        depths: Blocks of each stage.
        num_classes: Classes of the classifier or of the detector's box head;
            None if the weights do not tell.
    """
    layout: str
    model: str
    embed_channels: int
    depths: Tuple[int, ...]
    num_classes: Optional[int] = None

    def variant(self, arch_settings: Mapping[str, Mapping[str, Any]]) -> str:
        """The variant's name, such as ``'FasterNet-T0'``, from the backbone's ``arch_settings``."""
        for name, settings in arch_settings.items():
            depths, count = tuple(settings['depths']), len(self.depths)
            if (self.embed_channels, self.depths) == (settings['embed_channels'], depths[:count]):
                return f'FasterNet-{name.upper()}' + (f' with {count} of {len(depths)} stages' * (count < len(depths)))
        return f'FasterNet of {self.embed_channels} channels and {"-".join(map(str, self.depths))} blocks'


def recognize(state_dict: StateDict) -> Optional[WeightsKind]:
    """Describe FasterNet weights by their keys; None if they belong to another network.

    Args:
        state_dict: The weights of a model or of a bare backbone.
    """
    prefix = _prefix(state_dict)
    layout = _layout(state_dict, prefix)
    if layout is None:
        return None
    column = LAYOUTS.index(layout)
    num_classes = None
    if (layout == 'mmfasternet' or not prefix) and any(key.startswith(_head_prefixes(layout)) for key in state_dict):
        model = 'classifier'
        fully_connected = f'{_HEAD[1][column]}.weight'
        if fully_connected in state_dict:
            num_classes = state_dict[fully_connected].shape[0]
    elif all(key.startswith(prefix) for key in state_dict):
        model = 'backbone'
    else:
        model = 'detector'
        for key in filter(_BOX_CLASSIFIER.match, state_dict):
            num_classes = state_dict[key].shape[0] - 1  # the last one is the background
    embed_channels = state_dict[f'{prefix}{_EMBEDDING[0][column]}.weight'].shape[0]
    return WeightsKind(layout, model, embed_channels, _depths(state_dict, prefix, layout), num_classes)


def convert(state_dict: StateDict, to: str = 'mmfasternet', strict: bool = True) -> StateDict:
    """Rename weights to another layout.

    Args:
        state_dict: The weights of a classifier, a detector or a backbone, in
            any of the layouts.
        to: One of :data:`LAYOUTS`: the same model with that layout's names; in
            ours the backbone's keys always have the prefix ``backbone.``. Or
            ``'backbone'``: only the backbone with our names, without that
            prefix. Defaults to ``'mmfasternet'``.
        strict: Check that keys and shapes are a complete FasterNet also when
            converting to our layout. Defaults to True.

    Returns:
        The weights in the same order. Neck and heads of detectors keep their
        names, which are the same in MMDetection 2.x and 3.x.

    Raises:
        ValueError: If there is no such target.
        CheckpointError: If these are not FasterNet weights, if keys are
            unknown in their layout or in the new one, duplicate or missing, or
            if shapes do not fit together; the message lists the keys.
    """
    if to not in TARGETS:
        raise ArgumentError(f'to must be one of {TARGETS}, got {to!r}')
    found = recognize(state_dict)
    if found is None:
        raise CheckpointError(f'has no weights of FasterNet in it, only {listed(list(state_dict), 3) or "none"}')
    kind = found
    prefix = _prefix(state_dict)

    def is_backbones(key: str) -> bool:
        return key.startswith(prefix) and (bool(prefix) or not key.startswith(_head_prefixes(kind.layout)))

    any_head = kind.layout == to  # another kind of head has no equivalent in the other layouts
    if to == 'backbone':
        kind = replace(kind, model='backbone')
        state_dict = {key: value for key, value in state_dict.items() if is_backbones(key)}
    names: Dict[Optional[str], Optional[str]] = dict(_names(kind.depths, kind.model, kind.layout, prefix))
    if kind.layout == 'mmfasternet' and to in ('mmfasternet', 'backbone'):
        ours = {PREFIX + key[len(prefix):] if is_backbones(key) else key: value for key, value in state_dict.items()}
    else:
        ours = _rename(state_dict, {theirs: ours for ours, theirs in names.items()}, kind, kind.layout)
    if strict or kind.layout != 'mmfasternet':
        _check(ours, kind, names, any_head)
    if to == 'mmfasternet':
        return state_dict if kind.layout == to and prefix else ours
    if to == 'backbone':
        return {key[len(PREFIX):]: value for key, value in ours.items()}
    new_names: Dict[Optional[str], Optional[str]] = dict(
        _names(kind.depths, kind.model, to, PREFIX if kind.model == 'detector' else ''))
    return _rename(ours, new_names, kind, to, sources=dict(zip(ours, state_dict)))


def rename_for(part: str, state_dict: Dict[str, Any], prefix: str = '') -> None:
    """Rename weights to the names of the module that loads them, in place.

    Keys without an equivalent keep their name, so that the loader reports
    them.

    Args:
        part: The module that loads them: ``'classifier'`` or ``'backbone'``.
        state_dict: The weights, in any of the layouts, of a classifier, a
            detector or a backbone; others are not changed.
        prefix: Prefix of the module's own weights. Defaults to ``''``.
    """
    weights = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    inner = _prefix(weights)
    layout = _layout(weights, inner)
    if layout is None or inner and part == 'classifier':  # the backbone renames its own weights
        return
    depths = _depths(weights, inner, layout)
    names: Names = {theirs: ours for ours, theirs in _names(depths, part, layout, inner)}
    own = PREFIX if part == 'backbone' else ''
    found = {key: _new_name(key, names) for key in weights}
    new_names = {key: name[len(own):] for key, name in found.items() if name and name.startswith(own)}
    kept = weights.keys() - new_names.keys()  # a weight may be present under both names

    def renamed(key: str) -> str:
        name = new_names.get(key[len(prefix):]) if key.startswith(prefix) else None
        return key if name is None or name in kept else prefix + name

    items = [(renamed(key), value) for key, value in state_dict.items()]
    state_dict.clear()
    state_dict.update(items)


def _prefix(state_dict: StateDict) -> str:
    return PREFIX if any(key.startswith(PREFIX) for key in state_dict) else ''


def _layout(state_dict: StateDict, prefix: str) -> Optional[str]:
    keys = [key[len(prefix):] for key in state_dict if key.startswith(prefix)]

    def any_holds(part: str) -> bool:
        return any(part in key for key in keys)

    # Other networks also have embeddings with these names, but no partial convolution.
    if 'stages.0.downsample.conv.weight' in keys and any_holds('.pconv.conv.'):
        return 'mmfasternet'
    if 'patch_embed.proj.weight' not in keys or not any_holds('.spatial_mixing.partial_conv3.'):
        return None
    has_timms_head = any(key.startswith(_head_prefixes('timm')) for key in keys)
    return 'timm' if has_timms_head or any_holds('.downsample.reduction.') else 'official'


def _head_prefixes(layout: str) -> Tuple[str, ...]:
    return tuple(row[LAYOUTS.index(layout)].split('.')[0] + '.' for row in _HEAD)


def _depths(state_dict: StateDict, prefix: str, layout: str) -> Tuple[int, ...]:
    pattern = re.compile(re.escape(prefix) + r'stages\.(\d{1,2})\.blocks\.(\d{1,3})\.')
    depths: Dict[int, int] = {}
    for match in filter(None, map(pattern.match, state_dict)):
        stage = int(match[1]) // (2 if layout == 'official' else 1)
        depths[stage] = max(depths.get(stage, 0), int(match[2]) + 1)
    return tuple(depths.get(stage, 1) for stage in range(max(depths, default=0) + 1))


def _names(depths: Sequence[int], model: str, layout: str, prefix: str) -> Iterator[Tuple[str, Optional[str]]]:
    """Pairs of our and the layout's name of a module, with the backbone under ``prefix``; None if it has none."""
    column = LAYOUTS.index(layout)

    def rows(templates: Iterable[Tuple[Optional[str], ...]], **indices: int) -> Iterator[Tuple[str, Optional[str]]]:
        for row in templates:
            theirs = row[column]
            yield PREFIX + str(row[0]).format(**indices), None if theirs is None else prefix + theirs.format(**indices)

    yield from rows(_EMBEDDING)
    for stage, depth in enumerate(depths):
        indices = dict(stage=stage, even=2 * stage, odd=2 * stage - 1)
        if stage:
            yield from rows(_MERGING, **indices)
        for block in range(depth):
            yield from rows(_BLOCK, block=block, **indices)
        yield from rows(_OUTPUT_NORM, **indices)
    if model == 'classifier':
        yield from ((row[0], row[column]) for row in _HEAD)


def _new_name(key: str, names: Names) -> Optional[str]:
    module, _, entry = key.rpartition('.')
    if key in names:
        return names[key]
    return f'{names[module]}.{entry}' if names.get(module) else None


def _rename(state_dict: StateDict, names: Names, kind: WeightsKind, layout: str,
            sources: Mapping[str, str] = {}) -> StateDict:
    """Rename the modules of all keys, except a detector's neck and heads; ``sources`` maps to the names in the file."""
    renamed: StateDict = {}
    unknown, duplicate = [], []
    for key, value in state_dict.items():
        passes = kind.model == 'detector' and layout != 'timm' and not key.startswith(PREFIX)
        name = key if passes else _new_name(key, names)
        if name is None:
            unknown.append(sources.get(key, key))
        elif name in renamed:
            duplicate.append(sources.get(key, key))
        else:
            renamed[name] = value
    if unknown:
        raise CheckpointError(f'has keys without an equivalent in the {layout} layout: {listed(unknown)}')
    if duplicate:
        raise CheckpointError(f'has several keys for the same weights: {listed(duplicate)}')
    return renamed


def _check(ours: StateDict, kind: WeightsKind, names: Names, any_head: bool) -> None:
    """Check keys and shapes; the keys are ours, and ``names`` maps them to the names in the file."""
    expected = dict(_backbone_shapes(ours, kind))
    if kind.model == 'classifier' and 'head.conv.weight' not in ours and any_head:
        expected.update((key, tuple(value.shape)) for key, value in ours.items() if not key.startswith(PREFIX))
    elif kind.model == 'classifier':
        hidden, classes = (_rows(ours, f'head.{name}.weight') for name in ('conv', 'fc'))
        expected['head.conv.weight'] = (hidden, kind.embed_channels << (len(kind.depths) - 1), 1, 1)
        expected['head.fc.weight'], expected['head.fc.bias'] = (classes, hidden), (classes, )
    found = {key: tuple(value.shape) for key, value in ours.items()
             if kind.model != 'detector' or key.startswith(PREFIX)}
    problem = misfit(expected, found, {key: _new_name(key, names) or key for key in (*expected, *found)})
    if problem:
        raise CheckpointError(problem)


def _rows(weights: StateDict, key: str) -> int:
    return weights[key].shape[0] if key in weights else 0


def _backbone_shapes(weights: StateDict, kind: WeightsKind) -> Iterator[Tuple[str, Tuple[int, ...]]]:
    """All keys of the backbone in our layout and their shapes, from the widths of its first layers."""
    first = f'{PREFIX}stages.0.downsample'
    entries = dict.fromkeys(key.rpartition('.')[2] for key in weights if '.norm.' in key and key.startswith(PREFIX))

    def norm(module: str, channels: int) -> Iterator[Tuple[str, Tuple[int, ...]]]:
        for entry in entries:
            yield f'{module}.{entry}', () if entry == 'num_batches_tracked' else (channels, )

    scaled = any(key.startswith(PREFIX) and key.endswith('.layer_scale.weight') for key in weights)
    previous, patch = weights[f'{first}.conv.weight'].shape[1], 4
    for stage, depth in enumerate(kind.depths):
        channels = kind.embed_channels << stage
        at = f'{PREFIX}stages.{stage}'
        yield f'{at}.downsample.conv.weight', (channels, previous, patch, patch)
        yield from norm(f'{at}.downsample.norm', channels)
        convolved, hidden = (_rows(weights, f'{at}.blocks.0.{name}.weight') for name in ('pconv.conv', 'conv1'))
        for block in (f'{at}.blocks.{index}' for index in range(depth)):
            yield f'{block}.pconv.conv.weight', (convolved, convolved, 3, 3)
            yield f'{block}.conv1.weight', (hidden, channels, 1, 1)
            yield from norm(f'{block}.norm', hidden)
            yield f'{block}.conv2.weight', (channels, hidden, 1, 1)
            if scaled:
                yield f'{block}.layer_scale.weight', (channels, )
        if any(key.startswith(f'{PREFIX}norm{stage}.') for key in weights):
            yield from norm(f'{PREFIX}norm{stage}', channels)
        previous, patch = channels, 2
