"""Checkpoints: read safely, understood in all published layouts, converted.

``models`` takes :func:`load_pretrained_backbone` from here; nothing here
imports ``models``.
"""

from .layouts import LAYOUTS, TARGETS, WeightsKind, convert, recognize
from .loading import check_fits, check_start, load_pretrained_backbone
from .mmengine_loading import load_for_mmengine, safe_loading
from .reading import read_checkpoint
from .safe_loading import trust_checkpoints
from .writing import convert_checkpoint, publish_checkpoint

__all__ = [
    'LAYOUTS', 'TARGETS', 'WeightsKind', 'check_fits', 'check_start', 'convert', 'convert_checkpoint',
    'load_for_mmengine', 'load_pretrained_backbone', 'publish_checkpoint', 'read_checkpoint', 'recognize',
    'safe_loading', 'trust_checkpoints'
]
