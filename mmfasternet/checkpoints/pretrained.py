"""Loading of pre-trained weights into a backbone, strictly."""

import re
from typing import Any, Dict

from mmengine.logging import print_log
from torch import nn

from mmfasternet.checkpoints.official import is_official, official_to_backbone
from mmfasternet.checkpoints.reading import raise_unless_fitting, read_checkpoint, state_dict_of
from mmfasternet.errors import CheckpointError

_OUTPUT_NORM = re.compile(r'norm\d+\.')
_STAGE = re.compile(r'stages\.(\d+)\.')


def load_pretrained_backbone(backbone: nn.Module, checkpoint: str) -> None:
    """Load ImageNet weights into a backbone; only its output norms may be missing from them.

    Args:
        backbone: A :class:`~mmfasternet.models.FasterNet`. Where it lacks the
            last stages, their weights are left out.
        checkpoint: Path or URL of the authors' published weights, of an
            MMPretrain classifier or MMDetection detector with this backbone,
            or of the bare backbone.

    Raises:
        CheckpointError: If the file can't be had or does not fit; the message
            names the file and lists what does not match.
    """
    try:
        weights = _backbone_weights(state_dict_of(read_checkpoint(checkpoint)))
    except KeyError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}': {error.args[0]}") from None
    own = backbone.state_dict()
    raise_unless_fitting(
        checkpoint,
        lacks=[key for key in own if key not in weights and not _OUTPUT_NORM.match(key)],
        has_the_unknown=[key for key in weights if key not in own and not _is_optional(key, len(backbone.stages))],
        has_other_shapes_for=[key for key in own if key in weights and own[key].shape != weights[key].shape])
    backbone.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    print_log(f'backbone weights loaded from {checkpoint}', logger='current')


def _is_optional(key: str, num_stages: int) -> bool:
    stage = _STAGE.match(key)
    return bool(_OUTPUT_NORM.match(key)) or (stage is not None and int(stage[1]) >= num_stages)


def _backbone_weights(state_dict: Dict[str, Any]) -> Dict[str, Any]:
    prefix = 'backbone.'
    if any(key.startswith(prefix) for key in state_dict):
        state_dict = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    return official_to_backbone(state_dict) if is_official(state_dict) else state_dict
