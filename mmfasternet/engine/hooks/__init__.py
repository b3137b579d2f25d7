"""Hooks for training and testing, each registered for use in any config as ``mmfasternet.NAME``."""

from .checkpoint import CheckpointHook
from .curves import CurvesHook
from .deploy import DeployHook
from .finite_loss import FiniteLossHook
from .name_images import NameImagesHook
from .pictures import PicturesHook
from .resume import ResumeHook
from .seed import SeedHook
from .speedup import SpeedUpHook
from .stop import StopHook
from .stop_after import StopAfterHook

__all__ = [
    'CheckpointHook', 'CurvesHook', 'DeployHook', 'FiniteLossHook', 'NameImagesHook', 'PicturesHook', 'ResumeHook',
    'SeedHook', 'SpeedUpHook', 'StopAfterHook', 'StopHook'
]
