from .blocks import FasterNetBlock, PatchConv
from .norm import LayerNorm2d, build_norm
from .pconv import PartialConv

__all__ = ['FasterNetBlock', 'LayerNorm2d', 'PartialConv', 'PatchConv', 'build_norm']
