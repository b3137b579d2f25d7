"""FasterNet and partial convolution for MMDetection and MMPretrain."""

import mmcv
import mmdet
import mmengine
from mmengine.utils import digit_version

from .version import __version__

# package -> lowest release this is tested with, first release it may break on
_BOUNDS = {mmcv: ('2.1.0', '3.0.0'), mmengine: ('0.10.7', '1.0.0'), mmdet: ('3.3.0', '4.0.0')}

for _package, (_lowest, _beyond) in _BOUNDS.items():
    if not digit_version(_lowest) <= digit_version(_package.__version__) < digit_version(_beyond):
        raise ImportError(f'{_package.__name__} {_package.__version__} is installed, but mmfasternet {__version__} '
                          f'needs >={_lowest},<{_beyond}')

__all__ = ['__version__']
