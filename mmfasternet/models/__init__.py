from .backbones import FasterNet
from .layers import FasterNetBlock, PartialConv
from .tta import InstanceTTAModel

__all__ = ['FasterNet', 'FasterNetBlock', 'InstanceTTAModel', 'PartialConv']
