"""FasterNet and partial convolution for MMDetection and MMPretrain."""

from typing import TYPE_CHECKING, Any, List

from .config_files import config_path
from .installed import check_releases
from .version import __version__

if TYPE_CHECKING:
    from .models import FasterNet, PartialConv

__all__ = ['FasterNet', 'PartialConv', '__version__', 'config_path']

# The lowest tested release, and the first one that may break; in installation order.
# pip does not know of them (see setup.cfg).
check_releases(
    dict(torch=('2.6', '3'), numpy=('1.26', '3'), mmengine=('0.10.7', '1'), mmcv=('2.1', '3')),
    optional=dict(mmdet=('3.3', '4')))

from . import registry  # noqa: E402, F401, which gives the scope to MMEngine
from .names import add_names  # noqa: E402

add_names()


def __getattr__(name: str) -> Any:
    # Imported on first use only: importing mmcv takes longer than everything else here.
    if name in ('FasterNet', 'PartialConv'):
        from . import models
        return getattr(models, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
