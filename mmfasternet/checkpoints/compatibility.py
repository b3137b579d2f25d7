"""Checks whether the content of a checkpoint fits a model."""

from typing import Any, Dict, Mapping, Optional

from torch import Tensor, nn

from mmfasternet.checkpoints.contents import weights_of
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from mmfasternet.models.weights.fitting import misfit
from mmfasternet.models.weights.layouts import PREFIX, convert, recognize
from mmfasternet.models.weights.matching import misfit_of_backbone, misfit_of_model, misfit_of_start, other_variant

Content = Mapping[str, Any]

_REMEDY = 'Check that it belongs to this config: arch and number of classes'


def check_fits(model: nn.Module, content: Content, path: str) -> None:
    """Check that a checkpoint holds all of a model's weights in their shapes, and no other backbone.

    Args:
        model: The model.
        content: What :func:`~mmfasternet.checkpoints.load_for_mmengine` gives.
        path: Path or URL of the checkpoint, for the message.

    Raises:
        CheckpointError: If it does not; the message names the file and the
            keys.
    """
    weights, own, backbone = _as_mmengine_finds(content), model.state_dict(), getattr(model, 'backbone', None)
    if isinstance(backbone, FasterNet):
        problem = other_variant(own, weights, backbone.arch_settings) or misfit_of_model(
            own, weights, backbone.out_indices)
    else:
        found = {key: value.shape for key, value in weights.items() if key in own}
        problem = misfit({key: value.shape for key, value in own.items()}, found)
    _raise_for(path, problem)


def check_start(model: nn.Module, content: Content, path: str) -> None:
    """Check that a checkpoint to start a training from holds the model's backbone, if it is a FasterNet.

    Its output norms may be missing, and neck and heads may belong to another
    model.

    Args:
        model: The model.
        content: What :func:`~mmfasternet.checkpoints.load_for_mmengine` gives.
        path: Path or URL of the checkpoint, for the message.

    Raises:
        CheckpointError: If it does not, or holds no weight of the model at
            all; the message names the file and the keys.
    """
    weights, own, backbone = _as_mmengine_finds(content), model.state_dict(), getattr(model, 'backbone', None)
    problem = ''
    if isinstance(backbone, FasterNet):
        problem = other_variant(own, weights, backbone.arch_settings) or misfit_of_start(own, weights)
    elif not any(key in own and own[key].shape == value.shape for key, value in weights.items()):
        problem = 'they have no weights in common'
    _raise_for(path, problem)


def check_pretrained(backbone: FasterNet, content: Content, path: str,
                     prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """Check that a checkpoint holds the weights of a backbone; only its output norms may be missing.

    Args:
        backbone: The backbone. It may lack the last stages of the file's
            backbone.
        content: What :func:`~mmfasternet.checkpoints.read_checkpoint` or
            :func:`~mmfasternet.checkpoints.load_for_mmengine` gives, for a
            classifier, a detector or a backbone in any layout.
        path: Path or URL of the checkpoint, for the message.
        prefix: Prefix of the backbone's keys, if it is not ``backbone.``.
            Defaults to None: it is found by its keys.

    Returns:
        The weights that the backbone has, by its own names.

    Raises:
        CheckpointError: If it does not; the message names the file and the
            keys.
    """
    weights = weights_of(dict(content), path)
    prefix = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix or ''
    inside = {key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)}
    if not inside and any(key.startswith(PREFIX) for key in weights):
        raise CheckpointError(f"checkpoint '{path}' has no weights with the prefix '{prefix}'. Check the prefix")
    weights = inside or weights  # the authors' and timm's classifiers need no prefix
    kind = recognize(weights)
    try:
        # Our layout is compared with the backbone itself, which may differ from the variants.
        weights = convert(weights, 'backbone', strict=kind is None or kind.layout != 'mmfasternet')
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' {error}. {_REMEDY}") from None
    own = backbone.state_dict()
    _raise_for(path, other_variant(own, weights, backbone.arch_settings) or misfit_of_backbone(own, weights))
    return {key: value for key, value in weights.items() if key in own}


def _as_mmengine_finds(content: Content) -> Dict[str, Tensor]:
    """The weights as MMEngine will find them."""
    weights = content.get('state_dict', content)
    return {key.removeprefix('module.'): value for key, value in weights.items()
            if isinstance(key, str) and isinstance(value, Tensor)}


def _raise_for(path: str, problem: str) -> None:
    if problem:
        raise CheckpointError(f"checkpoint '{path}' does not fit this model: {problem}. {_REMEDY}")
