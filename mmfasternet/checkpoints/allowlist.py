"""Which objects a checkpoint may hold besides tensors, and how the user can allow others."""

import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, Iterator

import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmfasternet import compat
from mmfasternet.checkpoints import numpy_pickles

#: The variable by which PyTorch refuses anything but plain data.
FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
#: Held by whoever changes what the process loads, or relies on it.
LOCK = threading.RLock()


class _Buffer(HistoryBuffer):
    """Stands in for ``HistoryBuffer``, whose own ``__setstate__`` would change the methods of all buffers."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != 'statistics_methods'})
        self.__class__ = HistoryBuffer


class _OneCycle:
    """Stands in for the scheduler's class: checkpoints name only two of its methods."""


# Methods that checkpoints keep as attributes, which pickle names through getattr.
_METHODS = {
    _Buffer: {name: getattr(HistoryBuffer, name) for name in ('min', 'max', 'mean', 'current')},
    _OneCycle: compat.one_cycle_methods(),
}


def _method(owner: Any, name: Any) -> Any:
    """Stand in for ``getattr``, whose only legitimate use in checkpoints is to name these methods."""
    # The arguments may be anything that the file could build: they are not compared and not shown.
    methods = next((methods for known, methods in _METHODS.items() if owner is known), {})
    if type(name) is not str or name not in methods:
        raise UnpicklingError(f'attribute {name if type(name) is str else "?"} through getattr')
    return methods[name]


def _no_bytes() -> bytes:
    """Stand in for ``bytes``, which pickle calls for empty ones."""
    return b''


#: What MMEngine's checkpoints and those of MMDetection 2.x hold beside tensors and Python's plain types: loss curves,
#: numpy's arrays and numbers, parts of configs. It is all data; nothing in it could call code.
ALLOWED = (
    (_Buffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
    ConfigDict,
    (OrderedDict, 'mmcv.utils.config.ConfigDict'),  # of mmcv 1.x, a dict
    (_OneCycle, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
    (_method, 'builtins.getattr'),
    (_no_bytes, 'builtins.bytes'),
    *numpy_pickles.ALLOWED,
)

_trusting: ContextVar[bool] = ContextVar('trusting', default=False)


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Within it, a checkpoint that safe loading refuses is unpickled: code in it runs with the user's permissions."""
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Whether :func:`trust_checkpoints` is active."""
    return _trusting.get()


@contextmanager
def unforced() -> Iterator[None]:
    """Within it, ``torch.load`` may unpickle anything, also within :func:`safe_loading`."""
    with LOCK:
        before = os.environ.pop(FORCE, None)
        try:
            yield
        finally:
            if before is not None:
                os.environ[FORCE] = before


@contextmanager
def only_allowed_globals() -> Iterator[None]:
    """Within it, PyTorch's safe loading allows :data:`ALLOWED`, and nothing that others registered."""
    with LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(ALLOWED))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
