from .backbones import FasterNet
from .layers import FasterNetBlock, PartialConv

__all__ = ['FasterNet', 'FasterNetBlock', 'PartialConv']
