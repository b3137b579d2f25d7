from mmfasternet.registry import register_hub_names

from .backbones import FasterNet
from .layers import FasterNetBlock, PartialConv

__all__ = ['FasterNet', 'FasterNetBlock', 'PartialConv']

register_hub_names()
