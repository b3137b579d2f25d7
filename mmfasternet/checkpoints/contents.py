"""What a checkpoint holds, and where: weights, and the names of the classes."""

from typing import Any, Dict, Mapping, Optional

from torch import Tensor

from mmfasternet.compat import COMPILED_PREFIX
from mmfasternet.errors import CheckpointError
from mmfasternet.models.weights.fitting import listed
from mmfasternet.models.weights.layouts import recognize

_PLACES = ('state_dict', 'model')
# DistributedDataParallel and averaged models, compiled models, Lightning's modules with the network as ``model``.
_WRAPPERS = ('module.', COMPILED_PREFIX, 'model.')


def state_dict_of(content: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    """The weights in a checkpoint, without wrappers' prefixes.

    Args:
        content: The checkpoint's content: the weights themselves, or under
            ``state_dict`` or ``model``, or the one dict of tensors in it.
        path: Its file, for the error.

    Returns:
        The weights; none where nothing looks like some. What a wrapper of a
        FasterNet holds beside it, such as the network of a loss, is not among them.

    Raises:
        CheckpointError: If two keys are the same without the prefix.
    """
    weights = next((content[place] for place in _PLACES if isinstance(content.get(place), dict)), content)
    if not _are_weights(weights):
        dicts = [value for value in content.values() if isinstance(value, dict) and _are_weights(value)]
        weights = dicts[0] if len(dicts) == 1 else {}
    while True:
        unwrapped = next(filter(None, (_unwrapped(weights, wrapper, path) for wrapper in _WRAPPERS)), None)
        if unwrapped is None:
            return weights
        weights = unwrapped


def weights_of(content: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    """:func:`state_dict_of`, but without weights there is an error."""
    weights = state_dict_of(content, path)
    if not weights:
        raise CheckpointError(f"checkpoint '{path}' has no weights in it, but {listed(list(map(str, content)), 5)}")
    return weights


def _are_weights(weights: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in weights) and any(isinstance(v, Tensor) for v in weights.values())


def _unwrapped(weights: Dict[str, Tensor], wrapper: str, path: str) -> Optional[Dict[str, Tensor]]:
    inside = {key[len(wrapper):]: value for key, value in weights.items() if key.startswith(wrapper)}
    if len(inside) < len(weights) and recognize(inside) is None:
        return None
    duplicate = [key for key in inside if key in weights]
    if duplicate:
        raise CheckpointError(f"checkpoint '{path}' has several keys for the same weights: {listed(duplicate)}")
    return inside


def dataset_meta_of(content: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Names (``classes``) and colours (``palette``) of the classes, as MMDetection 3.x or 2.x keep them, or None."""
    meta = content.get('meta')
    if not isinstance(meta, dict):
        return None
    if isinstance(meta.get('dataset_meta'), dict):
        return meta['dataset_meta']
    names = {'CLASSES': 'classes', 'PALETTE': 'palette'}
    return {ours: meta[theirs] for theirs, ours in names.items() if meta.get(theirs)} or None
