from .pretrained import load_pretrained_backbone
from .safe_globals import register_safe_globals

__all__ = ['load_pretrained_backbone', 'register_safe_globals']
