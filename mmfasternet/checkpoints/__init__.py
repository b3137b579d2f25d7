from .pretrained import load_pretrained_backbone
from .reading import check_fits, read_checkpoint
from .safe_loading import enforce_safe_loading

__all__ = ['check_fits', 'enforce_safe_loading', 'load_pretrained_backbone', 'read_checkpoint']
