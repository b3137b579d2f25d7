"""Heads for MMPretrain's classifiers; detection does not need them, or MMPretrain."""

from .fasternet_head import FasterNetHead

__all__ = ['FasterNetHead']
