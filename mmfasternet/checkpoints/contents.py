"""What a checkpoint holds, and where: weights and class names."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

from torch import Tensor

from mmfasternet.compat import COMPILED_PREFIX
from mmfasternet.errors import CheckpointError
from mmfasternet.models.weights.fitting import listed
from mmfasternet.models.weights.layouts import recognize

_PLACES = ('state_dict', 'model')
# DistributedDataParallel and averaged models, compiled models, Lightning's modules with the network as ``model``.
_WRAPPERS = ('module.', COMPILED_PREFIX, 'model.')
# What averaged models of MMEngine and PyTorch hold besides the weights.
_COUNTERS = {'steps', 'n_averaged'}


def state_dict_of(content: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    """The weights in a checkpoint, without wrappers' prefixes.

    Args:
        content: The checkpoint's content: the weights themselves, or a dict with them under ``state_dict`` or
            ``model``, or as its only dict of tensors.
        path: Its file, for the error.

    Returns:
        The weights; empty if nothing looks like weights. What a wrapper holds besides a FasterNet, such as the network
        of a loss, is left out.

    Raises:
        CheckpointError: If two keys are the same without the prefix, or it is unclear which of several dicts of tensors
            holds the weights.
    """
    weights = taken_weights(content)[1]
    sets = [] if weights else [str(name) for name, value in content.items() if _inner(value)]
    if sets:
        raise CheckpointError(f"checkpoint '{path}' holds several sets of weights: {listed(sets, 5)}. Choose one after "
                              f"the path, as in '{path}#{sets[0]}'")
    return _without_wrappers(weights, path)


def taken_weights(content: Mapping[str, Any]) -> Tuple[str, Dict[str, Any]]:
    """The key of the weights that are used, ``''`` for the content itself, and the weights, unchanged."""
    place = next((place for place in _PLACES if isinstance(content.get(place), dict)), '')
    weights = content[place] if place else dict(content)
    if not _are_weights(weights):
        sets = {name: _inner(value) for name, value in content.items() if _inner(value)}
        place, weights = next(iter(sets.items())) if len(sets) == 1 else ('', {})
    return place, weights


def _without_wrappers(weights: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    while True:
        unwrapped = next(filter(None, (_unwrapped(weights, wrapper, path) for wrapper in _WRAPPERS)), None)
        if unwrapped is None:
            return weights
        weights = unwrapped


def weights_of(content: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    """:func:`state_dict_of`, with an error if there are no weights."""
    weights = state_dict_of(content, path)
    if not weights:
        raise CheckpointError(f"checkpoint '{path}' has no weights in it, only {listed(list(map(str, content)), 5)}")
    return weights


def weight_names(content: Mapping[str, Any], path: str) -> Tuple[str, List[str]]:
    """The name of the weights that are used, and the names of other weights of the same network, such as their average.

    A name is the key of the weights, such as MMEngine's ``ema_state_dict``,
    timm's ``state_dict_ema`` and ``model_ema``, or the prefix of their own
    keys, such as ``ema_model`` in a Lightning module.
    """
    name, raw = taken_weights(content)
    taken = _without_wrappers(raw, path)
    groups = {str(key): _inner(value) for key, value in content.items() if key != name}
    for prefix in dict.fromkeys(key.partition('.')[0] for key in raw if '.' in key):
        group = _without_wrappers(_behind(raw, prefix), path)
        same = [key in taken and value is taken[key] for key, value in group.items()]
        if same and all(same):
            name = prefix if len(same) == len(taken) < len(raw) else name  # of a wrapper that holds more
        elif not any(same):
            groups.setdefault(prefix, group)
    return name, [name for name, group in groups.items()
                  if len(taken.keys() & _without_wrappers(group, path).keys()) * 2 > len(taken)]


def only_weights(content: Mapping[str, Any], name: str, path: str) -> Dict[str, Any]:
    """A checkpoint's content with only the weights of one name, as :func:`weight_names` gives it.

    Returns:
        ``state_dict`` and ``meta``.

    Raises:
        CheckpointError: If there are none with this name; the message lists the known names.
    """
    group = _inner(content.get(name)) or _behind(taken_weights(content)[1], name)
    weights = _without_wrappers(group, path)
    if not weights:
        known = list(filter(None, dict.fromkeys([*weight_names(content, path)[1], taken_weights(content)[0]])))
        raise CheckpointError(f"checkpoint '{path}' has no weights named '{name}', only "
                              f"{listed(known) or 'weights without a name'}")
    return dict(state_dict=weights, meta=content.get('meta') or {})


def averages_first(content: Mapping[str, Any]) -> bool:
    """Whether MMEngine's ``EMAHook`` wrote it: it swaps the averaged and the plain weights when it saves."""
    average = content.get('ema_state_dict')
    return isinstance(average, dict) and 'steps' in average and isinstance(content.get('state_dict'), dict)


def _inner(value: Any) -> Dict[str, Any]:
    """The weights in an entry of a checkpoint, including RT-DETR's ``ema``, which keeps them under ``module``."""
    places: List[Any] = [value, *(value.get(key) for key in ('module', *_PLACES))] if isinstance(value, dict) else []
    return next((place for place in places if isinstance(place, dict) and _are_weights(place)), {})


def _behind(weights: Mapping[str, Any], name: str) -> Dict[str, Any]:
    return {key[len(name) + 1:]: value for key, value in weights.items() if key.startswith(f'{name}.')}


def _are_weights(weights: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in weights) and any(isinstance(v, Tensor) for v in weights.values())


def _unwrapped(weights: Dict[str, Tensor], wrapper: str, path: str) -> Optional[Dict[str, Tensor]]:
    inside = {key[len(wrapper):]: value for key, value in weights.items() if key.startswith(wrapper)}
    beside = {key for key in weights if not key.startswith(wrapper)}
    if not inside or beside - _COUNTERS and recognize(inside) is None:
        return None
    duplicate = [key for key in inside if key in weights]
    if duplicate:
        raise CheckpointError(f"checkpoint '{path}' has several keys for the same weights: {listed(duplicate)}")
    return inside


def dataset_meta_of(content: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Names (``classes``) and colours (``palette``) of the classes, as MMDetection 3.x or 2.x store them, or None."""
    meta = content.get('meta')
    if not isinstance(meta, dict):
        return None
    if isinstance(meta.get('dataset_meta'), dict):
        return meta['dataset_meta']
    names = {'CLASSES': 'classes', 'PALETTE': 'palette'}
    return {ours: meta[theirs] for theirs, ours in names.items() if meta.get(theirs)} or None
