"""Checks whether weights fit a FasterNet: what may be missing, what is unused, and which variant they are.

All keys are in our layout; returned texts follow the file's name in a message, and are empty if the weights fit.
"""

import re
from typing import Any, Dict, Mapping, Sequence, Set, Tuple

from torch import Tensor

from mmfasternet.models.weights.fitting import misfit
from mmfasternet.models.weights.layouts import PREFIX, recognize

Weights = Mapping[str, Tensor]

_OUTPUT_NORM = re.compile(r'norm(\d+)\.')
_STAGE = re.compile(r'stages\.(\d+)\.')


def other_variant(own: Weights, weights: Weights, arch_settings: Mapping[str, Mapping[str, Any]]) -> str:
    """A short text if the weights belong to another FasterNet variant than the model.

    Args:
        own: State dict of the model, or of its backbone.
        weights: The weights of a backbone or of a model that contains it.
        arch_settings: The variants by name, from the backbone.
    """
    ours, other = recognize(dict(own)), recognize(dict(weights))
    if ours is None or other is None:
        return ''
    # The weights may have stages that the model does not build.
    if (ours.embed_channels, ours.depths) == (other.embed_channels, other.depths[:len(ours.depths)]):
        return ''
    return f'it holds {other.variant(arch_settings)}, the model {ours.variant(arch_settings)}'


def misfit_of_backbone(own: Weights, weights: Weights) -> str:
    """Why weights do not fit a backbone; output norms may be missing or unused.

    A classifier's weights have none. Stages that the backbone does not build
    are unused, too.

    Args:
        own: State dict of the backbone.
        weights: Weights of a backbone.
    """
    stages = _stages(own)
    expected = {key: value for key, value in own.items() if key in weights or not _OUTPUT_NORM.match(key)}
    found = {key: value for key, value in weights.items()
             if key in own or not (_OUTPUT_NORM.match(key) or _is_of_another_stage(key, stages))}
    return misfit(_shapes(expected), _shapes(found))


def misfit_of_model(own: Weights, weights: Weights, out_indices: Sequence[int]) -> str:
    """Why weights are not a complete model with a FasterNet backbone.

    Args:
        own: State dict of the model; its backbone has the prefix
            ``backbone.``.
        weights: Weights of a model. Neck and heads may have more than the
            model.
        out_indices: Those of the backbone: no other stage has an output norm.
    """
    stages = _stages(_of_backbone(own))

    def is_used(key: str) -> bool:
        norm = _OUTPUT_NORM.match(key)
        return not (_is_of_another_stage(key, stages) or norm and int(norm[1]) not in out_indices)

    found = {key: value for key, value in weights.items()
             if key in own or key.startswith(PREFIX) and is_used(key[len(PREFIX):])}
    return misfit(_shapes(own), _shapes(found))


def misfit_of_start(own: Weights, weights: Weights) -> str:
    """:func:`misfit_of_backbone` of the backbones of two models."""
    return misfit_of_backbone(_of_backbone(own), _of_backbone(weights))


def _of_backbone(weights: Weights) -> Dict[str, Tensor]:
    return {key[len(PREFIX):]: value for key, value in weights.items() if key.startswith(PREFIX)}


def _stages(weights: Weights) -> Set[int]:
    return {int(stage[1]) for stage in map(_STAGE.match, weights) if stage}


def _is_of_another_stage(key: str, stages: Set[int]) -> bool:
    stage = _STAGE.match(key)
    return stage is not None and int(stage[1]) not in stages


def _shapes(weights: Weights) -> Dict[str, Tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}
