"""Whether weights fit a FasterNet: what they may lack, what it does not use, and which variant they are.

All keys are ours; texts follow the name of the file that the weights come from, and are empty where they fit.
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
    """Say it in a word where the weights are another FasterNet's than the model's.

    Args:
        own: State dict of the model, or of its backbone.
        weights: The weights, of a backbone or of what it is part of.
        arch_settings: The variants by name, as the backbone has them.
    """
    ours, other = recognize(dict(own)), recognize(dict(weights))
    if ours is None or other is None:
        return ''
    # Stages that the model does not build may be there.
    if (ours.embed_channels, ours.depths) == (other.embed_channels, other.depths[:len(ours.depths)]):
        return ''
    return f'it holds {other.variant(arch_settings)}, the model {ours.variant(arch_settings)}'


def misfit_of_backbone(own: Weights, weights: Weights) -> str:
    """What keeps weights from being a backbone's, where output norms may be missing or be there without use.

    A classifier's weights have none. Stages that the backbone does not build
    have no use either.

    Args:
        own: State dict of the backbone.
        weights: Those of a backbone.
    """
    stages = _stages(own)
    expected = {key: value for key, value in own.items() if key in weights or not _OUTPUT_NORM.match(key)}
    found = {key: value for key, value in weights.items()
             if key in own or not (_OUTPUT_NORM.match(key) or _is_of_another_stage(key, stages))}
    return misfit(_shapes(expected), _shapes(found))


def misfit_of_model(own: Weights, weights: Weights, out_indices: Sequence[int]) -> str:
    """What keeps weights from being all of a model with a FasterNet, and no other backbone.

    Args:
        own: State dict of the model; its backbone is behind ``backbone.``.
        weights: Those of a model. Neck and heads may have more than the model.
        out_indices: The backbone's: no other stage has an output norm.
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
