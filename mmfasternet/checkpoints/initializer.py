"""Whether a checkpoint fits a model, and its weights in a backbone."""

import re
from typing import Any, Dict, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from mmfasternet.checkpoints.contents import weights_of
from mmfasternet.checkpoints.mmengine_bridge import load_for_mmengine
from mmfasternet.errors import CheckpointError
from mmfasternet.models.weights.fitting import misfit
from mmfasternet.models.weights.layouts import PREFIX, convert, recognize
from mmfasternet.registry import WEIGHT_INITIALIZERS

_OUTPUT_NORM = re.compile(r'norm\d+\.')
_STAGE = re.compile(r'stages\.(\d+)\.')
_REMEDY = 'Check that it belongs to this config: arch and number of classes'


@WEIGHT_INITIALIZERS.register_module()
class PretrainedFasterNet:
    """Initialises a backbone by :func:`load_pretrained_backbone`; what ``init_cfg`` of type ``'Pretrained'`` becomes.

    Args:
        checkpoint: Path or URL.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        load_pretrained_backbone(module, str(self.checkpoint))


def load_pretrained_backbone(backbone: nn.Module, checkpoint: str) -> None:
    """Load ImageNet weights into a backbone; only its output norms may be missing from them.

    Args:
        backbone: A :class:`~mmfasternet.models.FasterNet`. Where it lacks the
            last stages, their weights are left out.
        checkpoint: Path or URL of a classifier, a detector or a backbone of
            FasterNet, in any layout.

    Raises:
        CheckpointError: If the file can't be had or does not fit; the message
            names the file and lists what does not match.
    """
    content = load_for_mmengine(checkpoint)
    weights = weights_of(content, checkpoint)
    kind = recognize(weights)
    try:
        # Ours are compared with the backbone itself, which may have more than the variants.
        weights = convert(weights, 'backbone', strict=kind is None or kind.layout != 'mmfasternet')
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' {error}. {_REMEDY}") from None
    _check_backbone(backbone, weights, checkpoint)
    own = backbone.state_dict()
    backbone.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    print_log(f'backbone weights loaded from {checkpoint}', logger='current')


def check_fits(model: nn.Module, content: Dict[str, Any], path: str) -> None:
    """Check that a checkpoint holds all of a model's weights in their shapes, and no other backbone.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.

    Raises:
        CheckpointError: If not; the message names the file and the keys.
    """
    weights = _weights_for(content)
    _check_variant(model, weights, path)
    own = model.state_dict()
    found = {key: value for key, value in weights.items() if key in own}
    if recognize(own):
        backbone = model.backbone
        unused = [f'norm{index}.' for index in range(backbone.num_stages) if index not in backbone.out_indices]
        found.update((key, value) for key, value in weights.items() if key.startswith(PREFIX) and not (
            _is_of_a_later_stage(key[len(PREFIX):], backbone) or key[len(PREFIX):].startswith(tuple(unused))))
    _raise_for(path, misfit(_shapes(own), _shapes(found)))


def check_start(model: nn.Module, content: Dict[str, Any], path: str) -> None:
    """Check that a checkpoint to start a training from holds the model's backbone, if that is a FasterNet.

    Its output norms may be missing, and neck and heads be of another model.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.

    Raises:
        CheckpointError: If not, or if it holds no weight of the model at all;
            the message names the file and the keys.
    """
    weights, own = _weights_for(content), model.state_dict()
    if recognize(own):
        _check_variant(model, weights, path)
        _check_backbone(model.backbone, {key[len(PREFIX):]: value for key, value in weights.items()
                                         if key.startswith(PREFIX)}, path)
    elif not any(key in own and own[key].shape == value.shape for key, value in weights.items()):
        raise CheckpointError(f"checkpoint '{path}' does not fit this model: they have no weights in common. {_REMEDY}")


def _weights_for(content: Dict[str, Any]) -> Mapping[str, Tensor]:
    """The weights as MMEngine will find them."""
    weights = content.get('state_dict', content)
    return {key.removeprefix('module.'): value for key, value in weights.items() if isinstance(value, Tensor)}


def _check_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    _check_variant(backbone, weights, path)
    own = backbone.state_dict()
    expected = {key: value for key, value in own.items() if key in weights or not _OUTPUT_NORM.match(key)}
    found = {key: value for key, value in weights.items()
             if key in own or not (_OUTPUT_NORM.match(key) or _is_of_a_later_stage(key, backbone))}
    _raise_for(path, misfit(_shapes(expected), _shapes(found)))


def _check_variant(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Say it in a word where the file holds another FasterNet than the model's."""
    own, other = recognize(model.state_dict()), recognize(dict(weights))
    if own is None or other is None:
        return
    depth = len(own.depths)
    if (own.embed_channels, own.depths) != (other.embed_channels, other.depths[:depth]):
        settings = getattr(model, 'backbone', model).arch_settings
        _raise_for(path, f'it holds {other.variant(settings)}, the model {own.variant(settings)}')


def _is_of_a_later_stage(key: str, backbone: nn.Module) -> bool:
    """Whether the backbone lacks the stage that a key belongs to, since nothing needs its output."""
    stage = _STAGE.match(key)
    return stage is not None and int(stage[1]) >= len(backbone.stages)


def _shapes(weights: Mapping[str, Tensor]) -> Dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def _raise_for(path: str, problem: str) -> None:
    if problem:
        raise CheckpointError(f"checkpoint '{path}' does not fit this model: {problem}. {_REMEDY}")


def check_pretrained(backbone: nn.Module, content: Dict[str, Any], path: str) -> None:
    """Check."""
    weights = weights_of(content, path)
    try:
        weights = convert(weights, 'backbone', strict=recognize(weights) is None)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' {error}. {_REMEDY}") from None
    _check_backbone(backbone, weights, path)
