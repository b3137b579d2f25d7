"""FasterNet and partial convolution for MMDetection and MMPretrain."""

from typing import TYPE_CHECKING, Any, List

from .config_files import config_path
from .installed import check_releases
from .version import __version__

if TYPE_CHECKING:
    from .models import FasterNet, PartialConv

__all__ = ['FasterNet', 'PartialConv', '__version__', 'config_path']

# The lowest release that this is tested with, and the first that it may break on; in the order to install them.
# pip does not know of them (see setup.cfg).
check_releases(
    dict(torch=('2.6', '3'), numpy=('1.26', '3'), mmengine=('0.10.7', '1'), mmcv=('2.1', '3')),
    optional=dict(mmdet=('3.3', '4')))

from . import registry  # noqa: E402, F401, which gives the scope to MMEngine
from .names import add_names  # noqa: E402

add_names()


def __getattr__(name: str) -> Any:
    # Not before they are asked for: mmcv takes longer than all else here.
    if name in ('FasterNet', 'PartialConv'):
        from . import models
        return getattr(models, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
