"""Published weights of any layout, as MMEngine loads them and as a backbone needs them."""

import re
from collections import OrderedDict
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmfasternet.checkpoints.contents import dataset_meta_of, state_dict_of
from mmfasternet.checkpoints.fitting import misfit
from mmfasternet.checkpoints.layouts import PREFIX, convert, recognize
from mmfasternet.checkpoints.reading import read_checkpoint
from mmfasternet.checkpoints.safe_loading import forced_safe_loading
from mmfasternet.errors import CheckpointError

_OUTPUT_NORM = re.compile(r'norm\d+\.')
_STAGE = re.compile(r'stages\.(\d+)\.')
_REMEDY = 'Check that it belongs to this config: arch and number of classes'


@contextmanager
def safe_loading() -> Iterator[None]:
    """Within it, MMEngine and what is built on it read files and URLs by :func:`load_for_mmengine`.

    Any other ``torch.load`` of the process is a safe one, too, unless
    :func:`~mmfasternet.checkpoints.trust_checkpoints` holds.
    """

    def load_from_mmfasternet(path: str, map_location: Any = None) -> Dict[str, Any]:
        return load_for_mmengine(path, map_location)  # MMEngine logs the name behind "load_from_"

    schemes = dict(CheckpointLoader._schemes)
    CheckpointLoader.register_scheme(('', 'http://', 'https://'), load_from_mmfasternet, force=True)
    try:
        with forced_safe_loading():
            yield
    finally:
        CheckpointLoader._schemes = OrderedDict(schemes)


def load_for_mmengine(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Read a checkpoint; FasterNet's weights get our names, whatever layout they are in.

    This is what MMEngine's ``CheckpointLoader`` calls within
    :func:`safe_loading`.

    Args:
        path: Path or URL.
        map_location: As ``torch.load`` takes it. Defaults to ``'cpu'``.

    Returns:
        The content. FasterNet's weights are under ``state_dict``, the
        backbone's behind ``backbone.``; class names are where MMDetection 3.x
        looks for them. Other networks' checkpoints are left as they are.

    Raises:
        CheckpointError: If it can't be read, or its keys don't make a
            FasterNet.
    """
    content = read_checkpoint(path, map_location)
    weights = state_dict_of(content, path)
    kind = recognize(weights)
    if kind is None:
        return content
    meta = dict(content['meta']) if isinstance(content.get('meta'), dict) else {}
    dataset_meta = dataset_meta_of(content)
    if dataset_meta:
        meta['dataset_meta'] = dataset_meta
    converted = _converted(path, weights, 'mmfasternet')
    if kind.layout == 'mmfasternet' and 'state_dict' in content:
        return dict(content, state_dict=converted, meta=meta)
    return dict(state_dict=converted, meta=meta)


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
    weights = _converted(checkpoint, state_dict_of(read_checkpoint(checkpoint), checkpoint), 'backbone')
    _check_backbone(backbone, weights, checkpoint)
    own = backbone.state_dict()
    backbone.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    print_log(f'backbone weights loaded from {checkpoint}', logger='current')


def check_fits(model: nn.Module, path: str) -> None:
    """Check that a checkpoint holds all of a model's weights in their shapes, and no other backbone.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.

    Raises:
        CheckpointError: If not; the message names the file and the keys.
    """
    weights = _weights_for(path)
    _check_variant(model, weights, path)
    own = model.state_dict()
    found = {key: value for key, value in weights.items() if key in own or (
        recognize(own) and key.startswith(PREFIX) and not _is_optional(key[len(PREFIX):], _num_stages(own)))}
    _raise_for(path, misfit(_shapes(own), _shapes(found)))


def check_start(model: nn.Module, path: str) -> None:
    """Check that a checkpoint to start a training from holds the model's backbone, if that is a FasterNet.

    Its output norms may be missing, and neck and heads be of another model.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.

    Raises:
        CheckpointError: If not, or if it holds no weight of the model at all;
            the message names the file and the keys.
    """
    weights, own = _weights_for(path), model.state_dict()
    if recognize(own):
        _check_variant(model, weights, path)
        _check_backbone(model.backbone, {key[len(PREFIX):]: value for key, value in weights.items()
                                         if key.startswith(PREFIX)}, path)
    elif not any(key in own and own[key].shape == value.shape for key, value in weights.items()):
        raise CheckpointError(f"checkpoint '{path}' does not fit this model: they have no weights in common. {_REMEDY}")


def _weights_for(path: str) -> Mapping[str, Tensor]:
    """The weights as MMEngine will find them."""
    content = load_for_mmengine(path)
    weights = content.get('state_dict', content)
    return {key.removeprefix('module.'): value for key, value in weights.items() if isinstance(value, Tensor)}


def _converted(path: str, weights: Mapping[str, Tensor], to: str) -> Dict[str, Tensor]:
    try:
        return convert(weights, to)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' {error}. {_REMEDY}") from None


def _check_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    _check_variant(backbone, weights, path)
    own = backbone.state_dict()
    expected = {key: value for key, value in own.items() if key in weights or not _OUTPUT_NORM.match(key)}
    found = {key: value for key, value in weights.items()
             if key in own or not _is_optional(key, len(backbone.stages))}
    _raise_for(path, misfit(_shapes(expected), _shapes(found)))


def _check_variant(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Say it in a word where the file holds another FasterNet than the model's."""
    own, other = recognize(model.state_dict()), recognize(weights)
    if own is None or other is None:
        return
    depth = len(own.depths)
    if (own.embed_channels, own.depths) != (other.embed_channels, other.depths[:depth]):
        settings = getattr(model, 'backbone', model).arch_settings
        _raise_for(path, f'it holds {other.variant(settings)}, the model {own.variant(settings)}')


def _is_optional(key: str, num_stages: int) -> bool:
    stage = _STAGE.match(key)
    return bool(_OUTPUT_NORM.match(key)) or (stage is not None and int(stage[1]) >= num_stages)


def _num_stages(weights: Mapping[str, Tensor]) -> int:
    return len(recognize(weights).depths)


def _shapes(weights: Mapping[str, Tensor]) -> Dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def _raise_for(path: str, problem: str) -> None:
    if problem:
        raise CheckpointError(f"checkpoint '{path}' does not fit this model: {problem}. {_REMEDY}")
