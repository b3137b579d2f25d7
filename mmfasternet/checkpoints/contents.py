"""What a checkpoint holds, and where: weights, and the names of the classes."""

from collections import Counter
from typing import Any, Dict, Mapping, Optional

from torch import Tensor

from mmfasternet.checkpoints.fitting import listed
from mmfasternet.errors import CheckpointError

# Lightning's modules, such as the authors' training script, hold the network as ``model``.
_WRAPPERS = ('module.', 'model.')


def state_dict_of(content: Dict[str, Any], path: str) -> Dict[str, Tensor]:
    """The weights in a checkpoint, bare or under ``state_dict`` or ``model``, without wrappers' prefixes.

    Args:
        content: The checkpoint's content.
        path: Its file, for the error.

    Returns:
        The weights; none where nothing looks like some.

    Raises:
        CheckpointError: If two keys are the same without the prefix.
    """
    weights = next((content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), dict)), content)
    keys = list(weights)
    if not all(isinstance(key, str) for key in keys) or not any(isinstance(v, Tensor) for v in weights.values()):
        return {}
    for wrapper in _WRAPPERS:
        # One wrapper may hold weights of its own beside the network's, such as a loss's.
        keys = [key.removeprefix(wrapper) for key in keys]
    if keys == list(weights):
        return weights
    duplicate = [key for key, count in Counter(keys).items() if count > 1]
    if duplicate:
        raise CheckpointError(f"checkpoint '{path}' has several keys for the same weights: {listed(duplicate)}")
    return dict(zip(keys, weights.values()))


def dataset_meta_of(content: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Names (``classes``) and colours (``palette``) of the classes, as MMDetection 3.x or 2.x keep them, or None."""
    meta = content.get('meta')
    if not isinstance(meta, dict):
        return None
    if isinstance(meta.get('dataset_meta'), dict):
        return meta['dataset_meta']
    names = {'CLASSES': 'classes', 'PALETTE': 'palette'}
    return {ours: meta[theirs] for theirs, ours in names.items() if meta.get(theirs)} or None
