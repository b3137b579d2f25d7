"""Checkpoints: read safely, understood in all published layouts, converted."""

from mmfasternet.models.weights.layouts import LAYOUTS, TARGETS, WeightsKind, convert, recognize

from .allowlist import trust_checkpoints
from .compatibility import check_fits, check_pretrained, check_start
from .initializer import load_pretrained_backbone
from .mmengine_bridge import load_for_mmengine, read_ahead, safe_loading
from .reading import read_checkpoint
from .writing import convert_checkpoint, publish_checkpoint

__all__ = [
    'LAYOUTS', 'TARGETS', 'WeightsKind', 'check_fits', 'check_pretrained', 'check_start', 'convert',
    'convert_checkpoint', 'load_for_mmengine', 'load_pretrained_backbone', 'publish_checkpoint', 'read_ahead',
    'read_checkpoint', 'recognize', 'safe_loading', 'trust_checkpoints'
]
