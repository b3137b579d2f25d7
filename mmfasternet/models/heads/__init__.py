"""Heads for MMPretrain's classifiers; detection does without them, and without MMPretrain."""

from .fasternet_head import FasterNetHead

__all__ = ['FasterNetHead']
