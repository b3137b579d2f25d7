"""Loading of pre-trained weights into a backbone, strictly."""

import re
from typing import Any, Dict
from urllib.error import URLError

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import nn

from mmfasternet.checkpoints.official import is_official, official_to_backbone
from mmfasternet.checkpoints.safe_globals import register_safe_globals
from mmfasternet.errors import CheckpointError

_OUTPUT_NORM = re.compile(r'norm\d+\.')


def load_pretrained_backbone(backbone: nn.Module, checkpoint: str) -> None:
    """Load ImageNet weights into a backbone; only its output norms may be missing from them.

    Args:
        backbone: A :class:`~mmfasternet.models.FasterNet`.
        checkpoint: Path or URL of the authors' published weights, of an
            MMPretrain classifier or MMDetection detector with this backbone,
            or of the bare backbone.

    Raises:
        CheckpointError: If the file can't be had or does not fit; the message
            names the file and lists what does not match.
    """
    weights = _backbone_weights(_read(checkpoint))
    own = backbone.state_dict()
    missing = [key for key in own if key not in weights and not _OUTPUT_NORM.match(key)]
    unexpected = [key for key in weights if key not in own and not _OUTPUT_NORM.match(key)]
    misshapen = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    for problem, keys in (('lacks', missing), ('has the unknown', unexpected), ('has other shapes for', misshapen)):
        if keys:
            raise CheckpointError(f"checkpoint '{checkpoint}' does not fit this backbone: it {problem} "
                                  f"{', '.join(keys[:3])} ({len(keys)} keys in all). Check the backbone's arch")
    backbone.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    print_log(f'backbone weights loaded from {checkpoint}', logger='current')


def _read(checkpoint: str) -> Dict[str, Any]:
    register_safe_globals()
    try:
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint '{checkpoint}' does not exist. Check the path in init_cfg") from None
    except (URLError, OSError) as error:
        if '://' not in checkpoint:
            raise
        name, folder = checkpoint.rsplit('/', 1)[-1], f'{torch.hub.get_dir()}/checkpoints'
        raise CheckpointError(f'{name} could not be downloaded from {checkpoint} '
                              f"({getattr(error, 'reason', error)}). Fetch it elsewhere and put it into {folder}/, "
                              f'or name another file with --cfg-options model.backbone.init_cfg.checkpoint=PATH '
                              f'(model.backbone.init_cfg=None trains from scratch)') from None
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), dict):
            return content[key]
    return content


def _backbone_weights(state_dict: Dict[str, Any]) -> Dict[str, Any]:
    prefix = 'backbone.'
    if any(key.startswith(prefix) for key in state_dict):
        state_dict = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    return official_to_backbone(state_dict) if is_official(state_dict) else state_dict
